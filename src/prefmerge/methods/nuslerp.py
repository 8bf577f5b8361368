"""NuSLERP: between two task vectors, or two models, along the sphere, in the proportion of their weights.

    t = w_2 / (w_1 + w_2), one half where the sum is below 1e-6 in size
    tau = sin((1 - t) phi) / sin(phi) tau_1 + sin(t phi) / sin(phi) tau_2,   phi: the angle between the two
    theta: the same of theta_0 and theta_1, with the base's own weight, where there is one task

A tensor is one vector (`nuslerp_flatten`), else each row along the last axis, or with `nuslerp_row_wise` each along the
first, as in mergekit. Vectors that are parallel, or opposite, are mixed in proportion; a vector of zeros is at right
angles to every other. Source: mergekit. Cost: two readings. Not here: more than two (karcher).
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

from prefmerge.methods.angles import Axes, ByAngles
from prefmerge.methods.parameters import BASE_WEIGHT, SCALE, WEIGHTS, YES_OR_NO, Group, Parameter
from prefmerge.methods.protocol import Settings

if TYPE_CHECKING:
    import numpy as np

STRAIGHT = 1e-16  # squares of sines up to it: no angle to speak of; mergekit's
BALANCED = 1e-6  # sums of weights below it: half and half; mergekit's

ROW_WISE = Parameter(
    "nuslerp_row_wise",
    YES_OR_NO,
    False,
    "where a tensor is not one vector, its vectors run along its first axis, not along its last",
    mergekit=("nuslerp_row_wise",),
    quiet=True,
    group=Group.RULE,
)
FLATTEN = Parameter(
    "nuslerp_flatten",
    YES_OR_NO,
    True,
    "whether a tensor is one vector",
    flag=False,
    mergekit=("nuslerp_flatten",),
    quiet=True,
    group=Group.RULE,
)


class Nuslerp(ByAngles):
    """See the module."""

    name = "nuslerp"
    summary = "between two task vectors, or between the base and one task, along the sphere"
    parameters = (SCALE.but(1.0), ROW_WISE, FLATTEN, WEIGHTS, BASE_WEIGHT)
    of_models = True
    most = 2

    def unlisted(self, weight: Fraction | None) -> Fraction:
        return Fraction(0)  # it is where task vectors start

    def rows(self, settings: Settings) -> Axes:
        return "flat" if settings[FLATTEN] else "columns" if settings[ROW_WISE] else "rows"

    def weigh(self, gram_RVV: np.ndarray, settings: Settings) -> np.ndarray:
        import numpy as np

        from prefmerge.methods import arcs

        weights = [float(weight) for weight in settings.per_task(WEIGHTS)]
        if settings.tasks == 1:
            base, with_tau, tau = gram_RVV[:, 0, 0], gram_RVV[:, 0, 1], gram_RVV[:, 1, 1]
            products = base, base + with_tau, base + 2 * with_tau + tau
            weights = [float(settings[BASE_WEIGHT]), *weights]
        else:
            products = gram_RVV[:, 1, 1], gram_RVV[:, 1, 2], gram_RVV[:, 2, 2]
        total = math.fsum(weights)
        t = 0.5 if abs(total) < BALANCED else weights[1] / total
        cosine = arcs.cosines(*products)
        straight = 1 - cosine * cosine <= STRAIGHT
        first, second = arcs.arc_factors(cosine, t, straight)
        if settings.tasks == 1:
            return np.stack([np.where(straight, 0, first + second - 1), second], axis=1)
        return np.stack([np.zeros_like(first), first, second], axis=1)
