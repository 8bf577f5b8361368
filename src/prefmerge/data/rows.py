"""A split as it was found: inputs, ids and labels in the data set's own words, before they are mapped to classes.

Every source (CSV, image folder, `datasets` library) ends in `Rows`; what follows is the same for all. Labels are names
where the source has names, else integers. Cost: ids and labels in memory, inputs stay where they are. Not here: which
classes the labels mean (`labels`), which samples are used (`load`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import xxhash

from prefmerge.data.examples import InputKind
from prefmerge.data.images import decode
from prefmerge.errors import DataError

# In order of preference; compared without case.
TEXT_COLUMNS = ("text", "sentence", "content", "phrase")
IMAGE_COLUMNS = ("image", "img", "path", "file", "file_name", "filename", "image_path", "filepath", "file_path")
LABEL_COLUMNS = ("label", "class", "category", "labels", "class_name", "label_name", "target", "fine_label", "y")
ID_COLUMNS = ("id",)


Contents = Callable[[Sequence[int]], list[bytes]]  # positions (n,) -> n encoded inputs

# What reads is a class and not a closure: workers that read images are other processes, to which it is pickled.


@dataclass(frozen=True)
class Texts:
    """Reads texts that are in memory."""

    texts: tuple[str, ...]

    def __call__(self, at: Sequence[int]) -> list[Any]:
        return [self.texts[i] for i in at]


@dataclass(frozen=True)
class Encoded:
    """Texts as UTF-8."""

    texts: Callable[[Sequence[int]], list[Any]]

    def __call__(self, at: Sequence[int]) -> list[bytes]:
        return [text.encode() for text in self.texts(at)]


@dataclass(frozen=True)
class Decoded:
    """Images out of encoded contents; a message names the sample as `name(position)` does."""

    contents: Contents
    name: Callable[[int], str]

    def __call__(self, at: Sequence[int]) -> list[Any]:
        return [decode(content, self.name(i)) for i, content in zip(at, self.contents(at), strict=True)]


@dataclass(frozen=True)
class ContentHash:
    """One hash of several contents, in order; lengths are part of it, so that ab+c is not a+bc."""

    contents: Contents

    def __call__(self, at: Sequence[int]) -> str:
        state = xxhash.xxh3_128()
        for start in range(0, len(at), 256):  # so that hashing a large split does not hold it
            for content in self.contents(at[start : start + 256]):
                state.update(len(content).to_bytes(8, "little"))
                state.update(content)
        return state.hexdigest()


@dataclass(frozen=True)
class Rows:
    """N samples of one split of one source."""

    where: str  # what messages call it: a file, or a data set and its split
    kind: InputKind
    ids: tuple[str, ...]
    labels: tuple[str, ...] | tuple[int, ...]
    read: Callable[[Sequence[int]], list[Any]]  # positions (n,) -> n inputs
    fingerprint: Callable[[Sequence[int]], str]
    names: tuple[str, ...] | None = None  # all class names that the source declares, in its own order
    domains: tuple[str, ...] | None = None
    files: tuple[str | None, ...] | None = None  # the name of each image's file, where the source keeps it

    def __len__(self) -> int:
        return len(self.ids)


def column(given: str | None, known: Sequence[str], columns: Sequence[str], what: str, where: str) -> str:
    """The column called `given`, else the first of `known` that is there. Raises DataError listing the columns."""
    there = ", ".join(columns) or "none"
    if given is not None:
        if given in columns:
            return given
        raise DataError(f"{where}: there is no {what} column {given!r}; the columns are: {there}.")
    folded = {name.casefold(): name for name in reversed(columns)}
    for name in known:
        if name in folded:
            return folded[name]
    raise DataError(
        f"{where}: no column looks like the {what} ({', '.join(known[:4])}, …); the columns are: {there}. "
        f"Say which with `{what}: COLUMN`."
    )


def shown(text: str, most: int = 100) -> str:
    """A path or name as a message quotes it: no longer than a line."""
    return repr(text if len(text) <= most else f"{text[:most]}…")


def distinct(ids: Iterable[str]) -> tuple[str, ...]:
    """The ids, the second of its kind with #2 behind it and so on."""
    seen: dict[str, int] = {}
    result = []
    for name in ids:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return tuple(result)
