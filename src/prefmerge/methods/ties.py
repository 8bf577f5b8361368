"""TIES: trim each task vector to its largest values, elect a sign per element by mass, average what agrees (Yadav et
al. 2023).

    keep the int(density n) largest |tau_t| (n: elements of the tensor, or of the model)
    sign = sign of sum_t w_t tau_t
    tau = sum_{agreeing} w_t tau_t / sum_{agreeing} w_t

The threshold is the exact k-th largest magnitude, found in two readings by counting float32 bit patterns, whose order
is that of magnitudes; values equal to it are kept in order of tensor name and index until k are kept. Cost: three
readings (a fourth where equals need an order), T counting arrays of 64 KiB to 512 KiB, and T blocks per thread.
Not here: other sparsifiers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prefmerge.errors import MethodError
from prefmerge.methods.parameters import DENSITY, NORMALIZE, SCALE, SCOPE, WEIGHTS
from prefmerge.methods.protocol import Deltas, Method, Rule, Settings

if TYPE_CHECKING:
    import numpy as np

    from prefmerge.vectors.workspace import Workspace

HIGH, LOW = 1 << 15, 1 << 16  # counting arrays over the bit pattern's upper 15 and lower 16 bits
MERGE_BLOCK = 1 << 14  # elements held for all T tasks at once


@dataclass(frozen=True)
class _Cut:
    """Which of one task's values survive: those above `threshold` and `ties` of its equals, of which
    `before[tensor][block]` come earlier.
    """

    threshold: int
    ties: int
    before: dict[tuple[int, int], int] | None  # (tensor, start) -> equals before it; None when all equals are kept


@dataclass
class _TiesRule(Rule):
    """One cut for each task; None where all of its values survive."""

    cuts: tuple[_Cut | None, ...] = field(default=())

    def block(self, tensor: int, start: int, stop: int, out: np.ndarray, work: Workspace) -> None:
        from prefmerge.vectors.workspace import spans

        for low, high in spans(stop - start, MERGE_BLOCK):
            self._merge(tensor, start, start + low, start + high, out[low:high], work)

    def _merge(self, tensor: int, block: int, start: int, stop: int, out: np.ndarray, work: Workspace) -> None:
        import numpy as np

        from prefmerge.methods import kernels

        deltas, tasks = self.tensors[tensor], self.settings.tasks
        tau_TP = work.buffer("ties", (tasks, stop - start))
        for task, cut in enumerate(self.cuts):
            deltas.read(task, start, stop, tau_TP[task])
            if cut is not None:
                ties = (
                    stop - start
                    if cut.before is None
                    else max(0, cut.ties - self._equals_before(cut, task, tensor, block, start, work))
                )
                kernels.trim(tau_TP[task], np.uint32(cut.threshold), ties)
        weights = np.array([float(weight) for weight in self.settings.per_task(WEIGHTS)], np.float64)
        kernels.disjoint_merge(tau_TP, weights, self.settings[NORMALIZE], out)

    def _equals_before(self, cut: _Cut, task: int, tensor: int, block: int, start: int, work: Workspace) -> int:
        import numpy as np

        from prefmerge.methods import kernels

        assert cut.before is not None
        before = cut.before[tensor, block]
        if start > block:
            tau = work.buffer("ties-before", start - block)
            self.tensors[tensor].read(task, block, start, tau)
            before += int(kernels.count_equal(tau, np.uint32(cut.threshold)))
        return before


class Ties(Method):
    """See the module."""

    name = "ties"
    summary = "trim, elect a sign by mass, average what agrees"
    parameters = (SCALE.but(1.0), WEIGHTS, DENSITY, NORMALIZE, SCOPE)  # the paper keeps the top 20 %
    mergekit = True
    searched = 2

    def by_tensor(self, settings: Settings) -> bool:
        return settings[SCOPE] == "tensor"

    def prepare(self, tensors: Sequence[Deltas], settings: Settings, work: Workspace) -> Rule:
        densities = [float(density) for density in settings.per_task(DENSITY)]
        for density in densities:
            if not 0 < density <= 1:
                raise MethodError(f"ties: density must lie above 0 and at most 1, found {density}.")
        return _TiesRule(
            tensors, settings, cuts=tuple(_cut(tensors, task, density, work) for task, density in enumerate(densities))
        )


def _cut(tensors: Sequence[Deltas], task: int, density: float, work: Workspace) -> _Cut | None:
    """The cut that keeps the int(density n) largest magnitudes of one task, at least one; None when it keeps all."""
    import numpy as np

    from prefmerge.methods import kernels
    from prefmerge.vectors.workspace import spans

    elements = sum(deltas.size for deltas in tensors)
    keep = max(1, int(density * elements))
    if keep >= elements:
        return None
    blocks = [(i, start, stop) for i, deltas in enumerate(tensors) for start, stop in spans(deltas.size, work.block)]

    def read(block: tuple[int, int, int]) -> np.ndarray:
        i, start, stop = block
        tau = work.buffer("tau", stop - start)
        tensors[i].read(task, start, stop, tau)
        return tau

    def stretches(size: int) -> list[list[tuple[int, int, int]]]:
        return [blocks[low:high] for low, high in spans(len(blocks), size)]

    def high_counts(stretch: list[tuple[int, int, int]]) -> np.ndarray:
        histogram = np.zeros(HIGH, np.int64)
        for block in stretch:
            kernels.magnitude_histogram(read(block), histogram)
        return histogram

    # One counting array per stretch of blocks, not per block: they are as large as a block itself.
    each = max(1, -(-len(blocks) // (4 * work.threads)))
    bucket, above = locate(np.sum(work.map(high_counts, stretches(each)), axis=0), keep)

    def low_counts(stretch: list[tuple[int, int, int]]) -> np.ndarray:
        histogram = np.zeros(LOW, np.int64)
        for block in stretch:
            kernels.magnitude_histogram_low(read(block), np.uint32(bucket), histogram)
        return histogram

    low_histogram = np.sum(work.map(low_counts, stretches(each)), axis=0)
    low, above_low = locate(low_histogram, keep - above)
    threshold, ties = (bucket << 16) | low, keep - above - above_low
    # Zeros need no order among them: trimmed or not, they are zero.
    if threshold == 0 or ties == low_histogram[low]:
        return _Cut(threshold, ties, None)
    equals = work.map(lambda block: int(kernels.count_equal(read(block), np.uint32(threshold))), blocks)
    before, running = {}, 0
    for (i, start, _), count in zip(blocks, equals, strict=True):
        before[i, start] = running
        running += count
    return _Cut(threshold, ties, before)


def locate(histogram: np.ndarray, keep: int) -> tuple[int, int]:
    """The bucket that holds the keep-th largest value, and how many lie in the buckets above it."""
    import numpy as np

    from_top = np.cumsum(histogram[::-1])
    position = int(np.searchsorted(from_top, keep))
    above = int(from_top[position - 1]) if position else 0
    return histogram.size - 1 - position, above
