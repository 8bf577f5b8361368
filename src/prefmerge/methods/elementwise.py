"""The methods that decide each element from its own T values: no budget, no threshold, one reading.

    magmax, max_abs   tau_k, k = argmax_t |tau_t|, ties to the later task          (MAGMAX; Tunable MAGMAX eq. 1)
    average           sum_t tau_t / T
    task_arithmetic   sum_t w_t tau_t (divided by sum w if normalised)             (Ilharco et al. 2023)
    linear            sum_t w_t theta_t / sum w, or without the division           (model soups)
    random_mix        tau_k, k uniformly random per element                        (MAGMAX's Rand Mix)
    last              tau_T                                                        (the papers' "Baseline")

Sums are float64 within a block and rounded once. Cost: one reading of the inputs, a few blocks of memory per thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prefmerge.errors import MethodError
from prefmerge.methods.parameters import BASE_WEIGHT, NO_LAMBDA, NORMALIZE, SCALE, SEED, WEIGHTS, Parameter
from prefmerge.methods.protocol import Deltas, Method, NeedsOrder, Rule, Settings

if TYPE_CHECKING:
    import numpy as np

    from prefmerge.vectors.workspace import Workspace


class _MaxRule(Rule):
    def block(self, tensor: int, start: int, stop: int, out: np.ndarray, work: Workspace) -> np.ndarray:
        import numpy as np

        from prefmerge.methods import kernels

        deltas, length = self.tensors[tensor], stop - start
        tau, owner = work.buffer("tau", length), work.buffer("owner", length, np.uint8)
        out[:] = 0
        owner[:] = 0
        for task in range(self.settings.tasks):
            deltas.read(task, start, stop, tau)
            kernels.fold_max(tau, out, owner, np.uint8(task))
        return kernels.counts(owner, self.settings.tasks)

    def owner_of(self, tensor: int, start: int, stop: int, work: Workspace) -> np.ndarray:
        import numpy as np

        return work.buffer("owner", stop - start, np.uint8)


class _LastRule(Rule):
    def block(self, tensor: int, start: int, stop: int, out: np.ndarray, work: Workspace) -> np.ndarray:
        import numpy as np

        last = self.settings.tasks - 1
        self.tensors[tensor].read(last, start, stop, out)
        owners = np.zeros(self.settings.tasks, np.int64)
        owners[last] = stop - start
        return owners

    def owner_of(self, tensor: int, start: int, stop: int, work: Workspace) -> np.ndarray:
        import numpy as np

        return np.full(stop - start, self.settings.tasks - 1, np.int64)


class _RandomRule(Rule):
    def block(self, tensor: int, start: int, stop: int, out: np.ndarray, work: Workspace) -> np.ndarray:
        import numpy as np

        from prefmerge.methods import kernels
        from prefmerge.methods.keyed import key

        deltas, length, tasks = self.tensors[tensor], stop - start, self.settings.tasks
        owner, tau = work.buffer("owner", length, np.uint8), work.buffer("tau", length)
        kernels.random_owners(key(self.settings[SEED], deltas.name, "random_mix"), start, tasks, owner)
        owners = kernels.counts(owner, tasks)
        for task in range(tasks):
            if owners[task]:
                deltas.read(task, start, stop, tau)
                kernels.take_owned(tau, owner, np.uint8(task), out)
        return owners

    def owner_of(self, tensor: int, start: int, stop: int, work: Workspace) -> np.ndarray:
        import numpy as np

        return work.buffer("owner", stop - start, np.uint8)


@dataclass
class _SumRule(Rule):
    """A sum of the task vectors, and of the base where it weighs something."""

    factors: tuple[float, ...] = field(default=())  # one per task; the normalisation is in them

    def block(self, tensor: int, start: int, stop: int, out: np.ndarray, work: Workspace) -> None:
        import numpy as np

        from prefmerge.methods import kernels

        deltas, length = self.tensors[tensor], stop - start
        tau, total = work.buffer("tau", length), work.buffer("total", length, np.float64)
        total[:] = 0
        for task, factor in enumerate(self.factors):
            if factor != 0.0:
                deltas.read(task, start, stop, tau)
                kernels.add_scaled(tau, factor, total)
        if self.base_weight:
            kernels.add_scaled(deltas.base(start, stop), self.base_weight, total)
        out[:] = total


@dataclass(frozen=True)
class Elementwise(Method):
    """A method that needs no preparation; `rule` is one of the rules above."""

    name: str
    summary: str
    parameters: tuple[Parameter[Any], ...]
    rule: type[Rule]
    searched: int = 0
    published: Mapping[str, Any] = field(default_factory=dict)
    of_others: str = ""  # of a method for tasks that were trained one after another: what to do with others

    def of_order(self, value: Callable[[Parameter[Any]], Any]) -> Sequence[NeedsOrder]:
        return [NeedsOrder(f"method {self.name!r}", self.of_others, strict=False)] if self.of_others else []

    def by_tensor(self, settings: Settings) -> bool:
        return True

    def prepare(self, tensors: Sequence[Deltas], settings: Settings, work: Workspace) -> Rule:
        from prefmerge.methods import kernels

        if settings.tasks > kernels.FREE:
            raise MethodError(
                f"{self.name} merges at most {kernels.FREE} tasks at once, found {settings.tasks}. Merge in groups "
                "and carry on."
            )
        return self.rule(tensors, settings)


@dataclass(frozen=True)
class WeightedSum(Method):
    """average, task_arithmetic and linear: a sum with one factor per task."""

    name: str
    summary: str
    parameters: tuple[Parameter[Any], ...]
    mergekit: bool = False
    ignores: Mapping[str, str] = field(default_factory=dict)
    of_models: bool = False
    searched: int = 0

    def by_tensor(self, settings: Settings) -> bool:
        return True

    def prepare(self, tensors: Sequence[Deltas], settings: Settings, work: Workspace) -> Rule:
        if not self.honours(WEIGHTS):
            return _SumRule(tensors, settings, factors=(1.0 / settings.tasks,) * settings.tasks)
        weights = tuple(float(weight) for weight in settings.per_task(WEIGHTS))
        total = math.fsum((*weights, float(settings[BASE_WEIGHT])))
        if settings[self.own(NORMALIZE)]:
            if total == 0.0:
                raise MethodError(
                    f"{self.name}: the weights sum to zero, so they cannot be normalised. Change them or set "
                    "normalize: false."
                )
            return _SumRule(tensors, settings, factors=tuple(w / total for w in weights))
        # sum w theta = theta_0 + sum w tau + (sum w - 1) theta_0, where it speaks of models and not of task vectors.
        base_weight = total - 1.0 if self.of_models else 0.0
        return _SumRule(tensors, settings, factors=weights, base_weight=base_weight)


MAGMAX = Elementwise(
    "magmax",
    "the largest magnitude of T sequential task vectors",
    (SCALE.but(0.5),),
    _MaxRule,
    published={SCALE.name: 0.5},
    of_others="Use max_abs, which is the same rule for tasks that were trained independently, or tunable-magmax.",
)
MAX_ABS = Elementwise(
    "max_abs",
    "the same rule over independently fine-tuned tasks",
    (SCALE.but(0.5),),
    _MaxRule,
    published={SCALE.name: 0.5},
)
RANDOM_MIX = Elementwise("random_mix", "a random task for every element", (SCALE.but(1.0), SEED), _RandomRule)
LAST = Elementwise(
    "last",
    "the last task vector alone (the papers' Baseline)",
    (SCALE.but(1.0),),
    _LastRule,
    searched=5,
    of_others="Use tunable-magmax, ties or average: the last of them knows nothing of the others.",
)
AVERAGE = WeightedSum("average", "the mean of the task vectors", (SCALE.but(1.0),), searched=3)
TASK_ARITHMETIC = WeightedSum(
    "task_arithmetic",
    "a weighted sum of task vectors",
    (SCALE.but(1.0), WEIGHTS, NORMALIZE.but(False)),
    mergekit=True,
    searched=4,
)
LINEAR = WeightedSum(
    "linear",
    "a weighted mean of the models",
    (SCALE.but(1.0), WEIGHTS, BASE_WEIGHT, NORMALIZE),
    mergekit=True,
    ignores=NO_LAMBDA,
    of_models=True,
)
