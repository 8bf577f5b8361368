"""The benchmark of targets, and of what similarities know of them, at toy size."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks import adapt_tables, common, similarity_encoders, targets, targets_page, targets_tables
from benchmarks import wordnet as definitions
from benchmarks.targets_results import collected, compact, expanded, extended, summary
from prefmerge.cli import app
from prefmerge.lab import findings, tables, target_tables
from prefmerge.lab import trainings as training
from prefmerge.lab.results import Results
from prefmerge.lab.statistics import StudyScores
from tests.lab.made import made
from tests.lab.quick import ONE_L2, train_all, two_candidates
from tests.models.tiny import tiny_bert

STUDIES = ("places", "diversity")
SMALL = {
    "trainings": {"sequential": [3]},
    "studies": ["places", "alpha", "diversity", "methods"],
    "methods": ["Baseline", "MAGMAX", "Tunable (Label)", "Tunable (OT)", "Adapt (labels)", "Last + fitted bias"],
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
        *(make(results) for make in (target_tables.overview, target_tables.estimates, target_tables.choices)),
    ]
    about = (
        findings.about_places,
        findings.about_adapt,
        findings.about_similarities,
        findings.about_alpha,
        findings.about_diversity,
    )
    return [
        *(one.markdown() for one in made if one is not None),
        *(line for make in about for line in make(results)),
    ]


def test_from_definitions_to_a_page(wordnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PREFMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(targets.subprocess, "run", in_this_process)
    monkeypatch.setattr(training, "_train_all", train_all)
    monkeypatch.setattr("prefmerge.target.adapt.candidates", two_candidates)
    monkeypatch.setattr("prefmerge.target.choice.L2", ONE_L2)
    monkeypatch.setattr(definitions, "TRAIN", 10)
    monkeypatch.setattr(definitions, "TEST", 6)
    work, model = tmp_path / "work", tiny_bert(tmp_path / "tiny")
    recipe = definitions.recipe(definitions.RECIPE, work, model)
    changes = {**SMALL, "finetune": {**recipe["finetune"], "held_out": 14}}
    out = targets.bench(definitions.RECIPE, work, wordnet, model, changes, 1)
    whole = Results.load(out / "results.json")
    data = json.loads(json.dumps(summary(whole, out, targets.__doc__, {model: "MODEL", work: "WORK"}, recipe)))
    assert data["missing"] == []
    assert data["not_measured"][:3] == ["seed 4", "Rand Mix", "Average"]
    assert data["not_measured"][-1] == "3 of the 5 variants of each environment"
    assert str(tmp_path) not in json.dumps(data)  # no paths of the machine that made it
    rebuilt = expanded(data)
    assert len(rebuilt.scores) == len(whole.scores) == 2 * 4 * 10 + 3 * 10 + 2 * 2
    assert tables_of(rebuilt) == tables_of(whole)
    assert len(tables_of(rebuilt)) > 13
    assert collected(work / "wordnet.yaml", out) == whole
    trainings = json.loads((common.RESULTS / "wordnet_trainings.json").read_text())
    text = targets_page.page([data, data], trainings)
    assert "| Tunable (OT) | 1.0 | " in text
    assert "10 targets mix two or three tasks: e1 to e5 of the paper, 2 of each." in " ".join(text.split())
    assert "Adapt (labels) promised " in text

    (gone, *_) = (out / "cells").glob("place-*adapt*.json")
    gone.unlink()
    less = collected(work / "wordnet.yaml", out)
    assert [line.endswith("it was not computed") for line in less.missing] == [True]
    assert len(less.scores) == len(whole.scores) - 2

    known = similarity_encoders.run(out, [out / "runs" / "sequential-seed-3"], 5)
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


def test_entries_that_were_measured_apart_join_a_result():
    names = ["Baseline", "MAGMAX", "Adapt (labels)", "Adapt (pairs)"]
    results = made(methods=names, studies=("places",))
    origin = {"measured": ["2026-01-01", "2026-01-02"], "not_measured": [], "commit": "a"}

    def part(methods: list[str], seeds: tuple[int, ...], days: list[str]) -> dict[str, Any]:
        scores = tuple(one for one in results.scores if one.method.split(",")[0] in methods and one.seed in seeds)
        data = {**origin, **compact(replace(results, scores=scores)), "measured": days}
        recipe = {**data["about"]["recipe"], "methods": methods}
        return {**data, "about": {**data["about"], "recipe": recipe}}

    asked = {"methods": ["Baseline", "Average", *names[1:]]}
    first, last = results.seeds[0], results.seeds[-1]
    data = part(names[:3], results.seeds, ["2026-01-01", "2026-01-02"])
    more = part(["Baseline", "Adapt (pairs)"], (first,), ["2026-01-03", "2026-01-03"])
    whole = extended(data, {**more, "commit": "b"}, asked)
    assert whole["not_measured"] == ["Average", *(f"Adapt (pairs) with seed {n}" for n in results.seeds if n != first)]
    assert (whole["measured"], whole["added"]) == (["2026-01-01", "2026-01-03"], "b")
    everything = part(names, results.seeds, ["2026-01-01", "2026-01-03"])
    missing = {(row["method"], row["seed"]) for row in everything["scores"] if row not in whole["scores"]}
    assert missing == {("Adapt (pairs)", last)}
    other = {**more, "scores": [{**row, "right": [n + 1 for n in row["right"]]} for row in more["scores"]]}
    with pytest.raises(ValueError, match="has other answers"):
        extended(data, other, asked)
    with pytest.raises(ValueError, match="no entry is in both"):
        extended(data, part(["Adapt (pairs)"], (first,), ["2026-01-03", "2026-01-03"]), asked)
    with pytest.raises(ValueError, match="the targets are others"):
        extended(data, {**more, "environments": more["environments"][1:]}, asked)


def test_a_page_of_entries_that_one_training_has():
    """Rows of all kinds, some for one seed, and a second result with one training: nothing is invented."""
    names = [*SMALL["methods"], "Tunable (Label), optimal + step", "Adapt (pairs)"]
    results = with_priors(made(methods=names, studies=("places",)))
    kept = [one for one in results.scores if one.seed == 3 or not one.method.startswith("Adapt (pairs)")]
    assert tables_of(expanded(compact(results))) == tables_of(results)
    origin = {**common.provenance(), "measured": ["2026-01-01", "2026-01-02"], "not_measured": ["seed 5", "Average"]}
    data = {**origin, **compact(replace(results, scores=tuple(kept)))}
    other = {**origin, **compact(with_priors(made(17, seeds=(3,), methods=names[:-1], studies=("places",))))}
    trainings = json.loads((common.RESULTS / "wordnet_trainings.json").read_text())
    text = targets_page.page([data, other], trainings)
    one, many = text.split("\n## Made of 17 tasks\n")
    assert "Seed 3 only: Adapt (pairs), encoder alone; Adapt (pairs)." in one
    assert "**Adapt (pairs) minus these, each method at its best scale" in one
    assert "(-0.4 against Last + fitted bias); e3 (-0.7 against Last + fitted bias)" in one
    assert "Seed 3 only" not in many
    assert "One training (seed 3): there is no standard deviation over trainings." in many
    for part in (one, many):
        assert "Behind MAGMAX at scale 0.5, without the prior: " in part
        assert "Adapt (labels) is lower at so many of the 25 targets: " in part
    assert "The recipe asks for more, for which there was no time: seed 5 and Average." in one
    assert "nan" not in text
    assert "None" not in text


def with_priors(results: Results) -> Results:
    """The same with a row + prior for each entry, an adapt that chooses its own scale, and promises."""
    scores = []
    for one in results.scores:
        adapt, fitted = one.method.startswith("Adapt"), one.method == "Last + fitted bias"
        own = replace(one, scale="") if adapt or fitted else one
        if (adapt or fitted) and one.scale != results.scales[0]:
            continue
        said = one.accuracy + 0.02 * (one.variant - 1)
        promise = (said, said - 0.03, said + 0.03) if adapt else None
        scores.append(replace(own, chosen="last checkpoint" if adapt else own.chosen, estimate=promise))
        if not fitted:
            title = f"{one.method}, encoder alone" if adapt else f"{one.method} + prior"
            scores.append(replace(own, method=title, right=own.right - 1, chosen=None))
    recipe, title = {"finetune": {"held_out": 9}, "methods": []}, f"Made of {len(results.tasks)} tasks, a toy encoder"
    return replace(results, title=title, scores=tuple(scores), about={"recipe": recipe, "parameters": 1234})


def test_the_page_is_the_one_that_the_results_make(tmp_path: Path):
    targets.main(["--render-only", "--docs", str(tmp_path / "targets.md")])
    docs = common.ROOT / "docs"
    assert (tmp_path / "targets.md").read_text() == (docs / "targets.md").read_text()
    drawn = sorted((tmp_path / "targets").iterdir())
    assert all(file.stat().st_size > 10_000 for file in drawn)
    assert sorted(file.name for file in (docs / "targets").iterdir()) == [file.name for file in drawn]


def test_the_short_tables_are_what_was_measured():
    measured = targets_tables.results()
    for file, text in (
        (targets_tables.README, targets_tables.readme(measured)),
        (targets_tables.LIMITS, targets_tables.limits(measured)),
    ):
        page = file.read_text()
        assert page.count(targets_tables.MARK) == 2
        assert adapt_tables.between_marks(page, targets_tables.MARK, text) == page
    means = []
    for one in measured:
        scores = StudyScores(one)
        entries = (("Baseline", "1.0"), ("MAGMAX", "0.5"), ("Last + fitted bias", ""), ("Adapt (labels)", ""))
        means.append([100 * mean.value for entry in entries if (mean := scores.average(*entry)) is not None])
    rows = [line.split(" | ") for line in targets_tables.readme(measured).splitlines()[2 : 2 + len(measured)]]
    assert [[float(cell.strip("*")) for cell in row[1:5]] for row in rows] == [
        [pytest.approx(value, abs=0.051) for value in row] for row in means
    ]


def test_the_page_on_similarities_is_the_one_that_the_results_make(tmp_path: Path):
    similarity_encoders.main(["--render-only", "--docs", str(tmp_path / "similarities.md")])
    assert (tmp_path / "similarities.md").read_text() == (common.ROOT / "docs" / "similarities.md").read_text()
