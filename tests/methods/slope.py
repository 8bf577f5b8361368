"""A method as somebody would add it, in one file: each task weighs `tilt` times as much as the one before it.

tau = sum_t tilt^t tau_t, where |tau_t| is at least `least`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from prefmerge.methods import Method, Rule, Settings, register
from prefmerge.methods.parameters import NUMBER, SCALE, Parameter, Range, whole
from prefmerge.methods.protocol import Deltas

if TYPE_CHECKING:
    import numpy as np

    from prefmerge.vectors.workspace import Workspace

TILT = Parameter("tilt", NUMBER, Fraction(1), "how much more each task weighs", search=Range(0.5, 2.0, 1, usual=True))
FIRST = Parameter("first_task", whole(1, 100), 1, "the task to begin with", mergekit_default=2)


@dataclass
class _Rule(Rule):
    def block(self, tensor: int, start: int, stop: int, out: np.ndarray, work: Workspace) -> None:
        tau = work.buffer("tau", stop - start)
        out[:] = 0
        for task in range(self.settings[FIRST] - 1, self.settings.tasks):
            self.tensors[tensor].read(task, start, stop, tau)
            out += float(self.settings[TILT] ** task) * tau


class Slope(Method):
    name = "slope"
    summary = "later tasks weigh more"
    parameters = (SCALE.but(0.25), TILT, FIRST)

    def by_tensor(self, settings: Settings) -> bool:
        return True

    def prepare(self, tensors: Sequence[Deltas], settings: Settings, work: Workspace) -> Rule:
        return _Rule(tensors, settings)


register(Slope())
