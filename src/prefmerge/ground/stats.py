"""Intervals and tests for accuracies and means, on plain numbers.

    wilson(right, n)             an accuracy: (p + z²/2n -+ z sqrt(p (1 - p)/n + z²/4n²)) / (1 + z²/n)
    t_interval(values)           a mean: mean -+ t(level, n - 1) s / √n
    bootstrap_interval(values)   a mean: quantiles of the means of n values drawn with replacement
    mcnemar(b, c)                b against c discordant pairs: 2 P(at least max(b, c) heads of b + c), at most 1

Source: Wilson 1927; Student 1908, his distribution by Abramowitz and Stegun 26.7.3 and 26.7.4; Efron 1979; McNemar
1947. Cost: O(n); the bootstrap O(draws n). SciPy has these quantiles too, to 13 digits the same (a test asks it), but
its import takes a thousand times as long as the bisection, and whether it is there may not decide a digit. Not here:
corrections for many comparisons, for which the caller multiplies p.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist, fmean, stdev

import numpy as np

LEVEL = 0.95
DRAWS = 2000  # of the bootstrap
Z = 1.959964  # the normal quantile for LEVEL


def wilson(right: int, n: int, z: float = Z) -> tuple[float, float]:
    """Wilson's score interval of an accuracy of `right` in `n`. It stays inside [0, 1], and is sound where all or none
    are right.
    """
    if not 0 <= right <= n or n == 0:
        raise ValueError(f"expected 0 <= right <= n and n > 0, found {right} of {n}")
    low, high = wilson_of(right / n, n, z)
    return low, 1.0 if right == n else high  # at right = n the upper end is 1, which rounding must not miss


def wilson_of(part: float, n: float, z: float = Z) -> tuple[float, float]:
    """The same of a part 0 <= p <= 1 that was seen in `n`, which need not be whole: an effective number of samples."""
    s = z * z / n
    centre, half = part + s / 2, math.sqrt(part * (1 - part) * s + s * s / 4)
    return (centre - half) / (1 + s), (centre + half) / (1 + s)


def _within(t: float, degrees: int) -> float:
    """P(|T| <= t) for Student's t with so many degrees of freedom."""
    angle = math.atan(t / math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = degrees % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for k in range(1 + odd, degrees, 2):
        total += term
        term *= cosine * cosine * k / (k + 1)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


@cache
def t_quantile(level: float, degrees: int) -> float:
    """The t that |T| stays below with probability `level`, 0 < level < 1, degrees >= 1; to 1e-12 of its size."""
    if not 0 < level < 1 or degrees < 1:
        raise ValueError(f"expected 0 < level < 1 and degrees >= 1, found {level} and {degrees}.")
    low, high = 0.0, 1.0
    while _within(high, degrees) < level:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < level else (low, middle)
    return (low + high) / 2


def t_near_normal(level: float, degrees: int) -> float:
    """`t_quantile`, from the normal quantile (Cornish and Fisher): to 1 % from 5 degrees on, below that narrower.
    The intervals of shares out of inputs are made with it, and their coverage is tested with it.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / degrees ** (i + 1) for i, term in enumerate(terms))


def t_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float] | None:
    """Of the mean of independent values; None for fewer than two, or where all are equal, which says nothing of how
    far apart others would be.
    """
    if len(values) < 2 or len(set(values)) == 1:
        return None
    middle, half = fmean(values), t_quantile(level, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return middle - half, middle + half


def bootstrap_interval(
    values: Sequence[float], level: float = LEVEL, *, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float] | None:
    """Percentiles of the mean of as many values, drawn with replacement; None for fewer than two."""
    if len(values) < 2:
        return None
    picked = np.random.default_rng(seed).integers(len(values), size=(draws, len(values)))
    means = np.asarray(values, dtype=np.float64)[picked].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mcnemar(b: int, c: int) -> float:
    """The exact two-sided p of b against c discordant pairs; 1 where there are none."""
    n = b + c
    tail = sum(math.comb(n, k) for k in range(max(b, c), n + 1))
    return min(1.0, 2 * tail / 2**n)
