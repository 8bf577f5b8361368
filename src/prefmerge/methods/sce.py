"""SCE: select the elements on which the tasks differ most, weigh the tasks by their energy, erase minority signs (Wan
et al. 2024).

    select     the int(select_topk m) elements of largest variance over the tasks, m: elements whose variance is not 0
    calculate  w_t = sum_i tau_t[i]^2 over the tensor, over the sum of these
    erase      sign = sign of sum_t tau_t;   tau = sum_{agreeing} w_t tau_t / sum_{agreeing} w_t

select_topk 1 selects all. Equal variances are ordered by index. mergekit weighs all tasks alike where the mean squares
of all together are below 1e-6, as they are after most fine-tunings; here no update is too small. Cost: two readings,
five with select_topk below 1. Not here: weights that a user gives (ties).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

from prefmerge.methods.parameters import NO_LAMBDA, SCALE, UNIT, Group, Parameter
from prefmerge.methods.protocol import Deltas, Method, Rule, Settings

if TYPE_CHECKING:
    import numpy as np

    from prefmerge.methods.largest import Cut, Read
    from prefmerge.vectors.workspace import Workspace

SUMMED = 1 << 14  # elements whose squares are added up together

SELECT_TOPK = Parameter(
    "select_topk",
    UNIT,
    Fraction(1),
    "what part of the elements is merged, those on which the tasks differ most",
    mergekit=("select_topk",),
    quiet=True,
    group=Group.RULE,
)


@dataclass
class _SceRule(Rule):
    cuts: tuple[Cut | None, ...] = ()  # of the variances of each tensor; None where all are selected
    weights: list[np.ndarray] = field(default_factory=list)  # of every task, for each tensor

    def block(self, tensor: int, start: int, stop: int, out: np.ndarray, work: Workspace) -> None:
        import numpy as np

        from prefmerge.methods import kernels
        from prefmerge.vectors.workspace import spans

        votes = np.ones(self.settings.tasks)
        for low, high in spans(stop - start, work.shared(self.settings.tasks)):
            tau_TP = selected(self.tensors, tensor, start + low, start + high, self.cuts[tensor], self.settings, work)
            kernels.disjoint_merge(tau_TP, votes, self.weights[tensor], True, out[low:high])


def selected(
    tensors: Sequence[Deltas], tensor: int, start: int, stop: int, cut: Cut | None, settings: Settings, work: Workspace
) -> np.ndarray:
    """All task vectors, shape (T, P), zero where an element is not selected."""
    tau_TP = work.buffer("sce", (settings.tasks, stop - start))
    for task in range(settings.tasks):
        tensors[tensor].read(task, start, stop, tau_TP[task])
    if cut is not None:
        spread = work.buffer("sce-variance", stop - start)
        read = _variances(tensors, settings, work)
        read(tensor, start, stop, spread)
        cut.trim(spread, tensor, start, read, work)
        tau_TP[:, spread == 0] = 0
    return tau_TP


def _variances(tensors: Sequence[Deltas], settings: Settings, work: Workspace) -> Read:
    """What fills an array with the variances over the tasks: (tensor, start, stop, out)."""
    from prefmerge.methods import kernels
    from prefmerge.vectors.workspace import spans

    def read(tensor: int, start: int, stop: int, out: np.ndarray) -> None:
        for low, high in spans(stop - start, work.shared(settings.tasks)):
            tau_TP = work.buffer("variances", (settings.tasks, high - low))
            for task in range(settings.tasks):
                tensors[tensor].read(task, start + low, start + high, tau_TP[task])
            kernels.variances(tau_TP, out[low:high])

    return read


class Sce(Method):
    """See the module."""

    name = "sce"
    summary = "what the tasks differ on most, weighed by energy, without minority signs"
    parameters = (SCALE.but(1.0), SELECT_TOPK)
    mergekit = True
    ignores: Mapping[str, str] = NO_LAMBDA

    def by_tensor(self, settings: Settings) -> bool:
        return True

    def prepare(self, tensors: Sequence[Deltas], settings: Settings, work: Workspace) -> Rule:
        indices = range(len(tensors))
        cuts = tuple(_cut(tensors, tensor, settings, work) for tensor in indices)
        weights = [_weights(tensors, tensor, cuts[tensor], settings, work) for tensor in indices]
        return _SceRule(tensors, settings, cuts=cuts, weights=weights)


def _cut(tensors: Sequence[Deltas], tensor: int, settings: Settings, work: Workspace) -> Cut | None:
    """What keeps the largest variances of one tensor; None where that is all of them."""
    import numpy as np

    from prefmerge.methods.largest import STRETCH, cuts
    from prefmerge.vectors.workspace import spans

    if settings[SELECT_TOPK] == 1:
        return None
    size, read = tensors[tensor].size, _variances([tensors[tensor]], settings, work)

    def differing(span: tuple[int, int]) -> int:
        out = work.buffer("sce-variance", span[1] - span[0])
        read(0, *span, out)
        return int(np.count_nonzero(out))

    keep = int(float(settings[SELECT_TOPK]) * sum(work.map(differing, spans(size, STRETCH))))
    return cuts([size], read, [keep], work)[0] if keep < size else None


def _weights(
    tensors: Sequence[Deltas], tensor: int, cut: Cut | None, settings: Settings, work: Workspace
) -> np.ndarray:
    """The part that each task has of the squares of what is selected: float64, over fixed stretches."""
    import numpy as np

    from prefmerge.methods import kernels
    from prefmerge.vectors.workspace import spans

    def squares(span: tuple[int, int]) -> list[float]:
        tau_TP = selected(tensors, tensor, *span, cut, settings, work)
        return [kernels.squares(tau) for tau in tau_TP]

    parts = work.map(squares, spans(tensors[tensor].size, SUMMED))
    totals = np.array([math.fsum(column) for column in zip(*parts, strict=True)] or [0.0] * settings.tasks)
    whole = math.fsum(totals.tolist())
    return totals / whole if whole > 0 else np.full(settings.tasks, 1 / settings.tasks)
