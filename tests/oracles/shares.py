"""Budgets from shares, as exact fractions.

    n_t = floor(s_t d) + 1{t is one of the first R tasks with a positive share},   R = d - sum_t floor(s_t d)

Source: Tunable MAGMAX eq. 5, 6 (budgets) and 8, 9 (geometric shares); the positive-share rule, carry and strength are
the design's. Shapes: one entry per task. Left out: names, parsing.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import floor


def normalised(weights: Sequence[Fraction]) -> list[Fraction]:
    """Weights divided by their sum, which must be positive."""
    total = sum(weights, Fraction(0))
    return [weight / total for weight in weights]


def geometric(alpha: Fraction, tasks: int) -> list[Fraction]:
    """s_t proportional to alpha^(T-t), t counted from 1. alpha = 0: everything to the last task, because 0^0 = 1."""
    weights = []
    for t in range(1, tasks + 1):
        power = Fraction(1)
        for _ in range(tasks - t):
            power *= alpha
        weights.append(power)
    return normalised(weights)


def carry(shares: Sequence[Fraction], factor: Fraction) -> list[Fraction]:
    """s'_t proportional to the sum over q <= t of s_q factor^(t-q)."""
    carried = []
    for t in range(len(shares)):
        total = Fraction(0)
        for q in range(t + 1):
            power = Fraction(1)
            for _ in range(t - q):
                power *= factor
            total += shares[q] * power
        carried.append(total)
    return normalised(carried)


def blend(shares: Sequence[Fraction], strength: Fraction, magmax_owned: Sequence[int]) -> list[Fraction]:
    """strength * shares + (1 - strength) * MAGMAX's own shares; `magmax_owned` counts the elements of each task under
    MAGMAX.
    """
    elements = sum(magmax_owned)
    return [strength * s + (1 - strength) * Fraction(n, elements) for s, n in zip(shares, magmax_owned, strict=True)]


def budgets(shares: Sequence[Fraction], elements: int, law: str = "paper") -> list[int]:
    """Elements per task; they sum to `elements` when the shares sum to 1."""
    counts = [floor(share * elements) for share in shares]
    positive = [t for t, share in enumerate(shares) if share > 0 or law == "released"]
    remaining = elements - sum(counts)
    for t in positive[:remaining]:
        counts[t] += 1
    return counts
