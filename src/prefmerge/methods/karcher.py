"""The Karcher mean: the point of the sphere that is nearest to all models, at the mean of their lengths.

    u_i = theta_i / |theta_i|,   m: where sum_i (theta_i's share) log_m(u_i) = 0,   theta = m sum_i |theta_i| / K

log_m(u) = phi / sin(phi) (u - cos(phi) m), phi: the angle between m and u. `max_iter` steps of m <- exp_m(that sum), or
until the step is below `tol`. A tensor is one vector; one of zeros has no direction and counts for the length alone.
m stays among the sums of the models, so that the scalar products of these are all that a step needs: one reading and
K x K numbers. They are float64; mergekit holds vectors of float32, so that angles below 1e-3 are lost to rounding, and
it leaves out vectors shorter than `tol`. The base is one of the models where a recipe says so. Cost: two readings. Not
here: weights of the models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from prefmerge.methods.angles import ByAngles
from prefmerge.methods.parameters import BASE_WEIGHT, PART, SCALE, Group, Parameter, whole
from prefmerge.methods.protocol import Settings

if TYPE_CHECKING:
    import numpy as np

MAX_ITER = Parameter(
    "max_iter",
    whole(0, 1000),
    10,
    "how many steps towards the mean are taken at most",
    mergekit=("max_iter",),
    quiet=True,
    group=Group.RULE,
)
TOL = Parameter(
    "tol",
    PART,
    Fraction(1, 100_000),
    "the step at which the mean counts as reached",
    mergekit=("tol",),
    quiet=True,
    group=Group.RULE,
)


class Karcher(ByAngles):
    """See the module."""

    name = "karcher"
    summary = "the mean of the models on the sphere"
    parameters = (SCALE.but(1.0), MAX_ITER, TOL, BASE_WEIGHT)
    of_models = True

    def unlisted(self, weight: Fraction | None) -> Fraction:
        return Fraction(1)  # mergekit adds it to the models

    def weigh(self, gram_RVV: np.ndarray, settings: Settings) -> np.ndarray:
        import numpy as np

        factors = np.zeros((len(gram_RVV), settings.tasks + 1))
        for gram_VV, of_row in zip(gram_RVV, factors, strict=True):
            if gram_VV[1:, 1:].any():  # else the models are all the base
                with_base, apart = gram_VV[0].copy(), gram_VV.copy()
                with_base[0], apart[0], apart[:, 0] = 0, 0, 0
                models = gram_VV[0, 0] + with_base[:, None] + with_base + apart  # theta_t = theta_0 + tau_t
                alphas = [float(settings[BASE_WEIGHT]), *[1.0] * settings.tasks]
                of_row[:] = mean(models.tolist(), alphas, settings[MAX_ITER], float(settings[TOL]))
                of_row[0] = math.fsum([*of_row, -1.0])
        return factors


def mean(gram: Sequence[Sequence[float]], alphas: Sequence[float], max_iter: int, tol: float) -> list[float]:
    """The factors of the models whose products are `gram` and whose weights are `alphas`."""
    from prefmerge.methods.elementary import QUARTER, arc_cosine, sine

    lengths = [math.sqrt(max(0.0, row[i])) for i, row in enumerate(gram)]
    directed = [i for i, length in enumerate(lengths) if length > 0 and alphas[i] > 0]
    factors = [0.0] * len(lengths)
    if not directed:
        return factors
    part = [alphas[i] / math.fsum(alphas[i] for i in directed) for i in directed]
    unit = [[gram[i][j] / (lengths[i] * lengths[j]) for j in directed] for i in directed]

    def with_units(c: Sequence[float]) -> list[float]:
        return [math.fsum(a * b for a, b in zip(row, c, strict=True)) for row in unit]

    def length(c: Sequence[float]) -> float:
        return math.sqrt(max(0.0, math.fsum(a * b for a, b in zip(with_units(c), c, strict=True))))

    start = length(part)
    m = [a / start for a in part] if start >= tol else [1.0, *[0.0] * (len(directed) - 1)]
    for _ in range(max_iter):
        step = [0.0] * len(m)
        for i, cosine in enumerate(with_units(m)):
            cosine = max(-1.0, min(1.0, cosine))
            phi = arc_cosine(cosine)
            if tol <= phi and cosine > -1.0:  # opposite: every way is as long
                factor = part[i] * phi / sine(phi)
                step = [s - factor * cosine * a for s, a in zip(step, m, strict=True)]
                step[i] += factor
        size = length(step)
        if size < tol:
            break
        along, across = sine(size + QUARTER), sine(size) / size
        m = [along * a + across * s for a, s in zip(m, step, strict=True)]
        size = length(m)
        m = [a / size for a in m]
    scale = math.fsum(a * b for a, b in zip(alphas, lengths, strict=True)) / math.fsum(alphas)
    for i, a in zip(directed, m, strict=True):
        factors[i] = scale * a / lengths[i]
    return factors
