"""Metrics of a run: against loops over the formulas, worked out by hand, and where they are not defined."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefmerge.models import metrics as ours
from prefmerge.models.metrics import Metrics, metrics
from tests.oracles import continual as oracle

HAND = [[0.9, 0.2, 0.1], [0.6, 0.8, 0.3], [0.5, 0.9, 0.7]]
START = [0.3, 0.1, 0.2]


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[list[float]], list[float]]:
    """R (T, T) and b (T,), T from 2; accuracies with few distinct values, so that ties and zeros occur."""
    T = draw(st.integers(2, 6))
    value = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1))
    row = st.lists(value, min_size=T, max_size=T)
    return draw(st.lists(row, min_size=T, max_size=T)), draw(row)


@settings(deadline=None)  # a busy machine is no failure
@given(runs())
def test_like_the_loops(run: tuple[list[list[float]], list[float]]):
    R, b = run
    # Both add at most 36 numbers below 1 in float64, in another order.
    close: dict[str, Any] = {"abs": 1e-14}
    assert ours.last_accuracy(R) == pytest.approx(oracle.last(R), **close)
    assert ours.average_incremental_accuracy(R) == pytest.approx(oracle.incremental(R), **close)
    assert ours.forgetting(R) == pytest.approx(oracle.forgetting(R), **close)
    assert ours.backward_transfer(R) == pytest.approx(oracle.backward_transfer(R), **close)
    assert ours.forward_transfer(R, b) == pytest.approx(oracle.forward_transfer(R, b), **close)


def test_by_hand():
    assert ours.average_accuracies(HAND) == pytest.approx([0.9, 0.7, 0.7])
    assert ours.last_accuracy(HAND) == pytest.approx(0.7)
    assert ours.average_incremental_accuracy(HAND) == pytest.approx(2.3 / 3)
    assert ours.forgetting(HAND) == pytest.approx((0.4 - 0.1) / 2)  # task 1 best after task 1, task 2 best at the end
    assert ours.backward_transfer(HAND) == pytest.approx((-0.4 + 0.1) / 2)
    assert ours.forward_transfer(HAND, START) == pytest.approx((0.2 - 0.1 + 0.3 - 0.2) / 2)


def test_forgetting_looks_at_every_model_but_the_last():
    # Task 1 is best after task 2, and the last model's own 0.8 is no maximum to fall from.
    assert ours.forgetting([[0.5, 0, 0], [0.7, 0.1, 0], [0.8, 0.1, 0]]) == pytest.approx((-0.1 + 0.0) / 2)


def test_one_task_has_no_transfer():
    assert metrics([[0.75]], [0.5], in_sequence=True) == Metrics(0.75, 0.75, None, None, None)


def test_without_a_baseline_there_is_no_forward_transfer():
    result = metrics(HAND, None, in_sequence=True)
    assert result.forward_transfer is None
    assert result.forgetting == pytest.approx(0.15)


def test_checkpoints_that_know_nothing_of_each_other_forget_nothing():
    result = metrics(HAND, START, in_sequence=False)
    assert result.to_json() == {
        "last_accuracy": pytest.approx(0.7),
        "average_incremental_accuracy": None,
        "forgetting": None,
        "backward_transfer": None,
        "forward_transfer": None,
    }
    assert metrics([[0.2, 0.4]], START, in_sequence=False).last_accuracy == pytest.approx(0.3)  # joint: one checkpoint


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[0.5, 0.5]], "expected one row per task, in the order of training, found 1 of 2 tasks"),
        ([[0.5, float("nan")], [0.5, 0.5]], r"expected a table of finite accuracies, found shape \(2, 2\)"),
        ([0.5], r"expected a table of finite accuracies, found shape \(1,\)"),
        ([], "expected a table of finite accuracies"),
    ],
)
def test_tables_that_are_none(matrix: list, message: str):
    with pytest.raises(ValueError, match=message):
        metrics(matrix, None, in_sequence=True)


def test_a_baseline_of_another_run():
    with pytest.raises(ValueError, match=r"expected 3 finite accuracies of theta_0, one per task, found \[0.5\]"):
        metrics(HAND, [0.5], in_sequence=True)


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_mean_and_std_like_the_standard_library(values: list[float]):
    mean, std = ours.mean_std(values)
    assert mean == pytest.approx(statistics.fmean(values), abs=1e-15)
    # statistics works in fractions; ours rounds each square once: 1e-16 in the variance is 1e-8 in its root.
    assert std == pytest.approx(statistics.stdev(values), abs=1e-8)


def test_mean_and_std_by_hand():
    assert ours.mean_std([0.5, 0.7, 0.9]) == (pytest.approx(0.7), pytest.approx(0.2))  # sample: 0.08 / 2 = 0.04
    assert ours.mean_std([0.4]) == (0.4, None)
    with pytest.raises(ValueError, match="no seeds"):
        ours.mean_std([])


def test_arrays_are_not_changed():
    R = np.array(HAND)
    before = R.copy()
    metrics(R, np.array(START), in_sequence=True)
    assert (before == R).all()
