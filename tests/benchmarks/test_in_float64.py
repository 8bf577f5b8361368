"""The reference of the comparison with mergekit, against the oracles and against NumPy's own rounding."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import in_float64
from tests.oracles import methods as oracle

SHAPE = (7, 9)


@pytest.fixture
def models() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.normal(0, 1, SHAPE) for _ in range(4)]


def expected(method: str, models: list[np.ndarray]) -> np.ndarray:
    base, tasks = models[0], models[1:]
    if method == "linear":
        return oracle.linear(tasks, [1.0] * len(tasks), normalize=True)
    tau = np.array([(task - base).reshape(-1) for task in tasks])
    if method == "task_arithmetic":
        return oracle.weighted_sum(base, tau, [in_float64.WEIGHT] * len(tasks), 1.0)
    trimmed = np.array([oracle.trimmed(row, in_float64.DENSITY) for row in tau])
    return base.reshape(-1) + oracle.ties_vector(trimmed, [1.0] * len(tasks), normalize=True)


@pytest.mark.parametrize("method", in_float64.METHODS)
def test_it_is_what_the_oracle_says(method: str, models: list[np.ndarray]) -> None:
    result = in_float64.merged(method, models[0], models[1:])
    assert result.shape == SHAPE
    np.testing.assert_allclose(result.reshape(-1), expected(method, models), rtol=0, atol=1e-15)


def test_float32_is_rounded_as_numpy_does(models: list[np.ndarray]) -> None:
    values = np.concatenate([models[0].reshape(-1), [0.0, -0.0, 1 + 2**-24, 1 + 3 * 2**-24, -1 - 2**-24]])
    np.testing.assert_array_equal(in_float64.rounded(values, "float32"), values.astype(np.float32).astype(np.float64))


def test_bfloat16_is_rounded_once() -> None:
    # To float32 first, the first would be the tie 1 + 2**-8, and then 1.
    values = np.array([1 + 2**-8 + 2**-40, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8 - 2**-40])
    one = 1 + 2**-7
    np.testing.assert_array_equal(in_float64.rounded(values, "bfloat16"), [one, 1, 1 + 2**-6, -one])


def test_steps_are_counted_from_the_rounded_result(models: list[np.ndarray]) -> None:
    right = in_float64.rounded(in_float64.merged("linear", models[0], models[1:]), "bfloat16")
    wrong = right.copy()
    wrong[0, 0] = -wrong[0, 0]
    wrong[2, 3] *= 1 + 2**-7  # the next number, or the one after it
    for out, count in ((right, 0), (wrong, 2)):
        away = in_float64.steps(out, "linear", models[0], models[1:], "bfloat16")
        assert np.count_nonzero(away) == count
    assert away[2, 3] in (1, 2)
    assert away[0, 0] > 2


def test_ties_may_keep_any_of_equals() -> None:
    base, task, other = np.zeros(10), np.ones(10), np.full(10, -3.0)
    other[:8] = 0  # both of its kept elements are larger than those of the first task
    for chosen in ((0, 1), (4, 7), (0, 9)):
        out = np.where(np.isin(np.arange(10), chosen), 1.0, 0.0)
        out[8:] = -3.0
        assert not in_float64.steps(out, "ties", base, [task, other], "float32").any()
    out[3] = 2.0
    assert np.flatnonzero(in_float64.steps(out, "ties", base, [task, other], "float32")).tolist() == [3]
