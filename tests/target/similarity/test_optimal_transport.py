"""Optimal transport against linear programmes, pairings, sorted samples, slow loops, hand and closed forms."""

from __future__ import annotations

import math
import os
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefmerge.errors import MissingExtra, PreferenceError
from prefmerge.target.similarity import optimal_transport
from prefmerge.target.similarity.ot_distance import Solver, pot, resampled
from prefmerge.target.similarity.samples import squared_distances
from tests.oracles import similarity as oracle
from tests.target.similarity.problems import NAMES, gaussians, two_samples


def distance(x: np.ndarray, y: np.ndarray, solver: Solver = "sinkhorn", **more: float) -> float:
    return float(optimal_transport([x], [y], ["one"], solver=solver, **more).distances[0])  # pyright: ignore[reportArgumentType]


@given(st.integers(1, 6), st.integers(0, 10**6))
@settings(max_examples=20)
def test_the_oracles_agree_on_the_best_plan(count: int, seed: int):
    cost = np.random.default_rng(seed).random((count, count)).tolist()
    even = [1 / count] * count
    assert oracle.best_of_all(cost) == pytest.approx(oracle.best_pairing(cost), abs=1e-12)
    assert oracle.best_of_all(cost) == pytest.approx(oracle.best_plan(cost, even, even), abs=1e-9)


@given(two_samples())
@settings(max_examples=40, deadline=None)
def test_exact_is_the_linear_programme(both: tuple[np.ndarray, np.ndarray]):
    x, y = both
    cost = oracle.costs(x, y)
    top = oracle.largest(cost)
    a, b = [1 / len(x)] * len(x), [1 / len(y)] * len(y)
    expected = oracle.best_plan(oracle.divided(cost, top), a, b) if top else 0.0
    assert distance(x, y, "exact") == pytest.approx(expected, abs=1e-9)


def test_exact_pairs_equal_sizes_and_sorts_numbers():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 4)), rng.standard_normal((30, 4)) + 0.3
    cost = oracle.costs(x, y)
    assert distance(x, y, "exact") == pytest.approx(oracle.best_pairing(cost) / oracle.largest(cost), rel=1e-9)
    p, q = rng.standard_normal(24), rng.exponential(size=15)
    top = oracle.largest(oracle.costs(p[:, None], q[:, None]))
    assert distance(p[:, None], q[:, None], "exact") == pytest.approx(
        oracle.on_a_line(p.tolist(), q.tolist()) / top, rel=1e-9
    )


@given(two_samples(), st.sampled_from([0.02, 0.1, 1.0]), st.sampled_from([1, 7, 100]))
@settings(max_examples=40, deadline=None)
def test_sinkhorn_is_the_slow_loop(both: tuple[np.ndarray, np.ndarray], regularization: float, iterations: int):
    x, y = both
    cost = oracle.costs(x, y)
    top = oracle.largest(cost)
    a, b = [1 / len(x)] * len(x), [1 / len(y)] * len(y)
    given_ = {"regularization": regularization, "iterations": iterations}
    if top == 0:
        assert distance(x, y, **given_) == distance(x, y, "debiased", **given_) == 0
        return
    transport, entropic = oracle.sinkhorn(oracle.divided(cost, top), a, b, regularization, iterations)
    # Ours stops once the marginals hold to 1e-9.
    assert distance(x, y, **given_) == pytest.approx(transport, abs=1e-8)
    within = [
        oracle.sinkhorn(oracle.divided(oracle.costs(z, z), top), w, w, regularization, iterations)[1]
        for z, w in ((x, a), (y, b))
    ]
    if iterations == 100:
        assert distance(x, y, "debiased", **given_) == pytest.approx(max(entropic - sum(within) / 2, 0), abs=1e-7)


def test_is_the_number_that_pot_returns():
    tasks, target = gaussians(1)
    x, y = tasks[0], target[0]
    ot = pot()
    cost = ot.dist(x, y)
    a, b = ot.unif(len(x)), ot.unif(len(y))
    assert distance(x, y) == pytest.approx(ot.sinkhorn2(a, b, cost / cost.max(), 0.1, numItermax=100), abs=1e-8)
    assert distance(x, y, "exact") == pytest.approx(ot.emd2(a, b, cost / cost.max()), abs=1e-12)


