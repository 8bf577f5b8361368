"""The benchmark of places, and of what similarities know of them, at toy size."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks import common, places, real_model, similarity_encoders
from prefmerge.cli import app
from tests.models.tiny import tiny_bert

SMALL = {
    "trainings": {"sequential": [3]},
    "studies": ["places"],
    "methods": ["MAGMAX", "Tunable (Label)", "Tunable (OT)"],
    "environments": {"size": 20, "variants": [42]},
    "scales": [1.0],
}


def test_from_definitions_to_a_document(
    wordnet: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    def finished(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        done = CliRunner().invoke(app, command[len(common.PREFMERGE) :], prog_name="prefmerge")
        return subprocess.CompletedProcess(command, done.exit_code, done.stdout, done.stderr)

    monkeypatch.setenv("PREFMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(places.subprocess, "run", finished)
    monkeypatch.setattr(real_model, "TRAIN", 8)
    monkeypatch.setattr(places, "TEST", 6)
    work = tmp_path / "work"
    data = places.run(work, wordnet, tiny_bert(tmp_path / "tiny"), SMALL, 1)
    assert data["missing"] == []
    assert len(data["scores"]) == 3 * 5
    assert data["environments"][0]["parts"][0]["test"] > 0  # numbers of samples, not their ids
    (tmp_path / "docs").mkdir()
    places.document(work, tmp_path / "tiny", tmp_path / "docs" / "places.md")
    text = (tmp_path / "docs" / "places.md").read_text()
    assert str(tmp_path) not in text + json.dumps(data)  # no paths of the machine that made it
    assert "Made by `python -m benchmarks.places --docs docs/places.md`" in text
    pictures = [line.partition("](")[2].partition(")")[0] for line in text.splitlines() if line.startswith("![")]
    assert pictures
    assert all((tmp_path / "docs" / picture).is_file() for picture in pictures)

    found = similarity_encoders.run(work / "bench", [work / "bench" / "runs" / "sequential-seed-3"], 5)
    assert found["places"] == 5
    assert found["rows"]["equal shares"]["total_variation"] > found["rows"]["labels"]["total_variation"]
    assert set(found["rows"]) == {"equal shares", "labels"} | {
        f"{title} | {encoder}" for title in similarity_encoders.DISTANCES for encoder in similarity_encoders.ENCODERS
    }
    assert "| OT, debiased |" in similarity_encoders.report(found)


def test_how_shares_are_judged():
    assert similarity_encoders.judged([0.5, 0.5, 0.0], [0.5, 0.5, 0.0]) == (0.0, 1.0)
    assert similarity_encoders.judged([0.25, 0.25, 0.5], [0.5, 0.5, 0.0]) == (0.5, 0.5)
    assert similarity_encoders.judged([0.0, 0.0, 1.0], [0.5, 0.5, 0.0]) == (1.0, 0.0)


def test_the_recipe_is_the_examples_with_this_machines_paths():
    found = places.recipe(Path("work"), Path("model"))
    assert found["finetune"]["data"]["name"] == "work/data/train.csv"
    assert found["finetune"]["model"]["id"] == "model"
    made = real_model.config(Path("model"), Path("work/data"), real_model.PLANS[0], "sequential", 2)
    del made["seed"], made["training"]["method"]
    assert {**found["finetune"], "data": {**found["finetune"]["data"], "test": made["data"]["test"]}} == made
