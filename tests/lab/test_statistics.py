"""Means and paired differences: against loops, by hand, on drawn data, and what may not be compared."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefmerge.errors import DataError
from prefmerge.ground.stats import bootstrap_interval, t_interval
from prefmerge.lab import statistics as ours
from prefmerge.lab.results import Results, Score, TaskScores
from prefmerge.lab.statistics import StudyScores, compare
from tests.lab.made import made
from tests.oracles import statistics as oracle

Right = Mapping[tuple[str, int, str, int], int]  # method, seed, environment, variant -> right answers


def results(right: Right, n: int = 10, seeds: tuple[int, ...] = (3, 4), scale: str = "1") -> Results:
    scores = tuple(
        Score("places", method, scale, seed, name, variant, count, n, f"{name}/{variant}")
        for (method, seed, name, variant), count in right.items()
    )
    return Results("hand-made", ("a", "b"), seeds, (scale,), scores=scores)


# Two environments, two variants, two seeds; worked out below.
HAND = {
    ("A", 3, "e1", 0): 8, ("A", 4, "e1", 0): 6, ("A", 3, "e1", 1): 5, ("A", 4, "e1", 1): 5,
    ("A", 3, "e2", 0): 9, ("A", 4, "e2", 0): 9, ("A", 3, "e2", 1): 7, ("A", 4, "e2", 1): 5,
    ("B", 3, "e1", 0): 5, ("B", 4, "e1", 0): 5, ("B", 3, "e1", 1): 6, ("B", 4, "e1", 1): 4,
    ("B", 3, "e2", 0): 9, ("B", 4, "e2", 0): 8, ("B", 3, "e2", 1): 8, ("B", 4, "e2", 1): 6,
}  # fmt: skip


def test_means_by_hand():
    scores = StudyScores(results(HAND))
    assert scores.per_seed("A", "1", "e1") == pytest.approx({3: 0.65, 4: 0.55})
    mean = scores.mean("A", "1", "e1")
    assert mean is not None
    assert mean.value == pytest.approx(0.6)
    assert mean.std == pytest.approx(math.sqrt(0.05**2 + 0.05**2))  # two values, one below the line
    average = scores.average("A", "1")
    assert average is not None
    assert average.value == pytest.approx((0.65 + 0.8 + 0.55 + 0.7) / 4)
    assert average.std == pytest.approx(abs(0.725 - 0.625) / math.sqrt(2))


def test_differences_by_hand():
    found = compare(StudyScores(results(HAND)), "A", "B", "1")
    assert found is not None
    # Places: e1/0 (3 + 1) / 2, e1/1 (-1 + 1) / 2, e2/0 (0 + 1) / 2, e2/1 (-1 - 1) / 2; tenths.
    d = [0.2, 0.0, 0.05, -0.1]
    assert found.overall.mean == pytest.approx(sum(d) / 4)
    assert (found.overall.places, found.overall.won, found.overall.tied, found.overall.lost) == (4, 2, 1, 1)
    half = 3.182446305284263 * np.std(d, ddof=1) / 2  # t of 3 degrees, from a printed table
    assert found.overall.interval == pytest.approx((0.0375 - half, 0.0375 + half))
    assert found.overall.verdict == 0
    assert {name: part.mean for name, part in found.environments.items()} == pytest.approx({"e1": 0.1, "e2": -0.025})
    assert found.per_seed == pytest.approx({3: (3 - 1 + 0 - 1) / 40, 4: (1 + 1 + 1 - 1) / 40})
    assert found.missing == ()
    assert found.scales == ("1", "1")


def test_a_tie_is_a_tie_whatever_the_order_of_adding():
    # 1/3 of 7 samples and the like: float sums of these differ in the last bit.
    right = {("A", 3, "e1", 0): 1, ("A", 4, "e1", 0): 2, ("A", 5, "e1", 0): 4}
    other = {("B", 3, "e1", 0): 4, ("B", 4, "e1", 0): 1, ("B", 5, "e1", 0): 2}
    found = compare(StudyScores(results({**right, **other}, n=7, seeds=(3, 4, 5))), "A", "B", "1")
    assert found is not None
    assert found.overall.tied == 1
    assert found.overall.mean == 0


@st.composite
def scored(draw: st.DrawFn) -> dict[tuple[str, int, str, int], int]:
    seeds, variants = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    keys = [
        (method, seed, name, variant)
        for method in "AB"
        for seed in range(seeds)
        for name in ("e1", "e2")
        for variant in range(variants)
    ]
    return {key: draw(st.integers(0, 10)) for key in keys}


@settings(deadline=None, max_examples=50)
@given(scored())
def test_like_the_loops(right: dict[tuple[str, int, str, int], int]):
    seeds = tuple(sorted({key[1] for key in right}))
    scores = StudyScores(results(right, seeds=seeds))
    accuracies = {m: {key[1:]: count / 10 for key, count in right.items() if key[0] == m} for m in "AB"}
    for name in ("e1", "e2"):
        mean = scores.mean("A", "1", name)
        assert mean is not None
        value, std = oracle.cell(accuracies["A"], name)
        # Both add at most 12 numbers below 1 in float64, in another order.
        assert mean.value == pytest.approx(value, abs=1e-14)
        assert mean.std == (None if std is None else pytest.approx(std, abs=1e-8))  # a root of what cancels
    places = oracle.paired(accuracies["A"], accuracies["B"])
    found = compare(scores, "A", "B", "1", draws=10)
    assert found is not None
    assert found.overall.mean == pytest.approx(oracle.mean(list(places.values())), abs=1e-14)
    assert found.overall.won + found.overall.tied + found.overall.lost == len(places)
    assert found.overall.won == sum(value > 1e-9 for value in places.values())
    mirrored = compare(scores, "B", "A", "1", draws=10)
    assert mirrored is not None
    assert mirrored.overall.mean == pytest.approx(-found.overall.mean, abs=1e-15)
    assert (mirrored.overall.won, mirrored.overall.lost) == (found.overall.lost, found.overall.won)


# Coverage: a truth is drawn with its scores, and the 95 % interval has to hold it 95 times in 100.

REPEATS = 1500


def coverage(places: int, seeds: int, interval) -> float:
    """How often the interval over places holds the mean difference 0.03. Places differ by 0.04; seeds of a place by
    0.02; answers are not drawn, so the truth is exact.
    """
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(REPEATS):
        at_places = 0.03 + rng.normal(0, 0.04, places)
        d = (at_places[:, None] + rng.normal(0, 0.02, (places, seeds))).mean(axis=1)
        low, high = interval(d.tolist())
        held += low <= 0.03 <= high
    return held / REPEATS


@pytest.mark.parametrize("places", [5, 25])
def test_the_t_interval_covers(places: int):
    # Four standard errors of the share of 1500 draws: 0.0225.
    assert coverage(places, 2, t_interval) == pytest.approx(0.95, abs=0.0225)


def test_the_bootstrap_covers_many_places_and_is_too_short_for_five():
    assert coverage(25, 2, lambda d: bootstrap_interval(d, draws=400)) == pytest.approx(0.935, abs=0.03)
    assert 0.8 < coverage(5, 2, lambda d: bootstrap_interval(d, draws=400)) < 0.9  # why t is the one that is printed


def test_seeds_taken_for_places_would_not_cover():
    """The mistake that averaging over the seeds first avoids."""
    rng = np.random.default_rng(6)
    held = 0
    for _ in range(REPEATS):
        at_places = 0.03 + rng.normal(0, 0.04, 10)
        interval = t_interval((at_places[:, None] + rng.normal(0, 0.02, (10, 3))).ravel().tolist())
        assert interval is not None
        held += interval[0] <= 0.03 <= interval[1]
    assert held / REPEATS < 0.85


def test_more_seeds_of_the_same_answers_do_not_narrow_the_interval():
    one = {key: count for key, count in HAND.items() if key[1] == 3}
    twice = {**one, **{(m, 4, name, v): count for (m, _, name, v), count in one.items()}}
    a = compare(StudyScores(results(one, seeds=(3,))), "A", "B", "1")
    b = compare(StudyScores(results(twice)), "A", "B", "1")
    assert a is not None
    assert b is not None
    assert a.overall == b.overall


# What may not be compared


def test_methods_must_have_seen_the_same_samples():
    whole = results(HAND)
    scores = list(whole.scores)
    at = next(i for i, s in enumerate(scores) if (s.method, s.seed, s.environment, s.variant) == ("B", 4, "e2", 1))
    scores[at] = dataclasses.replace(scores[at], samples="other")
    with pytest.raises(DataError) as found:
        StudyScores(dataclasses.replace(whole, scores=tuple(scores)))
    assert str(found.value) == (
        "seed 4, e2, variant 1: B was scored on 10 samples (digest other), A on 10 samples (digest e2/1). Methods can "
        "be compared on the same samples only: score both on one frozen manifest."
    )
    scores[at] = dataclasses.replace(whole.scores[at], n=11)
    with pytest.raises(DataError, match=r"B was scored on 11 samples \(digest e2/1\), A on 10 samples"):
        StudyScores(dataclasses.replace(whole, scores=tuple(scores)))


def test_a_score_that_is_there_twice():
    whole = results(HAND)
    with pytest.raises(DataError, match=r"^A at scale 1, seed 3, e1, variant 0: there are two scores\. Keep the one"):
        StudyScores(dataclasses.replace(whole, scores=(*whole.scores, whole.scores[0])))


def test_pairs_that_lack_a_side_are_listed():
    right = {key: count for key, count in HAND.items() if key not in {("B", 4, "e1", 1), ("A", 3, "e2", 0)}}
    found = compare(StudyScores(results(right)), "A", "B", "1")
    assert found is not None
    assert found.missing == ("no score of B: e1 variant 1 seed 4", "no score of A: e2 variant 0 seed 3")
    assert found.overall.places == 4  # each still has one seed
    assert found.environments["e1"].mean == pytest.approx((0.2 - 0.1) / 2)


def test_methods_without_a_common_place():
    right = {key: count for key, count in HAND.items() if (key[0] == "A") == (key[2] == "e1")}
    assert compare(StudyScores(results(right)), "A", "B", "1") is None


def test_an_incomplete_seed_does_not_count():
    right = {key: count for key, count in HAND.items() if key != ("A", 4, "e1", 1)}
    scores = StudyScores(results(right))
    mean = scores.mean("A", "1", "e1")
    assert mean is not None
    assert (mean.value, mean.std, mean.seeds) == (pytest.approx(0.65), None, (3,))
    assert scores.lacking("A", "1", "e1") == (1, 4)
    average = scores.average("A", "1")
    assert average is not None
    assert average.seeds == (3,)
    assert scores.best_scale("A") == "1"  # the best of the other seed
    gone = {key: count for key, count in right.items() if key[:2] != ("A", 3)}
    assert StudyScores(results(gone)).best_scale("A") is None


def test_a_scale_with_fewer_seeds_is_not_the_best():
    whole, high = results(HAND, scale="1"), results(HAND, scale="0.5")
    more = tuple(dataclasses.replace(s, right=s.right + 1) for s in high.scores if s.seed == 3)
    assert StudyScores(dataclasses.replace(whole, scores=(*more, *whole.scores))).best_scale("A") == "1"


def test_a_place_that_only_the_manifest_knows_is_missing():
    whole = made(seeds=(3,), scales=("1",), methods=("MAGMAX",), studies=("places",))
    less = dataclasses.replace(whole, scores=tuple(s for s in whole.scores if (s.environment, s.variant) != ("e1", 2)))
    assert StudyScores(less).lacking("MAGMAX", "1", "e1") == (1, 5)
    assert StudyScores(less).mean("MAGMAX", "1", "e1") is None


# Scales


def test_a_method_that_chooses_its_own_scale_stands_at_every_scale():
    whole = results(HAND)
    own = tuple(dataclasses.replace(s, scale="") if s.method == "A" else s for s in whole.scores)
    scores = StudyScores(dataclasses.replace(whole, scores=own))
    found = compare(scores, "A", "B", "1")
    assert found is not None
    assert found.scales == ("", "1")
    assert found.overall.mean == pytest.approx(0.0375)
    assert scores.best_scale("A") == ""
    less = tuple(one for one in own if (one.method, one.environment) != ("A", "e1"))
    assert StudyScores(dataclasses.replace(whole, scores=less)).best_scale("A") == ""  # there is nothing to choose
    assert scores.scales("A") == ("",)


def test_the_best_scale_has_the_best_average_and_the_lowest_of_equals():
    low, high = results(HAND, scale="0.5").scores, results(HAND, scale="1").scores
    better = tuple(dataclasses.replace(s, right=s.right + (s.method == "A")) for s in high)
    base = results(HAND)
    assert StudyScores(dataclasses.replace(base, scores=(*better, *low))).best_scale("A") == "1"
    assert StudyScores(dataclasses.replace(base, scores=(*high, *low))).best_scale("A") == "0.5"


def test_studies_are_apart():
    whole = made(seeds=(3,), scales=("1",), methods=("MAGMAX", "TIES"))
    assert StudyScores(whole).environments == ("e1", "e2", "e3", "e4", "e5")
    assert StudyScores(whole, "diversity").environments == ("m1", "m2", "m3", "m5")
    assert StudyScores(whole, "nothing").environments == ()


# Models on all tasks


def test_by_alpha_sorts_as_numbers_and_finds_magmax():
    def one(study: str, method: str, scale: str, alpha: str | None) -> TaskScores:
        return TaskScores(study, method, "sequential", scale, 3, (1, 2), (4, 4), alpha)

    rows = (
        one("alpha", "Tunable MAGMAX", "1", "4"),
        one("alpha", "Tunable MAGMAX", "1", "0.25"),
        one("alpha", "Tunable MAGMAX", "0.5", "1"),
        one("alpha", "MAGMAX", "1", None),
        one("alpha", "TIES", "1", None),
        one("methods", "MAGMAX", "0.50", None),
    )
    found = ours.by_alpha(Results("", ("a", "b"), (3,), ("0.5", "1"), task_scores=rows))
    assert {scale: list(alphas) for scale, alphas in found.items()} == {"0.5": ["1", None], "1": ["0.25", "4", None]}
    assert found["1"][None] == [rows[3]]
    assert found["0.5"][None] == [rows[5]]
    mean = ours.over_tasks(found["1"]["4"], lambda score: score.accuracies[1])
    assert mean == ours.Mean(0.5, None, (3,))


def test_total_variation():
    assert ours.total_variation([0.5, 0.5, 0], [0.5, 0.5, 0]) == 0
    assert ours.total_variation([1, 0, 0], [0, 0.5, 0.5]) == 1
    assert ours.total_variation([0.2, 0.8], [0.5, 0.5]) == pytest.approx(0.3)
