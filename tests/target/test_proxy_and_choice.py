"""Samples that stand for the target: weights against loops, folds; and the choice that is made on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from prefmerge.target import choice
from prefmerge.target.choice import FINALISTS, Answers, Choice, Judge, Others, choose, finalists
from prefmerge.target.fit import L2, Fit, Scores, fit_bias, margins, soft
from prefmerge.target.parameters import Metric
from prefmerge.target.prior import Prior, joint_of
from prefmerge.target.proxy import FOLDS, Proxy, make_proxy
from tests.oracles import target as oracle
from tests.target.judged import answers, around, judge_of, samples
from tests.target.test_prior import SHARED, tasks_of

pytestmark = pytest.mark.usefixtures("single_threaded")
JOINT = joint_of(tasks_of(SHARED), np.array([0.6, 0.4, 0.0]), np.array([5, 0, 0, 2, 0, 0]))


def proxy_of(seed: int, count: int = 40, pairs: int = 7, first: int = 5) -> Proxy:
    rng = np.random.default_rng(seed)
    tasks = np.concatenate([rng.integers(0, 3, count), np.full(pairs, -1)])
    labels = [rng.choice(SHARED[t] if t >= 0 else range(6)) for t in tasks]
    return make_proxy([f"s{i}" for i in range(count + pairs)], np.array(labels), tasks, first=first, seed=seed)


# Weights


@pytest.mark.parametrize("metric", ["accuracy", "balanced"])
@pytest.mark.parametrize("pairs", [0, 1, 9])
@pytest.mark.parametrize("seed", range(3))
def test_weights_are_those_of_loops(seed: int, pairs: int, metric: Metric):
    proxy, rng = proxy_of(seed, pairs=pairs), np.random.default_rng(seed)
    for positions in (proxy.everything, np.sort(rng.choice(len(proxy), 15, replace=False))):
        labels, tasks = proxy.labels[positions].tolist(), proxy.tasks[positions].tolist()
        for drawn in (None, rng.exponential(size=len(positions))):
            times = [1.0] * len(positions) if drawn is None else drawn.tolist()
            found = proxy.weights(JOINT, positions, metric, drawn)
            expected = oracle.weights(JOINT.tolist(), labels, tasks, times, balanced=metric == "balanced")
            np.testing.assert_allclose(found, expected, atol=1e-14)
            assert found.sum() == pytest.approx(1)


def test_held_out_samples_weigh_as_the_target_has_them():
    proxy = proxy_of(0, count=200, pairs=0)
    weights = proxy.weights(JOINT, proxy.everything)
    for t, c in zip(*np.nonzero(JOINT), strict=True):
        assert weights[(proxy.tasks == t) & (proxy.labels == c)].sum() == pytest.approx(JOINT[t, c])
    assert not weights[proxy.tasks == 2].any()


def test_pairs_weigh_by_their_number_against_the_effective_size():
    even = make_proxy([str(i) for i in range(36)], np.arange(36) % 2, np.array([0] * 30 + [-1] * 6), first=9)
    weights = even.weights(np.array([[0.5, 0.5]]), even.everything)
    np.testing.assert_allclose(weights, np.full(36, 1 / 36))  # the mix of the held-out samples is the target's
    skewed = even.weights(np.array([[0.9, 0.1]]), even.everything)
    size = 1 / (15 * (0.9 / 15) ** 2 + 15 * (0.1 / 15) ** 2)
    assert skewed[30:].sum() == pytest.approx(6 / (6 + size))


def test_the_balanced_metric_weighs_each_class_of_the_target_the_same():
    proxy = proxy_of(0, count=300, pairs=60)
    weights = proxy.weights(JOINT, proxy.everything, "balanced")
    held = ~proxy.pair
    for part, total in ((held, weights[held].sum()), (proxy.pair, weights[proxy.pair].sum())):
        of_class = np.bincount(proxy.labels[part], weights[part], minlength=6) / total
        present = of_class > 0
        np.testing.assert_allclose(of_class[present], 1 / present.sum())


def test_samples_that_the_target_has_none_of_weigh_nothing():
    proxy = make_proxy(["a", "b"], np.array([0, 1]), np.array([1, 1]), first=2)
    np.testing.assert_array_equal(proxy.weights(np.array([[0.5, 0.5], [0, 0]]), proxy.everything), [0, 0])


# Folds and the first samples


def test_folds_and_first_samples_do_not_depend_on_the_order():
    one = proxy_of(0)
    at = np.random.default_rng(0).permutation(len(one))
    other = make_proxy([one.ids[i] for i in at], one.labels[at], one.tasks[at], first=5, seed=0)
    for name in ("fold", "first", "pair"):
        np.testing.assert_array_equal(getattr(other, name), getattr(one, name)[at])
    assert (proxy_of(1).fold != one.fold).any()  # another seed draws others


def test_folds_hold_each_class_as_often_as_all_samples_do():
    proxy = proxy_of(0, count=300, pairs=80)
    outer, inner = proxy.outer(proxy.everything), proxy.inner(proxy.everything)
    assert set(outer) == set(range(5))
    assert set(inner) == {0, 1}
    assert set(zip(outer, inner, strict=True)) == {(o, i) for o in range(5) for i in range(2)}  # they cut across
    for task in range(-1, 3):
        for label in range(6):
            own = (proxy.tasks == task) & (proxy.labels == label)
            if own.any():
                assert np.ptp(np.bincount(outer[own], minlength=5)) <= 1
                assert np.ptp(np.bincount(inner[own], minlength=2)) <= 1
    assert FOLDS == 10


@pytest.mark.parametrize("each", range(2, 7))
def test_a_class_of_few_samples_is_in_both_halves(each: int):
    """Else what is fitted on one half says nothing of the class, and the other is judged by it."""
    labels = np.repeat(np.arange(20), each)
    proxy = make_proxy([str(i) for i in range(len(labels))], labels, np.zeros(len(labels), int), first=9)
    halves = proxy.inner(proxy.everything)
    assert all(len(set(halves[labels == c].tolist())) == 2 for c in range(20))


def test_the_first_samples_take_classes_in_turn():
    labels = np.array([0] * 30 + [1] * 10 + [2] * 2)
    proxy = make_proxy([str(i) for i in range(42)], labels, np.zeros(42, int), first=12)
    assert np.bincount(labels[proxy.first]).tolist() == [5, 5, 2]
    assert make_proxy(["a"], np.array([0]), np.array([0]), first=50).first.all()


# Scores


def test_the_score_is_the_weighted_mean_of_cross_fitted_soft_accuracies():
    judge, pool = judge_of([("one", True, 1.0), ("two", False, 1.5)], 60)
    positions = judge.proxy.everything
    for one in pool:
        value, softs = judge.score(one, positions)
        assert value == pytest.approx(judge.weights(positions) @ softs)
        half = judge.proxy.inner(positions)
        for this in (0, 1):
            # What is fitted for one half, by the other half alone.
            fit = judge.fitted(one.of(positions[half != this]), positions[half != this])
            for i in np.flatnonzero(half == this).tolist()[:10]:
                scores = judge.scale * judge.rows @ one.of(positions[[i]])[0]
                logits = oracle.logits(scores.tolist(), fit.beta, judge.log_prior.tolist(), fit.bias.tolist(), None)
                expected = 1 / (1 + np.exp(-oracle.margin(logits, int(judge.proxy.labels[i]))))
                assert softs[i] == pytest.approx(expected)


def test_a_sample_has_no_say_in_the_fit_that_it_is_judged_by():
    judge, (one,) = judge_of([("one", True, 1.0)], 40)
    positions = judge.proxy.everything
    before = judge.cross_fitted(one, positions, 1.0)
    half = judge.proxy.inner(positions)
    changed = replace(one, units=np.where((half == 0)[:, None], -one.units, one.units))
    after = judge.cross_fitted(changed, positions, 1.0)
    assert not np.allclose(after[half == 1], before[half == 1])  # their fit has seen the others, which changed
    labels = np.where(half == 0, 0, judge.proxy.labels)
    relabelled = replace(judge, proxy=replace(judge.proxy, labels=labels)).cross_fitted(one, positions)
    same = (half == 0) & (judge.proxy.labels == 0)
    np.testing.assert_allclose(relabelled[same], judge.cross_fitted(one, positions)[same])


def test_without_the_prior_the_encoder_alone_is_judged():
    judge, (one,) = judge_of([("one", True, 1.0)], 40)
    judge = replace(judge, use_prior=False, prior=Prior(judge.prior.joint, np.array([9.0, 0, 0, 0])))
    found = judge.cross_fitted(one, judge.proxy.everything)
    for i, unit in enumerate(one.units.astype(np.float64)):
        scores = dict(enumerate((judge.scale * judge.rows @ unit).tolist()))
        assert found[i] == pytest.approx(1 / (1 + np.exp(-oracle.margin(scores, int(judge.proxy.labels[i])))))
    chosen = choose(judge, [one], judge.proxy.everything)
    assert chosen.fit.rows is None
    assert (chosen.fit.beta, chosen.fit.bias.any(), chosen.of_rows) == (1.0, False, {})


def test_keep_adds_what_absent_tasks_lose():
    judge, (one, other) = judge_of([("one", True, 1.0), ("two", False, 1.0)], 40)
    labels = np.array([0, 1, 2, 3, 3])
    rows = judge.rows / np.linalg.norm(judge.rows, axis=1, keepdims=True)
    absent = Others(labels, np.array([5, 5, 5, 6, 6]))
    judge = replace(judge, keep=0.5, others=absent)
    good = replace(one, others=rows[labels].astype(np.float32))
    bad = replace(other, others=-rows[labels].astype(np.float32))
    positions = judge.proxy.everything
    assert judge.kept(good, positions) > 0.7 > 0.3 > judge.kept(bad, positions)
    value, softs = judge.score(good, positions)
    assert value == pytest.approx(judge.weights(positions) @ softs + 0.5 * judge.kept(good, positions))
    # Each absent task weighs the same, however many samples it has.
    mixed = replace(good, others=np.concatenate([rows[labels[:3]], -rows[labels[3:]]]).astype(np.float32))
    fit = judge.fitted(good.of(positions), positions)
    right = judge.of_others(mixed, fit).argmax(axis=1) == labels
    assert right.tolist() == [True] * 3 + [False] * 2
    assert judge.kept(mixed, positions) == pytest.approx(
        (judge.kept(good, positions) + judge.kept(bad, positions)) / 2, abs=0.2
    )
    assert judge.kept(one, positions) == 0  # not encoded


# The choice


def test_halving_sends_three_and_the_best_checkpoint_on():
    merges = [(f"merge {i}", False, 1.5 + i) for i in range(5)]
    judge, pool = judge_of([("weak", True, 0.4), *merges, ("single", True, 0.8)], 60, first=20)
    assert judge.proxy.first.sum() == 40
    found, first = finalists(judge, pool, judge.proxy.everything)
    best = np.argsort(-first)[:FINALISTS].tolist()
    assert found == sorted({*best, 6})
    assert len(found) == FINALISTS + 1
    chosen = choose(judge, pool, judge.proxy.everything)
    assert np.flatnonzero(~np.isnan(chosen.scores)).tolist() == found
    np.testing.assert_array_equal(chosen.first, first)
    # Only the first samples have a say in that.
    less = [
        replace(one, at=one.at[judge.proxy.first], units=one.units[judge.proxy.first]) if i not in found else one
        for i, one in enumerate(pool)
    ]
    assert finalists(judge, less, judge.proxy.everything)[0] == found
    assert choose(judge, less, judge.proxy.everything).index == chosen.index


def test_a_merge_that_is_clearly_better_is_taken():
    judge, pool = judge_of([("single", True, 0.5), ("merge", False, 3.0)], 100)
    found = choose(judge, pool, judge.proxy.everything)
    assert (found.index, found.best, found.best_single) == (1, 1, 0)
    assert found.ahead > 3 * found.error > 0
    assert found.ahead == pytest.approx(found.scores[1] - found.scores[0])


def test_a_merge_that_is_not_better_by_half_a_standard_error_is_not():
    judge, pool = judge_of([("single", True, 1.0), ("merge", False, 1.0)], 100)
    kept = taken = 0
    for seed in range(12):
        again = replace(pool[1], units=answers(judge, "merge", False, 1.02, seed).units)
        found = choose(replace(judge, refit=False), [pool[0], again], judge.proxy.everything)
        assert (found.index == 1) == (found.best == 1 and found.ahead > 0.5 * found.error)
        kept += found.index == 0 and found.best == 1
        taken += found.index == 1
    assert kept  # better by a little, and doubted
    same = choose(judge, [pool[0], replace(pool[0], name="copy", single=False)], judge.proxy.everything)
    assert (same.index, same.ahead, same.error) == (0, 0.0, 0.0)


def test_the_standard_error_is_that_of_the_weighted_mean():
    judge, pool = judge_of([("single", True, 1.0), ("merge", False, 1.3)], 300)
    found = choose(replace(judge, refit=False), pool, judge.proxy.everything)
    softs = [judge.cross_fitted(one, judge.proxy.everything) for one in pool]
    weights, rng = judge.weights(judge.proxy.everything), np.random.default_rng(0)
    drawn = rng.multinomial(len(weights), np.full(len(weights), 1 / len(weights)), size=2000) * weights
    means = drawn @ (softs[1] - softs[0]) / drawn.sum(axis=1)
    assert found.error == pytest.approx(means.std(), rel=0.1)  # 2,000 draws tell a standard deviation to 2 %


def test_nothing_is_fitted_twice_and_the_choice_is_the_same(monkeypatch: pytest.MonkeyPatch):
    class Forgetful(dict[bytes, Fit]):
        def __contains__(self, key: object) -> bool:
            return False

    def chosen(biases: dict[bytes, Fit]) -> tuple[Choice, list[bytes]]:
        asked: list[bytes] = []

        def counted(scores: Scores, *given: np.ndarray) -> Fit:
            asked.append(b"".join(part.tobytes() for part in (scores.values, *given)))
            return fit_bias(scores, *given)

        judge, pool = judge_of([("a", True, 0.2), ("b", False, 0.5), ("c", True, 0.3)], 20)
        monkeypatch.setattr(choice, "fit_bias", counted)
        return choose(replace(judge, biases=biases), pool, judge.proxy.everything), asked

    (once, fits), (again, every) = chosen({}), chosen(Forgetful())
    assert len(fits) == len(set(fits)) == len(set(every)) < len(every)
    assert (once.index, once.of_rows) == (again.index, again.of_rows)
    np.testing.assert_array_equal(once.scores, again.scores)
    np.testing.assert_array_equal(once.fit.bias, again.fit.bias)


def test_without_a_checkpoint_the_best_merge_is_taken():
    judge, pool = judge_of([("one", False, 1.0), ("two", False, 2.0)], 40)
    found = choose(judge, pool, judge.proxy.everything)
    assert (found.index, found.best_single, found.ahead, found.error) == (1, None, 0.0, 0.0)


def test_rows_are_fitted_where_the_cross_fit_says_so():
    # The encoder places a class where the head has no row for it.
    judge, (one,) = judge_of([("one", True, 2.0)], 150)
    turned = judge.rows.copy()
    turned[1] = -judge.rows[1]
    off = replace(judge, rows=turned)
    found = choose(off, [one], off.proxy.everything)
    assert set(found.of_rows) == {*L2, float("inf")}
    assert found.fit.l2 == max(found.of_rows, key=lambda l2: found.of_rows[l2]) < float("inf")
    assert found.fit.rows is not None
    assert found.of_rows[found.fit.l2] > found.of_rows[float("inf")] + 0.02
    none = choose(replace(off, refit=False), [one], off.proxy.everything)
    assert (none.fit.rows, none.of_rows) == (None, {})


def test_rows_stay_closer_to_the_heads_where_fitting_them_costs_the_absent_tasks():
    # As above; and samples of an absent task lie where the fitted row of class 1 takes them for its own.
    judge, (one,) = judge_of([("one", True, 2.0)], 60)
    turned = judge.rows.copy()
    turned[1] = -judge.rows[1]
    off = replace(judge, rows=turned)
    everything = off.proxy.everything
    one = replace(one, others=around(judge.rows, np.ones(40, np.int64), 2.0, 9))
    absent = Others(np.zeros(40, np.int64), np.full(40, 7))
    before = replace(off, others=absent).of_others(one, off.fitted(one.of(everything), everything))
    kept = replace(off, keep=2.0, others=replace(absent, labels=before.argmax(axis=1)))
    assert np.mean(before.argmax(axis=1) != 1) > 0.9
    alone, both = choose(off, [one], everything), choose(kept, [one], everything)
    assert alone.fit.l2 < both.fit.l2
    for l2, value in both.of_rows.items():
        fit = kept.fitted(one.of(everything), everything, l2)
        right = soft(margins(kept.of_others(one, fit), before.argmax(axis=1)))
        assert value == pytest.approx(alone.of_rows[l2] + 2 * right.mean())


@pytest.mark.parametrize("settings", [{}, {"metric": "balanced"}, {"use_prior": False}])
def test_the_order_of_samples_and_of_classes_changes_no_choice(settings: dict[str, Any]):
    specs: Sequence[tuple[str, bool, float]] = [("single", True, 0.8), ("one", False, 1.6), ("two", False, 1.0)]
    judge, pool = judge_of(specs, 50)
    judge = replace(judge, **settings)
    expected = choose(judge, pool, judge.proxy.everything)
    at = np.random.default_rng(0).permutation(len(judge.proxy))
    order = np.array([2, 0, 3, 1])
    proxy = replace(
        judge.proxy,
        ids=tuple(judge.proxy.ids[i] for i in at),
        labels=np.argsort(order)[judge.proxy.labels[at]],
        **{name: getattr(judge.proxy, name)[at] for name in ("tasks", "pair", "first", "fold")},
    )
    prior = Prior(judge.prior.joint[:, order], judge.prior.logits[order])
    moved = replace(judge, proxy=proxy, rows=judge.rows[order], prior=prior)
    found = choose(moved, [replace(one, units=one.units[at]) for one in pool], proxy.everything)
    assert (found.index, found.best, found.best_single) == (expected.index, expected.best, expected.best_single)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)  # L-BFGS stops a little elsewhere


def test_allowed_classes_hold_in_scores():
    judge, (one,) = judge_of([("one", True, 0.7)], 60)
    labels = judge.proxy.labels
    allowed = np.zeros((len(labels), 4), bool)
    allowed[np.arange(len(labels)), labels] = True
    allowed[np.arange(len(labels)), labels ^ 1] = True  # named among two classes
    eased = replace(judge, proxy=replace(judge.proxy, allowed=allowed))
    everything = judge.proxy.everything
    assert eased.score(one, everything)[0] > judge.score(one, everything)[0]
    logits = eased.logits(one.of(everything), everything, eased.fitted(one.of(everything), everything))
    assert allowed[np.arange(len(labels)), logits.argmax(axis=1)].all()


def test_answers_are_found_by_position():
    units = np.arange(6, dtype=np.float32).reshape(3, 2)
    one = Answers("one", True, np.array([2, 5, 9]), units)
    np.testing.assert_array_equal(one.seen(np.array([1, 2, 3, 9])), [2, 9])
    np.testing.assert_array_equal(one.of(np.array([9, 2])), units[[2, 0]])
    assert one.of(np.array([5])).dtype == np.float64


def test_samples_are_drawn_with_their_truth():
    """The problems of these tests: a candidate of more strength has more of them right."""
    labels, _ = samples(200)
    judge, pool = judge_of([("weak", True, 0.5), ("strong", False, 3.0)], 200)
    right = [
        np.mean(judge.scores(one.of(judge.proxy.everything), judge.proxy.everything).values.argmax(axis=1) == labels)
        for one in pool
    ]
    assert right[0] < 0.7 < 0.9 < right[1]


def test_a_judge_asks_for_its_own_prior():
    judge, _ = judge_of([("one", True, 1.0)], 20)
    assert isinstance(judge, Judge)
    np.testing.assert_array_equal(replace(judge, use_prior=False).log_prior, np.zeros(4))
    np.testing.assert_array_equal(judge.log_prior, judge.prior.logits)
