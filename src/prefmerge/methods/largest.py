"""The k largest magnitudes of a scope, exactly, without sorting it.

The k-th largest is found in two readings by counting float32 bit patterns, whose order is that of magnitudes; values
equal to it are kept in order of tensor and index until k are kept. Several k come from the same two readings. Cost: a
third reading where equals need an order, and counting arrays of 64 KiB to 512 KiB. Not here: whose values they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from prefmerge.methods import kernels
from prefmerge.vectors.workspace import Workspace, spans

HIGH, LOW = 1 << 15, 1 << 16  # counting arrays over the bit pattern's upper 15 and lower 16 bits
STRETCH = 1 << 16  # elements for which the equals before them are known

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
        left = values.size
        if self.before is not None:
            stretch = start // STRETCH * STRETCH
            before = self.before[tensor, stretch]
            if start > stretch:
                earlier = work.buffer("equals-before", start - stretch)
                read(tensor, stretch, start, earlier)
                before += int(kernels.count_equal(earlier, np.uint32(self.threshold)))
            left = max(0, self.ties - before)
        kernels.trim(values, np.uint32(self.threshold), left)


def cuts(sizes: Sequence[int], read: Read, keeps: Sequence[int], work: Workspace) -> list[Cut]:
    """The cut that keeps the k largest magnitudes of all tensors, for every k, from 0 to the number of elements."""
    blocks = [(i, start, stop) for i, size in enumerate(sizes) for start, stop in spans(size, STRETCH)]

    def values(block: tuple[int, int, int]) -> np.ndarray:
        i, start, stop = block
        out = work.buffer("largest", stop - start)
        read(i, start, stop, out)
        return out

    # One counting array per stretch of blocks, not per block: they are as large as a block itself.
    each = max(1, -(-len(blocks) // (4 * work.threads)))
    groups = [blocks[low:high] for low, high in spans(len(blocks), each)]

    def high_counts(group: list[tuple[int, int, int]]) -> np.ndarray:
        histogram = np.zeros(HIGH, np.int64)
        for block in group:
            kernels.magnitude_histogram(values(block), histogram)
        return histogram

    high = _added(work.map(high_counts, groups), (HIGH,))
    located = [locate(high, keep) for keep in keeps]
    buckets = sorted({bucket for bucket, _ in located})

    def low_counts(group: list[tuple[int, int, int]]) -> np.ndarray:
        histograms = np.zeros((len(buckets), LOW), np.int64)
        for block in group:
            read_once = values(block)
            for bucket, histogram in zip(buckets, histograms, strict=True):
                kernels.magnitude_histogram_low(read_once, np.uint32(bucket), histogram)
        return histograms

    lows = _added(work.map(low_counts, groups), (len(buckets), LOW))
    result = []
    for keep, (bucket, above) in zip(keeps, located, strict=True):
        histogram = lows[buckets.index(bucket)]
        low, above_low = locate(histogram, keep - above)
        threshold, ties = (bucket << 16) | low, keep - above - above_low
        before = None
        # Zeros need no order among them: trimmed or not, they are zero.
        if threshold and ties != histogram[low]:
            pattern = np.uint32(threshold)
            equals = work.map(lambda block, pattern=pattern: int(kernels.count_equal(values(block), pattern)), blocks)
            earlier = np.concatenate([[0], np.cumsum(equals)[:-1]]).tolist()
            before = {(i, start): count for (i, start, _), count in zip(blocks, earlier, strict=True)}
        result.append(Cut(threshold, ties, before))
    return result


def _added(counts: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """The sum of counting arrays, in the first of them."""
    if not counts:
        return np.zeros(shape, np.int64)
    total = counts[0]
    for one in counts[1:]:
        np.add(total, one, out=total)
    return total


def locate(histogram: np.ndarray, keep: int) -> tuple[int, int]:
    """The bucket that holds the keep-th largest value, and how many lie in the buckets above it."""
    from_top = np.cumsum(histogram[::-1])
    position = int(np.searchsorted(from_top, keep))
    above = int(from_top[position - 1]) if position else 0
    return histogram.size - 1 - position, above
