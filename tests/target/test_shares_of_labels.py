"""Shares of labels: by hand, unknown labels, intervals as wide as the exact ones."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from prefmerge.errors import DataError
from prefmerge.target.given import matched
from prefmerge.target.shares import (
    from_inputs,
    from_labels,
    known_counts,
)
from tests.oracles import similarity as intervals
from tests.target.test_shares import APART, DISJOINT, labels_only


def test_shares_of_labels_worked_out_by_hand():
    found = from_labels(DISJOINT, {"cat": 3, "dog": 1, "oak": 4})
    np.testing.assert_allclose(found.shares, [0.5, 0, 0.5])
    assert found.label_counts.tolist() == [3, 1, 0, 0, 4, 0]
    assert (found.samples, found.source, found.second, found.foreign) == (8, "labels", None, None)
    split = np.repeat(np.eye(3), 2, axis=0)
    np.testing.assert_allclose(found.draws, found.label_draws @ split / 8)


def test_a_class_of_several_tasks_is_split_and_its_whole_is_in_doubt():
    tasks = labels_only(((0, 1), (1, 2), (3,)))
    found = from_labels(tasks, np.array([0, 1000, 0, 1000]))
    np.testing.assert_allclose(found.shares, [0.25, 0.25, 0.5])
    np.testing.assert_allclose(found.low, [0, 0, 0.48], atol=0.01)
    np.testing.assert_allclose(found.high, [0.52, 0.52, 0.52], atol=0.01)
    assert found.notes[-1] == (
        "Labels cannot tell which task 'class-1' is from: each is split evenly between the tasks that have it. Inputs "
        "would tell more."
    )
    assert not from_labels(tasks, np.array([5, 0, 5, 5])).notes[1:]


def test_unknown_labels_are_refused_above_half():
    found = matched(Counter({"cat": 2, "car": 1, "catt": 3, "frog": 1}), DISJOINT.classes)
    with pytest.raises(DataError) as error:
        known_counts(found, DISJOINT)
    assert str(error.value) == (
        "4 of the target's 7 labels are no class of any task: 'catt', 'frog'. The 6 classes are 'cat', 'dog', 'car' "
        "and 3 more. Did you mean 'cat' by 'catt'? Write the labels as the tasks' class names."
    )
    with pytest.raises(DataError, match="4 of the target's 7 labels are no class of any task"):
        from_labels(DISJOINT, found)


@pytest.mark.parametrize(("known", "unknown"), [(3, 3), (9, 1)])
def test_up_to_half_of_unknown_labels_are_noted(known: int, unknown: int):
    found = from_labels(DISJOINT, {"cat": known, "frog": unknown})
    assert found.samples == known
    are = "is" if unknown == 1 else "are"
    assert found.notes[-1] == (
        f"{unknown} of the target's {known + unknown} labels {are} no class of any task and not counted: 'frog'."
    )
    assert from_labels(DISJOINT, matched(Counter({"CAT": 3}), DISJOINT.classes)).label_counts[0] == 3


def test_a_note_of_unknown_labels_stays_beside_inputs():
    found = from_inputs(APART.tasks, APART.drawn((3, 3, 3), 0)[0], label_counts={"class-0": 9, "frog": 1})
    assert "1 of the target's 10 labels is no class" in found.notes[-1]


@pytest.mark.parametrize("counts", [{}, {"cat": 0}, np.zeros(6, int), {"frog": 0}])
def test_no_labels_are_refused(counts: Any):
    with pytest.raises(DataError, match=r"the target has no labels\. Give the label of at least one sample\."):
        from_labels(DISJOINT, counts)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"cat": -1}, "the target has -1 labels 'cat'; expected a whole number, 0 or more."),
        ({"cat": 0.5}, "the target has 0.5 labels 'cat'; expected a whole number, 0 or more."),
        ({"cat": True}, "the target has True labels 'cat'; expected a whole number, 0 or more."),
        (
            np.array([1.0, math.nan, 0, 0, 0, 0]),
            "counts of the target's labels: expected a whole number for each of the 6 classes, found shape (6,) of "
            "float64.",
        ),
        (
            np.array([1, 2]),
            "counts of the target's labels: expected a whole number for each of the 6 classes, found shape (2,) of "
            "int64.",
        ),
        (np.array([1, 0, 0, 0, 0, -2]), "the target has -2 labels 'elm'; expected a whole number, 0 or more."),
    ],
)
def test_counts_that_make_no_sense_are_refused(counts: Any, message: str):
    with pytest.raises(DataError) as error:
        from_labels(DISJOINT, counts)
    assert str(error.value) == message


def test_one_and_three_labels_leave_much_open():
    one = from_labels(DISJOINT, {"cat": 1})
    assert not one.tells
    assert one.low[0] < 0.1
    assert one.high[1] > 0.9
    assert 0 < one.draws[:, 1].mean() < one.draws[:, 0].mean()  # a task that was not seen may be there
    assert one.label_draws[:, 2:].max() > 0.1
    assert one.notes[0].startswith(
        "1 label does not tell which tasks the target is made of: every task could have its even share, and task-"
    )
    assert one.notes[0].endswith("What would help: labels of the target, or more of them.")
    three = from_labels(DISJOINT, {"cat": 3})
    assert three.tells
    assert three.high[1] > 0.5
    assert three.notes[0].startswith("The shares are wide open: from 3 labels, task-")


@pytest.mark.parametrize("samples", [3, 10, 50])
def test_intervals_of_labels_hold_the_truth_as_often_as_the_exact_ones(samples: int):
    truth = np.array([0.6, 0.3, 0.1])
    rng = np.random.default_rng(0)
    held, rounds = np.zeros(3), 200
    for repeat in range(rounds):
        counts = rng.multinomial(samples, np.repeat(truth / 2, 2))
        found = from_labels(DISJOINT, counts, seed=repeat, draws=1000)
        held += (found.low <= truth) & (truth <= found.high)
    for share, often in zip(truth, held / rounds, strict=True):
        expected = intervals.clopper_pearson_coverage(share, samples, 0.9)
        assert often == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / rounds) + 0.02)
        assert often > 0.9 - 4 * math.sqrt(0.09 / rounds)
