"""Accuracies against loops, the matrix of a run, and opening a run again: what changed since is said by name."""

# ruff: noqa: E402  (imports that need an extra come after asking for it)

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="encoders are torch's (extra train)")

from prefmerge import data
from prefmerge.config import make_config
from prefmerge.data import scenarios
from prefmerge.data.scenarios import ClassInfo, Scenario
from prefmerge.errors import DataError, RunError
from prefmerge.models import encoders, evaluation
from prefmerge.models.evaluation import Count, Evaluation, evaluate, evaluate_matrix, right_answers, summary_over_seeds
from prefmerge.models.features import embed
from prefmerge.models.heads import Head
from prefmerge.runs import Run, RunTask
from prefmerge.training.opened import evaluate_checkpoint, open_run
from prefmerge.training.run_folder import samples_of
from tests.models.stubs import E, ToyEncoder, toy_head, toy_scenario
from tests.oracles import continual as oracle

UNEVEN = (2, 5, 3)  # test samples per class: overall and mean over tasks differ


def right_by_loops(encoder: ToyEncoder, head: Head, scenario: Scenario, knowing: str) -> list[list[bool]]:
    found = []
    for task in scenario.tasks:
        embeddings = embed(encoder, task.test).astype(np.float64)
        among = task.among if knowing == "agnostic" else task.classes
        found.append(oracle.right(embeddings.tolist(), head.rows.double().tolist(), task.test.labels.tolist(), among))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_accuracies_like_the_loops(seed: int):
    scenario = toy_scenario(test=UNEVEN, seed=seed)
    encoder, head = ToyEncoder(seed), toy_head(scenario, seed)
    found = evaluate(encoder, head, scenario, batch=4, per_class=True)
    assert encoder.prepared == 20  # each test sample once
    for knowing, overall in (("agnostic", found.overall.agnostic), ("aware", found.overall.aware)):
        right = right_by_loops(encoder, head, scenario, knowing)
        assert found.accuracies(knowing) == pytest.approx([sum(r) / len(r) for r in right])  # type: ignore[arg-type]
        assert found.mean(knowing) == pytest.approx(sum(sum(r) / len(r) for r in right) / 3)  # type: ignore[arg-type]
        flat = [one for r in right for one in r]
        assert overall == pytest.approx(sum(flat) / 20)
        labels = [int(label) for task in scenario.tasks for label in task.test.labels]
        for c, one in enumerate(found.classes):
            own = [r for r, label in zip(flat, labels, strict=True) if label == c]
            assert one.n == len(own)
            assert getattr(one, knowing) == pytest.approx(sum(own) / len(own))
    assert all(aware >= agnostic for _, _, agnostic, aware in found.rows())


def test_a_class_without_test_samples_has_no_accuracy():
    plain = toy_scenario()
    seen = np.flatnonzero(plain.tasks[0].test.labels == 1)
    first = dataclasses.replace(plain.tasks[0], test=plain.tasks[0].test.take(seen))
    scenario = dataclasses.replace(plain, tasks=(first, *plain.tasks[1:]))
    found = evaluate(ToyEncoder(), toy_head(scenario), scenario, per_class=True)
    assert [one.name for one in found.classes] == [f"class {c}" for c in range(1, 6)]


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
    found = evaluate(ToyEncoder(), head, own)
    assert found.accuracies() == found.accuracies("aware") == evaluate(ToyEncoder(), head, plain).accuracies("aware")


