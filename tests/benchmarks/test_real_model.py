"""The benchmarks of training, at toy size."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks import common, real_model, training_speed
from prefmerge.cli import app
from tests.benchmarks.conftest import WORDS
from tests.models.tiny import tiny_bert


def test_definitions_come_without_examples_and_licence(wordnet: Path):
    found = list(real_model.definitions(wordnet))
    assert len(found) == 41 * WORDS
    number, text = found[0]
    assert number == 3
    assert text.startswith("a ")
    assert text.endswith(" 3")
    assert "example" not in text


def test_training_and_test_share_no_text(wordnet: Path, tmp_path: Path):
    real_model.write_data(wordnet, tmp_path / "data", train=10, test=5)
    lines = {part: (tmp_path / "data" / f"{part}.csv").read_text().splitlines()[1:] for part in ("train", "test")}
    assert (len(lines["train"]), len(lines["test"])) == (350, 175)
    assert not set(lines["train"]) & set(lines["test"])


def test_the_whole_table_and_that_it_can_be_gone_on_with(
    wordnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In this process: five that each load torch would take most of the time."""

    def finished(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        done = CliRunner().invoke(app, command[len(common.PREFMERGE) :], prog_name="prefmerge")
        return subprocess.CompletedProcess(command, done.exit_code, done.stdout, done.stderr)

    monkeypatch.setenv("PREFMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(real_model.subprocess, "run", finished)
    plans = (real_model.Plan(2, 2, 3),)
    arguments = (tmp_path / "work", wordnet, tiny_bert(tmp_path / "tiny"), plans, 1, 2, 1, 1)
    data = real_model.run(*arguments)
    rows = data["plans"][0]["rows"]
    assert [row["model"] for row in rows[:5]] == ["Zero-shot", "Joint", "Sequential", "LwF", "EWC"]
    assert {row["model"] for row in rows} >= {"Rand Mix", "Average", "TIES", "Max Abs", "MAGMAX", "Tunable MAGMAX"}
    assert all(0 <= row["accuracy"] <= 1 and len(row["tasks"]) == 2 for row in rows)
    tunable = next(row for row in rows if row["model"] == "Tunable MAGMAX" and row["alpha"] == "2")
    assert tunable["owned_percent"] == pytest.approx([66.7, 33.3], abs=1)
    assert set(data["plans"][0]["forgetting"]) == {"sequential", "lwf", "ewc"}
    text = real_model.report(data)
    assert "| Tunable MAGMAX, alpha 0.5 | sequential | 1.0 |" in text
    # What is not trained to its end is left out, and said to be.
    manifest = tmp_path / "work" / "ewc-2" / "run.json"
    whole = manifest.read_text()
    manifest.write_text(whole.replace('"done": true', '"done": false'))
    partly = real_model.run(*arguments[:-1], 0)
    assert partly["plans"][0]["missing"] == ["ewc-2"]
    assert len(partly["plans"][0]["rows"]) == len(rows) - 1
    assert "Not trained when this was written: ewc-2." in real_model.report(partly)
    manifest.write_text(whole)
    # A second call finds everything done.
    monkeypatch.setattr(real_model, "open_run", None)
    again = real_model.run(*arguments)
    assert json.dumps(again["plans"]) == json.dumps(data["plans"])


def test_training_speed_compares_loops_that_end_alike():
    parts = training_speed.make_parts(2, 32, 24, 6, 3, 50)
    found = training_speed.measure(parts, 8, 1, 2)
    assert found["apart"] < training_speed.MOST_APART
    assert found["ratio"]["runs"] == 2
