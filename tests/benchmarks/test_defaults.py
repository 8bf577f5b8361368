"""The benchmark of the defaults at toy size: what is counted, that it resumes, and what is said of the losses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", reason="a run needs the extra train")
pytest.importorskip("sklearn", reason="the demo's digits come with scikit-learn")

from benchmarks import common, defaults, defaults_tables
from prefmerge.lab.demo.digits import TASKS, Digits, load_digits
from prefmerge.lab.demo.model import load_base
from prefmerge.lab.demo.train import REGIME, fine_tune_in_sequence
from prefmerge.merging.recipe import Recipe
from prefmerge.models.evaluation import right_answers
from prefmerge.models.features import embed
from prefmerge.runs import read_run
from tests.lab.conftest import CONFIG, words
from tests.models.tiny import tiny_bert

PREFERENCES = ["uniform", "alpha 0.5", "alpha 2", "label shares"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of three tasks in sequence and an independent one."""
    from prefmerge.training.config_file import read_config
    from prefmerge.training.finetuning import finetune

    folder = tmp_path_factory.mktemp("runs")
    tiny_bert(folder / "tiny")
    words(folder / "train.csv", 20, 0)
    words(folder / "test.csv", 20, 1)
    for method in ("sequential", "independent"):
        (folder / f"{method}.yaml").write_text(
            CONFIG.replace("METHOD", method).replace("SEED", "1").replace("HELD_OUT", "0")
        )
        finetune(read_config(folder / f"{method}.yaml"), folder / method)
    return folder


