"""Noise is not taken for change, and change is not taken for noise, as often as the level says."""

from __future__ import annotations

from itertools import product
from math import comb

import numpy as np
import pytest

from prefmerge.target.moved import Moved, TargetMix, moved
from prefmerge.target.shares import Tasks, from_labels


def tasks(count: int) -> Tasks:
    """So many tasks of two classes each."""
    return Tasks(
        tuple(f"task-{t}" for t in range(count)),
        tuple(f"class-{c}" for c in range(2 * count)),
        tuple((2 * t, 2 * t + 1) for t in range(count)),
        np.kron(np.eye(count, dtype=np.int64), np.array([[9, 9]])),
    )


def compared(before: list[float], now: list[float], seed: int, sizes: tuple[int, int] = (50, 50)) -> Moved:
    """Two samples of labels, compared. Both estimates are made with one seed, as two calls of the command are."""
    rng, known, mixes = np.random.default_rng(seed), tasks(len(now)), list[TargetMix]()
    for mix, size in zip((before, now), sizes, strict=True):
        of_class = 2 * rng.choice(len(mix), size, p=mix) + rng.integers(0, 2, size)
        shares = from_labels(known, np.bincount(of_class, minlength=2 * len(mix)), seed=0)
        mixes.append(TargetMix(shares.shares, shares.draws, size))
    return moved(known.names, *mixes)


@pytest.mark.parametrize(
    ("mix", "sizes"),
    [
        ([0.7, 0.3, 0, 0], (50, 50)),
        ([0.25] * 4, (50, 50)),
        ([0.2] * 5, (5, 5)),  # of few labels, differences of draws alone would call half of these a change
        ([1 / 17] * 17, (400, 30)),  # and by task nearly all: what was not seen among 30 labels seems to be sure
        ([1 / 17] * 17, (5, 5)),
    ],
)
def test_two_samples_of_one_mix_are_rarely_called_a_change(mix: list[float], sizes: tuple[int, int]):
    results = [compared(mix, mix, seed, sizes) for seed in range(1000, 1060)]
    # Binomial: at 0.1, more than 14 of 60 happens once in 1,700 times.
    assert sum(one.clear for one in results) <= 14
    assert sum(bool(one.grew or one.shrank) for one in results) <= 14
    assert sizes != (50, 50) or any(one.clear for one in results)


def test_few_labels_are_judged_as_fishers_exact_test_judges_them():
    """Two tasks: a change is clear where the differences that are as large, of all that could be dealt, are at most a
    tenth.
    """
    known = np.zeros((1, 2))  # one draw without noise: the dealing alone decides
    for size, old, new in product((4, 7), range(8), range(8)):
        if max(old, new) > size:
            continue
        mixes = [TargetMix(np.array([n, size - n]) / size, known, size) for n in (old, new)]
        ways = {
            k: comb(size, k) * comb(size, old + new - k)
            for k in range(max(0, old + new - size), min(size, old + new) + 1)
        }
        as_large = sum(n for k, n in ways.items() if abs(2 * k - old - new) >= abs(new - old))
        p = as_large / sum(ways.values())
        if abs(p - 0.1) > 0.015:  # three standard errors of a part of 4,000 drawings
            assert moved(("a", "b"), *mixes).clear == (p < 0.1), (size, old, new)


def test_the_size_of_an_estimate_is_that_of_labels_which_say_as_much():
    known = tasks(4)
    for size in (20, 200):
        shares = from_labels(known, np.array([size // 2, 0, size // 4, size // 4, 0, 0, 0, 0]), draws=4000)
        mix = TargetMix(shares.shares, shares.draws, 1000, counted=False)
        assert mix.size == pytest.approx(size, rel=0.15)
        assert mix.counts.sum() == mix.size
        assert TargetMix(shares.shares, shares.draws, 7, counted=False).size == 7  # never more than there are
    thirds = TargetMix(np.array([1, 1, 1]) / 3, np.zeros((1, 3)), 10)
    assert sorted(thirds.counts.tolist()) == [3, 3, 4]


def test_a_change_is_seen_and_its_interval_holds_the_truth():
    before, now = [0.7, 0.3, 0, 0], [0.4, 0.3, 0.3, 0]
    results = [compared(before, now, seed) for seed in range(30)]
    assert sum(one.clear for one in results) >= 27
    assert sum(one.variation.low <= 0.3 <= one.variation.high for one in results) >= 24
    assert sum(one.grew == ["task-2"] for one in results) >= 27
    assert not any("task-1" in one.grew + one.shrank for one in results[:10])
    assert sum("task-0" in one.shrank for one in results) >= 15


def test_the_same_sample_is_no_change_and_a_stated_mix_has_no_noise():
    labels = from_labels(tasks(4), np.array([9, 9, 4, 4, 0, 0, 0, 0]))
    names, none = labels.names, np.zeros((0, 4))
    shown = TargetMix(labels.shares, labels.draws, 26)
    same = moved(names, shown, shown)
    assert (same.variation.value, same.variation.low, same.clear) == (0, 0, False)
    assert same.noise > 0.1  # though the draws are the very same ones
    stated = moved(names, TargetMix(labels.shares, none, 0), shown)
    assert 0 < stated.noise < same.noise
    backwards = moved(names, shown, TargetMix(labels.shares, none, 0))
    assert backwards.noise == pytest.approx(stated.noise, abs=0.03)
    known = moved(names, TargetMix(labels.shares, none, 0), TargetMix(np.array([0, 0, 0, 1.0]), none, 0))
    assert (known.noise, known.clear, known.grew, known.shrank) == (0, True, ["task-3"], ["task-0", "task-1"])
    assert known.to_json()["total_variation"] == {"value": 1.0, "low": 1.0, "high": 1.0}
