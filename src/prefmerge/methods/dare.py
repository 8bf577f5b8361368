"""DARE: drop elements of each task vector at random, rescale the rest, and sum (Yu et al. 2024).

    tau'_t[i] = tau_t[i] / density_t with probability density_t, else 0
    dare_linear   sum_t w_t tau'_t
    dare_ties     the same over the tasks that agree with the sign of the sum, element by element

Which elements are dropped is a keyed draw for each (seed, tensor, task, element): the same bytes on every machine. The
paper rescales by 1 / density, as we do; mergekit rescales so that the sum of magnitudes stays, which is the same on
average. Sums are float64 and rounded once. Cost: one reading. Not here: dropping by magnitude (ties).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from prefmerge.errors import MethodError
from prefmerge.methods.parameters import DENSITY, NORMALIZE, RESCALE, SCALE, SEED, WEIGHTS
from prefmerge.methods.protocol import Deltas, Method, Rule, Settings

if TYPE_CHECKING:
    import numpy as np

    from prefmerge.vectors.workspace import Workspace

MERGE_BLOCK = 1 << 14  # elements held for all T tasks at once
NUMBERS = 1 << 53  # of a draw


@dataclass
class _DareRule(Rule):
    elect: bool = False  # a sign for each element, by the sum

    def block(self, tensor: int, start: int, stop: int, out: np.ndarray, work: Workspace) -> None:
        import numpy as np

        from prefmerge.methods import kernels
        from prefmerge.vectors.workspace import spans

        deltas, settings = self.tensors[tensor], self.settings
        weights = np.array([float(weight) for weight in settings.per_task(WEIGHTS)])
        factors = weights / weights.sum() if settings[NORMALIZE] and not self.elect else weights
        for low, high in spans(stop - start, MERGE_BLOCK):
            tau_TP = work.buffer("dare", (settings.tasks, high - low))
            for task in range(settings.tasks):
                deltas.read(task, start + low, start + high, tau_TP[task])
                self._thin(deltas.name, task, start + low, tau_TP[task])
            if self.elect:
                kernels.disjoint_merge(tau_TP, factors, settings[NORMALIZE], out[low:high])
            else:
                total = work.buffer("total", high - low, np.float64)
                total[:] = 0
                for tau, factor in zip(tau_TP, factors, strict=True):
                    kernels.add_scaled(tau, factor, total)
                out[low:high] = total

    def _thin(self, tensor: str, task: int, start: int, tau: np.ndarray) -> None:
        import numpy as np

        from prefmerge.methods import kernels
        from prefmerge.methods.keyed import key

        density = self.settings.per_task(DENSITY)[task]
        if density < 1:
            draw = key(self.settings[SEED], tensor, "dare", task)
            factor = float(1 / density) if self.settings[RESCALE] else 1.0
            kernels.drop_at_random(draw, start, np.uint64(int(density * NUMBERS)), factor, tau)


@dataclass(frozen=True)
class Dare(Method):
    """See the module."""

    name: str
    summary: str
    elect: bool
    parameters = (
        SCALE.but(1.0),
        SEED,
        WEIGHTS,
        DENSITY.but(Fraction(1, 2)),
        RESCALE,
        NORMALIZE.but(False),
    )
    mergekit = True

    def by_tensor(self, settings: Settings) -> bool:
        return True

    def prepare(self, tensors: Sequence[Deltas], settings: Settings, work: Workspace) -> Rule:
        if settings[NORMALIZE] and not self.elect and not sum(settings.per_task(WEIGHTS)):
            raise MethodError(
                f"{self.name}: the weights sum to zero, so they cannot be normalised. Change them or set normalize: "
                "false."
            )
        return _DareRule(tensors, settings, elect=self.elect)


DARE_LINEAR = Dare("dare_linear", "drop at random, rescale, sum", elect=False)
DARE_TIES = Dare("dare_ties", "drop at random, rescale, elect a sign by mass, sum what agrees", elect=True)
