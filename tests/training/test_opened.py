"""A run opened again: its parts are as they were, and what changed since is said by name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from prefmerge import data
from prefmerge.data import scenarios
from prefmerge.data.scenarios import ClassInfo, Scenario
from prefmerge.errors import RunError
from prefmerge.models import encoders
from prefmerge.models.evaluation import evaluate
from prefmerge.runs import Training
from prefmerge.training.opened import evaluate_checkpoint, open_run
from prefmerge.training.samples import samples_of
from tests.models.stubs import ToyEncoder, toy_head, toy_run, toy_scenario


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
    toy_run(tmp_path / "run", toys)
    merged = ToyEncoder(8)
    merged.save(tmp_path / "merged")
    result = evaluate_checkpoint(tmp_path / "merged", tmp_path / "run", device="cpu", per_class=True)
    assert result.tasks == evaluate(merged, toy_head(toys), toys).tasks
    assert len(result.classes) == 6
    assert result.about == {
        "checkpoint": str(tmp_path / "merged"),
        "run": str(tmp_path / "run"),
        "training": "sequential",
        "seed": 7,
        "classes": [f"class {c}" for c in range(6)],
        "samples": "test",
        "head": "the run's",
    }


@pytest.mark.parametrize("training", ["sequential", "joint"])
def test_a_run_opens_as_it_was(tmp_path: Path, toys: Scenario, training: Training):
    run = toy_run(tmp_path / "run", toys, training)
    opened = open_run(tmp_path / "run")
    assert opened.run == dataclasses.replace(run, about=opened.run.about)
    assert opened.scenario is toys
    assert opened.config.seed == 7
    assert opened.head.classes == toy_head(toys).classes
    assert torch.equal(opened.head.rows, toy_head(toys).rows)


def test_data_that_changed_since_the_run(tmp_path: Path, toys: Scenario):
    run = toy_run(tmp_path / "run", toys)
    samples = samples_of(toys)
    samples["tasks"][1]["test"][2] = "another"
    (run.folder / "samples.json").write_text(json.dumps(samples))
    with pytest.raises(RunError, match="run: the data changed since the run started: the test samples of"):
        open_run(run.folder)


def test_classes_that_changed_since_the_run(tmp_path: Path, toys: Scenario):
    run = toy_run(tmp_path / "run", toys)
    renamed = dataclasses.replace(toys, classes=(ClassInfo("lion", ("lion",)), *toys.classes[1:]))
    toy_head(renamed).save(run.folder / "head.safetensors")
    with pytest.raises(
        RunError,
        match=r"head.safetensors: the data changed since the run: its class 1 is 'lion', that of the data is 'class 0'",
    ):
        open_run(run.folder)


def test_a_run_without_a_head(tmp_path: Path, toys: Scenario):
    run = toy_run(tmp_path / "run", toys)
    (run.folder / "run.json").write_text(json.dumps(dataclasses.replace(run, head=None).to_json()))
    with pytest.raises(RunError, match="run: its manifest names no head"):
        open_run(run.folder)


def test_no_run(tmp_path: Path):
    with pytest.raises(RunError, match="not a run of prefmerge"):
        open_run(tmp_path)
