"""Intervals: how often they hold the truth on drawn data; Clopper and Pearson's where those are exact; determinism."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from prefmerge.errors import PreferenceError
from prefmerge.target.similarity import KINDS, Interval, feature_interval, label, label_interval
from prefmerge.target.similarity.bootstrap import FeatureKind
from tests.oracles import similarity as oracle
from tests.target.similarity.problems import NAMES, gaussians

# Five tasks of four classes each, all of one size: a share is the proportion of the task's labels.
BALANCED = [{f"{t}.{i}": 50 for i in range(4)} for t in range(5)]
FIVE = tuple("abcde")


def allowed(chance: float, repeats: int) -> float:
    """Four standard errors of a proportion of so many repeats."""
    return 4 * math.sqrt(chance * (1 - chance) / repeats)


def label_coverage(
    tasks: list[dict[str, int]], mixture: dict[str, float], samples: int, repeats: int
) -> tuple[np.ndarray, np.ndarray]:
    """The true share of each task, and how often its interval at 0.9 holds it."""
    rates = np.array([[task.get(c, 0) / sum(task.values()) for c in mixture] for task in tasks])
    truth = rates @ list(mixture.values())
    truth = truth / truth.sum()
    rng = np.random.default_rng(0)
    held = np.zeros(len(tasks))
    for repeat in range(repeats):
        drawn = rng.multinomial(samples, list(mixture.values()))
        target = {c: int(n) for c, n in zip(mixture, drawn, strict=True) if n}
        found = label_interval(tasks, target, FIVE[: len(tasks)], draws=400, seed=repeat)
        held += (found.low <= truth) & (truth <= found.high)
    return truth, held / repeats


@pytest.mark.parametrize("samples", [10, 50])
def test_coverage_of_balanced_labels_is_that_of_the_exact_binomial_interval(samples: int):
    shares = [0.53, 0.31, 0.12, 0.04, 0]
    mixture = {f"{t}.{i}": share / 4 for t, share in enumerate(shares) for i in range(4)}
    truth, held = label_coverage(BALANCED, mixture, samples, 300)
    np.testing.assert_allclose(truth, shares)
    for share, found in zip(shares, held, strict=True):
        expected = oracle.clopper_pearson_coverage(share, samples, 0.9)
        assert found == pytest.approx(expected, abs=allowed(expected, 300) + 0.01), share
        assert found >= 0.9 - allowed(0.9, 300), share
    assert held[4] == 1  # a share of zero is always held


@pytest.mark.parametrize("shares", [[0.2] * 5, [0.02, 0.5, 0.3, 0.1, 0.08], [0, 0.5, 0.3, 0.2, 0]])
def test_coverage_where_tasks_have_1_to_16_classes(shares: list[float]):
    tasks = [{f"{t}.{i}": 50 for i in range(2**t)} for t in range(5)]
    mixture = {f"{t}.{i}": share / 2**t for t, share in enumerate(shares) for i in range(2**t)}
    _, held = label_coverage(tasks, mixture, 30, 200)
    assert (held >= 0.9 - allowed(0.9, 200)).all(), held


def test_coverage_where_tasks_share_classes_and_are_not_balanced():
    tasks = [{"a": 90, "b": 10}, {"a": 10, "b": 20, "c": 70, "d": 5}, {"d": 33, "e": 60, "c": 1}, {"f": 50}]
    mixture = dict(zip("abcdef", [0.35, 0.3, 0.2, 0.1, 0.04, 0.01], strict=True))
    truth, held = label_coverage(tasks, mixture, 40, 200)
    assert truth.min() < 0.02
    assert (held >= 0.9 - allowed(0.9, 200)).all(), held


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("counts", [(20, 0, 0), (12, 7, 1), (1, 0, 0)])
def test_label_intervals_are_clopper_and_pearsons_in_the_binomial_case(counts: tuple[int, ...], level: float):
    tasks = [{f"{t}.{i}": 9 for i in range(3)} for t in range(3)]
    target = {f"{t}.{i % 3}": n - 2 * (n // 3) if i == 0 else n // 3 for t, n in enumerate(counts) for i in range(3)}
    found = label_interval(tasks, {c: n for c, n in target.items() if n}, NAMES, draws=20_000, level=level)
    expected = np.array([oracle.clopper_pearson(n, sum(counts), level) for n in counts])
    # A quantile of 20,000 draws has a standard error near 0.002 here.
    np.testing.assert_allclose(np.stack([found.low, found.high], axis=1), expected, atol=0.008)
    assert (found.low[np.array(counts) == 0] == 0).all()
    assert (found.high[np.array(counts) == 0] > 0.05).all()


def test_labels_that_no_task_knows_tell_nothing():
    target = {"0.0": 5, "1.1": 3}
    known = label_interval(BALANCED, target, FIVE, seed=3)
    more = label_interval(BALANCED, {**target, "yak": 1000}, FIVE, seed=3)
    assert (known.low.tolist(), known.high.tolist()) == (more.low.tolist(), more.high.tolist())


def test_classes_that_every_task_has_bound_the_shares():
    # Domains: both tasks have both classes, so no target can give the first less than 1/4 or more than 3/4.
    found = label_interval([{"a": 3, "b": 1}, {"a": 1, "b": 3}], {"a": 1}, ["x", "y"], level=0.99)
    assert found.low[0] == pytest.approx(0.25, abs=0.01)
    assert found.high[0] == pytest.approx(0.75)


def test_one_task_has_all():
    found = label_interval([{"a": 1, "b": 2}], {"a": 1}, ["one"])
    assert (found.low.tolist(), found.high.tolist()) == ([1], [1])
    tasks, target = gaussians(0)
    found = feature_interval("cosine", tasks[:1], target[:1], ["one"])
    assert (found.low.tolist(), found.high.tolist()) == ([1], [1])


def turned_targets(seed: int, width: int, shares: list[float]) -> tuple[list[np.ndarray], Any]:
    """Three tasks, each a Gaussian seen by an encoder of its own (a rotation), and who draws n samples of a target that
    mixes them.
    """
    rng = np.random.default_rng(seed)
    centres = (1.5 * rng.standard_normal((3, width)) + 2) / math.sqrt(width)
    turns = [
        np.linalg.qr(np.eye(width) + 0.3 * rng.standard_normal((width, width)) / math.sqrt(width))[0] for _ in NAMES
    ]

    def seen(task: np.ndarray) -> np.ndarray:
        return centres[task] + rng.standard_normal((len(task), width)) / math.sqrt(width)

    def target(samples: int) -> list[np.ndarray]:
        inputs = seen(rng.choice(3, samples, p=shares))
        return [inputs @ turn for turn in turns]

    return [seen(np.full(40, t)) @ turn for t, turn in enumerate(turns)], target


@pytest.mark.parametrize(("kind", "gamma", "repeats"), [("cosine", 10, 400), ("mmd", 5, 80), ("ot", 30, 60)])
def test_coverage_of_the_share_that_a_huge_sample_would_give(kind: FeatureKind, gamma: float, repeats: int):
    tasks, target = turned_targets(0, 16, [0.5, 0.3, 0.2])
    truth = KINDS[kind](tasks, target(2000), NAMES, gamma=gamma).shares()
    assert truth.min() > 1e-3
    held = np.zeros(3)
    for repeat in range(repeats):
        found = feature_interval(kind, tasks, target(25), NAMES, draws=100, seed=repeat, gamma=gamma)
        held += (found.low <= truth) & (truth <= found.high)
    # As the docstring says, up to 0.05 off the level on average over tasks.
    assert held.mean() / repeats == pytest.approx(0.9, abs=0.05 + allowed(0.9, repeats))


def test_intervals_narrow_with_samples_and_widen_with_the_level():
    tasks, target = turned_targets(1, 8, [0.6, 0.3, 0.1])

    def width(found: Interval) -> float:
        return float((found.high - found.low).sum())

    few, many = target(10), target(400)
    assert (
        width(feature_interval("cosine", tasks, many, NAMES)) < width(feature_interval("cosine", tasks, few, NAMES)) / 3
    )
    widths = [width(feature_interval("cosine", tasks, few, NAMES, level=level)) for level in (0.5, 0.8, 0.95)]
    assert widths == sorted(widths)
    counted = [width(label_interval(BALANCED, {"0.0": 3 * n, "3.1": n}, FIVE)) for n in (1, 10, 100)]
    assert counted == sorted(counted, reverse=True)


@pytest.mark.parametrize("kind", ["ot", "cosine", "mmd"])
def test_one_seed_one_answer_around_the_estimate(kind: FeatureKind):
    tasks, target = gaussians(2)
    first, again, other = (
        feature_interval(kind, tasks, target, NAMES, draws=40, seed=seed, gamma=9) for seed in (1, 1, 2)
    )
    assert (first.low.tolist(), first.high.tolist()) == (again.low.tolist(), again.high.tolist())
    assert first.low.tolist() != other.low.tolist()
    shares = KINDS[kind](tasks, target, NAMES, gamma=9).shares()
    for found in (first, other):
        assert ((found.low >= 0) & (found.low < shares) & (shares < found.high) & (found.high <= 1)).all()


def test_an_estimate_that_resampling_leaves_behind_stays_inside():
    # One sample in ten points the other way; a level this low takes the middle of the resamples alone.
    x, y = np.array([[1.0, 0.0]]), np.array([[1.0, 0.0]] * 9 + [[0.0, 5.0]])
    tasks, target, names = [x, x[:, ::-1]], [y, y], ["right", "up"]
    for seed in range(20):
        found = feature_interval("cosine", tasks, target, names, level=0.01, seed=seed)
        shares = KINDS["cosine"](tasks, target, names).shares()
        assert (found.low <= shares).all()
        assert (shares <= found.high).all()
    found = label_interval(BALANCED, {"0.0": 1, "1.0": 50}, FIVE, level=0.01)
    shares = label(BALANCED, {"0.0": 1, "1.0": 50}, FIVE).shares()
    assert ((found.low <= shares) & (shares <= found.high)).all()


def test_the_same_samples_are_drawn_for_every_task():
    # Two encoders that see alike: whatever is drawn, their shares are equal.
    tasks, target = gaussians(3)
    found = feature_interval("ot", [tasks[0]] * 2, [target[0]] * 2, ["a", "b"], draws=40)
    np.testing.assert_allclose([found.low, found.high], 0.5, atol=1e-9)


def test_one_sample_says_nothing():
    tasks, target = gaussians(4)
    for kind in ("ot", "cosine"):
        found = feature_interval(kind, tasks, [y[:1] for y in target], NAMES)
        assert (found.low.tolist(), found.high.tolist()) == ([0, 0, 0], [1, 1, 1])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"level": 1}, "level: expected a number between 0 and 1, such as 0.9, found 1."),
        ({"level": 0}, "level: expected a number between 0 and 1, such as 0.9, found 0."),
        ({"draws": 19}, "draws: expected a whole number of at least 20 at level 0.9, found 19."),
        ({"draws": 50, "level": 0.99}, "draws: expected a whole number of at least 200 at level 0.99, found 50."),
        ({"draws": 99.5}, "draws: expected a whole number of at least 20 at level 0.9, found 99.5."),
    ],
)
def test_levels_and_draws_that_make_no_sense(wrong: dict[str, Any], message: str):
    with pytest.raises(PreferenceError) as caught:
        label_interval(BALANCED, {"0.0": 1}, FIVE, **wrong)
    assert str(caught.value) == message
    with pytest.raises(PreferenceError) as caught:
        feature_interval("cosine", *gaussians(5), NAMES, **wrong)
    assert str(caught.value) == message


def test_kinds_without_features():
    with pytest.raises(
        PreferenceError, match=r"^intervals of features are known for ot, cosine, mmd, not for 'label'\.$"
    ):
        feature_interval("label", *gaussians(6), NAMES)  # pyright: ignore[reportArgumentType]
    with pytest.raises(PreferenceError, match="no label of the target occurs in any task"):
        label_interval(BALANCED, {"x": 1}, FIVE)
