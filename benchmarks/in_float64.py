"""Which elements of a merge differ from the result in float64, rounded once to the output's format?

    linear            mean of the tasks
    task_arithmetic   theta_0 + w sum tau_t
    ties              theta_0 + mean of the trimmed tau_t that have the sign of their sum        (Yadav et al. 2023)

ties keeps the max(1, int(density n)) largest of each task vector. Which ones, where several are equal to the smallest
that is kept, the definition leaves open: an element is right when any choice gives it. Sums of exactly 0 elect plus, as
in both tools. Shapes: a tensor of P elements, T tasks. Memory: some float64 copies of T tensors. Not here: files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, product

import numpy as np

WEIGHT = 0.3  # of each task, in task_arithmetic and dare_ties
DENSITY = 0.2
# name -> bits of a float64's mantissa (52) that the format lacks
LACKS = {"float64": 0, "float32": 29, "bfloat16": 45}
METHODS = ("linear", "task_arithmetic", "ties")


def merged(method: str, base: np.ndarray, tasks: Sequence[np.ndarray]) -> np.ndarray:
    """The result in float64; in ties with every element equal to the smallest that is kept."""
    rows_TP, start = _flat(base, tasks)
    if method == "ties":
        tau_TP = rows_TP - start
        sure_TP, open_TP = kept(tau_TP)
        result = start + _elected(tau_TP, sure_TP | open_TP)
    elif method == "task_arithmetic":
        result = start + WEIGHT * (rows_TP - start).sum(axis=0)
    else:
        result = rows_TP.mean(axis=0)
    return result.reshape(base.shape)


def kept(tau_TP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What ties keeps of each task vector whatever it chooses, and the elements among which it must choose."""
    count = max(1, int(DENSITY * tau_TP.shape[1]))
    size_TP = np.abs(tau_TP)
    smallest = np.partition(size_TP, -count, axis=1)[:, -count, None]
    sure_TP, open_TP = size_TP > smallest, size_TP == smallest
    decided = sure_TP.sum(axis=1) + open_TP.sum(axis=1) == count
    return sure_TP | (open_TP & decided[:, None]), open_TP & ~decided[:, None]


def _elected(tau_TP: np.ndarray, kept_TP: np.ndarray) -> np.ndarray:
    trimmed_TP = np.where(kept_TP, tau_TP, 0)
    sign = np.where(trimmed_TP.sum(axis=0) >= 0, 1, -1)
    agreeing_TP = trimmed_TP * sign > 0
    return (trimmed_TP * agreeing_TP).sum(axis=0) / np.maximum(agreeing_TP.sum(axis=0), 1)


def steps(out: np.ndarray, method: str, base: np.ndarray, tasks: Sequence[np.ndarray], dtype: str) -> np.ndarray:
    """How many numbers of the format lie between each element of `out` and the nearest right one; 0 is right."""
    rows_TP, start = _flat(base, tasks)
    values = out.reshape(-1).astype(np.float64)
    away = _between(values, merged(method, base, tasks).reshape(-1), dtype)
    if method == "ties":
        tau_TP = rows_TP - start
        sure_TP, open_TP = kept(tau_TP)
        where = np.flatnonzero(open_TP.any(axis=0) & (away > 0))
        tau, sure, undecided = (rows[:, where] for rows in (tau_TP, sure_TP, open_TP))
        for choice in _choices(len(tasks)):
            result = start[where] + _elected(tau, sure | (undecided & choice[:, None]))
            away[where] = np.minimum(away[where], _between(values[where], result, dtype))
    return away.reshape(out.shape)


def _choices(tasks: int) -> Iterator[np.ndarray]:
    """Which tasks keep an element among which they must choose; all of them is what `merged` does."""
    return (np.array(one) for one in islice(product((True, False), repeat=tasks), 1, None))


def _flat(base: np.ndarray, tasks: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([task.reshape(-1) for task in tasks], np.float64), base.reshape(-1).astype(np.float64)


def _between(values: np.ndarray, exact: np.ndarray, dtype: str) -> np.ndarray:
    return np.abs(_place(values) - _place(rounded(exact, dtype))) >> LACKS[dtype]


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """float64 numbers, rounded once to the nearest of the format, to even; normal numbers and zeros."""
    lacks = np.uint64(LACKS[dtype])
    if not lacks:
        return values
    bits = np.ascontiguousarray(values, np.float64).view(np.uint64)
    one = np.uint64(1)
    half_down, odd = (one << (lacks - one)) - one, (bits >> lacks) & one
    return ((bits + half_down + odd) >> lacks << lacks).view(np.float64)


def _place(values: np.ndarray) -> np.ndarray:
    """Each number's place in the order of all float64 numbers; both zeros are 0."""
    bits = np.ascontiguousarray(values, np.float64).view(np.int64)
    return np.where(bits < 0, np.int64(-(2**63)) - bits, bits)
