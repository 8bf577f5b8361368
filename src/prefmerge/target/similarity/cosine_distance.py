"""How far a target is from each task by direction: the cosine distance of mean embeddings.

    d_t = 1 - cos(a, b) = |a/|a| - b/|b||^2 / 2,   a = mean of f_t(x_t), b = mean of f_t(x_target)
    sim_t = exp(-50 d_t)

Source: Tunable MAGMAX, section 4.4; gamma 50 from the authors' code. The right-hand form does not cancel: equal means
are at distance zero. Shapes: (N_t, E), (M, E); d in [0, 2]. Cost: O((N_t + M) E). A mean of zero has no direction: an
error for the samples themselves; a resample whose mean is zero is at distance 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prefmerge.errors import PreferenceError
from prefmerge.target.similarity.samples import checked, scaled
from prefmerge.target.similarity.similarity import Similarity, checked_gamma, from_distances

_ROUNDING = 1e-13  # a mean shorter than this part of the longest sample is what rounding left of zero


def cosine(
    tasks: Sequence[np.ndarray], target: Sequence[np.ndarray], names: Sequence[str], *, gamma: float = 50.0
) -> Similarity:
    """Cosine similarity of a target to T tasks: tasks[t] (N_t, E) and target[t] (M, E), both embedded by
    task t's encoder.

    The order of samples matters to rounding only (1e-12 of a distance's scale). Raises PreferenceError for features
    that do not fit one another, and for a mean of zero.
    """
    gamma = checked_gamma(gamma)
    ours, theirs, known = checked(tasks, target, names)
    for x, y, name in zip(ours, theirs, known, strict=True):
        for sample, what in zip(scaled(x, y)[:2], ("its own features", "its features of the target"), strict=True):
            if _is_zero(sample.mean(axis=0)[None], sample)[0]:
                raise PreferenceError(
                    f"task {name!r}: the mean of {what} is zero and has no direction. Use another kind, such as ot."
                )
    distances = [resampled(x, y, np.full((len(y), 1), 1 / len(y)))[0] for x, y in zip(ours, theirs, strict=True)]
    return from_distances("cosine", known, distances, gamma)


def resampled(task: np.ndarray, target: np.ndarray, weights_MB: np.ndarray) -> np.ndarray:
    """Distances (B,) of a task's sample (N, E) to the target's (M, E) under each column of weights, which sum to 1."""
    x, y, _ = scaled(task, target)
    own = x.mean(axis=0)
    means_BE = weights_MB.T @ y
    zero = _is_zero(means_BE, y)
    lengths = np.where(zero, 1.0, np.linalg.norm(means_BE, axis=1))
    apart = means_BE / lengths[:, None] - own / np.linalg.norm(own)
    return np.where(zero, 1.0, (apart**2).sum(axis=1) / 2)


def _is_zero(means_BE: np.ndarray, sample: np.ndarray) -> np.ndarray:
    return np.linalg.norm(means_BE, axis=1) <= _ROUNDING * np.linalg.norm(sample, axis=1).max()
