"""Means, Student's t and paired differences, by loops and by integration.

    P(|T| <= t) = integral from -t to t of c (1 + x^2 / v)^(-(v + 1) / 2),   c = Gamma((v + 1) / 2) / (sqrt(v pi) Gamma(v / 2))
    d[place] = mean over seeds of (a - b);   mean(d) -+ t s / sqrt(P),   s^2 = sum (d - mean)^2 / (P - 1)

Source: any textbook; Tunable MAGMAX, section 4.3, for the order of the means. Left out: speed.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Mapping
from math import gamma, pi, sqrt

Key = tuple[int, str, int]  # seed, environment, variant


def within(t: float, degrees: int, steps: int = 4000) -> float:
    """P(|T| <= t), by Simpson's rule."""
    c = gamma((degrees + 1) / 2) / (sqrt(degrees * pi) * gamma(degrees / 2))
    width = t / steps
    total = 0.0
    for i in range(steps + 1):
        x = i * width
        weight = 1 if i in (0, steps) else 4 if i % 2 else 2
        total += weight * c * (1 + x * x / degrees) ** (-(degrees + 1) / 2)
    return 2 * total * width / 3


def mean(values: list[float]) -> float:
    total = 0.0
    for value in values:
        total += value
    return total / len(values)


def deviation(values: list[float]) -> float:
    middle, total = mean(values), 0.0
    for value in values:
        total += (value - middle) ** 2
    return sqrt(total / (len(values) - 1))


def cell(accuracies: Mapping[Key, float], environment: str) -> tuple[float, float | None]:
    """Mean over the variants for each seed, then mean and deviation over the seeds."""
    by_seed: dict[int, list[float]] = {}
    for (seed, name, _), value in accuracies.items():
        if name == environment:
            by_seed.setdefault(seed, []).append(value)
    means = [mean(values) for values in by_seed.values()]
    return mean(means), deviation(means) if len(means) > 1 else None


def paired(a: Mapping[Key, float], b: Mapping[Key, float]) -> dict[tuple[str, int], float]:
    """The difference of each place, mean over the seeds that both have."""
    found: dict[tuple[str, int], list[float]] = {}
    for key in a:
        if key in b:
            found.setdefault((key[1], key[2]), []).append(a[key] - b[key])
    return {place: mean(values) for place, values in found.items()}
