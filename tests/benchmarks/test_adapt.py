"""The benchmark of adapt at toy size: a tiny BERT that knows nothing, so what is tested is what is counted, and how."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks import adapt, adapt_summary, adapt_tables, common
from prefmerge.cli import app
from prefmerge.lab import at_target
from tests.lab.quick import ONE_L2
from tests.models.tiny import tiny_bert

pytest.importorskip("sklearn", reason="adapt needs the extra places")


def finished(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
    """In this process: one more that loads torch would take most of the time."""
    done = CliRunner().invoke(app, command[len(common.PREFMERGE) :], prog_name="prefmerge")
    return subprocess.CompletedProcess(command, done.exit_code, done.stdout, done.stderr)


def test_two_targets_to_the_end_and_again(wordnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PREFMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(adapt.subprocess, "run", finished)
    for name, value in {
        "TRAIN": {5: 8},
        "HELD_OUT": {5: 12},
        "SIZE": 20,
        "SHOWN": 6,
        "FEWER": (6,),
        "SKEWS": 2,
    }.items():
        monkeypatch.setattr(adapt, name, value)
    monkeypatch.setattr(at_target, "STEPS", 2)
    monkeypatch.setattr("prefmerge.target.choice.L2", ONE_L2)
    monkeypatch.setattr(adapt.wordnet, "TRAIN", 8)
    monkeypatch.setattr(adapt.wordnet, "TEST", 4)
    work = tmp_path / "work"
    data = adapt.run(work, wordnet, tiny_bert(tmp_path / "tiny"), tasks=5, most=2, epochs=1)
    summary, rows = data["summary"], data["rows"]
    assert summary["targets"] == 2
    assert {"last", "last + prior", "last + fitted bias", "MAGMAX", "adapt, labels"} <= set(summary["accuracy"])
    assert summary["training_samples"]["targets"] == summary["inputs"]["targets"] == 2
    assert all(0 <= value <= 1 for row in rows for value in row["accuracy"].values())
    assert set(summary["estimates"]) == {"6", "100"}
    first = rows[0]["wrong"]
    assert set(first["0.0"]) == {
        *("last", "last + prior", "last + prior, no guard", "last + fitted bias", "last + fitted bias, no guard"),
        *("adapt", "adapt, no guard"),
    }
    assert "skewed" in first
    # A part q of drift mixes the two ends.
    for name, none in first["0.0"].items():
        assert first["0.4"][name] == pytest.approx(0.6 * none + 0.4 * first["1.0"][name])
    assert summary["alternatives"]["targets"] == 2
    assert summary["cost"][0]["merges"] > 5
    text = adapt_tables.document(data, {"summary": {"cost": adapt_summary.costs(rows)}})
    assert "| T = 17 | 2 |" in text
    assert "| **adapt, from 50 labels** |" in text
    assert math.isfinite(summary["adapt_ahead_of"]["last"]["mean"])
    # A second call finds everything done.
    monkeypatch.setattr(adapt.Bench, "judge", None)
    again = adapt.run(work, wordnet, tmp_path / "tiny", tasks=5, most=2, epochs=1)
    assert json.dumps(again["rows"]) == json.dumps(rows)


def test_tables_stand_between_their_marks():
    page = "before\n<!-- m -->\nstale words\n<!-- m -->\nafter\n"
    assert adapt_tables.between_marks(page, "<!-- m -->", "new") == "before\n<!-- m -->\n\nnew\n<!-- m -->\nafter\n"


@pytest.mark.parametrize("name", adapt_summary.SUMMARIES)
def test_a_summary_is_what_the_rows_say(name: str):
    data = json.loads((common.RESULTS / f"{name}.json").read_text())
    assert json.dumps(adapt_summary.SUMMARIES[name](data["rows"])) == json.dumps(data["summary"])


def test_the_page_says_what_was_measured():
    page = (common.ROOT / "docs" / "adapt.md").read_text()
    assert adapt_tables.written(page) == page
    limits = adapt_tables.LIMITS.read_text()
    assert adapt_tables.limits_written(limits) == limits
    assert limits.count(adapt_tables.MARKS[0]) == 2


def test_the_digits_table_is_what_the_rows_say():
    rows = [
        {
            "seed": seed,
            "place": place,
            "accuracy": {"last": last, "last + prior": prior, "adapt": ours},
            "estimate": {"value": ours + 0.01, "low": ours - low, "high": ours + 0.05},
        }
        for seed, place, last, prior, ours, low in (
            *((0, "a", 0.8, 0.9, 0.9, 0.05), (1, "a", 0.7, 0.9, 0.9, 0.05)),
            *((0, "b", 0.9, 0.94, 0.91, 0.05), (1, "b", 0.9, 0.92, 0.89, -0.01)),
        )
    ]
    summary = adapt_summary.summary_of_digits(rows)
    assert summary["ahead_of_last"]["mean"] == pytest.approx(7.5)
    assert summary["least_ahead_of_last_at_a_place"] == pytest.approx(0)
    assert summary["signed_error_of_estimates"]["mean"] == pytest.approx(1)
    assert summary["coverage"] == 0.75
    assert summary["places_where_the_prior_alone_is_better"] == summary["of_these_by_more_than_a_point"] == 1
    assert summary["most_behind_the_prior_alone"] == pytest.approx(3)
    text = adapt_tables.of_digits({**common.provenance(), "summary": summary, "rows": rows})
    assert "| adapt | 90.0 | 90.0 |\n| last | 82.5 | 75.0 |" in text
    assert "2 targets of two tasks, 2 training seeds" in text
