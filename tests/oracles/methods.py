"""The merges that need no budget, element by element in float64.

    taken      theta_0 + scale tau_owner, float32: the product rounded, then the sum   (magmax, tunable_magmax, last)
    sums       theta_0 + scale sum_t w_t tau_t                                         (average, task_arithmetic)
    linear     sum_t w_t theta_t, over sum_t w_t when normalised
    ties       trim per task, elect a sign by mass, mean of what agrees                (Yadav et al. 2023)

Source: MAGMAX; Tunable MAGMAX section 4; the published TIES procedure, and mergekit's answers where it leaves a choice
(`tests/golden`): int(density n) elements are kept, at least one; a mass of exactly zero elects plus; zeros agree with
nobody. Shapes: vectors of P numbers, T rows of them. Left out: ties at the trimming threshold, which mergekit leaves
to its sort.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def deltas(base: np.ndarray, models: Sequence[np.ndarray]) -> np.ndarray:
    """Task vectors in float32, shape (T, P)."""
    rows = [np.asarray(m, np.float32).reshape(-1) - np.asarray(base, np.float32).reshape(-1) for m in models]
    return np.array(rows, np.float32).reshape(len(models), -1)


def taken(base: np.ndarray, delta: np.ndarray, scale: float) -> np.ndarray:
    """float32 theta_0 + scale * tau, two roundings."""
    return np.asarray(base, np.float32).reshape(-1) + np.float32(scale) * np.asarray(delta, np.float32)


def weighted_sum(base: np.ndarray, deltas_TP: np.ndarray, weights: Sequence[float], scale: float) -> np.ndarray:
    """theta_0 + scale * sum w tau in float64."""
    merged = []
    for p, start in enumerate(np.asarray(base).reshape(-1)):
        total = 0.0
        for weight, delta in zip(weights, deltas_TP, strict=True):
            total += weight * float(delta[p])
        merged.append(float(start) + scale * total)
    return np.array(merged, np.float64)


def linear(models: Sequence[np.ndarray], weights: Sequence[float], normalize: bool) -> np.ndarray:
    """The weighted sum, or mean, of whole models in float64."""
    merged = []
    for values in zip(*(np.asarray(m).reshape(-1) for m in models), strict=True):
        total = 0.0
        for weight, value in zip(weights, values, strict=True):
            total += weight * float(value)
        merged.append(total / sum(weights) if normalize else total)
    return np.array(merged, np.float64)


def trimmed(delta: np.ndarray, density: float) -> np.ndarray:
    """The int(density n) largest magnitudes, at least one; zero elsewhere."""
    keep = max(1, int(density * delta.size))
    order = sorted(range(delta.size), key=lambda p: -abs(float(delta[p])))
    result = np.zeros(delta.size, np.float64)
    for p in order[:keep]:
        result[p] = float(delta[p])
    return result


def ties_vector(trimmed_TP: np.ndarray, weights: Sequence[float], normalize: bool) -> np.ndarray:
    """The merged task vector of already trimmed ones."""
    merged = []
    for p in range(trimmed_TP.shape[1]):
        weighted = [weight * float(row[p]) for weight, row in zip(weights, trimmed_TP, strict=True)]
        elected = 1 if sum(weighted) >= 0 else -1
        agreeing = [t for t, value in enumerate(weighted) if value * elected > 0]
        total = sum(weighted[t] for t in agreeing)
        mass = sum(weights[t] for t in agreeing)
        merged.append(total / mass if normalize and mass != 0 else total)
    return np.array(merged, np.float64)
