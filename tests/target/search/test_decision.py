"""Whether the search's best is better than adapt's choice, where the answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("optuna", reason="search needs the extra places")
pytest.importorskip("scipy", reason="search needs the extra places")

from prefmerge.target.choice import DOUBT, Judge
from prefmerge.target.evidence import Amounts, Evidence
from prefmerge.target.fit import margins, soft
from prefmerge.target.prior import make_prior
from prefmerge.target.proxy import make_proxy
from prefmerge.target.search.decision import Decision, Rival, decide, fit_of
from prefmerge.target.search.field import Field, Part
from tests.target.judged import SCALE, SHARES, TASKS, around, head, samples

NOTHING = Amounts({}, 0, 0)  # is asked only for a report
pytestmark = pytest.mark.usefixtures("single_threaded")


def part(each: int, seed: int) -> Part:
    labels, tasks = samples(each)
    proxy = make_proxy([f"{seed}/{i}" for i in range(len(labels))], labels, tasks, first=50, seed=seed)
    judge = Judge(proxy, make_prior(TASKS, SHARES), head(), SCALE)
    return Part(None, judge, proxy.everything)  # pyright: ignore[reportArgumentType]  # no input is read here


def rival(name: str, ranking: Part, apart: Part, strength: float, seed: int) -> Rival:
    from prefmerge.target.choice import Answers

    answers = [
        Answers(name, False, one.judge.proxy.everything, around(one.judge.rows, one.judge.proxy.labels, s, seed + i))
        for i, (one, s) in enumerate(((ranking, 1.0), (apart, strength)))
    ]
    return Rival(name, answers[0], answers[1], fit_of(ranking.judge, answers[0]))


def decided(own: float, theirs: float, **how: Any) -> tuple[Decision, Field, Rival, Rival]:
    ranking, apart = part(60, 1), part(60, 2)
    field = Field(ranking, apart, ranking, how.pop("unjudged", 0.0))
    one, two = (rival(name, ranking, apart, s, 10 * i) for i, (name, s) in enumerate((("own", own), ("adapt", theirs))))
    evidence = Evidence(SHARES, None, None, (), NOTHING)  # pyright: ignore[reportArgumentType]
    return decide(field, one, two, TASKS, evidence, seed=0, report=how.get("report", True)), field, one, two


def test_what_is_clearly_better_is_kept_and_what_is_worse_is_not():
    better, *_ = decided(1.2, 0.3)
    assert better.kept
    assert better.ahead > 0.1
    worse, *_ = decided(0.3, 1.2)
    assert not worse.kept
    for made in (better, worse):
        first, second = made.rows
        assert (first.name, second.name) == ("own", "adapt")
        assert (first.accuracy.value > second.accuracy.value) == (made is better)
        assert second.ahead is not None
        assert second.ahead.value == pytest.approx(first.accuracy.value - second.accuracy.value, abs=0.02)
        assert made.decided is not None  # folds agree here, so it is the accuracy of the one that is better
        assert made.decided.value == pytest.approx(max(first.accuracy.value, second.accuracy.value), abs=0.02)


def test_the_decision_is_that_of_a_loop_over_the_samples_apart():
    made, field, own, theirs = decided(0.75, 0.7)
    judge = field.apart.judge
    everything, labels = judge.proxy.everything, judge.proxy.labels
    right = [
        soft(margins(judge.logits(one.apart.of(everything), everything, one.fit), labels)) for one in (own, theirs)
    ]
    weights = judge.weights(everything)
    mean = sum(w * (a - b) for w, a, b in zip(weights, *right, strict=True))
    error = sum((w * (a - b - mean)) ** 2 for w, a, b in zip(weights, *right, strict=True)) ** 0.5
    assert made.ahead == pytest.approx(mean)
    assert made.error == pytest.approx(error)
    assert made.kept == (mean > DOUBT * error)


def test_half_a_standard_error_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    made, *_ = decided(0.75, 0.7)
    ratio = made.ahead / made.error
    for doubt in (ratio - 0.01, ratio + 0.01):
        monkeypatch.setattr("prefmerge.target.search.decision.DOUBT", doubt)
        assert decided(0.75, 0.7)[0].kept == (ratio > doubt)


def test_where_too_little_is_judged_no_accuracy_is_told():
    made, *_ = decided(1.2, 0.3, report=False)
    assert made.kept
    assert made.rows == ()
    assert made.decided is None


def test_equal_models_are_told_once():
    _, field, _, theirs = decided(0.5, 0.5)
    evidence = Evidence(SHARES, None, None, (), NOTHING)  # pyright: ignore[reportArgumentType]
    made = decide(field, None, theirs, TASKS, evidence, seed=0, report=True)
    assert (made.kept, made.ahead, made.error) == (False, 0.0, 0.0)
    assert len(made.rows) == 1
    assert np.isfinite(made.rows[0].accuracy.value)
