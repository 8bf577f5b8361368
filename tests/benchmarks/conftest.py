"""WordNet's files at toy size."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

WORDS = 16  # synsets of each class


@pytest.fixture
def wordnet(tmp_path: Path) -> Path:
    """data.noun and data.verb in WordNet's format (wndb(5WN)), with a few synsets of every class."""
    folder = tmp_path / "wordnet"
    folder.mkdir()
    for part, numbers in (("noun", range(3, 29)), ("verb", range(29, 44))):
        lines = ["  1 This software and database is being provided to you, the LICENSEE"]
        for number in numbers:
            for n in range(WORDS):
                word = hashlib.md5(f"{number} {n}".encode()).hexdigest()[:6]
                gloss = f'meaning {word} {number}; "an example"'
                lines.append(f"{number:04d}{n:04d} {number:02d} {part[0]} 01 a_{word} 0 000 | {gloss}  ")
        (folder / f"data.{part}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
