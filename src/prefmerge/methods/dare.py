"""DARE: drop elements of each task vector at random, rescale the rest, and sum (Yu et al. 2024).

    tau'_t[i] = tau_t[i] / density_t with probability density_t, else 0
    dare_linear   sum_t w_t tau'_t
    dare_ties     the same over the tasks that agree with the sign of the sum, element by element

Which elements are dropped is a keyed draw for each (seed, tensor, task, element): the same bytes on every machine. The
paper rescales by 1 / density, as we do; mergekit rescales so that the sum of magnitudes stays, which is the same on
average. Cost: one reading. Not here: dropping by magnitude (ties, breadcrumbs, della).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from prefmerge.methods.parameters import DENSITY, NORMALIZE, RESCALE, SCALE, SEED, WEIGHTS, Parameter
from prefmerge.methods.protocol import Deltas, Settings
from prefmerge.methods.thinned import Thinned, ThinnedSum

if TYPE_CHECKING:
    import numpy as np

    from prefmerge.vectors.workspace import Workspace

NUMBERS = 1 << 53  # of a draw


class _DareRule(ThinnedSum):
    def thin(self, tensor: int, task: int, start: int, tau: np.ndarray, work: Workspace) -> None:
        import numpy as np

        from prefmerge.methods import kernels
        from prefmerge.methods.keyed import key

        density = self.settings.per_task(DENSITY)[task]
        if density < 1:
            draw = key(self.settings[SEED], self.tensors[tensor].name, "dare", task)
            factor = float(1 / density) if self.settings[RESCALE] else 1.0
            kernels.drop_at_random(draw, start, np.uint64(int(density * NUMBERS)), factor, tau)


@dataclass(frozen=True)
class Dare(Thinned):
    """See the module."""

    parameters: tuple[Parameter[Any], ...] = (
        SCALE.but(1.0),
        SEED,
        WEIGHTS,
        DENSITY.but(Fraction(1, 2)),
        RESCALE,
        NORMALIZE.but(False),
    )

    def prepare(self, tensors: Sequence[Deltas], settings: Settings, work: Workspace) -> ThinnedSum:
        return _DareRule(tensors, settings, elect=self.elect)


DARE_LINEAR = Dare("dare_linear", "drop at random, rescale, sum", elect=False)
DARE_TIES = Dare("dare_ties", "drop at random, rescale, elect a sign by mass, sum what agrees", elect=True)
