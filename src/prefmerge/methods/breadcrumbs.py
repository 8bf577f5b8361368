"""Model Breadcrumbs: drop the largest and the smallest values of each task vector, and sum (Davari and Belilovsky
2024).

    of n elements, in order of |tau_t|: drop the int(gamma n) largest, keep the int(density n) next to them
    breadcrumbs        sum_t w_t tau'_t
    breadcrumbs_ties   the same over the tasks that agree with the sign of the sum, element by element

Where fewer than int(density n) would be left, fewer of the largest are dropped, as in mergekit; density 1 drops
nothing. `rescale`: tau' times sum |tau| / sum |tau'|, so that the sum of magnitudes stays. Equal magnitudes are ordered
by index. Cost: three readings, four with `rescale` and one more where equals need an order. Not here: a scope of the
whole model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from prefmerge.methods.parameters import DENSITY, NORMALIZE, RESCALE, SCALE, UNIT, WEIGHTS, Group, Parameter
from prefmerge.methods.protocol import Deltas, Settings, reader
from prefmerge.methods.thinned import Thinned, ThinnedSum

if TYPE_CHECKING:
    import numpy as np

    from prefmerge.methods.largest import Cut
    from prefmerge.vectors.workspace import Workspace

GAMMA = Parameter(
    "gamma",
    UNIT,
    Fraction(1, 100),
    "what part of each task vector is dropped as too large",
    per_task=True,
    by_layer=True,
    mergekit=("gamma",),
    quiet=True,
    group=Group.MODELS,
)


@dataclass(frozen=True)
class _Kept:
    """Of one task vector: `down` to which values are kept, without those that `dropped` keeps."""

    down: Cut
    dropped: Cut
    factor: float


@dataclass
class _BreadcrumbsRule(ThinnedSum):
    kept: dict[tuple[int, int], _Kept] = field(default_factory=dict)  # by tensor and task; none where all is kept

    def thin(self, tensor: int, task: int, start: int, tau: np.ndarray, work: Workspace) -> None:
        kept = self.kept.get((tensor, task))
        if kept is None:
            return
        read = reader(self.tensors, task)
        largest = work.buffer("breadcrumbs", tau.size)
        largest[:] = tau
        kept.dropped.trim(largest, tensor, start, read, work)
        kept.down.trim(tau, tensor, start, read, work)
        tau[largest != 0] = 0
        if kept.factor != 1:
            tau[:] = tau * kept.factor  # float64, rounded once


@dataclass(frozen=True)
class Breadcrumbs(Thinned):
    """See the module."""

    parameters: tuple[Parameter[Any], ...] = (
        SCALE.but(1.0),
        WEIGHTS,
        DENSITY.but(Fraction(9, 10)),
        GAMMA,
        RESCALE.but(False),
        NORMALIZE.but(False),
    )

    def prepare(self, tensors: Sequence[Deltas], settings: Settings, work: Workspace) -> ThinnedSum:
        kept = {}
        for tensor, deltas in enumerate(tensors):
            for task, density in enumerate(settings.per_task(DENSITY)):
                if density < 1 and deltas.size:
                    kept[tensor, task] = _kept(deltas, task, settings, work)
        return _BreadcrumbsRule(tensors, settings, elect=self.elect, kept=kept)


def _kept(deltas: Deltas, task: int, settings: Settings, work: Workspace) -> _Kept:
    from prefmerge.methods.largest import cuts

    size = deltas.size
    keep = int(float(settings.per_task(DENSITY)[task]) * size)
    largest = min(int(float(settings.per_task(GAMMA)[task]) * size), size - keep)

    down, dropped = cuts([size], reader([deltas], task), [largest + keep, largest], work)
    factor = 1.0
    if settings[RESCALE.but(False)]:
        before, above, most = _sums(deltas, task, [None, down, dropped], work)
        after = above + down.ties * down.value - (most + dropped.ties * dropped.value if largest else 0.0)
        factor = before / after if after > 0 else 1.0
    return _Kept(down, dropped, factor)


def _sums(deltas: Deltas, task: int, cuts: Sequence[Cut | None], work: Workspace) -> list[float]:
    """The sum of the magnitudes above the threshold of each cut, or of all: float64, over fixed stretches."""
    import numpy as np

    from prefmerge.methods import kernels
    from prefmerge.methods.largest import STRETCH
    from prefmerge.vectors.workspace import spans

    def sums(span: tuple[int, int]) -> list[float]:
        tau = work.buffer("sums", span[1] - span[0])
        deltas.read(task, *span, tau)
        return [kernels.sum_above(tau, np.uint32(cut.threshold if cut else 0)) for cut in cuts]

    return [math.fsum(column) for column in zip(*work.map(sums, spans(deltas.size, STRETCH)), strict=True)]


BREADCRUMBS = Breadcrumbs("breadcrumbs", "drop the largest and the smallest values, sum", elect=False)
BREADCRUMBS_TIES = Breadcrumbs(
    "breadcrumbs_ties", "drop the largest and the smallest values, elect a sign by mass, sum what agrees", elect=True
)
