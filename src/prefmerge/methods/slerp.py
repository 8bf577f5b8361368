"""SLERP: from the base to one other model along the sphere (Shoemake 1985), a tensor as one vector.

    theta = sin((1 - t) phi) / sin(phi) theta_0 + sin(t phi) / sin(phi) theta_1,   phi: the angle between the two
    theta = (1 - t) theta_0 + t theta_1,   where |cos(phi)| > 0.9995

Lengths are not made equal first, as in mergekit. A tensor of zeros has no angle; it counts as one at right angles to
every other, as in mergekit. Cost: two readings. Not here: more than two models (karcher), t for some layers.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from prefmerge.methods.angles import ByAngles
from prefmerge.methods.parameters import NUMBER, SCALE, Group, Parameter
from prefmerge.methods.protocol import Settings

if TYPE_CHECKING:
    import numpy as np

STRAIGHT = 0.9995  # cosines beyond it: no angle to speak of; mergekit's

T = Parameter(
    "t",
    NUMBER,
    Fraction(1, 2),
    "how far to go from the base (0) to the task (1)",
    by_layer=True,
    mergekit=("t",),
    quiet=True,
    group=Group.RULE,
)


class Slerp(ByAngles):
    """See the module."""

    name = "slerp"
    summary = "from the base to one task along the sphere"
    parameters = (SCALE.but(1.0), T)
    of_models = True
    most = 1

    def weigh(self, gram_RVV: np.ndarray, settings: Settings) -> np.ndarray:
        import numpy as np

        from prefmerge.methods import arcs

        base, with_tau, tau = gram_RVV[:, 0, 0], gram_RVV[:, 0, 1], gram_RVV[:, 1, 1]
        cosine = arcs.cosines(base, base + with_tau, base + 2 * with_tau + tau)
        straight = np.abs(cosine) > STRAIGHT
        first, second = arcs.arc_factors(cosine, float(settings[T]), straight)
        return np.stack([np.where(straight, 0, first + second - 1), second], axis=1)
