"""The in-memory assignment against scipy's solver, its prices as a proof, and budgets of zero."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from prefmerge.methods.transport import apportion, solve


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 7), st.booleans())
@settings(max_examples=200, deadline=None)  # the first call compiles
def test_equals_scipys_optimum_and_proves_it(seed: int, rows: int, tasks: int, tied: bool):
    rng = np.random.default_rng(seed)
    W_RP = rng.integers(0, 4, (rows, tasks)).astype(float) if tied else rng.random((rows, tasks))
    budget_P = np.bincount(rng.integers(0, tasks, rows), minlength=tasks)
    owner_R, price_P = solve(W_RP, budget_P, [])
    assert (np.bincount(owner_R, minlength=tasks) == budget_P).all()
    columns = np.repeat(np.arange(tasks), budget_P)
    i, j = linear_sum_assignment(-W_RP[:, columns])
    found = W_RP[np.arange(rows), owner_R].sum()
    # Sums of at most 40 values below 4 in float64.
    assert found == pytest.approx(W_RP[:, columns][i, j].sum(), abs=1e-12)
    dual = (W_RP - price_P).max(axis=1).sum() + (budget_P * price_P).sum()
    assert dual == pytest.approx(found, abs=1e-10)


def test_first_prices_from_samples_do_not_change_the_optimum():
    rng = np.random.default_rng(0)
    W_RP = np.abs(np.cumsum(rng.standard_normal((20_000, 6)), axis=1))
    budget_P = np.array([1, 0, 4999, 5000, 5000, 5000])
    plain, _ = solve(W_RP, budget_P, [])
    levels = [np.sort(rng.permutation(20_000)[:size]) for size in (500, 5000)]
    warm, _ = solve(W_RP, budget_P, levels)
    assert (plain == warm).all()  # continuous values: the optimum is one


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=20).filter(any), st.integers(0, 10**5))
def test_apportion_sums_and_stays_within_one_of_the_share(budget: list[int], rows: int):
    shared = apportion(np.array(budget), rows)
    assert shared.sum() == rows
    assert (np.abs(shared - np.array(budget) * rows / sum(budget)) < 1).all()
