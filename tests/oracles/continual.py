"""Metrics of a run, the losses of LwF and EWC, the Fisher information of a linear softmax, and who is right.

    R[i][j]   accuracy on task j after training on task i; b[j] before any training; both counted from 0
    LwF       -sum_k softmax(old / T)_k log softmax(new / T)_k
    EWC       c / 2 * sum_i F_i (theta_i - anchor_i)^2
    Fisher    F[c][j] = mean over samples of ((p_c - [c = y]) x_j)^2 for logits W x

Source: the papers that `prefmerge.models.metrics` and `regularisers` name; the closed form is the square of one
sample's gradient, by hand. Shapes: lists of floats. Cost: loops over every number. Left out: speed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, log, sqrt

import numpy as np

Table = Sequence[Sequence[float]]


def incremental(R: Table) -> float:
    """The mean, over the tasks i, of the mean accuracy on the tasks up to i."""
    total = 0.0
    for i in range(len(R)):
        seen = 0.0
        for j in range(i + 1):
            seen += R[i][j]
        total += seen / (i + 1)
    return total / len(R)


def last(R: Table) -> float:
    total = 0.0
    for value in R[-1]:
        total += value
    return total / len(R[-1])


def forgetting(R: Table) -> float:
    T = len(R)
    total = 0.0
    for j in range(T - 1):
        best = -float("inf")
        for i in range(T - 1):
            best = max(best, R[i][j])
        total += best - R[T - 1][j]
    return total / (T - 1)


def backward_transfer(R: Table) -> float:
    T = len(R)
    total = 0.0
    for j in range(T - 1):
        total += R[T - 1][j] - R[j][j]
    return total / (T - 1)


def forward_transfer(R: Table, b: Sequence[float]) -> float:
    T = len(R)
    total = 0.0
    for j in range(1, T):
        total += R[j - 1][j] - b[j]
    return total / (T - 1)


def wilson(right: int, n: int, z: float) -> tuple[float, float]:
    """The ends, by bisection, of the rates p that a score test accepts: |right / n - p| <= z sqrt(p (1 - p) / n)."""

    def rejected(p: float) -> bool:
        return abs(right / n - p) > z * sqrt(p * (1 - p) / n)

    ends = []
    for outside in (0.0, 1.0):
        inside = right / n
        if not rejected(outside):
            ends.append(outside)
            continue
        for _ in range(80):
            middle = (inside + outside) / 2
            if rejected(middle):
                outside = middle
            else:
                inside = middle
        ends.append(inside)
    return ends[0], ends[1]


def softmax(logits: Sequence[float]) -> list[float]:
    top = max(logits)
    powers = [exp(value - top) for value in logits]
    return [power / sum(powers) for power in powers]


def lwf(old: Table, new: Table, temperature: float) -> list[float]:
    """The cross-entropy of each sample, from logits over the old classes."""
    found = []
    for before, now in zip(old, new, strict=True):
        q = softmax([value / temperature for value in before])
        p = softmax([value / temperature for value in now])
        found.append(-sum(a * log(b) for a, b in zip(q, p, strict=True)))
    return found


def ewc(theta: Sequence[float], anchor: Sequence[float], fisher: Sequence[float], coefficient: float) -> float:
    total = 0.0
    for now, before, weight in zip(theta, anchor, fisher, strict=True):
        total += weight * (now - before) ** 2
    return coefficient / 2 * total


def softmax_fisher(weights: Table, inputs: Table, labels: Sequence[int]) -> np.ndarray:
    """The diagonal Fisher information of the weights (C, D) of logits W x, by its closed form."""
    C, D = len(weights), len(weights[0])
    found = np.zeros((C, D))
    for x, y in zip(inputs, labels, strict=True):
        p = softmax([sum(w * v for w, v in zip(row, x, strict=True)) for row in weights])
        for c in range(C):
            for j in range(D):
                found[c, j] += ((p[c] - (1.0 if c == y else 0.0)) * x[j]) ** 2
    return found / len(labels)


def slope(f: Callable[[np.ndarray], float], at: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """The gradient of f by central differences, one number of `at` after another."""
    found = np.zeros(at.size)
    for i in range(at.size):
        ends = []
        for sign in (1, -1):
            moved = at.astype(np.float64).reshape(-1).copy()
            moved[i] += sign * step
            ends.append(f(moved.reshape(at.shape)))
        found[i] = (ends[0] - ends[1]) / (2 * step)
    return found.reshape(at.shape)


def right(embeddings: Table, rows: Table, labels: Sequence[int], among: Sequence[int]) -> list[bool]:
    """Whether the row of `among` with the largest cosine is the label's."""
    found = []
    for e, label in zip(embeddings, labels, strict=True):
        norm = sqrt(sum(v * v for v in e))
        cosines = [(sum(v * w for v, w in zip(e, rows[c], strict=True)) / norm, -k) for k, c in enumerate(among)]
        found.append(among[-max(cosines)[1]] == label)
    return found
