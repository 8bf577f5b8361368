"""Shares of the target: EM and the black box against brute force, laws, coverage, few samples, and what is refused."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from prefmerge.errors import DataError, MissingExtra, PreferenceError, UsageError
from prefmerge.preference import Preference
from prefmerge.target import shares as module
from prefmerge.target.shares import (
    Shares,
    Tasks,
    from_inputs,
    from_labels,
    from_pairs,
    shift,
    stated,
)
from tests.target.problems import world

APART = world()
DOMAINS = world([(0, 1, 2)] * 3, apart=8.0)


def labels_only(of_task: tuple[tuple[int, ...], ...], classes: tuple[str, ...] | None = None) -> Tasks:
    count = 1 + max(c for own in of_task for c in own)
    counts = np.array([[10 * (c in own) for c in range(count)] for own in of_task])
    names = classes or tuple(f"class-{c}" for c in range(count))
    return Tasks(tuple(f"task-{t}" for t in range(len(of_task))), names, of_task, counts)


DISJOINT = labels_only(((0, 1), (2, 3), (4, 5)), ("cat", "dog", "car", "bus", "oak", "elm"))


def far(a: np.ndarray, b: Any) -> float:
    return float(np.abs(a - np.array(b)).sum() / 2)


def fit_of(tasks: Tasks) -> shift.Recogniser:
    assert tasks.embeddings is not None
    assert tasks.labels is not None
    assert tasks.tasks is not None
    return shift.fit(tasks.embeddings, tasks.labels, tasks.tasks, len(tasks.names))


# What perfect knowledge gives


@pytest.mark.parametrize("counts", [(7, 3, 0), (0, 0, 5), (30, 20, 10), (1, 1, 1)])
def test_tasks_that_lie_apart_are_counted(counts: tuple[int, ...]):
    found = from_inputs(APART.tasks, APART.drawn(counts, 1)[0])
    exact = np.array(counts, float)
    if sum(counts) >= module.ENOUGH:  # alpha is 0.5 from there on
        exact = np.maximum(exact - 0.5, 0)
    np.testing.assert_allclose(found.shares, exact / exact.sum(), atol=1e-6)
    assert found.second is not None
    np.testing.assert_allclose(found.second, np.array(counts) / sum(counts), atol=1e-6)
    assert found.source == "inputs"
    assert found.samples == sum(counts)
    assert not found.label_counts.any()
    assert found.label_draws.shape == (200, 6)
    np.testing.assert_array_equal(found.present, exact > 0)


def test_labels_join_the_counts_of_em():
    inputs, _ = APART.drawn((6, 4, 0), 2)
    found = from_inputs(APART.tasks, inputs, label_counts={"class-4": 3, "class-5": 2, "class-0": 5})
    np.testing.assert_allclose(found.shares, [11 / 20, 4 / 20, 5 / 20], atol=1e-6)
    assert (found.source, found.samples) == ("labels and inputs", 20)
    assert found.label_counts.tolist() == [5, 0, 0, 0, 3, 2]
    np.testing.assert_allclose(found.label_draws.sum(axis=1), 10)
    assert found.second is not None
    np.testing.assert_allclose(found.second, found.shares, atol=1e-6)


def test_inputs_say_the_domain_and_labels_do_not():
    assert DOMAINS.tasks.shared
    assert DOMAINS.tasks.alike
    inputs, labels = DOMAINS.drawn((20, 15, 5), 3)
    assert far(from_inputs(DOMAINS.tasks, inputs).shares, [0.5, 0.375, 0.125]) < 0.06
    paired = from_pairs(DOMAINS.tasks, inputs, labels)
    assert far(paired.shares, [0.5, 0.375, 0.125]) < 0.06
    assert paired.source == "pairs"
    assert paired.label_counts.tolist() == np.bincount(labels, minlength=3).tolist()
    with pytest.raises(DataError) as error:
        from_labels(DOMAINS.tasks, np.array([1, 2, 3]))
    assert str(error.value) == (
        "labels cannot tell the tasks apart: all 3 have the same classes, 'class-0', 'class-1', 'class-2'. Give inputs "
        "of the target, or inputs with labels."
    )
    # Such labels say nothing beside inputs either, and an even split of them would pull towards even shares.
    many = from_inputs(DOMAINS.tasks, inputs, label_counts=np.array([500, 500, 500]))
    assert far(many.shares, [0.5, 0.375, 0.125]) < 0.08


def test_pairs_of_tasks_without_shared_classes_are_labels():
    inputs, labels = APART.drawn((5, 3, 2), 4)
    found = from_pairs(APART.tasks, inputs, labels)
    by_labels = from_labels(APART.tasks, np.bincount(labels, minlength=6))
    np.testing.assert_array_equal(found.draws, by_labels.draws)
    assert found.source == "pairs"


def test_held_out_samples_lie_further_from_the_means_than_those_in_them():
    few = world(train=4, scatter=(1, 1, 1))
    found = fit_of(few.tasks)
    assert few.tasks.embeddings is not None
    within = found.distances(few.tasks.embeddings).mean()
    # In 8 dimensions, a sample lies sqrt(8 (1 + 1/3)) from the mean of 3 others, and sqrt(8 (1 - 1/4)) from one of 4.
    assert found.held_distance_N.mean() / within == pytest.approx(math.sqrt((4 / 3) / (3 / 4)), rel=0.1)


def test_looks_say_the_task_where_there_is_one_class_in_all():
    alone = world([(0,), (0,), (0,)])
    found = from_inputs(alone.tasks, alone.drawn((8, 2, 0), 0)[0])
    np.testing.assert_allclose(found.shares, [0.8, 0.2, 0], atol=1e-6)
    with pytest.raises(DataError, match="labels cannot tell the tasks apart: all 3 have the same classes, 'class-0'"):
        from_labels(alone.tasks, {"class-0": 4})


@pytest.mark.parametrize("of_task", [((0,),), ((0, 1, 2),)])
def test_one_task_is_all_of_the_target(of_task: tuple[tuple[int, ...], ...], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shift, "_regression", None)
    one = world(of_task)
    inputs, labels = one.drawn((3,), 0)
    for found in (
        from_inputs(one.tasks, inputs),
        from_inputs(one.tasks, inputs, label_counts={"class-0": 2}),
        from_pairs(one.tasks, inputs, labels),
        from_labels(one.tasks, {"class-0": 1}),
    ):
        for values in (found.shares, found.low, found.high):
            np.testing.assert_array_equal(values, [1])
        np.testing.assert_array_equal(found.draws, np.ones((200, 1)))
        assert found.tells
        assert found.notes == ()


# Laws


def equal(a: Shares, b: Shares) -> None:
    for name in ("shares", "draws", "low", "high", "label_draws", "second"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert a.foreign == b.foreign


@pytest.mark.parametrize("near", [2.0, 20.0])
def test_neither_the_order_of_samples_nor_names_matter(near: float):
    one = world(apart=near)
    inputs, labels = one.drawn((9, 5, 2), 0)
    rng = np.random.default_rng(1)
    first = from_inputs(one.tasks, inputs)
    equal(first, from_inputs(one.tasks, inputs[rng.permutation(len(inputs))]))
    assert one.tasks.embeddings is not None
    at = rng.permutation(len(one.tasks.embeddings))
    assert one.tasks.labels is not None
    assert one.tasks.tasks is not None
    other = replace(
        one.tasks,
        names=("z", "m", "a"),
        classes=tuple("uvwxyz")[::-1],
        embeddings=one.tasks.embeddings[at],
        labels=one.tasks.labels[at],
        tasks=one.tasks.tasks[at],
    )
    equal(first, from_inputs(other, inputs))
    counts = np.bincount(labels, minlength=6)
    np.testing.assert_array_equal(from_labels(one.tasks, counts).draws, from_labels(other, counts).draws)
    shared = DOMAINS.drawn((5, 5, 5), 0)
    at = rng.permutation(15)
    moved = from_pairs(DOMAINS.tasks, shared[0][at], shared[1][at])
    np.testing.assert_array_equal(moved.draws, from_pairs(DOMAINS.tasks, *shared).draws)


@pytest.mark.parametrize("near", [2.0, 20.0])
def test_the_order_of_tasks_and_classes_matters_no_more_than_rounding(near: float):
    one = world(apart=near)
    inputs, _ = one.drawn((20, 12, 6), 0)
    tasks, classes = np.array([2, 0, 1]), np.array([5, 3, 0, 1, 4, 2])  # new number -> old number
    was = one.tasks
    assert was.embeddings is not None
    assert was.labels is not None
    assert was.tasks is not None
    new_class, new_task = np.argsort(classes), np.argsort(tasks)
    moved = Tasks(
        tuple(was.names[t] for t in tasks),
        tuple(was.classes[c] for c in classes),
        tuple(tuple(int(new_class[c]) for c in was.of_task[t]) for t in tasks),
        was.counts[tasks][:, classes],
        was.embeddings,
        new_class[was.labels],
        new_task[was.tasks],
    )
    first, second = from_inputs(was, inputs), from_inputs(moved, inputs)
    np.testing.assert_allclose(second.shares, first.shares[tasks], atol=1e-3)  # the regression stops at a gradient
    np.testing.assert_allclose(second.low, first.low[tasks], atol=0.05)  # imagined samples fall otherwise
    np.testing.assert_allclose(second.high, first.high[tasks], atol=0.05)


def test_a_common_factor_and_shift_of_the_embeddings_do_not_matter():
    one = world(apart=3.0)
    inputs, _ = one.drawn((20, 12, 6), 0)
    assert one.tasks.embeddings is not None
    scaled = replace(one.tasks, embeddings=one.tasks.embeddings * 1e4 - 7)
    first, second = from_inputs(one.tasks, inputs), from_inputs(scaled, inputs * 1e4 - 7)
    np.testing.assert_allclose(second.shares, first.shares, atol=0.02)  # other folds, and so another temperature


@pytest.mark.parametrize("source", ["labels", "inputs", "both", "pairs"])
def test_the_same_seed_gives_the_same_draws(source: str):
    one = DOMAINS if source == "pairs" else world(apart=3.0)
    inputs, labels = one.drawn((6, 3, 1), 0)
    counts = np.bincount(labels, minlength=len(one.tasks.classes))
    make: dict[str, Callable[[int], Shares]] = {
        "labels": lambda seed: from_labels(one.tasks, counts, seed=seed, draws=50),
        "inputs": lambda seed: from_inputs(one.tasks, inputs, seed=seed, draws=50),
        "both": lambda seed: from_inputs(one.tasks, inputs, label_counts=counts, seed=seed, draws=50),
        "pairs": lambda seed: from_pairs(one.tasks, inputs, labels, seed=seed, draws=50),
    }
    first, again, other = (make[source](seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.draws, again.draws)
    np.testing.assert_array_equal(first.label_draws, again.label_draws)
    np.testing.assert_array_equal(first.shares, other.shares)
    assert not np.array_equal(first.draws, other.draws)
    for found in (first, other):
        assert found.draws.shape == (50, 3)
        np.testing.assert_allclose(found.draws.sum(axis=1), 1)
        assert found.shares.sum() == pytest.approx(1)
        assert (found.draws >= 0).all()
        assert (found.low <= found.shares).all()
        assert (found.shares <= found.high).all()
        assert (found.low >= 0).all()
        assert (found.high <= 1).all()
        assert found.label_draws.sum(axis=1) == pytest.approx(np.full(50, found.label_counts.sum()))


# What is refused


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_refused(wrong: float):
    inputs = np.zeros((4, 8))
    inputs[2, 5] = wrong
    with pytest.raises(DataError) as error:
        from_inputs(APART.tasks, inputs)
    assert str(error.value) == (
        "inputs of the target: 1 of 4 hold NaN or infinity, the first is number 2. Check the encoder and its input."
    )
    assert APART.tasks.embeddings is not None
    spoilt = APART.tasks.embeddings.copy()
    spoilt[0, 0] = wrong
    with pytest.raises(DataError, match="embeddings of training samples: 1 of 180 hold NaN or infinity, the first is"):
        replace(APART.tasks, embeddings=spoilt)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((3, 5)), "inputs of the target are 5 wide, the training samples 8. Embed both with the base."),
        (
            np.zeros(8),
            "inputs of the target: expected a table of numbers, a row for each, found shape (8,) of float64.",
        ),
        (
            np.array([["a"]]),
            "inputs of the target: expected a table of numbers, a row for each, found shape (1, 1) of <U1.",
        ),
    ],
)
def test_inputs_of_another_shape_are_refused(inputs: np.ndarray, message: str):
    with pytest.raises(DataError) as error:
        from_inputs(APART.tasks, inputs)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            np.array([0, 1]),
            r"there are 3 inputs of the target; expected the class of each as a whole number, found shape",
        ),
        (np.array([0.0, 1, 2]), r"expected the class of each as a whole number, found shape \(3,\) of float64"),
        (np.array([0, 1, 6]), r"an input's class is not one of the 6 from 0 on"),
        (np.array([0, 1, -1]), r"an input's class is not one of the 6 from 0 on"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(labels: np.ndarray, message: str):
    with pytest.raises(DataError, match=message):
        from_pairs(APART.tasks, np.zeros((3, 8)), labels)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"names": ("a", "b", "a")}, "two tasks are called 'a'. Give them different names."),
        ({"classes": tuple("uvwxyy")}, "two classes are called 'y'. Give them different names."),
        ({"names": ()}, "there are 0 tasks and 6 classes; give at least one."),
        (
            {"names": ("a", "b")},
            "there are 2 tasks and 6 classes, but classes of 3 tasks and counts of shape (3, 6); expected (2, 6).",
        ),
        (
            {"of_task": ((), (2, 3), (4, 5))},
            "task 'task-0' has the classes []; expected different numbers from 0 to 5, at least one.",
        ),
        (
            {"of_task": ((0, 6), (2, 3), (4, 5))},
            "task 'task-0' has the classes [0, 6]; expected different numbers from 0 to 5, at least one.",
        ),
        ({"of_task": ((0,), (2, 3), (4, 5))}, "class 'class-1' belongs to no task. Remove it."),
        (
            {"counts": np.full((3, 6), 1)},
            "counts of training samples must be whole numbers, and 0 for classes that a task lacks.",
        ),
        (
            {"labels": None},
            "embeddings of training samples need the label and the task of each: give all or none.",
        ),
        (
            {"labels": np.zeros(3, int)},
            "there are 180 embeddings of training samples; expected the label of each as a whole number, found shape "
            "(3,) of int64.",
        ),
        ({"tasks": np.full(180, 3)}, "a training sample's task is not one of the 3 numbers from 0 to 2."),
        ({"tasks": np.zeros(180, int)}, "training sample 60 is of class 'class-2', which task 'task-0' lacks."),
    ],
)
def test_tasks_that_do_not_fit_together_are_refused(changed: dict[str, Any], message: str):
    with pytest.raises(DataError) as error:
        replace(APART.tasks, **changed)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"level": 1.0}, "level: expected a number between 0 and 1, such as 0.9, found 1.0."),
        ({"draws": 5}, "draws: expected a whole number of at least 20 at level 0.9, found 5."),
    ],
)
def test_intervals_that_make_no_sense_are_refused(settings: dict[str, Any], message: str):
    for make in (
        lambda: from_labels(DISJOINT, {"cat": 1}, **settings),
        lambda: from_inputs(APART.tasks, np.zeros((3, 8)), **settings),
    ):
        with pytest.raises(UsageError) as error:
            make()
        assert str(error.value) == message


def test_inputs_without_scikit_learn_name_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingExtra, match=r"shares from inputs needs .*prefmerge\[places\]"):
        from_inputs(APART.tasks, np.zeros((3, 8)))
    assert from_labels(DISJOINT, {"cat": 1}).samples == 1


def test_importing_it_loads_nothing_heavy():
    code = "import sys, prefmerge.target.shares; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert not {"torch", "sklearn", "scipy", "transformers"} & set(done.stdout.split())


# Stated, and what is said


def test_stated_shares_are_taken_at_their_word():
    found = stated(DISJOINT, Preference.parse("task-2=3,task-0=1"), draws=30)
    np.testing.assert_allclose(found.shares, [0.25, 0, 0.75])
    for same in (found.low, found.high, *found.draws):
        np.testing.assert_array_equal(same, found.shares)
    assert found.draws.shape == (30, 3)
    assert (found.samples, found.source, found.tells, found.notes) == (0, "stated", True, ())
    assert found.describe() == "task-2   75.0 %\ntask-0   25.0 %\ntask-1    0.0 %"
    with pytest.raises(PreferenceError, match="the preference names 'cars', but the tasks are task-0, task-1, task-2"):
        stated(DISJOINT, Preference.parse("cars=1"))


def test_shares_describe_themselves():
    found = from_labels(DISJOINT, {"cat": 10, "oak": 30})
    first, *others = found.describe().splitlines()
    assert first.startswith("task-2   75.0 %  (")
    assert first.endswith(" %)")
    assert others[2:] == list(found.notes)
    data = json.loads(json.dumps(found.to_json()))
    assert data["shares"] == {"task-0": 0.25, "task-1": 0.0, "task-2": 0.75}
    assert data["labels"] == {"cat": 10, "oak": 30}
    assert data["intervals"]["task-2"] == [found.low[2], found.high[2]]
    assert (data["black_box"], data["foreign"], data["tells"], data["samples"]) == (None, None, True, 40)
    full = from_inputs(APART.tasks, APART.drawn((5, 5, 0), 0)[0]).to_json()
    assert set(json.loads(json.dumps(full))["foreign"]) == {"part", "interval"}
    assert full["black_box"]["task-0"] == pytest.approx(0.5)
