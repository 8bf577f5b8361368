"""What is said of a whole run of T tasks, from the accuracies of its checkpoints on all of its tasks.

    R[i][j] = accuracy on task j of the model after training on task i,   b[j] = that of theta_0;   i, j = 0..T-1

Source: Lopez-Paz and Ranzato 2017 (transfer), Chaudhry et al. 2018 (average accuracy, forgetting), Rebuffi et al. 2017
(average incremental accuracy); the formula of each is at its function. Shapes: R (T, T), b (T,); fractions of 1. Every
task counts the same, however many samples it has. Cost: nothing. Not here: where R comes from (`evaluation`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Matrix = np.ndarray | Sequence[Sequence[float]]


def average_accuracies(matrix: Matrix) -> np.ndarray:
    """A_i = 1 / (i + 1) * sum over j <= i of R[i][j]: after task i, the mean over the tasks seen so far, (T,).

    Chaudhry et al. 2018, section 3. Raises ValueError unless `matrix` is (T, T) of finite numbers.
    """
    table = _square(matrix)
    return np.array([table[i, : i + 1].mean() for i in range(len(table))])


def last_accuracy(matrix: Matrix) -> float:
    """A_{T-1} = 1 / T * sum over j of R[T-1][j]: the last model, all tasks.

    ACC of Lopez-Paz and Ranzato 2017, eq. 2. Takes (K, T) too: any checkpoints, of which it looks at the last.
    """
    return float(_finite(matrix)[-1].mean())


def average_incremental_accuracy(matrix: Matrix) -> float:
    """1 / T * sum over i of A_i, the mean of `average_accuracies`.

    Rebuffi et al. 2017, section 4, who average over the samples of the classes seen; the same where all tasks have
    equally many.
    """
    return float(average_accuracies(matrix).mean())


def forgetting(matrix: Matrix) -> float | None:
    """1 / (T-1) * sum over j < T-1 of (max over i < T-1 of R[i][j] - R[T-1][j]); None for one task.

    Chaudhry et al. 2018, section 3. Negative where the last model is the best one that there was for the tasks before.
    """
    table = _square(matrix)
    if len(table) == 1:
        return None
    return float((table[:-1, :-1].max(axis=0) - table[-1, :-1]).mean())


def backward_transfer(matrix: Matrix) -> float | None:
    """1 / (T-1) * sum over j < T-1 of (R[T-1][j] - R[j][j]): what later tasks did to earlier ones; None for one task.

    BWT of Lopez-Paz and Ranzato 2017, eq. 3.
    """
    table = _square(matrix)
    if len(table) == 1:
        return None
    return float((table[-1, :-1] - np.diagonal(table)[:-1]).mean())


def forward_transfer(matrix: Matrix, baseline: np.ndarray | Sequence[float]) -> float | None:
    """1 / (T-1) * sum over j > 0 of (R[j-1][j] - b[j]): what earlier tasks did to later ones; None for one task.

    FWT of Lopez-Paz and Ranzato 2017, eq. 4, where b is a model with random weights; here it is theta_0, which a
    pre-trained run starts from. Raises ValueError unless `baseline` is (T,).
    """
    table, start = _square(matrix), np.asarray(baseline, dtype=np.float64)
    if start.shape != (len(table),) or not np.isfinite(start).all():
        raise ValueError(f"expected {len(table)} finite accuracies of theta_0, one per task, found {start.tolist()}")
    if len(table) == 1:
        return None
    return float((np.diagonal(table, offset=1) - start[1:]).mean())


@dataclass(frozen=True)
class Metrics:
    """The numbers above for one run. None: not defined for it, or (where `training` is not in sequence) meaningless."""

    last_accuracy: float
    average_incremental_accuracy: float | None = None
    forgetting: float | None = None
    backward_transfer: float | None = None
    forward_transfer: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def metrics(matrix: Matrix, baseline: np.ndarray | Sequence[float] | None, *, in_sequence: bool) -> Metrics:
    """All of them; of checkpoints that were not trained one after the other ((K, T) accuracies) only the last's mean.

    Raises ValueError where shapes do not fit, or a number is not finite.
    """
    if not in_sequence:
        return Metrics(last_accuracy(matrix))
    return Metrics(
        last_accuracy(matrix),
        average_incremental_accuracy(matrix),
        forgetting(matrix),
        backward_transfer(matrix),
        None if baseline is None else forward_transfer(matrix, baseline),
    )


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1) over seeds; None where there is one seed, which says nothing of it."""
    if len(values) == 0:
        raise ValueError("the mean over no seeds is not defined")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _finite(matrix: Matrix) -> np.ndarray:
    table = np.asarray(matrix, dtype=np.float64)
    if table.ndim != 2 or table.size == 0 or not np.isfinite(table).all():
        raise ValueError(f"expected a table of finite accuracies, found shape {table.shape}: {table.tolist()}")
    return table


def _square(matrix: Matrix) -> np.ndarray:
    table = _finite(matrix)
    if table.shape[0] != table.shape[1]:
        raise ValueError(
            f"expected one row per task, in the order of training, found {table.shape[0]} of {table.shape[1]} tasks"
        )
    return table
