"""Sums of task vectors that are thinned first: what dare, della and breadcrumbs share.

    tau = sum_t w_t tau'_t, over sum w where normalised                         (linear)
    the same over the tasks that agree with the sign of the sum, by element     (elect)

Sums are float64 and rounded once. Cost: T short blocks per thread. Not here: how tau'_t is made of tau_t.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefmerge.errors import MethodError
from prefmerge.methods.parameters import NORMALIZE, WEIGHTS, Parameter
from prefmerge.methods.protocol import Deltas, Method, NeedsOrder, Rule, Settings

if TYPE_CHECKING:
    import numpy as np

    from prefmerge.vectors.workspace import Workspace


@dataclass
class ThinnedSum(Rule):
    """Subclasses thin one task vector; `elect`: a sign for each element, by the sum."""

    elect: bool = False

    @abc.abstractmethod
    def thin(self, tensor: int, task: int, start: int, tau: np.ndarray, work: Workspace) -> None:
        """Make tau' of `tau`, which begins with element `start` of the tensor."""

    def block(self, tensor: int, start: int, stop: int, out: np.ndarray, work: Workspace) -> None:
        import numpy as np

        from prefmerge.methods import kernels
        from prefmerge.vectors.workspace import spans

        deltas, settings = self.tensors[tensor], self.settings
        weights = np.array([float(weight) for weight in settings.per_task(WEIGHTS)])
        factors = weights / weights.sum() if settings[NORMALIZE] and not self.elect else weights
        for low, high in spans(stop - start, work.shared(settings.tasks)):
            tau_TP = work.buffer("thinned", (settings.tasks, high - low))
            for task in range(settings.tasks):
                deltas.read(task, start + low, start + high, tau_TP[task])
                self.thin(tensor, task, start + low, tau_TP[task], work)
            if self.elect:
                kernels.disjoint_merge(tau_TP, factors, factors, settings[NORMALIZE], out[low:high])
            else:
                total = work.buffer("total", high - low, np.float64)
                total[:] = 0
                for tau, factor in zip(tau_TP, factors, strict=True):
                    kernels.add_scaled(tau, factor, total)
                out[low:high] = total


@dataclass(frozen=True)
class Thinned(Method):
    """A method that sums thinned task vectors; `elect` as above."""

    name: str
    summary: str
    elect: bool
    parameters: tuple[Parameter[Any], ...]
    mergekit = True

    def by_tensor(self, settings: Settings) -> bool:
        return True

    def check(self, settings: Settings) -> Sequence[NeedsOrder]:
        if settings[self.own(NORMALIZE)] and not self.elect and not sum(settings.per_task(WEIGHTS)):
            raise MethodError(
                f"{self.name}: the weights sum to zero, so they cannot be normalised. Change them or set normalize: "
                "false."
            )
        return ()

    @abc.abstractmethod
    def prepare(self, tensors: Sequence[Deltas], settings: Settings, work: Workspace) -> ThinnedSum:
        """The rule that thins them."""
