"""Arcee Fusion: the task's values where they matter, against float64 loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from prefmerge import merge_state_dicts

SHAPES: dict[str, tuple[int, ...]] = {
    "matrix": (40, 30),
    "wide": (6, 5, 7),
    "vector": (90,),
    "scalar": (),
    "none": (0, 4),
}


def merged(base: Any, task: Any, **settings: Any) -> dict[str, np.ndarray]:
    return merge_state_dicts(base, [task], method="arcee_fusion", **settings)[0]


def softmax(row: np.ndarray) -> np.ndarray:
    powers = np.exp(row - row.max())
    return powers / powers.sum() + 1e-8


def importance_of(base: np.ndarray, task: np.ndarray) -> np.ndarray:
    old, new = (np.atleast_1d(x).astype(np.float64) for x in (base, task))
    result = np.abs(new - old)
    for row in np.ndindex(old.shape[:-1]):
        p, q = softmax(new[row]), softmax(old[row])
        result[row] *= math.fsum((p * np.log(p / q)).tolist())
    return result.reshape(-1)


def problem(step: float) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(4)
    base = {name: np.asarray(rng.standard_normal(shape), np.float32) for name, shape in SHAPES.items()}
    task = {name: np.asarray(x + np.float32(step) * rng.standard_t(3, x.shape), np.float32) for name, x in base.items()}
    return base, task


@pytest.mark.parametrize("step", [1.0, 0.05, 1e-3])
@pytest.mark.parametrize("block", [11, 1 << 16])
def test_arcee_fusion(step: float, block: int):
    base, task = problem(step)
    result = merged(base, task, block=block)
    for name, start in base.items():
        if not start.size:
            continue
        importance = importance_of(start, task[name])
        ordered = sorted(importance)
        lower, median, upper = (ordered[int(part * (len(ordered) - 1))] for part in (0.25, 0.5, 0.75))
        threshold = median + 1.5 * (upper - lower)
        clear = np.abs(importance / threshold - 1) > 1e-5 if threshold else np.ones(start.size, bool)
        taken = np.where(importance >= threshold, task[name].reshape(-1), start.reshape(-1))
        np.testing.assert_allclose(result[name].reshape(-1)[clear], taken[clear], rtol=2e-7, atol=1e-7, err_msg=name)
        assert clear.mean() > 0.99


def test_rows_that_hardly_differ_keep_their_order():
    """Divergences near 1e-12, which a sum of terms of both signs would lose even in float64."""
    base, task = problem(1.0)
    rows = np.float32(1e-6) * np.arange(1, 41, dtype=np.float32)[:, None]
    base = {"matrix": np.zeros((40, 30), np.float32)}
    task = {"matrix": np.sign(task["matrix"]) * rows}
    result = merged(base, task)["matrix"]
    taken = (result != 0).any(axis=1)
    assert taken.any()
    assert not taken[:20].any()
    assert taken[np.flatnonzero(taken)[0] :].all()


def test_one_long_row_is_one_row():
    rng = np.random.default_rng(0)
    base = {"w": rng.standard_normal(200_000).astype(np.float32)}
    task = {"w": base["w"] + rng.standard_normal(200_000).astype(np.float32)}
    expected = merged(base, task)["w"]
    assert merged(base, task, block=1000, threads=2)["w"].tobytes() == expected.tobytes()
    assert 0 < (expected != base["w"]).mean() < 0.2
