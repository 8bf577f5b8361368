"""Prior, fits, proxy, choice and estimates: slow loops, problems drawn with their answers, laws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from prefmerge.data.examples import Examples
from prefmerge.errors import UsageError
from prefmerge.merging.api import recipe_of
from prefmerge.preference import Preference
from prefmerge.target.choice import DOUBT, Answers, Choice, Judge, choose, finalists
from prefmerge.target.estimates import (
    as_it_is,
    by_procedure,
    classes_unjudged,
    estimate,
    recall_of,
    with_balanced,
    with_bias,
)
from prefmerge.target.fit import RIDGE, Fit, Scores, _Problem, fit_bias, fit_rows, margins, plain, soft
from prefmerge.target.judging import unjudged, unlearned
from prefmerge.target.parameters import Parameters
from prefmerge.target.pool import baselines, candidates, rounded
from prefmerge.target.prior import EVIDENCE, GUARD, Prior, joint_of, log_prior_of, make_prior
from prefmerge.target.proxy import make_proxy
from prefmerge.target.shares import Shares, Tasks, from_labels, stated
from tests.target.judged import SHARES, TASKS, judge_of

NAMES = ("t1", "t2", "t3")
OF_TASK = ((0, 1), (2, 3), (4, 5))


def tasks(counts: np.ndarray | None = None, of_task: tuple[tuple[int, ...], ...] = OF_TASK) -> Tasks:
    classes = tuple(f"c{i}" for i in range(6))
    inside = np.zeros((3, 6), np.int64)
    for t, own in enumerate(of_task):
        inside[t, list(own)] = 10
    return Tasks(NAMES, classes, of_task, inside if counts is None else counts)


def test_the_prior_is_what_the_formula_says():
    counts = np.array([[30, 10, 0, 0, 0, 0], [0, 0, 20, 20, 0, 0], [0, 0, 0, 0, 5, 15]])
    labels = np.array([6, 2, 0, 2, 0, 0])
    known = tasks(counts)
    shares = from_labels(known, labels)
    prior = make_prior(known, shares)
    s = [0.8, 0.2, 0.0]
    for t, own in enumerate(OF_TASK):
        for c in own:
            pi = (labels[c] + EVIDENCE * s[t] / 2) / (10 + EVIDENCE)
            assert prior.classes[c] == pytest.approx(pi)
            guarded = (1 - GUARD) * pi + GUARD / 3 / 2
            learned = 2 * counts[t, c] / counts[t].sum()
            assert prior.logits[c] == pytest.approx(math.log(guarded) - math.log(learned))
    assert prior.joint.sum() == pytest.approx(1)


def test_a_class_of_two_tasks_is_theirs_by_their_shares():
    known = tasks(of_task=((0, 1), (1, 2), (3, 4, 5)))
    joint = joint_of(known, np.array([0.6, 0.2, 0.2]), np.zeros(6))
    assert joint[0, 1] / joint[1, 1] == pytest.approx(3)
    assert joint.sum(axis=1) == pytest.approx([0.6, 0.2, 0.2])


def problem(
    seed: int, n: int = 60, classes: int = 5, width: int = 7
) -> tuple[Scores, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    units = rng.standard_normal((n, width))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    rows = rng.standard_normal((classes, width))
    allowed = rng.random((n, classes)) < 0.8
    labels = rng.integers(0, classes - 1, n)  # the last class has no sample
    allowed[np.arange(n), labels] = True
    return Scores(4 * units @ rows.T, allowed), labels, rng.random(n), units


def nll(scores: Scores, labels: np.ndarray, weights: np.ndarray, a: np.ndarray, beta: float, b: np.ndarray) -> float:
    total = 0.0
    for i, label in enumerate(labels):
        logits = {
            c: beta * scores.values[i, c] + a[c] + b[c]
            for c in range(scores.values.shape[1])
            if scores.allowed is None or scores.allowed[i, c]
        }
        most = max(logits.values())
        norm = most + math.log(sum(math.exp(v - most) for v in logits.values()))
        total += weights[i] / weights.sum() * (norm - logits[int(label)])
    return total


def test_the_loss_is_that_of_loops_and_its_gradient_that_of_differences():
    scores, labels, weights, units = problem(1)
    a, free = np.linspace(-1, 1, 5), np.unique(labels)
    one = _Problem(scores, labels, weights / weights.sum(), a, free)
    rng = np.random.default_rng(2)
    x = np.concatenate([[1.3], rng.standard_normal(len(free))])
    b = np.zeros(5)
    b[free] = x[1:]
    assert one.bias(x)[0] == pytest.approx(nll(scores, labels, weights, a, 1.3, b) + RIDGE * float(b @ b))
    moved = np.concatenate([x, 0.1 * rng.standard_normal(len(free) * units.shape[1])])
    for function, at in ((one.bias, x), (lambda y: one.rows(y, units, 4.0, 3.0), moved)):
        gradient = function(at)[1]
        for i in range(0, len(at), max(1, len(at) // 12)):
            step = np.zeros(len(at))
            step[i] = 1e-5
            slope = (function(at + step)[0] - function(at - step)[0]) / 2e-5
            assert gradient[i] == pytest.approx(slope, rel=1e-4, abs=1e-7)


def test_a_shift_that_is_there_is_found_and_classes_without_samples_keep_their_own():
    rng = np.random.default_rng(3)
    values, shift = rng.standard_normal((6000, 4)) * 2, np.array([1.5, -0.5, 0.0, -1.0])
    chances = np.exp(0.7 * values + shift)
    chances /= chances.sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(4, p=p) for p in chances])
    found = fit_bias(Scores(values), labels, np.ones(6000), np.zeros(4))
    assert found.beta == pytest.approx(0.7, abs=0.05)
    # The ridge pulls towards 0: by up to 0.19 here, where the chances are the steepest.
    assert found.bias - found.bias.mean() == pytest.approx(shift - shift.mean(), abs=0.25)
    scores, labels, weights, units = problem(4)
    bias = fit_bias(scores, labels, weights, np.zeros(5))
    rows = fit_rows(scores, units, 4.0, labels, weights, np.zeros(5), 1.0, bias)
    assert bias.bias[4] == 0
    assert rows.rows is not None
    assert not rows.rows[4].any()
    assert np.abs(rows.rows[:4]).max() > 0
    assert nll(scores, labels, weights, np.zeros(5), bias.beta, bias.bias) <= nll(
        scores, labels, weights, np.zeros(5), 1.0, np.zeros(5)
    )


def test_a_fit_follows_the_names_of_classes_and_not_the_order_of_samples():
    scores, labels, weights, _ = problem(5)
    a = np.linspace(0, 1, 5)
    found = fit_bias(scores, labels, weights, a)
    order, names = np.random.default_rng(0).permutation(len(labels)), np.array([3, 0, 4, 1, 2])
    assert scores.allowed is not None
    again = fit_bias(
        Scores(scores.values[order][:, names], scores.allowed[order][:, names]),
        np.argsort(names)[labels[order]],
        weights[order],
        a[names],
    )
    # Both end where L-BFGS stops, which is as exact as its tolerance on the gradient.
    assert again.bias == pytest.approx(found.bias[names], abs=2e-3)


def test_margins_and_soft_accuracy():
    logits = np.array([[2.0, 1.0, -1e30], [0.0, 3.0, 1.0]])
    found = margins(logits, np.array([0, 2]))
    assert found.tolist() == [1.0, -2.0]
    assert soft(found) == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.exp(2))])
    assert soft(np.array([1e9, -1e9])).tolist() == [1.0, pytest.approx(0, abs=1e-20)]


def test_held_out_samples_weigh_as_the_target_has_them_and_pairs_by_their_number():
    labels = np.array([0, 0, 1, 2, 2, 2, 3, 0, 2])
    of = np.array([0, 0, 0, 1, 1, 1, 1, -1, -1])
    joint = np.zeros((3, 6))
    joint[0, :2], joint[1, 2:4] = (0.5, 0.2), (0.2, 0.1)
    proxy = make_proxy([f"s{i}" for i in range(9)], labels, of, first=2)
    found = proxy.weights(joint, proxy.everything)
    held = np.array([0.25, 0.25, 0.2, 0.2 / 3, 0.2 / 3, 0.2 / 3, 0.1])
    size = 1 / np.sum(held**2)
    assert found[:7] == pytest.approx(held * size / (size + 2))
    assert found[7:] == pytest.approx([1 / (size + 2)] * 2)
    balanced = proxy.weights(joint, np.arange(7), "balanced")
    assert [balanced[labels[:7] == c].sum() for c in range(4)] == pytest.approx([0.25] * 4)
    assert sum(proxy.first[of == 0]) == sum(proxy.first[of == -1]) == 2


def test_folds_do_not_depend_on_the_order_and_cut_across_one_another():
    ids = [f"s{i}" for i in range(100)]
    labels, of = np.arange(100) % 4, np.zeros(100, np.int64)
    one = make_proxy(ids, labels, of, first=10)
    order = np.random.default_rng(0).permutation(100)
    other = make_proxy([ids[i] for i in order], labels[order], of, first=10)
    assert np.array_equal(one.fold[order], other.fold)
    assert np.array_equal(one.first[order], other.first)
    pairs = np.stack([one.outer(one.everything), one.inner(one.everything)])
    assert np.unique(pairs, axis=1, return_counts=True)[1].tolist() == [10] * 10


def setting(n: int = 80, seed: int = 0) -> tuple[Judge, np.ndarray, np.ndarray]:
    """A judge over n samples of two present tasks; the units of a model that is right 60 % of the time."""
    rng = np.random.default_rng(seed)
    known = tasks()
    labels = rng.integers(0, 4, n)
    of = labels // 2
    rows = np.eye(6)
    shares = stated(known, Preference.explicit(["0.5", "0.5", "0"]))
    proxy = make_proxy([f"s{i}" for i in range(n)], labels, of, first=20)
    judge = Judge(proxy, make_prior(known, shares), rows, 5.0)
    units = rows[np.where(rng.random(n) < 0.6, labels, rng.integers(0, 4, n))] + 0.4 * rng.standard_normal((n, 6))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    return judge, labels, units


def better(units: np.ndarray, labels: np.ndarray, by: float) -> np.ndarray:
    moved = units + by * np.eye(6)[labels]
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


def test_a_merge_must_be_better_by_half_a_standard_error():
    judge, labels, units = setting()
    everything = judge.proxy.everything
    last = Answers("last", True, everything, units.astype(np.float32))
    for by, index in ((0.02, None), (0.5, 1)):
        merge = Answers("merge", False, everything, better(units, labels, by).astype(np.float32))
        choice = choose(judge, [last, merge], everything)
        assert choice.best == 1
        assert choice.ahead > 0
        assert choice.index == (index if index is not None else int(choice.ahead > DOUBT * choice.error))
    same = choose(judge, [last, Answers("copy", False, everything, last.units)], everything)
    assert (same.index, same.ahead) == (0, 0)


def test_three_and_the_best_checkpoint_go_on():
    judge, labels, units = setting()
    first = judge.proxy.everything[judge.proxy.first]
    pool = [
        Answers(f"m{i}", i in (0, 1), first, better(units, labels, by)[first].astype(np.float32))
        for i, by in enumerate((0.0, 0.05, 0.5, 0.6, 0.7, 0.1))
    ]
    chosen, scores = finalists(judge, pool, judge.proxy.everything)
    assert chosen == [1, 2, 3, 4]
    assert np.argmax(scores) == 4


def shares_of(known: Tasks, counts: list[int]) -> Shares:
    return from_labels(known, np.array(counts), draws=100)


def test_what_is_learned_by_heart_does_not_count():
    """Units of noise in a wide space: rows fitted to them name every sample that they have seen, and no other."""
    rng = np.random.default_rng(7)
    known, n = tasks(), 80
    labels = rng.integers(0, 4, n)
    units = rng.standard_normal((n, 200))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    rows = rng.standard_normal((6, 200)) / 14
    proxy = make_proxy([f"s{i}" for i in range(n)], labels, labels // 2, first=40)
    shares = stated(known, Preference.explicit(["0.5", "0.5", "0"]))
    judge = Judge(proxy, make_prior(known, shares), rows, 20.0)
    noise = Answers("noise", True, proxy.everything, units.astype(np.float32))
    heart = judge.fitted(units, proxy.everything, 0.01)
    by_heart = margins(judge.logits(units, proxy.everything, heart), labels) > 0
    assert by_heart.mean() == 1
    (row,) = estimate(judge, known, shares, [by_procedure(judge, [noise], "noise")])
    assert row.accuracy.value < 0.45  # chance is a quarter; the standard error a twentieth


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    held, rounds = 0, 40
    for seed in range(rounds):
        rng = np.random.default_rng([seed, 1])
        known = tasks()
        labels = np.repeat(np.arange(4), 15)
        right = rng.random(60) < 0.75
        units = np.eye(6)[np.where(right, labels, (labels + 1) % 4)]
        counts = np.bincount(rng.choice(4, 40, p=[0.4, 0.3, 0.2, 0.1]), minlength=6)
        proxy = make_proxy([f"{seed}-{i}" for i in range(60)], labels, labels // 2, first=60)
        shares = from_labels(known, counts, draws=60)
        judge = Judge(proxy, make_prior(known, shares), np.eye(6), 5.0)
        model = as_it_is(judge, Answers("m", True, proxy.everything, units.astype(np.float32)), prior=False)
        (row,) = estimate(judge, known, shares, [model], draws=200, seed=seed)
        held += row.accuracy.low <= 0.75 <= row.accuracy.high
    # Binomial: at 0.9, fewer than 31 of 40 happens once in 150 times.
    assert held >= 31


def test_all_right_is_not_certain_and_a_model_is_not_ahead_of_itself():
    judge, labels, _ = setting()
    known = tasks()
    perfect = Answers("m", True, judge.proxy.everything, np.eye(6)[labels].astype(np.float32))
    model = as_it_is(judge, perfect, prior=True)
    first, second = estimate(judge, known, shares_of(known, [10, 10, 10, 10, 0, 0]), [model, model])
    assert first.accuracy.value == 1
    assert first.accuracy.low < 0.99
    assert second.ahead is not None
    assert second.ahead.value == 0
    assert not second.clear
    right = model.right(judge.proxy.labels, judge.log_prior)
    recall = recall_of(judge, right, right, known.classes)
    assert {one.samples for one in recall.values()} == {int(n) for n in np.bincount(labels) if n}
    assert {(one.value, one.before, one.fell) for one in recall.values()} == {(1, 1, False)}


def test_balanced_accuracy_is_the_mean_recall_of_the_targets_classes():
    """The first class is common at the target and always right, the second rare and half right, the third is absent."""
    known = tasks()
    labels = np.repeat(np.arange(6), 10)
    wrong = (labels == 1) & (np.arange(60) % 2 == 0)
    units = np.eye(6)[np.where(wrong, 0, labels)].astype(np.float32)
    counts = np.array([19, 1, 0, 0, 0, 0])
    present = labels < 2
    proxy = make_proxy([f"s{i}" for i in range(20)], labels[present], labels[present] // 2, first=60)
    shares = from_labels(known, counts, draws=60)
    judge = Judge(proxy, make_prior(known, shares), np.eye(6), 5.0)
    model = as_it_is(judge, Answers("m", True, proxy.everything, units[present]), prior=False)
    recall = recall_of(judge, model.right(proxy.labels, judge.log_prior), np.ones(20), known.classes)
    a, b = (recall[known.classes[c]] for c in (0, 1))
    assert (a.value, b.value, b.before) == (1, 0.5, 1)
    assert (a.fell, b.fell, b.lost, b.gained) == (False, True, 5, 0)
    (row,) = with_balanced(estimate(judge, known, shares, [model]), judge, known, shares, [model])
    assert row.accuracy.value > 0.8
    assert row.balanced is not None
    assert row.balanced.value == pytest.approx(0.75)
    assert row.balanced.low < 0.75 < row.balanced.high
    (asked,) = estimate(replace(judge, metric="balanced"), known, shares, [model])
    assert asked.accuracy == row.balanced
    # A class of the target that no sample judges counts from none to all.
    half = replace(judge, proxy=make_proxy([f"s{i}" for i in range(10)], labels[:10], labels[:10] // 2, first=60))
    assert classes_unjudged(half, shares) == 0.5
    model = as_it_is(half, Answers("m", True, half.proxy.everything, units[:10]), prior=False)
    (row,) = with_balanced(estimate(half, known, shares, [model]), half, known, shares, [model])
    assert row.balanced is not None
    assert row.balanced.low < 0.5


@pytest.mark.parametrize("ordered", [True, False])
def test_every_candidate_is_a_recipe_of_merge(ordered: bool):
    shares = np.array([0.7, 0.25, 0.05])
    pool = candidates(NAMES, shares, ordered)
    assert len({one.name for one in pool}) == len(pool)
    assert {one.task for one in pool if one.single} == ({0, 1, 2} if ordered else {0, 1})
    for one in (*pool, *baselines(shares, ordered)):
        if not one.single:
            recipe_of("base", list(NAMES), names=NAMES, **one.settings)
    methods = {one.settings["method"] for one in pool if not one.single}
    assert ("increments" in methods) == ordered
    assert all(one.settings.get("importance") != "step" for one in pool) or ordered
    assert rounded(shares).shares(NAMES) == (Fraction(7, 10), Fraction(1, 4), Fraction(1, 20))


def test_a_recipe_for_other_tasks_is_no_candidate(tmp_path: Path):
    for name in ("base", "a"):
        (tmp_path / f"{name}.safetensors").touch()
    file = tmp_path / "mine.yaml"
    file.write_text("merge_method: average\nbase_model: base.safetensors\nmodels:\n  - model: a.safetensors\n")
    with pytest.raises(UsageError, match="has 1 tasks, and 3 are adapted: t1, t2, t3"):
        candidates(NAMES, np.ones(3) / 3, True, [file])


def test_parameters_know_their_names_and_their_ends():
    with pytest.raises(UsageError, match=r"'lables' is not a parameter of adapt. Did you mean 'labels'"):
        Parameters.of(lables="x")
    with pytest.raises(UsageError, match="nothing to adapt"):
        Parameters.of(checkpoints=["base"], labels="x")
    with pytest.raises(UsageError, match="--prefer states the mix that --labels would be used to estimate"):
        Parameters.of(run="r", labels="x", prefer="1,0")
    with pytest.raises(UsageError, match="--level 2: expected at most"):
        Parameters.of(run="r", labels="x", level=2)


def test_without_the_prior_nothing_is_fitted():
    judge, labels, units = setting()
    bare = Judge(judge.proxy, judge.prior, judge.rows, judge.scale, use_prior=False)
    fit = bare.fitted(units, judge.proxy.everything, 1.0)
    assert fit.beta == 1
    assert not fit.bias.any()
    assert fit.rows is None
    expected = judge.scale * units @ judge.rows.T
    np.testing.assert_allclose(bare.logits(units, judge.proxy.everything, fit), expected)
    assert isinstance(judge.prior, Prior)
    assert plain(6).rows is None
    assert len(labels) == len(judge.proxy)


def test_no_sample_is_judged_by_a_choice_or_a_fit_that_has_seen_it(monkeypatch: pytest.MonkeyPatch):
    judge, pool = judge_of([("single", True, 1.0), ("merge", False, 1.5)], 20)
    everything, outer = judge.proxy.everything, judge.proxy.outer(judge.proxy.everything)
    seen: list[np.ndarray] = []

    def chosen(judge: Judge, pool: Sequence[Answers], positions: np.ndarray) -> Choice:
        seen.append(positions)
        return choose(judge, pool, positions)

    monkeypatch.setattr("prefmerge.target.estimates.choose", chosen)
    by_procedure(judge, pool, "chosen")
    assert [one.tolist() for one in seen] == [everything[outer != fold].tolist() for fold in range(5)]
    seen.clear()
    fitted = Judge.fitted

    def recorded(self: Judge, units: np.ndarray, positions: np.ndarray, l2: float = math.inf) -> Fit:
        seen.append(positions)
        return fitted(self, units, positions, l2)

    monkeypatch.setattr(Judge, "fitted", recorded)
    with_bias(judge, pool[0])
    assert [one.tolist() for one in seen] == [everything[outer != fold].tolist() for fold in range(5)]


def test_what_a_prior_gains_by_its_own_mix_is_taken_off():
    """Against a loop over the draws of the mix."""
    known, labels = tasks(), np.repeat(np.arange(4), 12)
    rng = np.random.default_rng(11)
    units = np.eye(6)[labels] + 0.9 * rng.standard_normal((48, 6))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    proxy = make_proxy([f"s{i}" for i in range(48)], labels, labels // 2, first=48)
    shares = from_labels(known, np.array([5, 1, 1, 0, 0, 0]), draws=30, seed=2)
    judge = Judge(proxy, make_prior(known, shares), np.eye(6), 2.0)
    model = as_it_is(judge, Answers("m", True, proxy.everything, units.astype(np.float32)), prior=True)
    (row,) = estimate(judge, known, shares, [model], draws=30)
    logits = judge.scores(units.astype(np.float32).astype(np.float64), proxy.everything).values

    def accuracy(prior: np.ndarray, joint: np.ndarray) -> float:
        value = 0.0
        for i, label in enumerate(labels):
            own = [j for j in range(48) if labels[j] == label]
            value += joint[label // 2, label] / len(own) * ((logits[i] + prior).argmax() == label)
        return value / sum(joint[c // 2, c] for c in range(4))

    gained = []
    for s, n in zip(shares.draws, shares.label_draws, strict=True):
        joint = joint_of(known, s, n)
        prior = log_prior_of(known, joint, s)
        gained.append(accuracy(prior, joint) - accuracy(prior, judge.prior.joint))
    plain_value = accuracy(judge.prior.logits, judge.prior.joint)
    assert abs(np.mean(gained)) > 0.001  # else nothing is tested
    assert row.accuracy.value == pytest.approx(plain_value - np.mean(gained), abs=1e-9)


def test_what_no_sample_stands_for_may_be_all_right_or_all_wrong():
    judge, pool = judge_of([("single", True, 1.0)], 20)
    model = [as_it_is(judge, pool[0], prior=False)] * 2
    first, second = estimate(judge, TASKS, SHARES, model)
    wide, apart = estimate(judge, TASKS, SHARES, model, unjudged=0.3)
    assert wide.accuracy.value == first.accuracy.value
    assert wide.accuracy.low == pytest.approx(0.7 * first.accuracy.low)
    assert wide.accuracy.high == pytest.approx(0.7 * first.accuracy.high + 0.3)
    assert second.ahead is not None
    assert apart.ahead is not None
    assert apart.ahead.low == pytest.approx(0.7 * second.ahead.low - 0.3)


def evidence(shares: Shares, pairs: Examples | None = None) -> Any:
    return SimpleNamespace(shares=shares, pairs=pairs)


def test_the_part_without_samples_is_what_the_prior_gives_it():
    """Task t2 has none of its class c3, task t1 has all of its own."""
    known = tasks()
    shares = stated(known, Preference.explicit(["0.6", "0.4", "0"]))
    prior, labels = make_prior(known, shares), np.array([0, 1, 2, 0, 1, 2])
    proxy = make_proxy([f"s{i}" for i in range(6)], labels, np.array([0, 0, 1, 0, 0, 1]), first=6)
    notes: list[str] = []
    source: Any = SimpleNamespace(tasks=known)
    assert unjudged(source, evidence(shares), prior, proxy, notes) == pytest.approx(0.2)
    assert notes == [
        "no sample judges 20 % of the target: there is none of class 'c3' of task 't2'. The intervals allow for it."
    ]
    whole = make_proxy([f"s{i}" for i in range(4)], np.arange(4), np.array([0, 0, 1, 1]), first=4)
    assert unjudged(source, evidence(shares), prior, whole, notes) == 0
    assert len(notes) == 1


def test_the_prior_of_a_pair_is_made_without_the_labels_of_its_fold():
    known, labels = tasks(), np.array([0, 0, 1, 2, 2, 0, 1, 0, 0, 2])
    counts = np.bincount(labels, minlength=6)
    shares, ids = from_labels(known, counts), [f"p{i}" for i in range(10)]
    prior, proxy = make_prior(known, shares), make_proxy(ids, labels, np.full(10, -1), first=10)
    asked = Parameters.of(run="r", pairs="p.csv")
    source: Any = SimpleNamespace(tasks=known)
    pairs: Any = labels
    change = unlearned(source, evidence(shares, pairs), prior, proxy, asked)
    assert change is not None
    for i, fold in enumerate(proxy.outer(proxy.everything)):
        left = counts - np.bincount(labels[proxy.outer(proxy.everything) == fold], minlength=6)
        expected = make_prior(known, from_labels(known, left)).logits
        np.testing.assert_allclose(prior.logits + change[i], expected)
    assert np.abs(change).max() > 0.1
    assert unlearned(source, evidence(shares), prior, proxy, asked) is None


def test_of_many_even_tasks_all_are_present():
    names = tuple(f"t{i}" for i in range(60))
    many = Tasks(names, names, tuple((i,) for i in range(60)), np.eye(60, dtype=np.int64))
    assert stated(many, Preference.uniform()).present.all()


def test_a_pair_is_judged_by_a_prior_that_does_not_know_its_label():
    judge, pool = judge_of([("single", True, 1.0)], 10)
    shift = np.random.default_rng(0).standard_normal((len(judge.proxy), 4))
    plain_one = as_it_is(judge, pool[0], prior=True)
    other = as_it_is(replace(judge, unlearned=shift), pool[0], prior=True)
    np.testing.assert_allclose(other.logits, plain_one.logits + shift)
    without = as_it_is(replace(judge, unlearned=shift), pool[0], prior=False)
    np.testing.assert_array_equal(without.logits, plain_one.logits)
