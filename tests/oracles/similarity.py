"""Similarities the slow way: loops over pairs of samples, from the formulas alone.

    OT = min over plans of <P, C>,   MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y),   sim = P(two labels are equal)

Source: Tunable MAGMAX, section 3.3; Cuturi 2013 (Sinkhorn); Feydy et al. 2019 (with the entropy); Gretton et al. 2012
(MMD); Clopper and Pearson 1934. Shapes: samples are lists of lists of floats. Cost: whatever it takes. Left out: data
too extreme for plain sums.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import pairwise, permutations
from statistics import median

import numpy as np
from scipy.optimize import linear_sum_assignment, linprog
from scipy.stats import beta, binom

Sample = Sequence[Sequence[float]] | np.ndarray
Table = list[list[float]]


def label_similarity(task: Mapping[str, int], place: Mapping[str, int]) -> Fraction:
    """The chance that a sample of the task and one of the place have the same label, pair by pair."""
    ours = [name for name, count in task.items() for _ in range(count)]
    theirs = [name for name, count in place.items() for _ in range(count)]
    return Fraction(sum(a == b for a in ours for b in theirs), len(ours) * len(theirs))


def costs(x: Sample, y: Sample) -> Table:
    """Squared Euclidean distances."""
    return [[math.fsum((float(a) - float(b)) ** 2 for a, b in zip(p, q, strict=True)) for q in y] for p in x]


def divided(cost: Table, by: float) -> Table:
    return [[c / by for c in row] for row in cost]


def largest(cost: Table) -> float:
    return max(c for row in cost for c in row)


def sinkhorn(
    cost: Table, a: Sequence[float], b: Sequence[float], regularization: float, iterations: int
) -> tuple[float, float]:
    """<P, C> and <P, C> + regularization KL(P | a b') after so many iterations in the log domain."""

    def log_sum(values: list[float]) -> float:
        top = max(values)
        return top + math.log(math.fsum(math.exp(v - top) for v in values))

    rows, columns = range(len(a)), range(len(b))
    f, g = [0.0] * len(a), [0.0] * len(b)
    for _ in range(iterations):
        g = [math.log(b[j]) - log_sum([f[i] - cost[i][j] / regularization for i in rows]) for j in columns]
        f = [math.log(a[i]) - log_sum([g[j] - cost[i][j] / regularization for j in columns]) for i in rows]
    transport, divergence = 0.0, 0.0
    for i in rows:
        for j in columns:
            p = math.exp(f[i] + g[j] - cost[i][j] / regularization)
            transport += p * cost[i][j]
            divergence += p * math.log(p / (a[i] * b[j])) if p else 0.0
    return transport, transport + regularization * divergence


def best_of_all(cost: Table) -> float:
    """The mean cost of the best pairing, every permutation tried."""
    count = len(cost)
    return min(math.fsum(cost[i][p[i]] for i in range(count)) for p in permutations(range(count))) / count


def best_pairing(cost: Table) -> float:
    """The same by scipy's assignment solver."""
    table = np.array(cost)
    return float(table[linear_sum_assignment(table)].mean())


def best_plan(cost: Table, a: Sequence[float], b: Sequence[float]) -> float:
    """The optimal transport cost as a linear programme, for any weights."""
    n, m = len(a), len(b)
    constraints = np.zeros((n + m, n * m))
    for i in range(n):
        for j in range(m):
            constraints[i, i * m + j] = constraints[n + j, i * m + j] = 1
    done = linprog(np.array(cost).ravel(), A_eq=constraints, b_eq=[*a, *b], method="highs")
    assert done.success
    return float(done.fun)


def on_a_line(x: Sequence[float], y: Sequence[float]) -> float:
    """The optimal squared-distance cost of two samples of numbers: their quantiles, paired."""
    x, y = sorted(x), sorted(y)
    steps = sorted({Fraction(i, len(x)) for i in range(len(x) + 1)} | {Fraction(j, len(y)) for j in range(len(y) + 1)})
    return math.fsum(
        float(end - start) * (x[math.floor(start * len(x))] - y[math.floor(start * len(y))]) ** 2
        for start, end in pairwise(steps)
    )


def cosine_distance(x: Sample, y: Sample) -> float:
    """1 - the cosine of the angle between the means."""
    a, b = ([math.fsum(map(float, column)) / len(z) for column in zip(*z, strict=True)] for z in (x, y))
    return 1 - math.fsum(p * q for p, q in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def bandwidth(x: Sample) -> float:
    """The median distance of a pair."""
    table = costs(x, x)
    return median(math.sqrt(table[i][j]) for i in range(len(x)) for j in range(i))


def squared_mmd(x: Sample, y: Sample, width: float) -> float:
    """The unbiased estimate; negative at times."""

    def mean_kernel(p: Sample, q: Sample, itself: bool) -> float:
        table = costs(p, q)
        kept = [
            math.exp(-c / (2 * width**2))
            for i, row in enumerate(table)
            for j, c in enumerate(row)
            if i != j or not itself
        ]
        return math.fsum(kept) / len(kept)

    return mean_kernel(x, x, True) + mean_kernel(y, y, True) - 2 * mean_kernel(x, y, False)


def gaussian_kernel_mean(apart: float, variance: float, width: float, dimensions: int) -> float:
    """E k(x, y) of two round Gaussians whose means are `apart` and whose variances add up to `variance`."""
    total = width**2 + variance
    return (width**2 / total) ** (dimensions / 2) * math.exp(-(apart**2) / (2 * total))


def clopper_pearson(right: int, n: int, level: float) -> tuple[float, float]:
    """The exact interval of a binomial proportion."""
    tail = (1 - level) / 2
    low = beta.ppf(tail, right, n - right + 1) if right else 0.0
    high = beta.ppf(1 - tail, right + 1, n - right) if right < n else 1.0
    return float(low), float(high)


def clopper_pearson_coverage(share: float, n: int, level: float) -> float:
    """How often that interval of n draws holds the true share."""
    held = [k for k in range(n + 1) if clopper_pearson(k, n, level)[0] <= share <= clopper_pearson(k, n, level)[1]]
    return float(sum(binom.pmf(k, n, share) for k in held))
