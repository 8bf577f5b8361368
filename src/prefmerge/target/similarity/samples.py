"""Samples of features: are they what they should be, and how far apart are they?

    C_ij = |x_i - y_j|^2 = |x_i|^2 + |y_j|^2 - 2 <x_i, y_j>

Shapes: x (N, E), y (M, E), C (N, M); float64 whatever the input. Cost: one matrix product of N M E multiplications, and
8 N M bytes. The sum of three terms cancels where two points are close; those pairs are computed from their differences,
so that equal points are at distance zero. Not here: which distance between samples is made of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prefmerge.errors import PreferenceError
from prefmerge.ground.words import counted
from prefmerge.target.similarity.similarity import checked_names

_PAIRS = 4096  # computed from their differences at once: 64 MB at a width of 2,048
_CANCELLED = 1e-4  # of |x|^2 + |y|^2: below it fewer than 11 of float64's 15 digits would be left


def checked(
    tasks: Sequence[np.ndarray], target: Sequence[np.ndarray], names: Sequence[str], *, least: int = 1
) -> tuple[list[np.ndarray], list[np.ndarray], tuple[str, ...]]:
    """Features as float64, tasks[t] (N_t, E_t) and target[t] (M, E_t), and the names. `least` samples are needed on
    either side. Raises PreferenceError naming the task.
    """
    known = checked_names(names, len(tasks))
    if len(target) != len(known):
        raise PreferenceError(
            f"{len(known)} tasks were given, but the target's samples {len(target)} times. Give them once per task, as "
            "that task's encoder embeds them."
        )
    ours = [_features(x, f"task {name!r}: its own features", least) for x, name in zip(tasks, known, strict=True)]
    theirs = [
        _features(y, f"task {name!r}: its features of the target", least) for y, name in zip(target, known, strict=True)
    ]
    for x, y, name in zip(ours, theirs, known, strict=True):
        if x.shape[1] != y.shape[1]:
            raise PreferenceError(
                f"task {name!r}: its own features are {x.shape[1]} wide, its features of the target {y.shape[1]}. "
                "Embed both with the same encoder."
            )
        if len(y) != len(theirs[0]):
            raise PreferenceError(
                f"task {name!r}: it has features of {len(y)} samples of the target, task {known[0]!r} of "
                f"{len(theirs[0])}. Embed the same samples with every task's encoder."
            )
    return ours, theirs, known


def _features(values: np.ndarray, what: str, least: int) -> np.ndarray:
    rows = np.asarray(values)
    if rows.ndim != 2 or rows.dtype.kind not in "fiu":
        raise PreferenceError(
            f"{what}: expected a table of numbers, one row per sample, found shape {rows.shape} of {rows.dtype}."
        )
    if len(rows) < least or rows.shape[1] == 0:
        raise PreferenceError(
            f"{what}: expected at least {counted(least, 'sample')} of at least one feature, found shape "
            f"{rows.shape}. Give more samples."
        )
    wide = rows.astype(np.float64)
    wrong = np.flatnonzero(~np.isfinite(wide).all(axis=1))
    if wrong.size:
        raise PreferenceError(
            f"{what}: {wrong.size} of {len(wide)} samples hold NaN or infinity, the first is sample {wrong[0]}. Check "
            "the encoder and its input."
        )
    return wide


def scaled(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """x 2^-e, y 2^-e and e, so that the largest entry is near 1: squares neither overflow nor vanish.

    No digit changes, and no distance of this package depends on a common factor.
    """
    exponent = int(np.frexp(max(np.abs(x).max(), np.abs(y).max()))[1])
    with np.errstate(under="ignore"):
        return np.ldexp(x, -exponent), np.ldexp(y, -exponent), exponent


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """C (N, M) of x (N, E) and y (M, E), to a relative error near 1e-11; zero for equal points."""
    centre = (x.mean(axis=0) + y.mean(axis=0)) / 2
    with np.errstate(under="ignore"):
        near_x, near_y = x - centre, y - centre
        squares = (near_x**2).sum(axis=1)[:, None] + (near_y**2).sum(axis=1)
        distances = squares - 2 * (near_x @ near_y.T)
        close = distances <= _CANCELLED * squares
        rows, columns = np.nonzero(close)
        for start in range(0, len(rows), _PAIRS):
            i, j = rows[start : start + _PAIRS], columns[start : start + _PAIRS]
            distances[i, j] = ((x[i] - y[j]) ** 2).sum(axis=1)
    return distances
