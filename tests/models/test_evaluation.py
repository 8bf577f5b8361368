"""Accuracies against loops."""

# ruff: noqa: E402  (imports that need an extra come after asking for it)

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="encoders are torch's (extra train)")

from prefmerge.data.scenarios import Scenario
from prefmerge.errors import DataError
from prefmerge.models import evaluation
from prefmerge.models.evaluation import Count, Evaluation, evaluate, right_answers
from prefmerge.models.features import embed
from prefmerge.models.heads import Head
from tests.models.stubs import E, ToyEncoder, toy_head, toy_scenario
from tests.oracles import continual as oracle

UNEVEN = (2, 5, 3)  # test samples per class: overall and mean over tasks differ


def right_by_loops(encoder: ToyEncoder, head: Head, scenario: Scenario, knowing: str) -> list[list[bool]]:
    result = []
    for task in scenario.tasks:
        embeddings = embed(encoder, task.test).astype(np.float64)
        among = task.among if knowing == "agnostic" else task.classes
        result.append(oracle.right(embeddings.tolist(), head.rows.double().tolist(), task.test.labels.tolist(), among))
    return result


@pytest.mark.parametrize("seed", range(4))
def test_accuracies_like_the_loops(seed: int):
    scenario = toy_scenario(test=UNEVEN, seed=seed)
    encoder, head = ToyEncoder(seed), toy_head(scenario, seed)
    result = evaluate(encoder, head, scenario, batch=4, per_class=True)
    assert encoder.prepared == 20  # each test sample once
    for knowing, overall in (("agnostic", result.overall.agnostic), ("aware", result.overall.aware)):
        right = right_by_loops(encoder, head, scenario, knowing)
        assert result.accuracies(knowing) == pytest.approx([sum(r) / len(r) for r in right])  # type: ignore[arg-type]
        assert result.mean(knowing) == pytest.approx(sum(sum(r) / len(r) for r in right) / 3)  # type: ignore[arg-type]
        flat = [one for r in right for one in r]
        assert overall == pytest.approx(sum(flat) / 20)
        labels = [int(label) for task in scenario.tasks for label in task.test.labels]
        for c, one in enumerate(result.classes):
            own = [r for r, label in zip(flat, labels, strict=True) if label == c]
            assert one.n == len(own)
            assert getattr(one, knowing) == pytest.approx(sum(own) / len(own))
    assert all(aware >= agnostic for _, _, agnostic, aware in result.rows())


def test_a_class_without_test_samples_has_no_accuracy():
    plain = toy_scenario()
    seen = np.flatnonzero(plain.tasks[0].test.labels == 1)
    first = dataclasses.replace(plain.tasks[0], test=plain.tasks[0].test.take(seen))
    scenario = dataclasses.replace(plain, tasks=(first, *plain.tasks[1:]))
    result = evaluate(ToyEncoder(), toy_head(scenario), scenario, per_class=True)
    assert [one.name for one in result.classes] == [f"class {c}" for c in range(1, 6)]


def test_right_answers_by_hand():
    head = Head(torch.eye(3), 1.0, ("a", "b", "c"), "text")
    embeddings = np.array([[3, 2, 1], [0, 1, 5], [1, 1, 0], [0, -1, -2]], np.float32)
    labels = np.array([0, 1, 1, 0])
    # Of a tie the first in `among` is the answer: row 3.
    assert right_answers(embeddings, head, labels, (0, 1, 2)).tolist() == [True, False, False, True]
    assert right_answers(embeddings, head, labels, (2, 1, 0)).tolist() == [True, False, True, True]
    assert right_answers(embeddings, head, labels, (1, 2)).tolist() == [False, False, True, False]
    assert right_answers(embeddings[:0], head, labels[:0], (1, 2)).tolist() == []


def test_right_answers_in_pieces(monkeypatch: pytest.MonkeyPatch):
    scenario = toy_scenario()
    head = toy_head(scenario)
    embeddings = np.random.default_rng(0).standard_normal((25, E)).astype(np.float32)
    labels = np.arange(25) % 6
    whole = right_answers(embeddings, head, labels, range(6))
    for rows in (1, 7):
        monkeypatch.setattr(evaluation, "_ROWS", rows)
        assert (right_answers(embeddings, head, labels, range(6)) == whole).all()
    assert whole.dtype == bool
    assert 0 < whole.sum() < 25


def test_a_sequence_of_data_sets_is_judged_within_each():
    """`among` decides what task-agnostic means: with a data set's own classes for a task, both numbers are the same."""
    plain = toy_scenario()
    own = dataclasses.replace(plain, tasks=tuple(dataclasses.replace(t, among=t.classes) for t in plain.tasks))
    head = toy_head(plain)
    result = evaluate(ToyEncoder(), head, own)
    assert result.accuracies() == result.accuracies("aware") == evaluate(ToyEncoder(), head, plain).accuracies("aware")


def test_json_and_rows():
    result = Evaluation((Count("a", 4, 1, 2), Count("b", 1, 1, 1)), (Count("x", 5, 2, 3),), {"checkpoint": "m"})
    assert result.rows() == [
        ("a", 4, 0.25, 0.5),
        ("b", 1, 1.0, 1.0),
        ("mean over tasks", 5, 0.625, 0.75),
        ("overall", 5, 0.4, 0.6),
    ]
    assert json.loads(json.dumps(result.to_json())) == {
        "format": "prefmerge-evaluation/1",
        "about": {"checkpoint": "m"},
        "overall": {
            "n": 5,
            "agnostic": 0.4,
            "aware": 0.6,
            "interval": [pytest.approx(0.117621, abs=1e-6), pytest.approx(0.769276, abs=1e-6)],
        },
        "mean": {"agnostic": 0.625, "aware": 0.75},
        "tasks": [
            {"name": "a", "n": 4, "agnostic": 0.25, "aware": 0.5},
            {"name": "b", "n": 1, "agnostic": 1.0, "aware": 1.0},
        ],
        "classes": [{"name": "x", "n": 5, "agnostic": 0.4, "aware": 0.6}],
    }
    assert set(Evaluation(result.tasks).to_json()) == {"format", "overall", "mean", "tasks"}


def test_with_the_cache_the_same_evaluation(tmp_path: Path):
    scenario = toy_scenario()
    head, encoder = toy_head(scenario), ToyEncoder()
    plain = evaluate(encoder, head, scenario)
    kept = evaluate(encoder, head, scenario, cache=tmp_path)
    assert encoder.prepared == 60
    assert evaluate(encoder, head, scenario, cache=tmp_path) == kept == plain
    assert encoder.prepared == 60


def test_a_task_without_test_samples():
    scenario = toy_scenario(test=(3, 0, 3))
    with pytest.raises(DataError, match=r"task 'task-2' has no test sample, so it has no accuracy\. Give it some"):
        evaluate(ToyEncoder(), toy_head(scenario), scenario)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("class 0",), r"the head does not fit the data: it has 1 classes, the data have 6\. Make the head"),
        (
            ("class 0", "class 2", "class 1", "class 3", "class 4", "class 5"),
            "does not fit the data: its class 2 is 'class 2', that of the data is 'class 1'",
        ),
    ],
)
def test_a_head_of_other_classes(classes: tuple[str, ...], message: str):
    scenario = toy_scenario()
    with pytest.raises(DataError, match=message):
        evaluate(ToyEncoder(), dataclasses.replace(toy_head(scenario), classes=classes), scenario)
