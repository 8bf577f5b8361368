"""Increments: how much of what each task added is kept, as a sum over the checkpoints themselves.

    delta_t = theta_t - theta_{t-1}
    theta = theta_0 + sum_t lambda_t delta_t,   lambda_t = start + boost s_t - drop [s_t < PRESENT]
          = theta_r + sum_t c_t (theta_t - theta_r),   c_t = lambda_t - lambda_{t+1},  c_0 = 1 - lambda_1

For tasks that were trained one after another. start 1, boost 0, drop 0 is the last checkpoint, bit for bit, in every
number format. s: the preference's shares; r: the last checkpoint with a factor other than zero, so that what is equal
in all checkpoints stays as it is. A scale multiplies every lambda. Source: ours. Sums are float64 and rounded once; the
factors are exact fractions until then. Cost: one reading of the checkpoints whose factor is not zero. Not here:
checkpoints that were trained independently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from prefmerge.methods.parameters import CARRY, NUMBER, PREFERENCE, SCALE, Group, Parameter
from prefmerge.methods.protocol import Deltas, Method, NeedsOrder, Rule, Settings

if TYPE_CHECKING:
    import numpy as np

    from prefmerge.vectors.workspace import Workspace

PRESENT = Fraction(1, 50)  # the share from which on a task counts as present at the target

START = Parameter(
    "start", NUMBER, Fraction(1), "how much is kept of what each task changed", by_layer=True, group=Group.RULE
)
BOOST = Parameter(
    "boost", NUMBER, Fraction(0), "what is added to start, times the task's share", by_layer=True, group=Group.RULE
)
DROP = Parameter(
    "drop",
    NUMBER,
    Fraction(0),
    f"what is taken from start where the task's share is below {100 * PRESENT} %",
    by_layer=True,
    group=Group.RULE,
)


def factors(settings: Settings) -> list[tuple[int | None, float]]:
    """(task, or None for theta_0; its factor) of every checkpoint whose factor is not zero. They sum to 1 before
    rounding.
    """
    scale = Fraction(settings.scale)
    kept = [
        scale * (settings[START] + settings[BOOST] * share - (settings[DROP] if share < PRESENT else 0))
        for share in settings.of_all
    ]
    exact = [1 - kept[0], *(a - b for a, b in zip(kept, [*kept[1:], Fraction(0)], strict=True))]
    return [(None if i == 0 else i - 1, float(factor)) for i, factor in enumerate(exact) if factor]


@dataclass
class _ModelSum(Rule):
    """A sum of the checkpoints themselves."""

    factors: list[tuple[int | None, float]] = field(default_factory=list)

    def block(self, tensor: int, start: int, stop: int, out: np.ndarray, work: Workspace) -> None:
        import numpy as np

        deltas = self.tensors[tensor]
        *others, (reference, _) = self.factors
        out[:] = deltas.model(reference, start, stop)
        if not others:
            return
        # A copy, because `out` is what the sum grows in.
        anchor, apart = work.buffer("anchor", out.size, np.float64), work.buffer("apart", out.size, np.float64)
        anchor[:] = out
        for task, factor in others:
            np.subtract(deltas.model(task, start, stop), anchor, out=apart, dtype=np.float64)
            apart *= factor
            out += apart


class Increments(Method):
    """See the module."""

    name = "increments"
    gives_model = True
    summary = "what each task added to the one before it, more of it where the preference asks"
    parameters = (PREFERENCE, SCALE.but(1.0), CARRY, START, BOOST, DROP)

    def by_tensor(self, settings: Settings) -> bool:
        return True

    def of_order(self, value: Callable[[Parameter[Any]], Any]) -> Sequence[NeedsOrder]:
        return (NeedsOrder(f"method {self.name!r}", "Use another method, such as tunable-magmax."),)

    def prepare(self, tensors: Sequence[Deltas], settings: Settings, work: Workspace) -> Rule:
        return _ModelSum(tensors, settings, factors=factors(settings))
