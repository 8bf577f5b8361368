"""What training and evaluation see of a data set: labelled inputs with ids, read on demand.

An `Examples` is a split: N inputs (RGB images as PIL images, or strings), a label each into the names of the classes,
an id each that is stable from run to run, and, where the data set has them, a domain (a style) each. A `Corpus` is a
data set: classes, prompt templates, a training and a test split. Nothing is decoded before `read` is called. Cost: the
ids and labels are in memory (about 100 bytes a sample), the inputs are not. Not here: several labels for one input.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import xxhash

InputKind = Literal["image", "text"]


@dataclass(frozen=True)
class Examples:
    """N labelled inputs. `labels` (N,) int64 count from 0 into the class names of whoever holds this."""

    ids: tuple[str, ...]
    labels: np.ndarray
    read: Callable[[Sequence[int]], list[Any]] = field(repr=False)  # positions (n,) -> n inputs; workers pickle it
    fingerprint: Callable[[Sequence[int]], str] = field(repr=False)  # positions -> hash of the contents; no decoding
    domains: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.labels) or (self.domains is not None and len(self.domains) != len(self.ids)):
            raise ValueError(
                f"{len(self.ids)} ids, {len(self.labels)} labels and {len(self.domains or ())} domains do not match"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, positions: Sequence[int] | np.ndarray, labels: np.ndarray | None = None) -> Examples:
        """The samples at `positions`, in that order; `labels` (n,) replaces theirs."""
        chosen = np.asarray(positions, dtype=np.int64)
        return Examples(
            ids=tuple(self.ids[i] for i in chosen.tolist()),
            labels=(self.labels[chosen] if labels is None else np.asarray(labels, dtype=np.int64)),
            read=Taken(self.read, chosen),
            fingerprint=Taken(self.fingerprint, chosen),
            domains=None if self.domains is None else tuple(self.domains[i] for i in chosen.tolist()),
        )

    def label_counts(self) -> Mapping[int, int]:
        """How often each label occurs, in the order of the labels."""
        return dict(sorted(Counter(self.labels.tolist()).items()))


def of_one_source(parts: Sequence[Examples]) -> Examples | None:
    """All samples of several parts of one source, with the fingerprints that the source gives. None where they are of
    several sources.
    """
    parts = [part for part in parts if len(part)]
    traced = [(*_traced(part.read, len(part)), *_traced(part.fingerprint, len(part))) for part in parts]
    if not parts or any(len({id(one) for one in column}) > 1 for column in list(zip(*traced, strict=True))[::2]):
        return None
    whole = concatenated(parts)
    read, _, fingerprint, _ = traced[0]
    chosen = np.concatenate([at for _, at, _, _ in traced])
    return replace(whole, read=Taken(read, chosen), fingerprint=Taken(fingerprint, chosen))


def _traced(function: Any, count: int) -> tuple[Any, np.ndarray]:
    """What the function of a part of `count` samples calls in the end, and with which positions."""
    chosen = np.arange(count)
    while isinstance(function, Taken):
        chosen = function.chosen[chosen]
        function = function.whole
    return function, chosen


def no_examples() -> Examples:
    """None at all."""
    return Examples((), np.zeros(0, np.int64), _nothing, _nothing_print, ())


def _nothing(at: Sequence[int]) -> list[Any]:
    return []


def _nothing_print(at: Sequence[int]) -> str:
    return ""


def concatenated(parts: Sequence[Examples]) -> Examples:
    """All samples of several splits, one after another. At least one part."""
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *(len(part) for part in parts)])
    domains = [part.domains for part in parts]
    return Examples(
        ids=tuple(i for part in parts for i in part.ids),
        labels=np.concatenate([part.labels for part in parts]),
        read=_Joined(tuple(part.read for part in parts), starts),
        fingerprint=_JoinedPrint(tuple(part.fingerprint for part in parts), starts),
        domains=None if any(d is None for d in domains) else tuple(x for d in domains if d is not None for x in d),
    )


# Classes and not closures: where processes are spawned, those that read images are sent a pickle of these.


@dataclass(frozen=True)
class Taken:
    """A function of positions, called with those of a part."""

    whole: Callable[[Sequence[int]], Any]
    chosen: np.ndarray

    def __call__(self, at: Sequence[int]) -> Any:
        return self.whole(self.chosen[np.asarray(at, dtype=np.int64)].tolist())


def _placed(starts: np.ndarray, at: Sequence[int]) -> list[tuple[int, int]]:
    """(part, position in it) of positions in the whole."""
    which = np.searchsorted(starts, np.asarray(at, dtype=np.int64), side="right") - 1
    return [(int(w), int(i) - int(starts[w])) for w, i in zip(which, at, strict=True)]


@dataclass(frozen=True)
class _Joined:
    """`read` over several parts, one call for each that is needed."""

    parts: tuple[Callable[[Sequence[int]], list[Any]], ...]
    starts: np.ndarray

    def __call__(self, at: Sequence[int]) -> list[Any]:
        inputs: list[Any] = [None] * len(at)
        where = _placed(self.starts, at)
        for part in {w for w, _ in where}:
            slots = [k for k, (w, _) in enumerate(where) if w == part]
            for k, item in zip(slots, self.parts[part]([where[k][1] for k in slots]), strict=True):
                inputs[k] = item
        return inputs


@dataclass(frozen=True)
class _JoinedPrint:
    """`fingerprint` over several parts: theirs, and which sample comes from which."""

    parts: tuple[Callable[[Sequence[int]], str], ...]
    starts: np.ndarray

    def __call__(self, at: Sequence[int]) -> str:
        where = _placed(self.starts, at)
        order = xxhash.xxh3_64_hexdigest(np.asarray([w for w, _ in where], dtype="<i8").tobytes())
        used = sorted({w for w, _ in where})
        return "+".join([order, *(self.parts[w]([i for v, i in where if v == w]) for w in used)])


@dataclass(frozen=True)
class Corpus:
    """A data set. `templates` hold one `{}` each, where a class name goes; labels of both splits index `classes`."""

    name: str
    kind: InputKind
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    train: Examples
    test: Examples
    skipped: tuple[str, ...] = ()  # ids of samples that were left out, because the configuration says so
