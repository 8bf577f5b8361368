"""Tasks whose samples are drawn from Gaussians, one for each class, and targets drawn from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prefmerge.target.shares import Tasks


@dataclass(frozen=True)
class World:
    """`means_TCE`: where each class of each task lies; a class that a task lacks is never drawn."""

    tasks: Tasks
    means_TCE: np.ndarray
    scatter_T: np.ndarray

    def of(self, task: int, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and labels of a task, its classes equally often on average."""
        labels = rng.choice(self.tasks.of_task[task], count)
        noise = rng.standard_normal((count, self.means_TCE.shape[2])) * self.scatter_T[task]
        return self.means_TCE[task, labels] + noise, labels

    def drawn(self, counts: Sequence[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
        """So many inputs of each task, in a random order, and their labels."""
        rng = np.random.default_rng(seed)
        parts = [self.of(t, n, rng) for t, n in enumerate(counts)]
        order = rng.permutation(sum(counts))
        return np.concatenate([x for x, _ in parts])[order], np.concatenate([y for _, y in parts])[order]


def world(
    of_task: Sequence[Sequence[int]] = ((0, 1), (2, 3), (4, 5)),
    *,
    apart: float = 20.0,
    train: int | Sequence[int] = 30,
    width: int = 8,
    scatter: Sequence[float] | None = None,
    seed: int = 0,
) -> World:
    """Classes `apart` from one another, some samples of each for training (`train`: of each class, or by class)."""
    rng = np.random.default_rng(seed)
    count, classes = len(of_task), 1 + max(c for own in of_task for c in own)
    means = rng.standard_normal((count, classes, width)) * apart / np.sqrt(2 * width)
    scattered = np.ones(count) if scatter is None else np.array(scatter)
    sizes = [train] * classes if isinstance(train, int) else list(train)
    rows = [(t, c) for t, own in enumerate(of_task) for c in own for _ in range(sizes[c])]
    of_sample, labels = np.array(rows, np.int64).reshape(-1, 2).T
    noise = rng.standard_normal((len(rows), width)) * scattered[of_sample, None]
    counts = np.zeros((count, classes), np.int64)
    np.add.at(counts, (of_sample, labels), 1)
    tasks = Tasks(
        tuple(f"task-{t}" for t in range(count)),
        tuple(f"class-{c}" for c in range(classes)),
        tuple(tuple(own) for own in of_task),
        counts,
        means[of_sample, labels] + noise,
        labels,
        of_sample,
    )
    return World(tasks, means, scattered)
