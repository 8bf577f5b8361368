"""The test samples of all tasks as one row, and where in it the samples of each environment are.

    row = (samples of the tasks before) + (position in the task's pool)

Opened once for a run (`work`) and once for an experiment (`prepare`): what is shown, judged and counted at an
environment is then a lookup by its key, such as "e1/0". Shapes: rows are (n,) int64, right answers (n,) bool. Cost: one
entry a sample. Not here: how an environment is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from prefmerge.data.scenarios import Scenario
from prefmerge.ground.store import digest
from prefmerge.lab.environments import Environment, Pool


def pools_of(scenario: Scenario) -> tuple[Pool, ...]:
    """The test samples of every task. Where two data sets number theirs alike, the task's name precedes an id."""
    every = [one for task in scenario.tasks for one in task.test.ids]
    alike = len(set(every)) < len(every)
    return tuple(
        Pool(
            task.name,
            tuple(f"{task.name}/{one}" for one in task.test.ids) if alike else task.test.ids,
            tuple(scenario.classes[label].name for label in task.test.labels.tolist()),
            task.test.fingerprint,
        )
        for task in scenario.tasks
    )


def digest_of(pools: Sequence[Pool]) -> str:
    """A hash of all test samples: ids, labels and contents."""
    return digest([[pool.name, pool.ids, pool.labels, pool.fingerprint(range(len(pool.ids)))] for pool in pools])


def ids_digest(ids: Sequence[str]) -> str:
    """A hash of some ids in their order."""
    return digest(list(ids))


@dataclass(frozen=True)
class Samples:
    """The test samples of the tasks and the environments that are drawn from them."""

    pools: tuple[Pool, ...]
    environments: Mapping[str, Environment]  # by key

    @classmethod
    def of(cls, pools: Sequence[Pool], environments: Iterable[Environment]) -> Samples:
        return cls(tuple(pools), {one.key: one for one in environments})

    @cached_property
    def ids(self) -> tuple[str, ...]:
        return tuple(one for pool in self.pools for one in pool.ids)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the tasks."""
        return tuple(pool.name for pool in self.pools)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """How many samples each task has."""
        return tuple(len(pool.ids) for pool in self.pools)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The first row of each task, and the end."""
        return tuple(np.cumsum([0, *self.sizes]).tolist())

    def shown(self, key: str) -> np.ndarray:
        """The rows that an environment shows, in its order."""
        return self._rows(key, Environment.meta_positions)

    def judged(self, key: str) -> np.ndarray:
        """The rows that models are judged on at an environment, in its order."""
        return self._rows(key, Environment.test_positions)

    @cached_property
    def all_digest(self) -> str:
        """A hash of the ids of all rows."""
        return ids_digest(self.ids)

    def digest(self, rows: np.ndarray) -> str:
        """A hash of the ids in these rows."""
        return ids_digest([self.ids[row] for row in rows])

    def by_task(self, right: np.ndarray) -> tuple[int, ...]:
        """How many are right in each task, of an answer for every row."""
        return tuple(int(part.sum()) for part in np.split(right, self.starts[1:-1]))

    def groups(self, rows: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """The rows, at least one, cut where the task changes: (task, positions in its pool)."""
        tasks = np.searchsorted(self.starts, rows, side="right") - 1
        cuts = np.flatnonzero(np.diff(tasks)) + 1
        owners = tasks[[0, *cuts]].tolist()
        return [(task, part - self.starts[task]) for task, part in zip(owners, np.split(rows, cuts), strict=True)]

    def _rows(self, key: str, positions: Callable[[Environment, Pool], np.ndarray]) -> np.ndarray:
        environment = self.environments[key]
        tasks = [self.names.index(part.task) for part in environment.parts]
        return np.concatenate([self.starts[task] + positions(environment, self.pools[task]) for task in tasks])
