"""All test samples as one row: where an environment's are, and whose."""

from __future__ import annotations

import numpy as np
import pytest

from prefmerge.lab.environments import PAPERS, Pool, environments
from prefmerge.lab.samples import Samples, ids_digest


def pool(name: str, size: int) -> Pool:
    return Pool(name, tuple(f"{name}/{i}" for i in range(size)), ("x",) * size, lambda at: "-".join(map(str, at)))


@pytest.fixture
def samples() -> Samples:
    pools = [pool("a", 30), pool("b", 7), pool("c", 40)]
    return Samples.of(pools, environments(pools, PAPERS, size=25, seeds=(42, 123)))


def test_the_rows_of_an_environment_hold_its_ids(samples: Samples):
    assert set(samples.environments) == {f"e{i}/{v}" for i in (1, 2, 3, 4, 5) for v in (0, 1)}
    for key, environment in samples.environments.items():
        assert tuple(samples.ids[row] for row in samples.shown(key)) == environment.meta_ids
        assert tuple(samples.ids[row] for row in samples.judged(key)) == environment.test_ids
        assert samples.digest(samples.judged(key)) == ids_digest(environment.test_ids)


def test_groups_are_cut_where_the_task_changes(samples: Samples):
    for key, environment in samples.environments.items():
        groups = samples.groups(samples.judged(key))
        assert [samples.names[task] for task, _ in groups] == [part.task for part in environment.parts]
        ids = [samples.pools[task].ids[i] for task, positions in groups for i in positions]
        assert tuple(ids) == environment.test_ids
    whole = samples.groups(np.arange(77))
    assert [(task, len(positions)) for task, positions in whole] == [(0, 30), (1, 7), (2, 40)]
    assert [task for task, _ in samples.groups(np.array([36, 37, 0, 1]))] == [1, 2, 0]


def test_a_task_without_samples_owns_no_row():
    samples = Samples.of([pool("a", 2), pool("b", 0), pool("c", 3)], ())
    assert [(task, at.tolist()) for task, at in samples.groups(np.arange(5))] == [(0, [0, 1]), (2, [0, 1, 2])]
    assert samples.by_task(np.array([True, False, True, True, False])) == (1, 0, 2)
