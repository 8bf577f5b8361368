"""Ways in which what an interrupted merge has kept may be damaged; each takes its folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def damage_piece(work: Path) -> None:
    for piece in (work / "pieces").iterdir():
        content = bytearray(piece.read_bytes())
        content[len(content) // 2] ^= 1
        piece.write_bytes(content)


def cut_piece(work: Path) -> None:
    for piece in (work / "pieces").iterdir():
        piece.write_bytes(piece.read_bytes()[:40])


def cut_weights(work: Path) -> None:
    (weights,) = (work / "output").iterdir()
    os.truncate(weights, weights.stat().st_size - 4)


def damage_header(work: Path) -> None:
    (weights,) = (work / "output").iterdir()
    with weights.open("r+b") as file:
        file.seek(20)
        file.write(b"?")


def lose_weights(work: Path) -> None:
    shutil.rmtree(work / "output")


DAMAGES = (damage_piece, cut_piece, cut_weights, damage_header, lose_weights)