def test_every_rule_for_every_preference_to_the_end_and_again(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data = defaults.run({"words": runs / "sequential"}, tmp_path, most=2, size=20)
    rows = {(row["preference"], row["rule"]): row for row in data["rows"]}
    assert list(rows) == [(what, rule.name) for rule in defaults.RULES for what in PREFERENCES]
    assert all(0 <= row["accuracy"] <= 1 for row in data["rows"])
    weights = {"uniform": [1 / 3] * 3, "alpha 0.5": [1 / 7, 2 / 7, 4 / 7], "alpha 2": [4 / 7, 2 / 7, 1 / 7]}
    for what, shares in weights.items():
        for rule in defaults.RULES:
            row = rows[what, rule.name]
            assert row["accuracy"] == pytest.approx(sum(a * s for a, s in zip(row["tasks"], shares, strict=True)))
    assert set(rows["label shares", "MAGMAX, scale 0.5"]["targets"]) == {"e1/0", "e2/0"}
    last = rows["uniform", "last checkpoint"]
    assert last["tasks"] == rows["alpha 2", "last checkpoint"]["tasks"]
    from prefmerge.training.opened import evaluate_checkpoint

    folder = runs / "sequential"
    report = evaluate_checkpoint(read_run(folder).last_path, folder).to_json()
    assert [one["agnostic"] for one in report["tasks"]] == pytest.approx(last["tasks"])
    # 3 x (6 rules for 3 preferences and 2 targets) models and 4 others; then everything is there.
    assert len(list(tmp_path.iterdir())) == 6 * (3 + 2) + 4
    monkeypatch.setattr(defaults.Set, "judge", None)
    again = defaults.run({"words": runs / "sequential"}, tmp_path, most=2, size=20)
    assert json.dumps(again["rows"]) == json.dumps(data["rows"])
    assert "| optimal + step, scale 1.0 (the default for tasks in sequence) |" in defaults_tables.document(data)


def test_a_run_of_the_demo_has_the_test_images_of_the_demo(tmp_path: Path):
    digits = load_digits()
    few = Digits(digits.pixels, digits.labels, {**digits.parts, "train": digits.parts["train"][::25]})
    quick = REGIME.model_copy(update={"epochs": 1, "batch": 16})
    encoder, head = load_base()
    fine_tune_in_sequence(encoder, head, few, tmp_path / "run", 1, quick)
    made = defaults.Set("digits", tmp_path / "run", tmp_path / "kept", most=1, size=20)
    rows = np.arange(len(made.samples.ids))
    base = np.concatenate([right_digits(load_base(), digits, t) for t in range(len(TASKS))])
    np.testing.assert_array_equal(made.judge(rows), base)  # a run is opened with its base in the encoder


def right_digits(model: Any, digits: Digits, task: int) -> np.ndarray:
    encoder, head = model
    examples = digits.examples(digits.ids("test", task))
    return right_answers(embed(encoder, examples, batch=64), head, examples.labels, range(10))


def test_an_independent_run_is_refused(runs: Path, tmp_path: Path):
    with pytest.raises(SystemExit, match="trained in sequence"):
        defaults.run({"words": runs / "independent"}, tmp_path)


def test_the_rules_that_are_defaults_are_what_merge_does():
    for known, rule in ((True, defaults.RULES[0]), (False, defaults.RULES[1])):
        assert defaults_tables.default_rule(known) == rule.name
        settings = Recipe(sequential=known).settings()
        assert {name: settings[name] for name in rule.settings} == rule.settings
        assert settings["scale"] == float(rule.scale)
    published = Recipe(as_published=True).settings()
    assert {name: published[name] for name in defaults.RULES[5].settings} == defaults.RULES[5].settings


def result(columns: dict[str, dict[str, float]]) -> dict[str, Any]:
    rows = [
        {"set": "words", "preference": what, "rule": rule, "accuracy": value}
        for what, column in columns.items()
        for rule, value in column.items()
    ]
    sets = [{"set": "words", "tasks": 3, "test_samples": 1200, "targets": {"e1/0": "e1"}}]
    return {**common.provenance(), "sets": sets, "rows": rows}


def test_what_is_better_than_a_default_is_said(tmp_path: Path):
    level = {rule.name: 0.4 for rule in defaults.RULES}
    ours, blind = defaults.RULES[0].name, defaults.RULES[1].name
    best = {**level, ours: 0.6, blind: 0.41}
    worse = {**level, ours: 0.5, "last checkpoint": 0.52, "paper, scale 1.0": 0.55, "MAGMAX, scale 0.5": 0.5}
    data = result({"uniform": best, "alpha 2": worse})
    means, first, second = defaults_tables.said(defaults_tables.cells(data))
    assert means.startswith(f"Mean over all columns: {ours} 55.0, paper, scale 1.0 47.5, last checkpoint 46.0, ")
    assert first.startswith(f"{ours}, the default for tasks in sequence, loses in 1 of 2 columns.")
    assert first.endswith(": words, alpha 2: paper, scale 1.0 (+5.0), last checkpoint (+2.0).")
    assert second.startswith(f"{blind}, the default where the order is not known, loses in 1 of 2 columns.")
    assert ours not in second  # which needs the order
    _, first, _ = defaults_tables.said(defaults_tables.cells(result({"uniform": best})))
    assert "is the best rule in every column" in first
    for name in ("page.md", "limits.md"):
        (tmp_path / name).write_text(f"before\n{defaults_tables.MARK}\nold\n{defaults_tables.MARK}\nafter\n")
    defaults_tables.write(data, tmp_path / "page.md", tmp_path / "limits.md")
    page, limits = ((tmp_path / name).read_text() for name in ("page.md", "limits.md"))
    assert "old" not in page + limits
    assert "| paper, scale 1.0 | **55.0** |" in page
    assert "| words, alpha 2 | 50.0 | 52.0 | 50.0 | 40.0 |" in limits
    assert "| mean | 55.0 | 46.0 | 45.0 | 40.0 |" in limits
    assert "better than last checkpoint in 1 and MAGMAX, scale 0.5 in 1 of these 2 rows" in limits


def test_the_documents_say_what_was_measured():
    pages = [path.read_text() for path in (defaults_tables.PAGE, defaults_tables.LIMITS)]
    assert [page.count(defaults_tables.MARK) for page in pages] == [2, 2]
    if defaults.RESULT.exists():
        data = json.loads(defaults.RESULT.read_text())
        for page, text in zip(pages, (defaults_tables.document(data), defaults_tables.limits(data)), strict=True):
            assert defaults_tables.between_marks(page, defaults_tables.MARK, text) == page
