"""Model Stock: how far to go from the base to the mean of the tasks, by the angle between them (Jang et al. 2024).

    theta = theta_0 + r mean_t tau_t,   r = T cos / (1 + (T - 1) cos),   cos = mean over pairs of cos(tau_s, tau_t)

A tensor is one vector; with `filter_wise` each row along the last axis has an angle of its own, as in mergekit. Where
1 + (T - 1) cos is below 1e-6 in size, r is 0. A task vector of zeros has cosine 0 with every other. mergekit sets
products of two lengths below 1e-6 to 1e-6, so that small updates count as nearly orthogonal, and it does so in the
models' number format; here no length is too small. Cost: two readings. Not here: weights of the tasks.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from prefmerge.methods.angles import Axes, ByAngles
from prefmerge.methods.parameters import SCALE, YES_OR_NO, Group, Parameter
from prefmerge.methods.protocol import Settings

if TYPE_CHECKING:
    import numpy as np

SINGULAR = 1e-6  # mergekit's

FILTER_WISE = Parameter(
    "filter_wise",
    YES_OR_NO,
    False,
    "every row of a matrix has an angle of its own, not the tensor as a whole",
    mergekit=("filter_wise",),
    quiet=True,
    group=Group.RULE,
)


class ModelStock(ByAngles):
    """See the module."""

    name = "model_stock"
    summary = "the mean of the tasks, nearer to the base the less they agree"
    parameters = (SCALE.but(1.0), FILTER_WISE)
    fewest = 2

    def rows(self, settings: Settings) -> Axes:
        return "rows" if settings[FILTER_WISE] else "flat"

    def weigh(self, gram_RVV: np.ndarray, settings: Settings) -> np.ndarray:
        import numpy as np

        from prefmerge.methods.arcs import cosines

        tasks, total = settings.tasks, np.zeros(len(gram_RVV))
        for i, j in itertools.combinations(range(1, tasks + 1), 2):
            total += cosines(gram_RVV[:, i, i], gram_RVV[:, i, j], gram_RVV[:, j, j])
        cosine = total / (tasks * (tasks - 1) / 2)
        below = 1 + (tasks - 1) * cosine
        ratio = np.divide(tasks * cosine, below, out=np.zeros_like(below), where=np.abs(below) >= SINGULAR)
        factors = np.zeros((len(gram_RVV), tasks + 1))
        factors[:, 1:] = (ratio / tasks)[:, None]
        return factors
