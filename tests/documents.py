"""What a reader would type or paste from README.md, CONTRIBUTING.md and docs: commands and Python blocks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FIRST = ("README", "tutorial", "from-your-files")  # as a newcomer reads; the others by name
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = ("prefmerge", "make", "pip", "python", "accelerate", ".")


def documents() -> list[Path]:
    """All documents, in the order in which their commands are run."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    return sorted(pages, key=lambda page: FIRST.index(page.stem) if page.stem in FIRST else len(FIRST))


def commands(text: str) -> Iterator[str]:
    """The commands of all blocks, comments and prompts taken off: `prefmerge merge base/ cars/ -o merged/`."""
    for block in _blocks(text):
        for line in block.replace("\\\n", " ").splitlines():
            typed = line.removeprefix("$ ")
            if typed.split(" ", 1)[0] in PROGRAMS:
                yield shlex.join(shlex.split(typed, comments=True))


def python_blocks(text: str) -> list[str]:
    """The fenced blocks of Python."""
    return [code for language, code in FENCED.findall(text) if language == "python"]


def _blocks(text: str) -> Iterator[str]:
    """Indented blocks, and fenced ones that name no language, in their order."""
    for block in re.finditer(rf"{FENCED.pattern}|(?:^    [^\n]*\n)+", text, re.MULTILINE | re.DOTALL):
        if block[2] is None:
            yield re.sub(r"^    ", "", block[0], flags=re.MULTILINE)
        elif not block[1]:
            yield block[2]


def unfenced_python(text: str) -> list[str]:
    """Indented lines that look like Python: they belong into a fenced block."""
    return re.findall(r"^    (?:import \w|from \w+ import).*$", text, re.MULTILINE)
