"""The k largest magnitudes of a scope, exactly, without sorting it.

The k-th largest is found by counting float32 bit patterns, whose order is that of magnitudes: first by their upper
bits, then those of one count by their lower bits. Values equal to it are kept in order of tensor and index until k are
kept. Several k come from the same readings. Cost: one reading, in which the values near the k-th of a first block are
listed; where that block says little of the others, a second, and a third where equals need an order. Counting arrays
of 64 KiB to 512 KiB, and the lists, a few of a hundred values. The values of a small scope are sorted
instead. Not here: whose values they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from prefmerge.methods import kernels
from prefmerge.methods.sections import Ask, alone
from prefmerge.vectors.workspace import Workspace, spans

HIGH, LOW = 1 << 15, 1 << 16  # counting arrays over the bit pattern's upper 15 and lower 16 bits
STRETCH = 1 << 16  # elements for which the equals before them are known
DEVIATIONS = 4.0  # standard deviations of a first block's counts, around which values are listed
ABOVE = 0x7FFFFFFF  # all bits but the sign: a pattern that no finite magnitude has
ALL = 1 << 62  # equals: more than there are
MOST_LISTED = 8  # one of so many values
FEW = 1 << 12  # values of a scope, which are sorted sooner than counting arrays are walked through

Read = Callable[[int, int, int, np.ndarray], object]  # (tensor, start, stop, float32 to fill)


@dataclass(frozen=True)
class Cut:
    """Which values survive: those above the bit pattern `threshold` in magnitude and `ties` of its equals, of which
    `before[tensor, stretch]` come earlier.
    """

    threshold: int
    ties: int
    before: dict[tuple[int, int], int] | None  # None when all equals are kept

    @property
    def value(self) -> float:
        """The smallest magnitude that survives."""
        return float(np.uint32(self.threshold).view(np.float32))

    def trim(self, values: np.ndarray, tensor: int, start: int, read: Read, work: Workspace) -> None:
        """Zero what does not survive of the `values` of a tensor from element `start` on."""
        self.trim_next(values, self.left_at(tensor, start, read, work))

    def left_at(self, tensor: int, start: int, read: Read, work: Workspace) -> int:
        """How many equals are kept from element `start` on, as far as it matters."""
        if self.before is None:
            return ALL
        stretch = start // STRETCH * STRETCH
        before = self.before[tensor, stretch]
        if start > stretch:
            earlier = work.buffer("equals-before", start - stretch)
            read(tensor, stretch, start, earlier)
            before += int(kernels.count_equal(earlier, np.uint32(self.threshold)))
        return max(0, self.ties - before)

    def trim_next(self, values: np.ndarray, left: int) -> int:
        """Zero what does not survive of `values`, of whose equals `left` are kept. Returns how many are left after."""
        return kernels.trim(values, np.uint32(self.threshold), left)


@dataclass(frozen=True)
class _Listed:
    """The bit patterns of the magnitudes of a block whose upper bits lie in [first, last), in order; as float32."""

    first: int
    last: int
    values: np.ndarray


class SomeMagnitudes:
    """The values of some tensors of a scope, and the cuts that were found for them. What is asked of it: see
    `sections`.
    """

    def __init__(self, sizes: Sequence[int], read: Read, work: Workspace) -> None:
        self.cuts: list[Cut] = []
        self._read, self._work = read, work
        self._blocks = [(i, start, stop) for i, size in enumerate(sizes) for start, stop in spans(size, STRETCH)]
        self._equals: list[int] = []
        # One counting array per stretch of blocks, not per block: they are as large as a block itself.
        groups = 4 * work.at_hand if work.at_hand > 1 else 1
        each = max(1, -(-len(self._blocks) // groups))
        self._groups = [self._blocks[low:high] for low, high in spans(len(self._blocks), each)]
        self._listed: dict[tuple[int, int, int], list[_Listed]] = {}

    def high(self, parts: Sequence[float]) -> np.ndarray:
        """How many there are by the upper bits. `parts`: what of the whole will be kept, for each cut. The values where
        the cuts probably lie are listed, so that nothing more need be read.
        """

        def count(group: list[tuple[int, int, int]]) -> np.ndarray:
            histogram = np.zeros(HIGH, np.int64)
            windows: list[tuple[int, int]] = []
            for n, block in enumerate(group):
                values = self._values(block)
                kernels.magnitude_histogram(values, histogram)
                if n == 0:
                    windows = [window for part in parts if (window := _window(histogram, part))]
                self._listed[block] = [one for window in windows if (one := self._list(values, *window))]
            return histogram

        return _added(self._work.map(count, self._groups), (HIGH,))

    def low(self, buckets: Sequence[int]) -> np.ndarray:
        """How many there are by the lower bits, a row for each of these buckets of `high`."""

        def count(group: list[tuple[int, int, int]]) -> np.ndarray:
            histograms = np.zeros((len(buckets), LOW), np.int64)
            for block in group:
                for bucket, histogram in zip(buckets, histograms, strict=True):
                    kernels.magnitude_histogram_low(self._with(bucket, block), np.uint32(bucket), histogram)
            return histograms

        return _added(self._work.map(count, self._groups), (len(buckets), LOW))

    def patterns(self) -> np.ndarray:
        """The bit patterns of all magnitudes, where they are few."""
        values = [self._values(block).copy() for block in self._blocks]
        return np.concatenate([np.empty(0, np.float32), *values]).view(np.uint32) & np.uint32(ABOVE)

    def equal(self, threshold: int) -> int:
        """How many have this bit pattern; where they are is kept for the next `cut`."""
        pattern = np.uint32(threshold)
        self._equals = self._work.map(
            lambda block: int(kernels.count_equal(self._with(threshold >> 16, block), pattern)), self._blocks
        )
        return sum(self._equals)

    def cut(self, earlier: int | None, threshold: int, ties: int) -> None:
        """Keep a cut. `earlier`: equals in the tensors before these, after `equal`; None where all equals are kept."""
        before = None
        if earlier is not None:
            counts = (earlier + np.concatenate([[0], np.cumsum(self._equals)[:-1]])).tolist() if self._equals else []
            before = {(i, start): int(n) for (i, start, _), n in zip(self._blocks, counts, strict=True)}
        self.cuts.append(Cut(threshold, ties, before))

    def _values(self, block: tuple[int, int, int]) -> np.ndarray:
        i, start, stop = block
        out = self._work.buffer("largest", stop - start)
        self._read(i, start, stop, out)
        return out

    def _list(self, values: np.ndarray, first: int, last: int) -> _Listed | None:
        """What of a block lies in a window; None where there is no memory for it."""
        found = self._work.buffer("listed", values.size + 1)  # the next candidate is written before it counts
        count = kernels.list_magnitudes(values, np.uint32(first << 16), np.uint32((last - first) << 16), found)
        kept = self._work.spare(count, np.float32)
        if kept is None:
            return None
        kept[:] = found[:count]
        return _Listed(first, last, kept)

    def _with(self, bucket: int, block: tuple[int, int, int]) -> np.ndarray:
        """Values of a block, all of this bucket among them: what is listed, or all."""
        for one in self._listed.get(block, ()):
            if one.first <= bucket < one.last:
                return one.values
        return self._values(block)


def cuts(sizes: Sequence[int], read: Read, keeps: Sequence[int], work: Workspace) -> list[Cut]:
    """The cut that keeps the k largest magnitudes of all tensors, for every k, from 0 to the number of elements."""
    magnitudes = SomeMagnitudes(sizes, read, work)
    find_cuts(keeps, sum(sizes), alone(magnitudes))
    return magnitudes.cuts


def find_cuts(keeps: Sequence[int], elements: int, ask: Ask) -> None:
    """Have every section of a scope, each a `SomeMagnitudes`, know the cut for every k. `elements`: of the scope."""
    for threshold, ties, equals in (_sorted if elements <= FEW else _counted)(keeps, elements, ask):
        # Zeros need no order among them: trimmed or not, they are zero.
        if threshold and ties != equals:
            found = ask(SomeMagnitudes.equal, threshold)
            ask(SomeMagnitudes.cut, threshold, ties, each=[sum(found[:i]) for i in range(len(found))])
        else:
            ask(SomeMagnitudes.cut, None, threshold, ties)


def _counted(keeps: Sequence[int], elements: int, ask: Ask) -> Iterator[tuple[int, int, int]]:
    """For every k the bit pattern of the k-th largest, how many of its equals are kept, and how many there are."""
    high = _summed(ask(SomeMagnitudes.high, [keep / max(1, elements) for keep in keeps]))
    located = [locate(high, keep) for keep in keeps]
    buckets = sorted({bucket for bucket, _ in located})
    lows = _summed(ask(SomeMagnitudes.low, buckets))
    for keep, (bucket, above) in zip(keeps, located, strict=True):
        histogram = lows[buckets.index(bucket)]
        low, above_low = locate(histogram, keep - above)
        yield (bucket << 16) | low, keep - above - above_low, int(histogram[low])


def _sorted(keeps: Sequence[int], elements: int, ask: Ask) -> Iterator[tuple[int, int, int]]:
    """The same of few values."""
    patterns = np.sort(np.concatenate(ask(SomeMagnitudes.patterns)))
    for keep in keeps:
        threshold = patterns[elements - keep] if keep else np.uint32(ABOVE)
        first, last = np.searchsorted(patterns, threshold), np.searchsorted(patterns, threshold, side="right")
        yield int(threshold), keep - (elements - int(last)), int(last - first)


def _window(histogram: np.ndarray, part: float) -> tuple[int, int] | None:
    """The buckets in which the cut that keeps this part lies, as far as a first block can say; None where they hold
    more values than it would pay to list.
    """
    size = int(histogram.sum())
    keep, doubt = part * size, DEVIATIONS * math.sqrt(size * part * (1 - part)) + 1
    first, _ = locate(histogram, min(size, math.ceil(keep + doubt)))
    last, _ = locate(histogram, max(1, math.floor(keep - doubt)))
    return (first, last + 1) if int(histogram[first : last + 1].sum()) * MOST_LISTED <= size else None


def _added(counts: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """The sum of counting arrays, in the first of them."""
    if not counts:
        return np.zeros(shape, np.int64)
    total = counts[0]
    for one in counts[1:]:
        np.add(total, one, out=total)
    return total


def _summed(counts: Sequence[np.ndarray]) -> np.ndarray:
    """The sum of what the sections count, of which there is one at least."""
    total = counts[0]
    for one in counts[1:]:
        total = total + one
    return total


def locate(histogram: np.ndarray, keep: int) -> tuple[int, int]:
    """The bucket that holds the keep-th largest value, and how many lie in the buckets above it."""
    return kernels.locate(histogram, keep)
