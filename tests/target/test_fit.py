"""Temperature, bias and rows: loss and gradient against loops, problems drawn with their answer, and laws."""

from __future__ import annotations

import math

import numpy as np
import pytest

from prefmerge.target import fit as module
from prefmerge.target.fit import Fit, Scores, fit_bias, fit_rows, margins, plain, soft
from tests.oracles import target as oracle

WIDTH, CLASSES, SCALE = 3, 5, 4.0

pytestmark = pytest.mark.usefixtures("single_threaded")


def problem(seed: int, count: int = 12, *, masked: bool = False, classes: int = 4):
    """Units, scores, labels of the first `classes` classes, weights, log prior and, where `masked`, allowed classes."""
    rng = np.random.default_rng(seed)
    units = rng.standard_normal((count, WIDTH))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    rows = rng.standard_normal((CLASSES, WIDTH))
    labels = rng.integers(0, classes, count)
    allowed = None
    if masked:
        allowed = rng.random((count, CLASSES)) < 0.5
        allowed[np.arange(count), labels] = True
        allowed[np.arange(count), (labels + 1) % CLASSES] = True
    weights = rng.dirichlet(np.ones(count))
    return units, Scores(SCALE * (units @ rows.T), allowed), labels, weights, rng.standard_normal(CLASSES)


