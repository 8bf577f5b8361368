"""What the shares of inputs are made of: EM, the black box and the temperature, against loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from prefmerge.target.shares import (
    shift,
)
from tests.oracles import mixtures as oracle
from tests.target.test_shares import far


def likelihoods(seed: int, rows: int = 12, tasks: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(tasks, 0.6), size=rows), rng.exponential(size=rows)


@pytest.mark.parametrize("seed", range(8))
def test_em_finds_the_mix_of_largest_likelihood(seed: int):
    likely, weights = likelihoods(seed)
    found = shift.mix(likely, weights, 1.0)

    def score(shares: Any) -> float:
        return oracle.log_likelihood(likely.tolist(), weights.tolist(), shares)

    best = oracle.best_of_three(score, 100)
    assert score(found) >= score(best) - 1e-9  # the log-likelihood is concave: nothing on the grid is above the optimum
    assert far(found, best) < 0.03  # the grid's cells are 0.01 wide


@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_em_is_that_of_plain_loops(seed: int, alpha: float):
    likely, weights = likelihoods(seed, rows=20, tasks=4)
    found = shift.mix(likely, weights, alpha)
    best = oracle.expectation_maximisation(likely.tolist(), weights.tolist(), 1.0, [0.25] * 4, 20_000)
    if alpha != 1:
        best = oracle.expectation_maximisation(likely.tolist(), weights.tolist(), alpha, best, 3000)
    np.testing.assert_allclose(found, best, atol=1e-5)  # both stop short of the limit
    many = shift.mixes(likely, np.stack([weights, weights]), alpha, found)
    np.testing.assert_allclose(many, [found, found], atol=0.01)


def test_below_alpha_1_rare_tasks_are_drawn_to_zero_but_never_all():
    likely = np.full((60, 2), 1e-9)
    likely[:59, 0] = likely[59, 1] = 1.0
    np.testing.assert_allclose(shift.mix(likely, np.ones(60), 1.0), [59 / 60, 1 / 60], atol=1e-7)
    np.testing.assert_allclose(shift.mix(likely, np.ones(60), 0.5), [58.5 / 59, 0.5 / 59], atol=1e-7)
    assert shift.mix(np.where(likely == 1, 1, 0.3)[40:], np.ones(20), 0.5)[1] == 0
    alike = shift.mix(np.ones((10, 40)), np.ones(10), 0.5)  # a quarter of an input for each
    np.testing.assert_allclose(alike, np.full(40, 1 / 40))


@pytest.mark.parametrize("seed", range(6))
def test_the_black_box_is_the_least_squares_on_the_simplex(seed: int):
    rng = np.random.default_rng(seed)
    confusion = rng.dirichlet(np.ones(3), size=3) / 2 + np.eye(3) / 2
    taken = rng.dirichlet(np.full(3, 0.3))  # not always what any mix explains

    def score(shares: Any) -> float:
        return -oracle.least_squares(confusion.tolist(), taken.tolist(), shares)

    found, best = shift.black_box(taken, confusion), oracle.best_of_three(score, 200)
    assert found.sum() == pytest.approx(1)
    assert score(found) >= score(best) - 1e-7
    assert far(found, best) < 0.02


def test_the_likelihood_of_a_task_is_the_mean_over_its_classes():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(5), size=7)
    frequencies = np.array([0.4, 0.1, 0.2, 0.1, 0.2])
    of_task = [[0, 3], [1], [2, 4]]
    found = shift._likelihoods(np.log(probabilities / frequencies), np.array([0, 1, 2, 0, 2]), 3)
    for row, p in zip(found, probabilities.tolist(), strict=True):
        expected = np.array([oracle.task_likelihood(p, frequencies.tolist(), own) for own in of_task])
        np.testing.assert_allclose(row, expected / expected.max(), rtol=1e-12)


def test_the_temperature_makes_the_truth_likeliest():
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), 200)
    logits = 2 * np.eye(4)[truth] + rng.standard_normal((800, 4)) * 1.5
    logits *= 3  # three times too sure

    def loss(temperature: float) -> float:
        p = np.exp(logits / temperature)
        return -float(np.log(p[np.arange(800), truth] / p.sum(axis=1)).sum())

    best = min(np.geomspace(0.5, 50, 400), key=loss)
    assert shift._temperature(logits, truth) == pytest.approx(best, rel=0.02)
    assert best > 2
