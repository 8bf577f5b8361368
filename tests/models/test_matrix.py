"""The matrix of a run against evaluations of its checkpoints, one by one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="encoders are torch's (extra train)")

from prefmerge.errors import RunError
from prefmerge.models.evaluation import evaluate
from prefmerge.models.matrix import evaluate_matrix
from prefmerge.runs import Training
from tests.models.stubs import ToyEncoder, toy_head, toy_run, toy_scenario
from tests.oracles import continual as oracle

UNEVEN = (2, 5, 3)  # test samples per class: overall and mean over tasks differ


def test_the_matrix_of_a_run(tmp_path: Path):
    scenario = toy_scenario(test=UNEVEN)
    run, head = toy_run(tmp_path / "run", scenario), toy_head(scenario)
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
        result = report.metrics(knowing)  # type: ignore[arg-type]
        assert report.matrix(knowing).tolist() == [list(row) for row in R]  # type: ignore[arg-type]
        assert result.last_accuracy == pytest.approx(oracle.last(R))
        assert result.forgetting == pytest.approx(oracle.forgetting(R))
        assert result.forward_transfer == pytest.approx(oracle.forward_transfer(R, b))
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
def test_what_was_not_trained_in_sequence_forgets_nothing(tmp_path: Path, training: Training, checkpoints: int):
    scenario = toy_scenario()
    report = evaluate_matrix(ToyEncoder(9), toy_run(tmp_path / "run", scenario, training), toy_head(scenario), scenario)
    assert report.matrix().shape == (checkpoints, 3)
    assert report.metrics().forgetting is None
    assert report.metrics().forward_transfer is None
    assert report.metrics().last_accuracy == pytest.approx(report.matrix()[-1].mean())
    assert report.tasks == ("task-1", "task-2", "task-3")


def test_a_run_that_is_not_finished_has_no_matrix(tmp_path: Path):
    scenario = toy_scenario()
    run = toy_run(tmp_path / "run", scenario)
    waiting = (*run.tasks[:1], *(dataclasses.replace(task, done=False) for task in run.tasks[1:]))
    with pytest.raises(RunError, match=r"run: task 'task-2' is not trained yet \(2 of 3 are missing\)\. Run the same"):
        evaluate_matrix(ToyEncoder(), dataclasses.replace(run, tasks=waiting), toy_head(scenario), scenario)
