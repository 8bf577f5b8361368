"""DELLA: drop elements of each task vector at random, small ones more often, rescale the rest, and sum (Deep et al.
2024).

    p = density - epsilon + 2 epsilon r / (n - 1),   r: rank of |tau_t[i]| in its row of n elements, from 0
    tau'_t[i] = tau_t[i] / p with probability p, else 0
    della_linear   sum_t w_t tau'_t
    della          the same over the tasks that agree with the sign of the sum, normalised by their weights

A row is what one entry of the first axis has; a vector is one row. The draws are keyed, as those of dare. The paper
rescales each element by its own 1 / p, as we do; mergekit multiplies all by one factor, so that large elements come out
too large on average. Equal magnitudes share the mean of their ranks; a row of one element has p = density (mergekit
divides 0 by 0). Rows of convolutions are whole; mergekit ranks along the second axis alone. Cost: two readings, and a
row per task and thread; rows of more than 2^16 elements are sorted once and kept. Not here: density without ranks
(dare).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from prefmerge.errors import MethodError
from prefmerge.methods.parameters import DENSITY, NORMALIZE, RESCALE, SCALE, SEED, UNIT, WEIGHTS, Group, Parameter
from prefmerge.methods.protocol import Deltas, NeedsOrder, Settings
from prefmerge.methods.thinned import Thinned, ThinnedSum

if TYPE_CHECKING:
    import numpy as np

    from prefmerge.vectors.workspace import Workspace

LONG = 1 << 16  # elements of a row that is sorted once and kept

EPSILON = Parameter(
    "epsilon",
    UNIT,
    Fraction(3, 20),
    "how far the part that is kept goes below the density for the smallest values, and above it for the largest",
    per_task=True,
    by_layer=True,
    mergekit=("epsilon",),
    quiet=True,
    group=Group.MODELS,
)


@dataclass
class _DellaRule(ThinnedSum):
    sorted: dict[tuple[int, int, int], np.ndarray] = field(default_factory=dict)  # long rows, by tensor, task and row
    last: dict[tuple[int, int], Any] = field(default_factory=dict)  # (what, its rows sorted), by thread and task

    def thin(self, tensor: int, task: int, start: int, tau: np.ndarray, work: Workspace) -> None:
        from prefmerge.methods import kernels
        from prefmerge.methods.keyed import key

        settings, deltas = self.settings, self.tensors[tensor]
        density, epsilon = settings.per_task(DENSITY)[task], settings.per_task(EPSILON)[task]
        if density == 1:
            return
        draw = key(settings[SEED], deltas.name, "della", task)
        width, least, most = row_width(deltas), float(density - epsilon), float(density + epsilon)
        position = start
        while position < start + tau.size:
            row = position // width
            if (tensor, task, row) in self.sorted:
                magnitudes, stop = self.sorted[tensor, task, row], (row + 1) * width
            else:
                stop = min(-(-(start + tau.size) // width) * width, deltas.size)
                magnitudes = self._sorted_now(tensor, task, row * width, stop, width)
            part = tau[position - start : stop - start]
            kernels.drop_by_rank(draw, position, row * width, magnitudes, width, least, most, settings[RESCALE], part)
            position = stop

    def _sorted_now(self, tensor: int, task: int, start: int, stop: int, width: int) -> np.ndarray:
        """Rows that the thread needs now; it has them already where the stretch before this one ended within them."""
        import numpy as np

        place = (threading.get_ident(), task)
        span, magnitudes = self.last.get(place, ((0, 0, 0), None))
        if magnitudes is None or span != (tensor, start, stop):
            magnitudes = np.empty(stop - start, np.float32)
            _sort(self.tensors[tensor], task, start, magnitudes, width)
            self.last[place] = ((tensor, start, stop), magnitudes)
        return magnitudes


def row_width(deltas: Deltas) -> int:
    """Elements of a row."""
    return max(1, deltas.size // max(1, deltas.shape[0]) if len(deltas.shape) > 1 else deltas.size)


def _sort(deltas: Deltas, task: int, start: int, out: np.ndarray, width: int) -> None:
    """Fill `out` with the magnitudes from element `start` on, each row sorted."""
    import numpy as np

    deltas.read(task, start, start + out.size, out)
    np.abs(out, out=out)
    out.reshape(-1, width).sort(axis=1)


@dataclass(frozen=True)
class Della(Thinned):
    """See the module."""

    def check(self, settings: Settings) -> Sequence[NeedsOrder]:
        pairs = zip(settings.per_task(DENSITY), settings.per_task(EPSILON), strict=True)
        for density, epsilon in pairs:
            if density < 1 and not (density - epsilon > 0 and density + epsilon < 1):
                raise MethodError(
                    f"{self.name}: with density {float(density):g} and epsilon {float(epsilon):g} an element would be "
                    f"kept with probability {float(density - epsilon):g} to {float(density + epsilon):g}; both must "
                    "lie between 0 and 1. Give a smaller epsilon."
                )
        return super().check(settings)

    def prepare(self, tensors: Sequence[Deltas], settings: Settings, work: Workspace) -> ThinnedSum:
        import numpy as np

        kept: dict[tuple[int, int, int], np.ndarray] = {}
        for tensor, deltas in enumerate(tensors):
            width = row_width(deltas)
            if width > LONG:
                for task, density in enumerate(settings.per_task(DENSITY)):
                    for row in range(deltas.size // width) if density < 1 else ():
                        kept[tensor, task, row] = work.allocate(width, np.float32)
                        _sort(deltas, task, row * width, kept[tensor, task, row], width)
        return _DellaRule(tensors, settings, elect=self.elect, sorted=kept)


def _parameters(normalize: bool) -> tuple[Parameter[Any], ...]:
    return (
        SCALE.but(1.0),
        SEED,
        WEIGHTS,
        DENSITY.but(Fraction(1, 2)),
        EPSILON,
        RESCALE,
        NORMALIZE.but(normalize),
    )


DELLA_LINEAR = Della(
    "della_linear", "drop at random, small values more often, rescale, sum", elect=False, parameters=_parameters(False)
)
DELLA = Della(
    "della",
    "drop at random, small values more often, rescale, elect a sign by mass, average what agrees",
    elect=True,
    parameters=_parameters(True),
)
