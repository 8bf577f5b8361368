"""sin, arccos, exp and log in float64 from sums, products, quotients and roots alone.

Those are rounded alike on every machine, and what a system's own mathematical library makes of these functions is not:
the last bit differs, and a merge would not give the same bytes. Series after the argument is made small; the error is a
few units in the last place. Cost: 5 to 15 ns a call inside kernels. Not here: arguments that are not finite.
"""

from __future__ import annotations

import math

from prefmerge.vectors.kernel_cache import kernel

# Constants in two parts: the first has so few bits that its products with small whole numbers are exact.
QUARTER, QUARTER_REST = 1.5707963267341256, 6.077100506506192e-11  # pi / 2
LOG_2, LOG_2_REST = 0.6931471803691238, 1.9082149292705877e-10
LEAST = -745.0  # below it exp is 0
SMALL = 0.01


@kernel
def sine(x):
    """sin x, for x of a size below 10^5."""
    quarters = math.floor(x / (QUARTER + QUARTER_REST) + 0.5)
    r = (x - quarters * QUARTER) - quarters * QUARTER_REST
    odd = int(quarters) % 2
    term = 1.0 if odd else r
    total = term
    for i in range(1, 11):
        n = 2 * i - odd
        term *= -(r * r) / (n * (n + 1))
        total += term
    return -total if int(quarters) % 4 >= 2 else total


@kernel
def arc_cosine(x):
    """arccos x, for x from -1 to 1."""
    y = abs(x)
    u = math.sqrt((1.0 - y) / (1.0 + y))  # of half the angle, the tangent
    for _ in range(2):
        u = u / (1.0 + math.sqrt(1.0 + u * u))  # of half of that again
    total = 0.0
    for n in range(25, 0, -2):
        total = 1.0 / n - u * u * total
    angle = 8.0 * (u * total)
    return angle if x >= 0.0 else ((QUARTER - angle) + QUARTER) + 2.0 * QUARTER_REST


@kernel
def exponential(x):
    """e^x, for x of a size below 700, and below that 0 where it is."""
    if x < LEAST:
        return 0.0
    powers = math.floor(x / (LOG_2 + LOG_2_REST) + 0.5)
    r = (x - powers * LOG_2) - powers * LOG_2_REST
    total = 1.0
    for n in range(14, 0, -1):
        total = 1.0 + r * total / n
    return math.ldexp(total, int(powers))


@kernel
def logarithm(x):
    """log x, for x above 0."""
    part, power = math.frexp(x)
    if part < 0.7071067811865476:
        part, power = 2.0 * part, power - 1
    s = (part - 1.0) / (part + 1.0)
    total = 0.0
    for n in range(23, 0, -2):
        total = 1.0 / n + s * s * total
    return power * LOG_2 + (2.0 * (s * total) + power * LOG_2_REST)


@kernel
def divergence(d):
    """(1 + d) log(1 + d) - d, for d above -1: what a term of a Kullback-Leibler divergence is, without cancellation."""
    if abs(d) >= SMALL:
        return (1.0 + d) * logarithm(1.0 + d) - d
    total = 0.0
    for n in range(10, 1, -1):
        total = 1.0 / (n * (n - 1)) - d * total
    return d * d * total
