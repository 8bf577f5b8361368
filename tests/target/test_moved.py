"""Noise is not taken for change, and change is not taken for noise, as often as the level says."""

from __future__ import annotations

import numpy as np
import pytest

from prefmerge.target.moved import Moved, moved
from prefmerge.target.shares import Tasks, from_labels

TASKS = Tasks(
    ("a", "b", "c", "d"),
    tuple("12345678"),
    ((0, 1), (2, 3), (4, 5), (6, 7)),
    np.kron(np.eye(4, dtype=np.int64), np.array([[9, 9]])),
)


def compared(before: list[float], now: list[float], seed: int, each: int = 50, level: float = 0.9) -> Moved:
    """Two samples of labels, compared. Both estimates are made with one seed, as two calls of the command are."""
    rng = np.random.default_rng(seed)
    one, two = (
        from_labels(TASKS, np.bincount(2 * rng.choice(4, each, p=mix) + rng.integers(0, 2, each), minlength=8), seed=0)
        for mix in (before, now)
    )
    return moved(TASKS.names, one.shares, one.draws, two.shares, two.draws, level=level)


@pytest.mark.parametrize("mix", [[0.7, 0.3, 0, 0], [0.25] * 4])
def test_two_samples_of_one_mix_are_rarely_called_a_change(mix: list[float]):
    alarms = sum(compared(mix, mix, seed).clear for seed in range(60))
    assert alarms <= 14  # binomial: at 0.1, more than 14 of 60 happens once in 1,700 times
    assert alarms >= 1


def test_a_change_is_seen_and_its_interval_holds_the_truth():
    before, now = [0.7, 0.3, 0, 0], [0.4, 0.3, 0.3, 0]
    results = [compared(before, now, seed) for seed in range(30)]
    assert sum(one.clear for one in results) >= 27
    assert sum(one.variation.low <= 0.3 <= one.variation.high for one in results) >= 24
    assert sum(one.grew == ["c"] for one in results) >= 27
    assert not any("b" in one.grew + one.shrank for one in results[:10])
    assert sum("a" in one.shrank for one in results) >= 15


def test_the_same_sample_is_no_change_and_a_stated_mix_has_no_noise():
    shares = from_labels(TASKS, np.array([9, 9, 4, 4, 0, 0, 0, 0]))
    same = moved(TASKS.names, shares.shares, shares.draws, shares.shares, shares.draws)
    assert (same.variation.value, same.variation.low, same.clear) == (0, 0, False)
    assert same.noise > 0.1  # though the draws are the very same ones
    stated = moved(TASKS.names, shares.shares, np.zeros((0, 4)), shares.shares, shares.draws)
    assert 0 < stated.noise < same.noise
    known = moved(TASKS.names, shares.shares, np.zeros((0, 4)), np.array([0, 0, 0, 1.0]), np.zeros((0, 4)))
    assert (known.noise, known.clear, known.grew, known.shrank) == (0, True, ["d"], ["a", "b"])
    assert known.to_json()["total_variation"] == {"value": 1.0, "low": 1.0, "high": 1.0}
