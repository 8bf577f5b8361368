"""What is known of the tasks: their classes, their training samples, and the base's embeddings of some of those.

Shapes: T tasks, C classes, N training samples, E width. Cost: none. Not here: how a run or checkpoints are opened
(`source`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from prefmerge.errors import DataError


@dataclass(frozen=True, eq=False)
class Tasks:
    """What is known of the tasks. Raises DataError where it does not fit together.

    `embeddings`: the base's, of training samples, up to some hundred a class; `labels` and `tasks` say whose they are.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    of_task: tuple[tuple[int, ...], ...]  # the classes of each task
    counts: np.ndarray  # (T, C) training samples of each class in each task
    embeddings: np.ndarray | None = None  # (N, E)
    labels: np.ndarray | None = None  # (N,) class
    tasks: np.ndarray | None = None  # (N,) task

    def __post_init__(self) -> None:
        if not self.names or not self.classes:
            raise DataError(f"there are {len(self.names)} tasks and {len(self.classes)} classes; give at least one.")
        for what, names in (("tasks", self.names), ("classes", self.classes)):
            twice = next((name for i, name in enumerate(names) if name in names[:i]), None) if _twice(names) else None
            if twice is not None:
                raise DataError(f"two {what} are called {twice!r}. Give them different names.")
        shape = (len(self.names), len(self.classes))
        if len(self.of_task) != shape[0] or np.shape(self.counts) != shape:
            raise DataError(
                f"there are {shape[0]} tasks and {shape[1]} classes, but classes of {len(self.of_task)} tasks and "
                f"counts of shape {np.shape(self.counts)}; expected {shape}."
            )
        for name, classes in zip(self.names, self.of_task, strict=True):
            if not classes or _twice(classes) or not all(0 <= c < shape[1] for c in classes):
                raise DataError(
                    f"task {name!r} has the classes {list(classes)}; expected different numbers from 0 to "
                    f"{shape[1] - 1}, at least one."
                )
        lost = np.flatnonzero(~self.has_TC.any(axis=0))
        if lost.size:
            raise DataError(f"class {self.classes[lost[0]]!r} belongs to no task. Remove it.")
        counts = np.asarray(self.counts)
        if counts.dtype.kind not in "iu" or (counts < 0).any() or counts[~self.has_TC].any():
            raise DataError("counts of training samples must be whole numbers, and 0 for classes that a task lacks.")
        given = [one is not None for one in (self.embeddings, self.labels, self.tasks)]
        if any(given) and not all(given):
            raise DataError("embeddings of training samples need the label and the task of each: give all or none.")
        if self.embeddings is not None:
            self._check_samples()

    def _check_samples(self) -> None:
        embeddings = checked_embeddings(self.embeddings, "embeddings of training samples")
        for what, given, most in (("label", self.labels, len(self.classes)), ("task", self.tasks, len(self.names))):
            numbers = np.asarray(given)
            if numbers.shape != (len(embeddings),) or numbers.dtype.kind not in "iu":
                raise DataError(
                    f"there are {len(embeddings)} embeddings of training samples; expected the {what} of each as a "
                    f"whole number, found shape {numbers.shape} of {numbers.dtype}."
                )
            if len(numbers) and not (numbers.min() >= 0 and numbers.max() < most):
                raise DataError(f"a training sample's {what} is not one of the {most} numbers from 0 to {most - 1}.")
        wrong = np.flatnonzero(~self.has_TC[np.asarray(self.tasks), np.asarray(self.labels)])
        if wrong.size:
            t, c = int(np.asarray(self.tasks)[wrong[0]]), int(np.asarray(self.labels)[wrong[0]])
            raise DataError(
                f"training sample {wrong[0]} is of class {self.classes[c]!r}, which task {self.names[t]!r} lacks."
            )

    @classmethod
    def of_names(cls, names: Sequence[str]) -> Tasks:
        """Tasks of which the names alone are known: a class stands for each."""
        return cls(
            tuple(names), tuple(names), tuple((t,) for t in range(len(names))), np.eye(len(names), dtype=np.int64)
        )

    @classmethod
    def of_counts(
        cls, names: Sequence[str], counted: Sequence[Mapping[str, int]], classes: Sequence[str] | None = None
    ) -> Tasks:
        """Tasks of which it is known how often each class occurs in training. `classes`: all of them, in order."""
        classes = tuple(dict.fromkeys(name for one in counted for name in one) if classes is None else classes)
        at = {name: c for c, name in enumerate(classes)}
        counts = np.zeros((len(counted), len(classes)), np.int64)
        for t, one in enumerate(counted):
            for name, n in one.items():
                counts[t, at[name]] = n
        return cls(tuple(names), classes, tuple(tuple(np.flatnonzero(row).tolist()) for row in counts), counts)

    @cached_property
    def has_TC(self) -> np.ndarray:
        """Whether a task has a class."""
        has = np.zeros((len(self.names), len(self.classes)), bool)
        for t, classes in enumerate(self.of_task):
            has[t, list(classes)] = True
        return has

    @property
    def shared(self) -> bool:
        """Whether a class belongs to several tasks."""
        return bool((self.has_TC.sum(axis=0) > 1).any())

    @property
    def alike(self) -> bool:
        """Whether all tasks have the same classes, so that no label says which task a sample is of."""
        return len(self.names) > 1 and bool((self.has_TC == self.has_TC[0]).all())


def checked_embeddings(values: np.ndarray | None, what: str) -> np.ndarray:
    """A row of finite numbers for each sample, float64. Raises DataError naming `what`."""
    rows = np.asarray(values)
    if rows.ndim != 2 or rows.dtype.kind not in "fiu" or (len(rows) and not rows.shape[1]):
        raise DataError(
            f"{what}: expected a table of numbers, a row for each, found shape {rows.shape} of {rows.dtype}."
        )
    wide = rows.astype(np.float64)
    wrong = np.flatnonzero(~np.isfinite(wide).all(axis=1))
    if wrong.size:
        raise DataError(
            f"{what}: {wrong.size} of {len(wide)} hold NaN or infinity, the first is number {wrong[0]}. Check the "
            "encoder and its input."
        )
    return wide


def label_rates(tasks: Tasks) -> np.ndarray:
    """p(label|t) (C, T), the classes of a task weighing the same."""
    return (tasks.has_TC / tasks.has_TC.sum(axis=1, keepdims=True)).T


def _twice(names: Sequence[Any]) -> bool:
    return len(set(names)) != len(names)
