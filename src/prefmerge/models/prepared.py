"""Images for several models, decoded and resized once, in several threads.

    read(i) = keep(decode(i)), kept as uint8 after the model's own resize and crop, while there is room

`Encoder.keep` gives what `prepare` makes the same batch of, bit for bit; so embeddings do not change. Cost: the first
reading prepares an image three times (to be sure that it comes back the same), each later one only normalises it;
150 kB for an image of 224 x 224, `ROOM` bytes at most; beyond that, images are decoded each time. Not here: texts,
which are read as they are; embeddings (`features`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from prefmerge.data.examples import Examples
from prefmerge.models.encoders.protocol import Encoder, ReadyImage, as_input

ROOM = 2 << 30  # bytes
AT_ONCE = 16  # images that a thread reads together
READERS = min(8, os.cpu_count() or 1)  # threads


def in_parts(start: int, stop: int) -> list[range]:
    """The positions from `start` to `stop` in parts, one for a thread."""
    return [range(at, min(at + AT_ONCE, stop)) for at in range(start, stop, AT_ONCE)]


class Room:
    """Bytes that are left, for whoever shares them."""

    def __init__(self, left: int = ROOM) -> None:
        self.left = left


def decoded_once(encoder: Encoder, examples: Examples, room: Room) -> Examples:
    """The same examples, whose images are decoded when they are first read and then kept, while there is room."""
    if encoder.kind != "image":
        return examples
    return replace(examples, read=_Once(encoder, examples.read, room))


class _Once:
    def __init__(self, encoder: Encoder, read: Callable[[Sequence[int]], list[Any]], room: Room) -> None:
        self.encoder, self.read, self.room = encoder, read, room
        self.kept: dict[int, Any] = {}

    def __call__(self, at: Sequence[int]) -> list[Any]:
        lacking = [i for i in at if i not in self.kept]
        inputs = self.read(lacking) if lacking else []
        if inputs and self.room.left > 0 and not isinstance(inputs[0], ReadyImage):
            form, stored = self.encoder.keep(inputs)
            for i, one in zip(lacking, stored, strict=True):
                self.kept[i] = as_input(one, form)
                self.room.left -= one.nbytes
        new = dict(zip(lacking, inputs, strict=True))
        return [self.kept[i] if i in self.kept else new[i] for i in at]
