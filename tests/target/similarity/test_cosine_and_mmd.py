"""Cosine distance and MMD against slow loops, by hand and in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings

from prefmerge.errors import PreferenceError
from prefmerge.target.similarity import cosine, cosine_distance, mean_discrepancy, mmd
from tests.oracles import similarity as oracle
from tests.target.similarity.problems import NAMES, gaussians, two_samples


def cos(x: np.ndarray, y: np.ndarray) -> float:
    return float(cosine([x], [y], ["one"]).distances[0])


def discrepancy(x: np.ndarray, y: np.ndarray) -> float:
    return float(mmd([x], [y], ["one"]).distances[0])


@given(two_samples())
def test_cosine_is_the_angle_of_the_means(both: tuple[np.ndarray, np.ndarray]):
    x, y = both
    if not x.sum(axis=0).any() or not y.sum(axis=0).any():
        with pytest.raises(PreferenceError, match=r"^task 'one': the mean of its .* is zero and has no direction"):
            cos(x, y)
        return
    assert cos(x, y) == pytest.approx(oracle.cosine_distance(x, y), abs=1e-14)


def test_cosine_by_hand():
    x = np.array([[2.0, 0.0], [0.0, 0.0]])
    assert cos(x, np.array([[3.0, 3.0]])) == pytest.approx(1 - math.sqrt(0.5), abs=1e-15)
    assert cos(x, np.array([[0.0, 9.0]])) == pytest.approx(1, abs=1e-15)
    assert cos(x, np.array([[-1.0, 0.0]])) == pytest.approx(2, abs=1e-15)
    # 1 - cos of an angle of 1e-9 is 5e-19, which 1 - x cannot tell from 0.
    assert cos(np.array([[1.0, 0.0]]), np.array([[1.0, 1e-9]])) == pytest.approx(5e-19, rel=1e-6)


def test_a_mean_that_only_rounding_keeps_from_zero_has_no_direction():
    x = np.array([[0.1, 0.2], [0.2, 0.3], [-0.3, -0.5]])
    assert x.mean(axis=0).any()  # 0.1 + 0.2 is not 0.3
    with pytest.raises(PreferenceError, match="the mean of its features of the target is zero"):
        cos(x + 1, x)


@given(two_samples(least=2))
@settings(deadline=None)
def test_mmd_is_the_slow_loop(both: tuple[np.ndarray, np.ndarray]):
    x, y = both
    width = oracle.bandwidth(x)
    if width == 0:
        return
    # The root multiplies an error near zero.
    expected = max(oracle.squared_mmd(x, y, width), 0)
    assert discrepancy(x, y) ** 2 == pytest.approx(expected, abs=1e-12)
    assert mmd([x], [y], ["one"]).settings["bandwidth"] == [pytest.approx(width, rel=1e-12)]


@pytest.mark.parametrize("rows", [1, 4, 5])
def test_blocks_of_the_place_change_nothing(monkeypatch: pytest.MonkeyPatch, rows: int):
    monkeypatch.setattr(mean_discrepancy, "_ROWS", rows)
    tasks, target = gaussians(6, rows=(9, 11))
    for x, y in zip(tasks, target, strict=True):
        expected = max(oracle.squared_mmd(x, y, oracle.bandwidth(x)), 0)
        assert discrepancy(x, y) ** 2 == pytest.approx(expected, abs=1e-12)


def test_mmd_of_gaussians_in_closed_form():
    off = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        x, y = rng.standard_normal((300, 3)), 0.5 * rng.standard_normal((600, 3)) + [1.5, 0, 0]
        found = mmd([x], [y], ["one"])
        width = found.settings["bandwidth"][0]
        expected = (
            oracle.gaussian_kernel_mean(0, 2, width, 3)
            + oracle.gaussian_kernel_mean(0, 0.5, width, 3)
            - 2 * oracle.gaussian_kernel_mean(1.5, 1.25, width, 3)
        )
        assert expected > 0.2
        off.append(found.distances[0] ** 2 - expected)
    # The standard error of one is near 0.02.
    assert abs(np.mean(off)) < 0.03
    assert np.max(np.abs(off)) < 0.08


def test_mmd_is_unbiased_and_clamped():
    rng = np.random.default_rng(1)
    squares = []
    for _ in range(200):
        x, y = rng.standard_normal((2, 8, 2))
        squares.append(oracle.squared_mmd(x, y, oracle.bandwidth(x)))
        assert discrepancy(x, y) ** 2 == pytest.approx(max(squares[-1], 0), abs=1e-12)
    # Of one distribution: half of the estimates lie on either side of zero, up to five standard errors.
    assert abs(np.mean(squares)) < 5 * np.std(squares) / math.sqrt(200)
    assert min(squares) < 0


def test_bandwidth_of_zero():
    x = np.array([[1.0, 1.0]] * 5)
    # All distances within the task are zero: the median between it and the target, here sqrt(4), is taken.
    y = np.array([[1.0, 3.0], [1.0, 3.0], [1.0, 1.0]])
    found = mmd([x], [y], ["one"])
    assert found.settings["bandwidth"] == [2.0]
    assert found.distances[0] ** 2 == pytest.approx(oracle.squared_mmd(x, y, 2.0), abs=1e-12)
    # More than half of the pairs coincide: the median of the others.
    most = np.vstack([x, [[1.0, 4.0]]])
    assert mmd([most], [y], ["one"]).settings["bandwidth"] == [3.0]
    nothing = mmd([x], [x[:2]], ["one"])
    assert nothing.distances.tolist() == [0]
    assert nothing.settings["bandwidth"] == [None]


def test_mmd_needs_a_pair_on_either_side():
    x = np.random.default_rng(2).standard_normal((5, 2))
    with pytest.raises(PreferenceError, match=r"task 'one': its features of the target: expected at least 2 samples"):
        mmd([x], [x[:1]], ["one"])
    with pytest.raises(PreferenceError, match=r"task 'one': its own features: expected at least 2 samples of"):
        mmd([x[:1]], [x], ["one"])


def test_blind_to_order_and_scale():
    tasks, target = gaussians(3)
    rng = np.random.default_rng(0)
    for measure in (cosine, mmd):
        expected = measure(tasks, target, NAMES).distances
        shuffled = measure([rng.permutation(x) for x in tasks], [rng.permutation(y) for y in target], NAMES)
        np.testing.assert_allclose(shuffled.distances, expected, atol=1e-9)
        for factor in (1e-200, 1e200):
            found = measure([factor * x for x in tasks], [factor * y for y in target], NAMES)
            np.testing.assert_allclose(found.distances, expected, atol=1e-9)
    widths = mmd(tasks, target, NAMES).settings["bandwidth"]
    assert mmd([8 * x for x in tasks], [8 * y for y in target], NAMES).settings["bandwidth"] == [8 * w for w in widths]


def test_gamma_of_the_papers():
    tasks, target = gaussians(4)
    for measure, gamma in ((cosine, 50), (mmd, 100)):
        found = measure(tasks, target, NAMES)
        assert found.settings["gamma"] == gamma
        np.testing.assert_allclose(found.log_similarities, -gamma * found.distances)


def test_resampling_by_weights_is_resampling_rows():
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((15, 3)) + 1, rng.standard_normal((8, 3)) + 1
    rows = rng.integers(0, 8, (20, 8))
    weights = np.stack([np.bincount(row, minlength=8) / 8 for row in rows], axis=1)
    np.testing.assert_allclose(cosine_distance.resampled(x, y, weights), [cos(x, y[row]) for row in rows], atol=1e-14)
    width = oracle.bandwidth(x)
    expected = []
    for row in rows:
        # Pairs of one sample and itself are no pairs, however often it was drawn.
        pairs = [(a, b) for a in row for b in row if a != b]
        within_target = np.mean([math.exp(-sum((y[a] - y[b]) ** 2) / (2 * width**2)) for a, b in pairs])
        table = np.array(oracle.costs(x, x))[np.triu_indices(15, 1)]
        across = np.exp(-np.array(oracle.costs(x, y[row])) / (2 * width**2)).mean()
        expected.append(max(np.exp(-table / (2 * width**2)).mean() + within_target - 2 * across, 0))
    np.testing.assert_allclose(mean_discrepancy.resampled(x, y, weights) ** 2, expected, atol=1e-12)


def test_resamples_without_direction_or_pair():
    y = np.array([[1.0, 0.0], [-1.0, 0.0]])
    weights = np.array([[0.5, 1.0], [0.5, 0.0]])
    assert cosine_distance.resampled(y[:1], y, weights).tolist() == [1, 0]
    x = np.array([[0.0, 0.0], [1.0, 0.0]])
    alone = mean_discrepancy.resampled(x, y, weights)[1]
    expected = math.exp(-0.5) + 1 - (math.exp(-0.5) + 1)
    assert alone**2 == pytest.approx(expected, abs=1e-15)
