"""The benchmark of places, and of what similarities know of them, at toy size."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks import common, places, places_page, similarity_encoders
from benchmarks import wordnet as definitions
from benchmarks.places_results import expanded
from prefmerge.cli import app
from prefmerge.lab import findings, tables
from prefmerge.lab.results import Results
from tests.models.tiny import tiny_bert

STUDIES = ("places", "diversity")
SMALL = {
    "trainings": {"sequential": [3]},
    "studies": ["places", "alpha", "diversity", "methods"],
    "methods": ["Baseline", "MAGMAX", "Tunable (Label)", "Tunable (OT)"],
    "environments": {"size": 20, "variants": [42, 43]},
    "diversity": {"counts": [5], "variants": [42], "methods": ["MAGMAX", "Tunable (Label)"]},
    "alpha": {"values": [1, 2]},
    "scales": [1.0],
}


def in_this_process(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
    done = CliRunner().invoke(app, command[len(common.PREFMERGE) :], prog_name="prefmerge")
    return subprocess.CompletedProcess(command, done.exit_code, done.stdout, done.stderr)


def tables_of(results: Results) -> list[str]:
    """Every table of a report, and every sentence."""
    made = [
        *(tables.environments(results, scale, study=s) for scale in (*results.scales, None) for s in STUDIES),
        *(tables.differences(results, scale) for scale in (*results.scales, None)),
        *(tables.similarities(results, study) for study in STUDIES),
        *(make(results) for make in (tables.alpha, tables.methods, tables.places, tables.ablation)),
    ]
    about = (findings.about_places, findings.about_similarities, findings.about_alpha, findings.about_diversity)
    return [
        *(one.markdown() for one in made if one is not None),
        *(line for make in about for line in make(results)),
    ]


def test_from_definitions_to_a_page(wordnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PREFMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(places.subprocess, "run", in_this_process)
    monkeypatch.setattr(definitions, "TRAIN", 8)
    monkeypatch.setattr(definitions, "TEST", 6)
    work = tmp_path / "work"
    data = json.loads(json.dumps(places.run(work, wordnet, tiny_bert(tmp_path / "tiny"), SMALL, 1)))
    assert data["missing"] == []
    assert str(tmp_path) not in json.dumps(data)  # no paths of the machine that made it
    rebuilt, whole = expanded(data), Results.load(work / "bench" / "results.json")
    assert len(rebuilt.scores) == len(whole.scores) == 4 * 10 + 2
    assert tables_of(rebuilt) == tables_of(whole)
    assert len(tables_of(rebuilt)) > 10
    trainings = json.loads((common.RESULTS / "wordnet_trainings.json").read_text())
    text = places_page.page(data, trainings)
    assert "| Tunable (OT) | inputs | " in text
    assert "10 targets mix two or three tasks: e1 to e5 of the paper, 2 of each." in " ".join(text.split())

    known = similarity_encoders.run(work / "bench", [work / "bench" / "runs" / "sequential-seed-3"], 5)
    assert known["places"] == 10
    assert known["rows"]["equal shares"]["total_variation"] > known["rows"]["labels"]["total_variation"]
    assert set(known["rows"]) == {"equal shares", "labels"} | {
        f"{title} | {encoder}" for title in similarity_encoders.DISTANCES for encoder in similarity_encoders.ENCODERS
    }
    assert "| OT, debiased |" in similarity_encoders.report(known)


def test_how_shares_are_judged():
    assert similarity_encoders.judged([0.5, 0.5, 0.0], [0.5, 0.5, 0.0]) == (0.0, 1.0)
    assert similarity_encoders.judged([0.25, 0.25, 0.5], [0.5, 0.5, 0.0]) == (0.5, 0.5)
    assert similarity_encoders.judged([0.0, 0.0, 1.0], [0.5, 0.5, 0.0]) == (1.0, 0.0)


def test_the_page_is_the_one_that_the_results_make(tmp_path: Path):
    places.main(["--render-only", "--docs", str(tmp_path / "places.md")])
    docs = common.ROOT / "docs"
    assert (tmp_path / "places.md").read_text() == (docs / "places.md").read_text()
    assert (tmp_path / places_page.FIGURE).stat().st_size > 10_000
    assert [file.name for file in (docs / "places").iterdir()] == [Path(places_page.FIGURE).name]


def test_the_page_on_similarities_is_the_one_that_the_results_make(tmp_path: Path):
    similarity_encoders.main(["--render-only", "--docs", str(tmp_path / "similarities.md")])
    assert (tmp_path / "similarities.md").read_text() == (common.ROOT / "docs" / "similarities.md").read_text()