def test_points_by_hand():
    here, there = np.zeros((3, 2)), np.array([[1.0, 0.0], [0.0, 2.0]])
    # All mass moves from 0 to two points at squared distances 1 and 4: (1/4 + 4/4) / 2.
    for solver in ("sinkhorn", "exact"):
        assert distance(here, there, solver) == pytest.approx(0.625, abs=1e-12)
        assert distance(here, there[:1], solver) == pytest.approx(
            1, abs=1e-12
        )  # two Diracs, whose distance is the unit
    # Two points at cost c from one another: S = regularization log(2 / (1 + exp(-c / regularization))).
    within = 0.1 * math.log(2 / (1 + math.exp(-1.25 / 0.1)))
    assert distance(here, there, "debiased") == pytest.approx(0.625 - within / 2, abs=1e-9)


def test_gaussians_in_closed_form():
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((900, 1)), 2 + 3 * rng.standard_normal((900, 1))
    top = ((x - y.T) ** 2).max()
    # Squared Wasserstein distance: (2 - 0)^2 + (3 - 1)^2. Means are known to 0.1 and deviations to 0.07, which makes
    # the standard error 2 sqrt((2 * 0.1)^2 + (2 * 0.07)^2) = 0.5.
    assert distance(x, y, "exact") * top == pytest.approx(8, abs=1.5)


def test_debiased_is_zero_for_a_sample_and_itself_and_never_negative():
    tasks, target = gaussians(3)
    for z in (*tasks, *target):
        assert distance(z, z, "debiased") == 0
        assert distance(z, z[::-1].copy(), "debiased") < 1e-7
        assert distance(z, z) > 0.1  # the spread of the sample: what debiasing takes away
        assert distance(z, z, "exact") == pytest.approx(0, abs=1e-12)
    for x, y in zip(tasks, target, strict=True):
        assert distance(x, y, "debiased") > 0


@pytest.mark.parametrize("solver", ["sinkhorn", "exact", "debiased"])
def test_symmetric_and_blind_to_order_scale_shift_and_rotation(solver: Solver):
    tasks, target = gaussians(4)
    x, y = tasks[0], target[1]
    rng = np.random.default_rng(0)
    expected = distance(x, y, solver)
    assert distance(y, x, solver) == pytest.approx(expected, abs=1e-7)
    assert distance(rng.permutation(x), rng.permutation(y), solver) == pytest.approx(expected, abs=1e-9)
    turn = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    assert distance(1e-3 * (x @ turn + 50), 1e-3 * (y @ turn + 50), solver) == pytest.approx(expected, abs=1e-8)
    assert distance(1e200 * x, 1e200 * y, solver) == pytest.approx(expected, abs=1e-9)
    assert distance(1e-200 * x, 1e-200 * y, solver) == pytest.approx(expected, abs=1e-9)


def test_points_that_all_but_coincide_far_from_zero():
    rng = np.random.default_rng(5)
    # Differences of 2^-20 at 2^10 leave |x|^2 + |y|^2 - 2 <x, y> no digit.
    steps = rng.integers(0, 4, (2, 6, 2)).astype(float)
    x, y = steps
    assert distance(1024 + x / 2**20, 1024 + y / 2**20, "exact") == pytest.approx(distance(x, y, "exact"), abs=1e-9)
    # Pairs far apart whose partners nearly coincide: no common centre helps.
    x, y = (np.vstack([z, z + 1000]) for z in 1e-5 * rng.random((2, 6, 2)))
    np.testing.assert_allclose(squared_distances(x, y), oracle.costs(x, y), rtol=1e-9, atol=0)
    same = np.full((4, 512), 0.1)
    assert [distance(same, same[:3], solver) for solver in ("sinkhorn", "exact", "debiased")] == [0, 0, 0]