def drawn(scores: np.ndarray, beta: float, add: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Labels (N,) of a model whose logits are beta * scores + add."""
    noisy = beta * scores + add + rng.gumbel(size=scores.shape)
    return noisy.argmax(axis=1)


def loss_of(scores: Scores, labels: np.ndarray, weights: np.ndarray, prior: np.ndarray, found: Fit) -> float:
    allowed = None if scores.allowed is None else scores.allowed.tolist()
    given = (labels.tolist(), weights.tolist(), prior.tolist(), found.beta, found.bias.tolist(), [], math.inf, allowed)
    return oracle.loss(scores.values.tolist(), *given)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_loss_and_gradient_are_those_of_loops(seed: int, masked: bool):
    units, scores, labels, weights, prior = problem(seed, masked=masked)
    free = np.unique(labels)
    own = module._Problem(scores, labels, weights, prior, free)
    rng = np.random.default_rng(seed)
    b, dw = rng.standard_normal(len(free)), 0.1 * rng.standard_normal((len(free), WIDTH))
    bias, rows = np.zeros(CLASSES), np.zeros((CLASSES, WIDTH))
    bias[free], rows[free] = b, dw
    allowed = None if scores.allowed is None else scores.allowed.tolist()
    by_loops = (labels.tolist(), weights.tolist(), prior.tolist(), 1.3, bias.tolist())
    at_bias, at_rows = np.concatenate([[1.3], b]), np.concatenate([[1.3], b, dw.ravel()])
    for x, call, values, l2 in (
        (at_bias, own.bias, scores.values, math.inf),
        (at_rows, lambda x: own.rows(x, units, SCALE, 3.0), scores.values + SCALE * units @ rows.T, 3.0),
    ):
        value, gradient = call(x)
        assert value == pytest.approx(oracle.loss(values.tolist(), *by_loops, rows.tolist(), l2, allowed), rel=1e-12)
        for i, step in enumerate(1e-5 * np.eye(len(x))):
            slope = (call(x + step)[0] - call(x - step)[0]) / 2e-5
            assert gradient[i] == pytest.approx(slope, rel=1e-5, abs=1e-7)  # differences of second order in the step


@pytest.mark.parametrize("masked", [False, True])
def test_logits_margins_and_soft_accuracy_are_those_of_loops(masked: bool):
    units, scores, labels, _, prior = problem(1, masked=masked)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((CLASSES, WIDTH))
    values = oracle.moved(scores.values.tolist(), units.tolist(), SCALE, rows.tolist())
    fit = Fit(0.7, rng.standard_normal(CLASSES), rows, 3.0)
    found = margins(scores.logits(fit, prior, units, SCALE), labels)
    softs = soft(found)
    for i, label in enumerate(labels.tolist()):
        mask = None if scores.allowed is None else scores.allowed[i].tolist()
        expected = oracle.margin(oracle.logits(values[i], 0.7, prior.tolist(), fit.bias.tolist(), mask), label)
        assert found[i] == pytest.approx(expected)
        assert softs[i] == pytest.approx(1 / (1 + math.exp(-expected)))


def test_margins_at_their_ends():
    # One class, or one class that is allowed: nothing can be taken for another.
    np.testing.assert_array_equal(margins(np.zeros((3, 1)), np.zeros(3, int)), np.ones(3))
    alone = Scores(np.array([[0.0, 9.0]]), np.array([[True, False]]))
    assert margins(alone.logits(plain(2), np.zeros(2)), np.array([0]))[0] > 0
    # Equal logits are no right answer; soft accuracy calls them half of one.
    assert margins(np.zeros((1, 2)), np.array([1]))[0] == 0
    assert soft(np.zeros(1))[0] == 0.5
    np.testing.assert_array_equal(soft(np.array([-1e30, 1e30])) > 0.5, [False, True])


def test_samples_are_taken_with_their_allowed_classes():
    _, scores, _, _, _ = problem(0, masked=True)
    assert scores.allowed is not None
    found = scores.take(np.array([4, 1]))
    assert found.allowed is not None
    np.testing.assert_array_equal(found.values, scores.values[[4, 1]])
    np.testing.assert_array_equal(found.allowed, scores.allowed[[4, 1]])
    assert problem(0)[1].take(np.array([0])).allowed is None


@pytest.mark.parametrize("masked", [False, True])
def test_nothing_near_the_fit_is_better(masked: bool):
    units, scores, labels, weights, prior = problem(2, 30, masked=masked)
    found, rng = fit_bias(scores, labels, weights, prior), np.random.default_rng(0)
    least = loss_of(scores, labels, weights, prior, found)
    for _ in range(20):
        beta = max(found.beta + 0.05 * rng.standard_normal(), module.BETA[0])
        b = np.zeros(CLASSES)
        b[np.unique(labels)] = 0.05  # classes without samples keep 0, though another bias would be better here
        away = Fit(beta, found.bias + b * rng.standard_normal(CLASSES))
        assert loss_of(scores, labels, weights, prior, away) > least
    # Rows start from there and only gain.
    rows = fit_rows(scores, units, SCALE, labels, weights, prior, 1.0, found)
    assert rows.rows is not None
    assert rows.l2 == 1.0
    moved = Scores(scores.values + SCALE * units @ rows.rows.T, scores.allowed)
    assert loss_of(moved, labels, weights, prior, rows) + np.sum(rows.rows**2) < least


def test_weights_need_not_sum_to_one():
    _, scores, labels, weights, prior = problem(0)
    one, other = fit_bias(scores, labels, weights, prior), fit_bias(scores, labels, 50 * weights, prior)
    assert other.beta == pytest.approx(one.beta, rel=1e-9)
    np.testing.assert_allclose(other.bias, one.bias, rtol=1e-9)


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_a_known_shift_and_temperature_are_recovered(beta: float, monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    scores, shift = 3 * rng.standard_normal((4000, 4)), np.array([1.0, -0.5, 0.5, -1.0])
    prior = np.array([0.3, 0.0, -0.3, 0.0])
    labels = drawn(scores, beta, prior + shift, rng)
    pulled = fit_bias(Scores(scores), labels, np.ones(4000), prior)
    monkeypatch.setattr(module, "RIDGE", 1e-6)
    found = fit_bias(Scores(scores), labels, np.ones(4000), prior)
    # So few of the samples are near a border that 4,000 tell a bias to about 0.07 (one standard error).
    assert found.beta == pytest.approx(beta, rel=0.1)
    np.testing.assert_allclose(found.bias - found.bias.mean(), shift, atol=0.25)
    # The ridge draws towards 0 and turns no sign.
    assert np.linalg.norm(pulled.bias) < np.linalg.norm(found.bias - found.bias.mean())
    np.testing.assert_array_equal(np.sign(pulled.bias), np.sign(shift))


def test_calibrated_scores_stay_as_they_are():
    rng = np.random.default_rng(1)
    scores = 2 * rng.standard_normal((4000, 4))
    labels = drawn(scores, 1.0, np.zeros(4), rng)
    found = fit_bias(Scores(scores), labels, np.ones(4000), np.zeros(4))
    assert found.beta == pytest.approx(1, abs=0.1)
    np.testing.assert_allclose(found.bias, np.zeros(4), atol=0.1)


def test_known_rows_are_recovered_in_their_direction():
    rng = np.random.default_rng(2)
    units = rng.standard_normal((3000, WIDTH))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    head, moved = rng.standard_normal((4, WIDTH)), np.zeros((4, WIDTH))
    moved[1] = [0.0, 0.8, -0.8]
    labels = drawn(SCALE * units @ (head + moved).T, 1.0, np.zeros(4), rng)
    scores, weights = Scores(SCALE * units @ head.T), np.full(3000, 1 / 3000)
    start = fit_bias(scores, labels, weights, np.zeros(4))
    found = fit_rows(scores, units, SCALE, labels, weights, np.zeros(4), 0.01, start)
    assert found.rows is not None
    told = found.rows[1] - found.rows.mean(axis=0)  # what all rows share changes no answer
    alike = told @ moved[1] / np.linalg.norm(told) / np.linalg.norm(moved[1])
    assert alike > 0.9
    held = fit_rows(scores, units, SCALE, labels, weights, np.zeros(4), 1e6, start)
    assert held.rows is not None
    assert np.linalg.norm(held.rows) < 1e-3  # an l2 as large as that leaves the head's rows alone


@pytest.mark.parametrize("masked", [False, True])
def test_classes_without_samples_keep_their_bias_and_rows(masked: bool):
    units, scores, labels, weights, prior = problem(3, 20, masked=masked, classes=2)
    found = fit_bias(scores, labels, weights, prior)
    rows = fit_rows(scores, units, SCALE, labels, weights, prior, 1.0, found)
    assert rows.rows is not None
    for one in (found.bias, rows.bias, rows.rows):
        assert not one[2:].any()
        assert one[:2].all()


def test_without_samples_or_weight_nothing_is_fitted():
    _, scores, labels, weights, prior = problem(0)
    for found in (
        fit_bias(scores.take(np.array([], int)), labels[:0], weights[:0], prior),
        fit_bias(scores, labels, 0 * weights, prior),
    ):
        assert (found.beta, found.rows, found.l2) == (1.0, None, math.inf)
        np.testing.assert_array_equal(found.bias, np.zeros(CLASSES))


def test_samples_that_are_all_right_keep_beta_within_bounds():
    scores = 10 * np.eye(4)
    found = fit_bias(Scores(scores), np.arange(4), np.ones(4), np.zeros(4))
    assert module.BETA[0] <= found.beta <= module.BETA[1]
    wrong = fit_bias(Scores(-scores), np.arange(4), np.ones(4), np.zeros(4))
    assert wrong.beta == module.BETA[0]  # a head that is always wrong is worth nothing, and is not turned round
    assert np.isfinite(found.bias).all()
    assert np.isfinite(wrong.bias).all()


def both(seed: int) -> tuple[tuple, Fit, Fit]:
    units, scores, labels, weights, prior = given = problem(seed, 25, masked=seed % 2 == 0)
    found = fit_bias(scores, labels, weights, prior)
    return given, found, fit_rows(scores, units, SCALE, labels, weights, prior, 3.0, found)


def assert_close(found: Fit, expected: Fit) -> None:
    # L-BFGS stops where the gradient is below 1e-5: another order of sums may stop a little elsewhere.
    assert found.beta == pytest.approx(expected.beta, abs=2e-3)
    np.testing.assert_allclose(found.bias, expected.bias, atol=2e-3)
    if expected.rows is not None:
        assert found.rows is not None
        np.testing.assert_allclose(found.rows, expected.rows, atol=2e-3)


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_samples_changes_nothing(seed: int):
    (units, scores, labels, weights, prior), bias, rows = both(seed)
    at = np.random.default_rng(seed).permutation(len(labels))
    again = fit_bias(scores.take(at), labels[at], weights[at], prior)
    assert_close(again, bias)
    assert_close(fit_rows(scores.take(at), units[at], SCALE, labels[at], weights[at], prior, 3.0, again), rows)


@pytest.mark.parametrize("seed", range(4))
def test_relabelled_classes_relabel_the_fit(seed: int):
    (units, scores, labels, weights, prior), bias, rows = both(seed)
    order = np.random.default_rng(seed).permutation(CLASSES)  # new class i is old class order[i]
    place = np.argsort(order)
    moved = Scores(scores.values[:, order], None if scores.allowed is None else scores.allowed[:, order])
    again = fit_bias(moved, place[labels], weights, prior[order])
    assert rows.rows is not None
    assert_close(again, Fit(bias.beta, bias.bias[order]))
    assert_close(
        fit_rows(moved, units, SCALE, place[labels], weights, prior[order], 3.0, again),
        Fit(rows.beta, rows.bias[order], rows.rows[order], 3.0),
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_sample_of_weight_two_is_two_samples(seed: int):
    (_, scores, labels, weights, prior), _, _ = both(seed)
    twice, at = weights.copy(), np.concatenate([np.arange(len(labels)), [0]])
    twice[0] *= 2
    assert_close(fit_bias(scores.take(at), labels[at], weights[at], prior), fit_bias(scores, labels, twice, prior))