def test_json_and_rows():
    found = Evaluation((Count("a", 4, 1, 2), Count("b", 1, 1, 1)), (Count("x", 5, 2, 3),), {"checkpoint": "m"})
    assert found.rows() == [
        ("a", 4, 0.25, 0.5),
        ("b", 1, 1.0, 1.0),
        ("mean over tasks", 5, 0.625, 0.75),
        ("overall", 5, 0.4, 0.6),
    ]
    assert json.loads(json.dumps(found.to_json())) == {
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
    assert set(Evaluation(found.tasks).to_json()) == {"format", "overall", "mean", "tasks"}


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


# A run folder, as fine-tuning writes it.


def make_run(folder: Path, scenario: Scenario, training: str = "sequential") -> Run:
    tasks = [task.name for task in scenario.tasks] if training != "joint" else ["joint"]
    run = Run(
        folder,
        training,
        "base",
        tuple(RunTask(name, f"tasks/{name}") for name in tasks),
        "head.safetensors",
    )
    (folder / "tasks").mkdir(parents=True)
    ToyEncoder(0).save(run.base_path)
    for t in range(len(tasks)):
        ToyEncoder(t + 1).save(run.task_path(t))
    toy_head(scenario).save(folder / "head.safetensors")
    (folder / "run.json").write_text(json.dumps(run.to_json()))
    (folder / "config.yaml").write_text(make_config({"model": "toy", "data": "vectors", "seed": 7}).to_yaml())
    (folder / "samples.json").write_text(json.dumps(samples_of(scenario)))
    return run


def test_the_matrix_of_a_run(tmp_path: Path):
    scenario = toy_scenario(test=UNEVEN)
    run, head = make_run(tmp_path / "run", scenario), toy_head(scenario)
    seen: list[tuple[int, int]] = []
    report = evaluate_matrix(
        ToyEncoder(9), run, head, scenario, batch=16, progress=lambda done, of: seen.append((done, of))
    )
    rows = [evaluate(ToyEncoder(t), head, scenario) for t in range(4)]
    assert report.baseline == rows[0]
    assert report.evaluations == tuple(rows[1:])
    assert seen == [(20 * k + n, 80) for k in range(4) for n in (16, 20)]
    for knowing in ("agnostic", "aware"):
        R, b = [one.accuracies(knowing) for one in rows[1:]], rows[0].accuracies(knowing)  # type: ignore[arg-type]
        found = report.metrics(knowing)  # type: ignore[arg-type]
        assert report.matrix(knowing).tolist() == [list(row) for row in R]  # type: ignore[arg-type]
        assert found.last_accuracy == pytest.approx(oracle.last(R))
        assert found.forgetting == pytest.approx(oracle.forgetting(R))
        assert found.forward_transfer == pytest.approx(oracle.forward_transfer(R, b))
    assert report.rows()[0] == ("theta_0", *rows[0].accuracies(), rows[0].mean(), rows[0].overall.agnostic)
    assert [row[0] for row in report.rows("aware")] == ["theta_0", "task-1", "task-2", "task-3"]
    assert report.rows("aware")[3][-1] == rows[3].overall.aware
    told = json.loads(json.dumps(report.to_json()))
    assert told["format"] == "prefmerge-evaluation-matrix/1"
    assert told["tasks"] == [{"name": "task-1", "n": 4}, {"name": "task-2", "n": 10}, {"name": "task-3", "n": 6}]
    assert told["agnostic"]["matrix"] == report.matrix().tolist()
    assert told["aware"]["baseline"] == list(rows[0].accuracies("aware"))
    assert told["aware"]["overall"] == [one.overall.aware for one in rows[1:]]
    assert told["aware"]["metrics"] == report.metrics("aware").to_json()


@pytest.mark.parametrize(("training", "checkpoints"), [("independent", 3), ("joint", 1)])
def test_what_was_not_trained_in_sequence_forgets_nothing(tmp_path: Path, training: str, checkpoints: int):
    scenario = toy_scenario()
    report = evaluate_matrix(
        ToyEncoder(9), make_run(tmp_path / "run", scenario, training), toy_head(scenario), scenario
    )
    assert report.matrix().shape == (checkpoints, 3)
    assert report.metrics().forgetting is None
    assert report.metrics().forward_transfer is None
    assert report.metrics().last_accuracy == pytest.approx(report.matrix()[-1].mean())
    assert report.tasks == ("task-1", "task-2", "task-3")


def test_a_run_that_is_not_finished_has_no_matrix(tmp_path: Path):
    scenario = toy_scenario()
    run = make_run(tmp_path / "run", scenario)
    waiting = (*run.tasks[:1], *(dataclasses.replace(task, done=False) for task in run.tasks[1:]))
    with pytest.raises(RunError, match=r"run: task 'task-2' is not trained yet \(2 of 3 are missing\)\. Run the same"):
        evaluate_matrix(ToyEncoder(), dataclasses.replace(run, tasks=waiting), toy_head(scenario), scenario)


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> Scenario:
    """`toy` is an encoder and `vectors` a data set, for configurations that name them."""
    scenario = toy_scenario()

    def load_corpus(config: Any, seed: int) -> str:
        assert (config.name, seed) == ("vectors", 7)
        return "corpus"

    def build_scenario(config: Any, corpora: Any) -> Scenario:
        assert list(corpora) == ["corpus"]
        return scenario

    monkeypatch.setattr(data, "load_corpus", load_corpus)
    monkeypatch.setattr(scenarios, "build_scenario", build_scenario)
    monkeypatch.setattr(encoders, "load_encoder", lambda config, **_: ToyEncoder(5))
    return scenario


def test_any_checkpoint_with_the_data_of_a_run(tmp_path: Path, toys: Scenario):
    make_run(tmp_path / "run", toys)
    merged = ToyEncoder(8)
    merged.save(tmp_path / "merged")
    found = evaluate_checkpoint(tmp_path / "merged", tmp_path / "run", device="cpu", per_class=True)
    assert found.tasks == evaluate(merged, toy_head(toys), toys).tasks
    assert len(found.classes) == 6
    assert found.about == {
        "checkpoint": str(tmp_path / "merged"),
        "run": str(tmp_path / "run"),
        "training": "sequential",
        "seed": 7,
        "classes": [f"class {c}" for c in range(6)],
        "samples": "test",
        "head": "the run's",
    }


@pytest.mark.parametrize("training", ["sequential", "joint"])
def test_a_run_opens_as_it_was(tmp_path: Path, toys: Scenario, training: str):
    run = make_run(tmp_path / "run", toys, training)
    opened = open_run(tmp_path / "run")
    assert opened.run == dataclasses.replace(run, about=opened.run.about)
    assert opened.scenario is toys
    assert opened.config.seed == 7
    assert opened.head.classes == toy_head(toys).classes
    assert torch.equal(opened.head.rows, toy_head(toys).rows)


def test_data_that_changed_since_the_run(tmp_path: Path, toys: Scenario):
    run = make_run(tmp_path / "run", toys)
    samples = samples_of(toys)
    samples["tasks"][1]["test"][2] = "another"
    (run.folder / "samples.json").write_text(json.dumps(samples))
    with pytest.raises(RunError, match="run: the data are not those that the run was begun with: the test samples of"):
        open_run(run.folder)


def test_classes_that_changed_since_the_run(tmp_path: Path, toys: Scenario):
    run = make_run(tmp_path / "run", toys)
    renamed = dataclasses.replace(toys, classes=(ClassInfo("lion", ("lion",)), *toys.classes[1:]))
    toy_head(renamed).save(run.folder / "head.safetensors")
    with pytest.raises(
        RunError,
        match=r"head.safetensors: the data changed since the run: its class 1 is 'lion', that of the data is 'class 0'",
    ):
        open_run(run.folder)


def test_a_run_without_a_head(tmp_path: Path, toys: Scenario):
    run = make_run(tmp_path / "run", toys)
    (run.folder / "run.json").write_text(json.dumps(dataclasses.replace(run, head=None).to_json()))
    with pytest.raises(RunError, match="run: its manifest names no head"):
        open_run(run.folder)


def test_no_run(tmp_path: Path):
    with pytest.raises(RunError, match="not a run of prefmerge"):
        open_run(tmp_path)


def test_summary_over_seeds():
    one = Evaluation((Count("a", 4, 1, 2), Count("b", 4, 3, 4)))
    two = Evaluation((Count("a", 4, 3, 4), Count("b", 4, 3, 4)))
    found = summary_over_seeds([one.to_json(), two.to_json()])
    assert found["runs"] == 2
    half = 0.5**0.5 / 2  # the sample deviation of 0.25 and 0.75
    assert found["tasks"][0] == {
        "name": "a",
        "agnostic": {"mean": 0.5, "std": pytest.approx(half)},
        "aware": {"mean": 0.75, "std": pytest.approx(half)},
    }
    assert found["tasks"][1]["agnostic"] == {"mean": 0.75, "std": 0.0}
    assert found["overall"]["agnostic"] == {"mean": 0.625, "std": pytest.approx(half / 2)}
    assert found["mean"]["aware"] == {"mean": 0.875, "std": pytest.approx(half / 2)}
    assert summary_over_seeds([one.to_json()])["overall"]["agnostic"] == {"mean": 0.5, "std": None}


def test_summary_of_what_cannot_be_averaged():
    with pytest.raises(DataError, match="there is no evaluation to summarise"):
        summary_over_seeds([])
    one, two = (Evaluation((Count(name, 4, 1, 2),)).to_json() for name in "ab")
    with pytest.raises(DataError, match=r"evaluation 2 has the tasks b; the first has a\. A mean over seeds needs"):
        summary_over_seeds([one, two])


def test_a_mean_over_runs_that_are_not_seeds_of_one_is_refused(tmp_path: Path, toys: Scenario):
    make_run(tmp_path / "run", toys)
    first = evaluate_checkpoint(tmp_path / "run" / "base", tmp_path / "run", device="cpu").to_json()
    with pytest.raises(DataError, match="evaluation 2 is the same as an earlier one"):
        summary_over_seeds([first, first])
    other = {**first, "about": {**first["about"], "classes": ["another"]}}
    with pytest.raises(DataError, match="evaluation 2 is of other classes than the first"):
        summary_over_seeds([first, other])


def test_no_mean_over_samples_of_two_kinds():
    one = Evaluation((Count("a", 4, 1, 2),), about={"samples": "test"}).to_json()
    two = Evaluation((Count("a", 4, 3, 4),), about={"samples": "held-out", "note": "Why."}).to_json()
    with pytest.raises(DataError, match="evaluation 2 is on held-out samples, the first on test samples"):
        summary_over_seeds([one, two])
    other = Evaluation((Count("a", 4, 2, 4),), about={"samples": "held-out", "note": "Why.", "seed": 2}).to_json()
    assert summary_over_seeds([two, other])["note"] == "Why."
