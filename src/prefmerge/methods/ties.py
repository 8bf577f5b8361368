"""TIES: trim each task vector to its largest values, elect a sign per element by mass, average what agrees (Yadav et
al. 2023).

    keep the int(density n) largest |tau_t| (n: elements of the tensor, or of the model)
    sign = sign of sum_t w_t tau_t
    tau = sum_{agreeing} w_t tau_t / sum_{agreeing} w_t

The threshold is the exact k-th largest magnitude; values equal to it are kept in order of tensor name and index until k
are kept. Cost: three readings (a fourth where equals need an order), and T blocks per thread. Not here: how the k-th
largest is found (`largest`), other sparsifiers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prefmerge.errors import MethodError
from prefmerge.methods.parameters import DENSITY, NORMALIZE, SCALE, SCOPE, WEIGHTS
from prefmerge.methods.protocol import Deltas, Method, Rule, Settings, reader

if TYPE_CHECKING:
    import numpy as np

    from prefmerge.methods.largest import Cut
    from prefmerge.vectors.workspace import Workspace


@dataclass
class _TiesRule(Rule):
    """One cut for each task; None where all of its values survive."""

    cuts: tuple[Cut | None, ...] = field(default=())

    def block(self, tensor: int, start: int, stop: int, out: np.ndarray, work: Workspace) -> None:
        import numpy as np

        from prefmerge.methods import kernels
        from prefmerge.vectors.workspace import spans

        weights = np.array([float(weight) for weight in self.settings.per_task(WEIGHTS)], np.float64)
        for low, high in spans(stop - start, work.shared(self.settings.tasks)):
            tau_TP = work.buffer("ties", (self.settings.tasks, high - low))
            for task, cut in enumerate(self.cuts):
                self.tensors[tensor].read(task, start + low, start + high, tau_TP[task])
                if cut is not None:
                    cut.trim(tau_TP[task], tensor, start + low, reader(self.tensors, task), work)
            kernels.disjoint_merge(tau_TP, weights, weights, self.settings[NORMALIZE], out[low:high])


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


def _cut(tensors: Sequence[Deltas], task: int, density: float, work: Workspace) -> Cut | None:
    """The cut that keeps the int(density n) largest magnitudes of one task, at least one; None when it keeps all."""
    from prefmerge.methods.largest import cuts

    sizes = [deltas.size for deltas in tensors]
    keep = max(1, int(density * sum(sizes)))
    return None if keep >= sum(sizes) else cuts(sizes, reader(tensors, task), [keep], work)[0]
