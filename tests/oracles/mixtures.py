"""Mixes of tasks the slow way: loops over inputs, and over all mixes of a grid, from the formulas alone.

    log L(s) = sum over i of w_i log(sum over t of s_t p(x_i|t));   p(x|t) ~ mean over c of t of p(c|x) / p(c)

Source: Saerens et al. 2002 (EM); Lipton et al. 2018 (the black box). Shapes: lists of floats, a row for each input.
Cost: whatever it takes; grids are for three tasks. Left out: likelihoods too extreme for plain products.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

Row = Sequence[float]


def expectation_maximisation(
    likelihoods: Sequence[Row], weights: Row, alpha: float, start: Row, steps: int
) -> list[float]:
    """s_t ~ max(r_t + alpha - 1, 0), so many times."""
    shares = list(start)
    for _ in range(steps):
        counts = [0.0] * len(shares)
        for row, weight in zip(likelihoods, weights, strict=True):
            joint = [s * p for s, p in zip(shares, row, strict=True)]
            for t, value in enumerate(joint):
                counts[t] += weight * value / sum(joint)
        left = [max(count + alpha - 1, 0.0) for count in counts]
        shares = [value / sum(left) for value in left]
    return shares


def log_likelihood(likelihoods: Sequence[Row], weights: Row, shares: Row) -> float:
    total = 0.0
    for row, weight in zip(likelihoods, weights, strict=True):
        explained = sum(s * p for s, p in zip(shares, row, strict=True))
        total += weight * (math.log(explained) if explained > 0 else -math.inf)
    return total


def least_squares(confusion: Sequence[Row], taken: Row, shares: Row) -> float:
    """How far the shares are from explaining how often each task is recognised: a sum of squares."""
    total = 0.0
    for u, seen in enumerate(taken):
        explained = sum(shares[t] * confusion[t][u] for t in range(len(shares)))
        total += (explained - seen) ** 2
    return total


def three(cells: int) -> Iterator[tuple[float, float, float]]:
    """All shares of three tasks that are whole parts of so many."""
    for a in range(cells + 1):
        for b in range(cells + 1 - a):
            yield a / cells, b / cells, (cells - a - b) / cells


def best_of_three(score: Callable[[Row], float], cells: int) -> tuple[float, float, float]:
    return max(three(cells), key=score)


def task_likelihood(probabilities: Row, frequencies: Row, classes: Sequence[int]) -> float:
    """p(x|t), up to p(x), of a task with these classes."""
    return sum(probabilities[c] / frequencies[c] for c in classes) / len(classes)
