"""Rows of `adapt` in an experiment, columns with the prior, and what a user could do instead: each against the same by
hand."""

from __future__ import annotations

import csv
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prefmerge
from prefmerge.data.examples import Examples, concatenated
from prefmerge.errors import RunError
from prefmerge.lab import trainings
from prefmerge.lab.at_target import train_on
from prefmerge.lab.bench import run
from prefmerge.lab.entries import KNOWN
from prefmerge.lab.recipe import read_experiment
from prefmerge.lab.results import Results, Score

pytest.importorskip("transformers", reason="experiments need the extra train")

RECIPE = """\
title: words
runs: {sequential: [RUNS/sequential-1], held-out: [RUNS/held-out-1]}
studies: [places]
scales: [1.0]
prior: true
methods:
  - Baseline
  - Best checkpoint
  - Tunable (Label)
  - Adapt (labels)
  - Adapt (inputs)
  - Adapt (pairs)
  - Last + fitted bias
  - Fine-tuned (pairs)
  - Fine-tuned (held-out)
environments: {size: 40, meta: 0.25, variants: [42], mixes: [{name: most, ratios: [8, 2]}]}
batch: 16
"""


@pytest.fixture(scope="module")
def done(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("at-target")
    os.environ["PREFMERGE_CACHE"] = str(folder / "cache")
    (folder / "words.yaml").write_text(RECIPE.replace("RUNS", str(runs)))
    return run(read_experiment(folder / "words.yaml"), folder / "out", jobs=1)


def score(results: Results, name: str) -> Score:
    (one,) = [one for one in results.scores if one.method == name]
    return one


class ByHand:
    """The one environment, with nothing of the experiment's but its ids."""

    def __init__(self, run: Path, results: Results) -> None:
        from prefmerge.training.opened import open_run

        self.opened = open_run(run)
        self.every = concatenated([task.test for task in self.opened.scenario.tasks])
        (self.place,) = results.environments
        self.classes = self.opened.head.classes

    def samples(self, ids: tuple[str, ...]) -> Examples:
        at = {one: i for i, one in enumerate(self.every.ids)}
        return self.every.take([at[one] for one in ids])

    def table(self, file: Path, *columns: str) -> Path:
        shown = self.samples(self.place.meta_ids)
        values = {
            "text": shown.read(range(len(shown))),
            "label": [self.classes[label] for label in shown.labels.tolist()],
        }
        with open(file, "w", newline="") as opened:
            csv.writer(opened).writerows([columns, *zip(*(values[one] for one in columns), strict=True)])
        return file

    def right(self, head: Any, model: Path | None = None) -> int:
        from prefmerge.models.evaluation import right_answers
        from prefmerge.models.features import embed

        if model is not None:
            self.opened.encoder.load(model)
        judged = self.samples(self.place.test_ids)
        embeddings = embed(self.opened.encoder, judged, batch=16)
        return int(right_answers(embeddings, head, judged.labels, range(len(self.classes))).sum())

    def log_prior(self) -> np.ndarray:
        """By its formula: every class has as many training samples as any other, and one task."""
        shown = Counter(self.samples(self.place.meta_ids).labels.tolist())
        n = sum(shown.values())
        task_of = {c: t for t, task in enumerate(self.opened.scenario.tasks) for c in task.classes}
        shares = Counter(task_of[c] for c in shown.elements())
        chances = [(shown[c] + 50 * shares[task_of[c]] / n / 2) / (n + 50) for c in range(6)]
        return np.log(0.95 * np.array(chances) + 0.05 / 6)

    def held_out(self) -> tuple[Examples, np.ndarray]:
        """Held-out samples of the tasks that are there, and their weights: the samples of a class share its chance."""
        from prefmerge.training.kept import read_kept

        kept = read_kept(self.opened.run)
        assert kept is not None
        shares = self.place.truth([task.name for task in self.opened.run.tasks])
        held = concatenated([one for one, share in zip(kept.held_out, shares, strict=True) if share > 0])
        chances = (np.exp(self.log_prior()) - 0.05 / 6) / 0.95
        return held, chances[held.labels] / np.bincount(held.labels, minlength=6)[held.labels]


def test_the_rows(done: Results):
    assert done.missing == ()
    assert {one.method for one in done.scores} == {
        *(f"{name}{end}" for name in ("Baseline", "Best checkpoint", "Tunable (Label)") for end in ("", " + prior")),
        *(f"Adapt ({given}){end}" for given in ("labels", "inputs", "pairs") for end in ("", ", encoder alone")),
        "Last + fitted bias",
        "Fine-tuned (pairs)",
        "Fine-tuned (held-out)",
    }
    assert len({one.samples for one in done.scores}) == 1


def test_a_merge_with_the_prior(runs: Path, done: Results, tmp_path: Path):
    by_hand = ByHand(runs / "sequential-1", done)
    opened = by_hand.opened
    paths = [opened.run.task_path(i) for i in range(3)]
    prefmerge.merge(opened.run.base_path, paths, tmp_path / "last.safetensors", method="last", scale="1")
    head = opened.head.with_bias(by_hand.log_prior())
    assert by_hand.right(opened.head, tmp_path / "last.safetensors") == score(done, "Baseline").right
    assert by_hand.right(head) == score(done, "Baseline + prior").right


# Not from pairs: folds are drawn by the ids of samples, and a file gives them others.
@pytest.mark.parametrize(("given", "no_prior"), [("labels", False), ("inputs", True)])
def test_adapt_is_what_the_command_makes(runs: Path, done: Results, tmp_path: Path, given: str, no_prior: bool):
    from prefmerge.models.heads import Head

    by_hand = ByHand(runs / "held-out-1", done)
    column = {"labels": "label", "inputs": "text"}[given]
    shown: dict[str, Any] = {given: by_hand.table(tmp_path / "shown.csv", column)}
    out = tmp_path / "out"
    made = prefmerge.adapt(run=runs / "held-out-1", **shown, out=out, no_prior=no_prior)
    one = score(done, f"Adapt ({given})" + ", encoder alone" * no_prior)
    head = by_hand.opened.head if no_prior else Head.load(out / "head.safetensors")
    assert by_hand.right(head, out) == one.right
    if no_prior:
        assert one.chosen is one.estimate is None
    else:
        assert one.chosen == made.chosen.name
        assert one.estimate is not None
        low, high = one.estimate[1:]
        assert low <= one.estimate[0] <= high


def test_the_last_checkpoint_with_a_bias(runs: Path, done: Results):
    """It is fitted on held-out samples of the tasks that are there, and on nothing else."""
    from prefmerge.models.features import embed
    from prefmerge.target.fit import Scores, fit_bias

    by_hand = ByHand(runs / "held-out-1", done)
    opened = by_hand.opened
    held, weights = by_hand.held_out()
    opened.encoder.load(opened.run.last_path)
    units = embed(opened.encoder, held, batch=16).astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    log_prior = by_hand.log_prior()
    rows = opened.head.rows.numpy().astype(np.float64)
    fit = fit_bias(Scores(opened.head.scale * units @ rows.T), held.labels, weights, log_prior)
    judged = by_hand.samples(by_hand.place.test_ids)
    tested = embed(opened.encoder, judged, batch=16).astype(np.float64)
    tested /= np.linalg.norm(tested, axis=1, keepdims=True)
    answers = (fit.beta * opened.head.scale * tested @ rows.T + log_prior + fit.bias).argmax(axis=1)
    assert int((answers == judged.labels).sum()) == score(done, "Last + fitted bias").right


def test_training_on_draws_by_weight_and_learns(runs: Path, done: Results):
    by_hand = ByHand(runs / "held-out-1", done)
    opened = by_hand.opened
    shown = by_hand.samples(by_hand.place.meta_ids)
    opened.encoder.load(opened.run.last_path)
    train_on(opened.encoder, opened.head, shown, np.ones(len(shown)), rate=0.003, seed=1)
    after = by_hand.right(opened.head)
    assert after == score(done, "Fine-tuned (pairs)").right
    wrong = shown.take(np.arange(len(shown)), labels=(shown.labels + 1) % 6)
    both, weights = concatenated([shown, wrong]), np.r_[np.ones(len(shown)), np.zeros(len(shown))]
    opened.encoder.load(opened.run.last_path)
    train_on(opened.encoder, opened.head, both, weights, rate=0.003, seed=1)
    assert by_hand.right(opened.head) == after


def test_training_on_held_out_samples_has_the_prior_in_its_loss(runs: Path, done: Results):
    by_hand = ByHand(runs / "held-out-1", done)
    opened, head = by_hand.opened, by_hand.opened.head.with_bias(by_hand.log_prior())
    opened.encoder.load(opened.run.last_path)
    train_on(opened.encoder, head, *by_hand.held_out(), rate=0.003, seed=1)
    assert by_hand.right(head) == score(done, "Fine-tuned (held-out)").right


def test_runs_that_hold_nothing_out_are_refused(runs: Path, tmp_path: Path):
    text = RECIPE.replace(", held-out: [RUNS/held-out-1]", "").replace("RUNS", str(runs))
    (tmp_path / "words.yaml").write_text(text)
    with pytest.raises(RunError, match=r"holds no samples out.*runs: \{held-out: \[\.\.\.\]\}"):
        run(read_experiment(tmp_path / "words.yaml"), tmp_path / "out", jobs=1)


def test_a_seed_without_a_run_that_holds_samples_out_is_refused(runs: Path, tmp_path: Path):
    """Samples that training saw would promise too much."""
    text = RECIPE.replace("[RUNS/sequential-1]", "[RUNS/sequential-1, RUNS/sequential-2]").replace("RUNS", str(runs))
    (tmp_path / "words.yaml").write_text(text)
    with pytest.raises(RunError, match=r"sequential-2: it holds no samples out.*a run of the same seed"):
        run(read_experiment(tmp_path / "words.yaml"), tmp_path / "out", jobs=1)


def test_a_recipe_trains_runs_of_their_own_for_them(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from tests.lab.quick import train_all, two_candidates

    monkeypatch.setattr(trainings, "_train_all", train_all)
    monkeypatch.setattr("prefmerge.target.adapt.candidates", two_candidates)
    from prefmerge.runs import read_run
    from prefmerge.training.kept import read_kept

    text = f"finetune: {runs}/sequential-1.yaml\nseeds: [1]\nstudies: [places]\nmethods: [MAGMAX, Adapt (labels)]\n"
    text += "held_out: {samples: 12}\nenvironments: {size: 40, variants: [42], mixes: [{name: even, ratios: [1, 1]}]}\n"
    (tmp_path / "words.yaml").write_text(text)
    told: list[str] = []
    results = run(read_experiment(tmp_path / "words.yaml"), tmp_path / "out", jobs=1, say=told.append)
    assert told == ["Training sequential-seed-1, held-out-seed-1, 1 at a time."]
    assert {one.method for one in results.scores} == {"MAGMAX", "Adapt (labels)"}
    folder = tmp_path / "out" / "runs"
    papers, ours = (read_kept(read_run(folder / f"{name}-seed-1")) for name in ("sequential", "held-out"))
    assert papers is None or not any(map(len, papers.held_out))
    assert ours is not None
    assert [len(one) for one in ours.held_out] == [12, 12, 12]


@pytest.mark.parametrize("name", ["Tunable (OT)", "Tunable (Label)", "Tunable (Cos)", "Tunable (MMD)"])
def test_rows_beside_published_numbers_use_the_selection_of_the_authors_code(name: str):
    assert KNOWN[name].settings == {"selection": "released", "importance": "magnitude"}