@pytest.mark.parametrize("regularization", [1e-4, 1e-3, 1e4])
def test_nothing_underflows(regularization: float):
    tasks, target = gaussians(6)
    far = [y + 30 for y in target]
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        found = optimal_transport(tasks, far, NAMES, regularization=regularization)
        optimal_transport(tasks, far, NAMES, regularization=regularization, solver="debiased")
    assert np.isfinite(found.distances).all()
    if regularization < 1:
        exact = optimal_transport(tasks, far, NAMES, solver="exact").distances
        np.testing.assert_allclose(found.distances, exact, atol=2e-3)
    else:
        spread = [
            np.mean(oracle.costs(x, y)) / oracle.largest(oracle.costs(x, y)) for x, y in zip(tasks, far, strict=True)
        ]
        np.testing.assert_allclose(found.distances, spread, atol=1e-4)  # the plan of independence


def test_similarities_shares_and_settings():
    tasks, target = gaussians(7)
    found = optimal_transport(tasks, target, NAMES, gamma=20)
    np.testing.assert_allclose(found.similarities, np.exp(-20 * found.distances))
    np.testing.assert_allclose(found.shares(), found.similarities / found.similarities.sum())
    assert found.shares()[0] == max(found.shares())
    assert found.settings == {"gamma": 20, "solver": "sinkhorn", "regularization": 0.1, "iterations": 100}
    assert optimal_transport(tasks, target, NAMES).settings["gamma"] == 100


@pytest.mark.parametrize("solver", ["sinkhorn", "exact", "debiased"])
@pytest.mark.parametrize(("regularization", "iterations"), [(0.1, 100), (1e-3, 100), (1e-3, 2)])
def test_resampling_by_weights_is_resampling_rows(solver: Solver, regularization: float, iterations: int):
    tasks, target = gaussians(8, rows=(12, 7), width=1)
    rows = np.random.default_rng(0).integers(0, 7, (9, 7))
    weights = np.stack([np.bincount(row, minlength=7) / 7 for row in rows], axis=1)
    given_ = {"regularization": regularization, "iterations": iterations}
    found = resampled(tasks[0], target[0], weights, solver=solver, **given_)  # pyright: ignore[reportArgumentType]
    expected = [distance(tasks[0], target[0][row], solver, **given_) for row in rows]
    # A row drawn twice weighs twice, converged (to 1e-9) or not; below 1/200 in the log domain.
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_resampling_from_one_point():
    same = np.ones((3, 2))
    assert resampled(
        same, same, np.full((3, 2), 1 / 3), solver="sinkhorn", regularization=0.1, iterations=9
    ).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"solver": "magic"}, "solver 'magic' is not known; use sinkhorn, exact, debiased."),
        ({"regularization": 0}, "regularization: expected a number above zero, found 0."),
        ({"regularization": math.nan}, "regularization: expected a number above zero, found nan."),
        ({"iterations": 0}, "iterations: expected a whole number of at least 1, found 0."),
        ({"iterations": 2.5}, "iterations: expected a whole number of at least 1, found 2.5."),
        ({"gamma": -1}, "gamma: expected a number above zero, at most 1e+300, found -1."),
    ],
)
def test_settings_that_make_no_sense(wrong: dict[str, float], message: str):
    tasks, target = gaussians(9)
    with pytest.raises(PreferenceError) as caught:
        optimal_transport(tasks, target, NAMES, **wrong)  # pyright: ignore[reportArgumentType]
    assert str(caught.value) == message


def test_an_exact_solver_that_gives_up_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("prefmerge.target.similarity.ot_distance._PIVOTS", 1)
    tasks, target = gaussians(10)
    with pytest.raises(PreferenceError, match=r"the exact solver gave up on 40 by 25 samples: .* Use fewer samples or"):
        optimal_transport(tasks, target, NAMES, solver="exact")


def test_pot_is_imported_without_frameworks_and_its_absence_is_told(monkeypatch: pytest.MonkeyPatch):
    for name in ("PYTORCH", "CUPY", "TENSORFLOW"):
        monkeypatch.delenv(f"POT_BACKEND_DISABLE_{name}", raising=False)
    monkeypatch.setenv("POT_BACKEND_DISABLE_JAX", "mine")
    before = dict(os.environ)
    pot()
    assert dict(os.environ) == before
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(MissingExtra, match=r"optimal transport needs .* pip install 'prefmerge\[places\]'"):
        optimal_transport(*gaussians(11), NAMES)
