"""What the analyses of task vectors are, element by element in float64.

    kept       values that are not zero; of a tensor's n also those no smaller than its int(0.2 n)-th largest magnitude
    conflict   among the kept values of an element both signs occur
    owner      argmax_t |tau_t|, the later of equals; a task contributes where no other has that magnitude

Source: MAGMAX, section 3 and supplement B; TIES for what is kept. Shapes: `deltas_TP`, T rows of P numbers, of one
tensor. Left out: what several tensors sum to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Counts:
    """Per number of tasks: elements that any, that several keep, that conflict. Per pair: kept by both, differing."""

    kept: list[int]
    reached: list[int]
    several: list[int]
    conflicts: list[int]
    pair_kept: list[list[int]]
    pair_differ: list[list[int]]


def kept(deltas_TP: np.ndarray, density: float) -> list[list[float]]:
    """The values that are kept; zero elsewhere."""
    result = []
    for row in deltas_TP:
        magnitudes = sorted((abs(float(x)) for x in row), reverse=True)
        count = len(row) if density == 1 else max(1, int(density * len(row)))
        least = magnitudes[count - 1] if magnitudes else 0.0
        result.append([float(x) if abs(float(x)) >= least else 0.0 for x in row])
    return result


def signs(deltas_TP: np.ndarray, density: float) -> Counts:
    """Conflicts of one tensor."""
    values = kept(deltas_TP, density)
    tasks, elements = deltas_TP.shape
    found = Counts([], [], [], [], [], [])
    for t in range(tasks):
        first = [[values[u][p] for u in range(t + 1) if values[u][p] != 0] for p in range(elements)]
        found.kept.append(sum(values[t][p] != 0 for p in range(elements)))
        found.reached.append(sum(len(column) >= 1 for column in first))
        found.several.append(sum(len(column) >= 2 for column in first))
        found.conflicts.append(sum(any(x > 0 for x in column) and any(x < 0 for x in column) for column in first))
    for a in values:
        pairs = [[(x, y) for x, y in zip(a, b, strict=True) if x != 0 and y != 0] for b in values]
        found.pair_kept.append([len(both) for both in pairs])
        found.pair_differ.append([sum(x * y < 0 for x, y in both) for both in pairs])
    return found


def magnitude_sums(deltas_TP: np.ndarray) -> tuple[list[float], list[float]]:
    """Sums of |tau_t| and of |tau_MAGMAX_t|."""
    alone, merged = [], []
    for t in range(len(deltas_TP)):
        alone.append(sum(abs(float(x)) for x in deltas_TP[t]))
        merged.append(sum(max(abs(float(row[p])) for row in deltas_TP[: t + 1]) for p in range(deltas_TP.shape[1])))
    return alone, merged


def owners(deltas_TP: np.ndarray) -> tuple[list[int], list[int], list[list[float]]]:
    """Elements that each task owns (none where nothing changed), contributes, and the values that it contributes."""
    tasks, elements = deltas_TP.shape
    owned, values = [0] * tasks, [[] for _ in range(tasks)]
    for p in range(elements):
        column = [abs(float(row[p])) for row in deltas_TP]
        holders = [t for t in range(tasks) if column[t] == max(column)]
        owned[holders[-1]] += 1
        if len(holders) == 1 and max(column) > 0:
            values[holders[0]].append(float(deltas_TP[holders[0]][p]))
    changed = any(float(x) != 0 for row in deltas_TP for x in row)
    return owned if changed else [0] * tasks, [len(column) for column in values], values


def products(rows: Sequence[np.ndarray]) -> list[list[float]]:
    """Scalar products of all pairs."""
    return [[sum(float(x) * float(y) for x, y in zip(a, b, strict=True)) for b in rows] for a in rows]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of two vectors that are not zero."""
    [[aa, ab], [_, bb]] = products([a, b])
    return ab / (aa * bb) ** 0.5
