"""Prior, weights, loss and soft accuracy of `adapt` the slow way: loops over tasks, classes and samples.

    q(t, c) = (n_c + 50 sum_t' s_t' / |C_t'|) / (n + 50) * part of t in c
    a_c = log(0.95 pi_c + 0.05 mean_t [c in C_t] / |C_t|) - log(|C_t| p(c | t))
    loss = sum_i w_i NLL_i + 0.01 |b|^2 + l2 |dW|^2

Source: the formulas alone. Shapes: lists of floats, a row for each task or sample. Cost: whatever it takes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Row = Sequence[float]


def joint(of_task: Sequence[Sequence[int]], classes: int, shares: Row, counts: Row) -> list[list[float]]:
    """q(t, c), a row for each task."""
    found = [[0.0] * classes for _ in of_task]
    for c in range(classes):
        holders = [t for t, own in enumerate(of_task) if c in own]
        pieces = {t: shares[t] / len(of_task[t]) for t in holders}
        expected = sum(pieces.values())
        mass = (counts[c] + 50 * expected) / (sum(counts) + 50)
        for t in holders:
            found[t][c] = mass * (pieces[t] / expected if expected > 0 else 1 / len(holders))
    return found


def log_prior(
    of_task: Sequence[Sequence[int]], shares: Row, counts: Row, training: Sequence[Sequence[int]], guard: float
) -> list[float]:
    """a_c of every class. What training taught of a class is a mean over its tasks, by their shares."""
    classes = len(counts)
    q, found = joint(of_task, classes, shares, counts), []
    for c in range(classes):
        holders = [t for t, own in enumerate(of_task) if c in own]
        even = sum(1 / len(of_task[t]) for t in holders) / len(of_task)
        guarded = (1 - guard) * sum(q[t][c] for t in holders) + guard * even
        learned, weight = 0.0, 0.0
        for t in holders:
            if training[t][c] > 0:
                often = training[t][c] / sum(training[t])
                share = shares[t] if any(shares[u] > 0 for u in holders if training[u][c] > 0) else 1.0
                learned += share * math.log(len(of_task[t]) * often)
                weight += share
        found.append(math.log(guarded) - (learned / weight if weight > 0 else 0.0))
    return found


def weights(
    q: Sequence[Row], labels: Sequence[int], tasks: Sequence[int], times: Row, *, balanced: bool = False
) -> list[float]:
    """What each sample counts; task -1 is a pair."""

    def of_class(c: int) -> float:
        return sum(row[c] for row in q)

    held, pairs = {}, {}
    for i, (label, task) in enumerate(zip(labels, tasks, strict=True)):
        alike = sum(
            n for n, other, of in zip(times, labels, tasks, strict=True) if of == task and other == label
        )  # of the same task and class, or pairs of the same class
        if task < 0:
            pairs[i] = times[i] / alike if balanced else times[i]
        else:
            part = q[task][label]
            if balanced and part > 0:
                part /= of_class(label)
            held[i] = part * times[i] / alike
    found, sizes = [0.0] * len(labels), []
    for group in (held, pairs):
        total = sum(group.values())
        if total > 0:
            size = total**2 / sum(w**2 for w in group.values())
            sizes.append(size)
            for i, w in group.items():
                found[i] = size * w / total
    return [w / sum(sizes) for w in found]


def logits(scores: Row, beta: float, prior: Row, bias: Row, allowed: Sequence[bool] | None) -> dict[int, float]:
    """Of the classes that one sample is told apart from."""
    return {
        c: beta * score + prior[c] + bias[c]
        for c, score in enumerate(scores)
        if allowed is None or allowed[c]
    }  # fmt: skip


def nll(of_class: dict[int, float], label: int) -> float:
    top = max(of_class.values())
    return top + math.log(sum(math.exp(value - top) for value in of_class.values())) - of_class[label]


def margin(of_class: dict[int, float], label: int) -> float:
    return of_class[label] - max(value for c, value in of_class.items() if c != label)


def moved(scores: Sequence[Row], units: Sequence[Row], scale: float, rows: Sequence[Row]) -> list[list[float]]:
    """Scores under rows that moved by so much."""
    return [
        [
            value + scale * sum(u * r for u, r in zip(unit, row, strict=True))
            for value, row in zip(line, rows, strict=True)
        ]
        for line, unit in zip(scores, units, strict=True)
    ]


def loss(
    scores: Sequence[Row],
    labels: Sequence[int],
    weight: Row,
    prior: Row,
    beta: float,
    bias: Row,
    rows: Sequence[Row],
    l2: float,
    allowed: Sequence[Sequence[bool]] | None,
) -> float:
    total = 0.01 * sum(b * b for b in bias)
    if l2 < math.inf:
        total += l2 * sum(r * r for row in rows for r in row)
    for i, line in enumerate(scores):
        mask = None if allowed is None else allowed[i]
        total += weight[i] * nll(logits(line, beta, prior, bias, mask), labels[i])
    return total
