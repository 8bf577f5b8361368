"""SCE: which elements are merged, how much each task weighs, whose signs count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from prefmerge import merge_state_dicts
from tests.methods.problems import gaussian, state_dicts


def merged(base: Any, tasks: Any, **settings: Any) -> dict[str, np.ndarray]:
    return merge_state_dicts(base, tasks, method="sce", **settings)[0]


def expected(base: np.ndarray, tasks: list[np.ndarray], part: float) -> np.ndarray:
    """In float64, from a sort; among equal variances the first indices."""
    taus = [(task - base).reshape(-1).astype(np.float64) for task in tasks]
    size = taus[0].size
    mean = [sum(tau[p] for tau in taus) / len(taus) for p in range(size)]
    variance = [float(np.float32(sum((tau[p] - mean[p]) ** 2 for tau in taus) / len(taus))) for p in range(size)]
    if part < 1:
        keep = int(part * sum(v != 0 for v in variance))
        order = sorted(range(size), key=lambda p: (-variance[p], p))
        for tau in taus:
            tau[order[keep:]] = 0
    energy = [float((tau**2).sum()) for tau in taus]
    weights = [e / sum(energy) if sum(energy) else 1 / len(taus) for e in energy]
    result = base.reshape(-1).astype(np.float64)
    for p in range(size):
        sign = 1 if sum(tau[p] for tau in taus) >= 0 else -1
        agreeing = [t for t, tau in enumerate(taus) if tau[p] * sign > 0]
        if agreeing:
            total = sum(weights[t] * taus[t][p] for t in agreeing)
            result[p] += total / sum(weights[t] for t in agreeing)
    return result.reshape(base.shape)


@pytest.mark.parametrize("part", [1, 0.5, 0.04, 0])
@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("block", [5, 1 << 16])
def test_sce(part: float, count: int, block: int):
    for base, tasks in (state_dicts(count), gaussian(count, 300)):
        result = merged(base, tasks, select_topk=part, block=block)
        for name, start in base.items():
            if start.dtype == np.float32:
                wanted = expected(start, [task[name] for task in tasks], part)
                np.testing.assert_allclose(result[name], wanted, rtol=0, atol=1e-6, err_msg=name)


def test_small_updates_are_weighed_as_large_ones_are():
    base, tasks = gaussian(3, 300)
    base = {"w": np.zeros(300, np.float32)}
    large = merged(base, tasks)["w"]
    small = merged(base, [{"w": task["w"] * np.float32(2**-20)} for task in tasks])["w"]
    assert (small * np.float32(2**20)).tobytes() == large.tobytes()


def test_the_order_of_the_tasks_changes_nothing_but_roundings():
    base, tasks = gaussian(4, 500)
    forwards, backwards = merged(base, tasks, select_topk=0.5), merged(base, tasks[::-1], select_topk=0.5)
    np.testing.assert_allclose(forwards["w"], backwards["w"], rtol=0, atol=1e-6)
