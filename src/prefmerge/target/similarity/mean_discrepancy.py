"""How far a target is from each task by a kernel: maximum mean discrepancy (MMD).

    d_t = sqrt(max(0, mean over i != i' of k(x_i, x_i') + mean over j != j' of k(y_j, y_j') - 2 mean of k(x_i, y_j)))
    k(x, y) = exp(-|x - y|^2 / (2 b^2)),   b = median over i < i' of |x_i - x_i'|,   sim_t = exp(-100 d_t)

Source: Tunable MAGMAX, section 4.4; the unbiased estimate, b from the task's sample and gamma from the authors' code.
That code takes the target's own median in the middle term, so its three terms belong to two kernels; here b is one.
Shapes: x (N, E) task, y (M, E) target; 0 <= d <= sqrt(2). Cost: O((N + M)^2 E); 8 N^2 bytes, the target in blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prefmerge.target.similarity.samples import checked, scaled, squared_distances
from prefmerge.target.similarity.similarity import Similarity, checked_gamma, from_distances

_ROWS = 1024  # of the target at once: 8 MB of kernel per thousand other samples


def mmd(
    tasks: Sequence[np.ndarray], target: Sequence[np.ndarray], names: Sequence[str], *, gamma: float = 100.0
) -> Similarity:
    """MMD similarity of a target to T tasks: tasks[t] (N_t, E) and target[t] (M, E), both embedded by task t's
    encoder; at least two samples each.

    Where more than half of a task's pairs coincide, b is the median of the distances above zero instead: within the
    task, else between it and the target; where there are none the distance is 0 and the bandwidth None. The order of
    samples matters to rounding only: 1e-12 of d^2, so up to 1e-6 of d near zero.
    Raises PreferenceError for features that do not fit one another.
    """
    gamma = checked_gamma(gamma)
    ours, theirs, known = checked(tasks, target, names, least=2)
    both = [_distances(x, y, np.full((len(y), 1), 1 / len(y))) for x, y in zip(ours, theirs, strict=True)]
    return from_distances(
        "mmd", known, [distances[0] for distances, _ in both], gamma, bandwidth=[width for _, width in both]
    )


def resampled(task: np.ndarray, target: np.ndarray, weights_MB: np.ndarray) -> np.ndarray:
    """Distances (B,) of a task's sample (N, E) to the target's (M, E) under each column of weights, which sum to 1.

    A pair of one sample and itself is left out however often a resample holds it, or resampling would add a bias that
    the estimate does not have.
    """
    return _distances(task, target, weights_MB)[0]


def _distances(task: np.ndarray, target: np.ndarray, weights_MB: np.ndarray) -> tuple[np.ndarray, float | None]:
    x, y, exponent = scaled(task, target)
    own = squared_distances(x, x)[np.triu_indices(len(x), 1)]
    bandwidth = _bandwidth(own, x, y)
    if bandwidth is None:
        return np.zeros(weights_MB.shape[1]), None

    def kernel(squares: np.ndarray) -> np.ndarray:
        with np.errstate(under="ignore"):
            return np.exp(squares / (-2 * bandwidth**2))

    within_target = np.zeros(weights_MB.shape[1])
    across = np.zeros(weights_MB.shape[1])
    for start in range(0, len(y), _ROWS):
        rows = slice(start, start + _ROWS)
        some = kernel(squared_distances(y[rows], y))
        some[np.arange(len(some)), np.arange(start, start + len(some))] = 0
        within_target += (weights_MB[rows] * (some @ weights_MB)).sum(axis=0)
        across += kernel(squared_distances(x, y[rows])).mean(axis=0) @ weights_MB[rows]
    pairs = 1 - (weights_MB**2).sum(axis=0)
    # A resample of one sample, drawn every time, has no pair: it is as near to itself as can be.
    alone = pairs < 1e-12
    within_target = np.where(alone, 1.0, within_target / np.where(alone, 1.0, pairs))
    distances = np.sqrt(np.maximum(kernel(own).mean() + within_target - 2 * across, 0))
    return distances, float(np.ldexp(bandwidth, exponent))


def _bandwidth(own: np.ndarray, x: np.ndarray, y: np.ndarray) -> float | None:
    """The median distance; `own` (N (N - 1) / 2,) are the task's squared distances."""
    median = float(np.median(np.sqrt(own)))
    if median > 0:
        return median
    for squares in (own, squared_distances(x, y)):
        if (squares > 0).any():
            return float(np.median(np.sqrt(squares[squares > 0])))
    return None
