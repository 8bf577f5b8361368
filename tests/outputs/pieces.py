"""Files of SentencePiece, written byte by byte: a ModelProto with the pieces that are given."""

from __future__ import annotations

import struct
from collections.abc import Sequence

NORMAL, UNKNOWN, CONTROL = 1, 2, 3


def varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    made = b""
    while number > 127:
        made += bytes([number & 127 | 128])
        number >>= 7
    return made + bytes([number])


def field(number: int, kind: int, value: bytes) -> bytes:
    size = varint(len(value)) if kind == 2 else b""
    return varint(number << 3 | kind) + size + value


def model_file(pieces: Sequence[str]) -> bytes:
    """The pieces with a score and a type each, then a trainer's and a normalizer's settings."""
    made = b""
    for at, piece in enumerate(pieces):
        kind = UNKNOWN if piece == "<unk>" else CONTROL if piece in ("<s>", "</s>", "<pad>") else NORMAL
        entry = field(1, 2, piece.encode()) + field(2, 5, struct.pack("<f", -float(at)))
        made += field(1, 2, entry + (field(3, 0, varint(kind)) if kind != NORMAL else b""))
    trainer = field(4, 0, varint(len(pieces))) + field(10, 5, struct.pack("<f", 0.9995))
    return made + field(2, 2, trainer) + field(3, 2, field(1, 2, b"nmt_nfkc"))
