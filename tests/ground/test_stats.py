"""Intervals of accuracies and means: against slow oracles, as printed in tables, and against SciPy."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefmerge.ground.stats import (
    Z,
    bootstrap_interval,
    mcnemar,
    t_interval,
    t_near_normal,
    t_quantile,
    wilson,
    wilson_of,
)
from tests.oracles import continual
from tests.oracles import statistics as oracle


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_where_the_score_test_turns(counts: tuple[int, int]):
    right, n = counts
    low, high = wilson(right, n)
    assert (low, high) == pytest.approx(continual.wilson(right, n, 1.959964), abs=1e-7)  # bisection meets a square root
    assert 0 <= low <= right / n <= high <= 1


def test_wilson_by_hand_and_its_ends():
    assert wilson(0, 20) == (0.0, pytest.approx(0.161125, abs=1e-6))  # z^2 / (n + z^2) = 3.84146 / 23.84146
    assert wilson(20, 20) == (pytest.approx(0.838875, abs=1e-6), 1.0)
    for right, n in ((-1, 5), (6, 5), (0, 0)):
        with pytest.raises(ValueError, match=rf"found {right} of {n}"):
            wilson(right, n)


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_part_of_what_need_not_be_whole(counts: tuple[int, int]):
    right, n = counts
    low, high = wilson_of(right / n, n)
    assert low == wilson(right, n)[0]
    assert high == pytest.approx(wilson(right, n)[1], abs=1e-12)
    assert wilson_of(right / n, n + 0.5)[1] <= high + 1e-12  # more samples, a narrower interval


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 9, 24, 60])
@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.99])
def test_the_quantile_against_the_integral(degrees: int, level: float):
    # Simpson's rule with 4000 steps is good to 1e-6 here, where the density is wide (one degree, 99 %).
    assert oracle.within(t_quantile(level, degrees), degrees) == pytest.approx(level, abs=1e-6)


@pytest.mark.parametrize(
    ("level", "degrees", "printed"),
    [(0.95, 1, 12.706), (0.95, 4, 2.776), (0.95, 24, 2.064), (0.9, 4, 2.132), (0.99, 9, 3.250), (0.95, 120, 1.980)],
)
def test_the_quantile_as_printed_in_tables(level: float, degrees: int, printed: float):
    assert t_quantile(level, degrees) == pytest.approx(printed, abs=5e-4)


def test_what_has_no_quantile_or_interval():
    with pytest.raises(ValueError, match=r"^expected 0 < level < 1 and degrees >= 1, found 1\.0 and 3\.$"):
        t_quantile(1.0, 3)
    assert t_interval([0.1]) is None
    assert bootstrap_interval([0.1]) is None
    assert t_interval([0.25, 0.25]) is None  # equal ones say nothing of how far apart others would be


def test_the_quantiles_are_scipys():
    from scipy.stats import norm, t  # pyright: ignore[reportMissingImports]

    assert norm.ppf(0.975) == pytest.approx(Z, abs=1e-6)
    for level in (0.5, 0.8, 0.9, 0.95, 0.99):
        for degrees in range(1, 40):
            assert t_quantile(level, degrees) == pytest.approx(t.ppf((1 + level) / 2, degrees), rel=1e-12)


@pytest.mark.parametrize("degrees", [5, 19, 99])
def test_the_near_quantile_is_near(degrees: int):
    for level in (0.8, 0.9, 0.95):
        assert t_near_normal(level, degrees) == pytest.approx(t_quantile(level, degrees), rel=0.01)


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9), st.floats(0.1, 0.9))
def test_the_t_interval_is_that_of_a_textbook(values: list[float], level: float):
    result = t_interval(values, level)
    if len(set(values)) == 1:
        assert result is None
        return
    assert result is not None
    middle, s = oracle.mean(values), oracle.deviation(values)
    half = t_quantile(level, len(values) - 1) * s / len(values) ** 0.5
    assert result == pytest.approx((middle - half, middle + half), abs=1e-12)


def test_the_bootstrap_is_the_same_every_time():
    values = [0.1, 0.3, -0.2, 0.05]
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values) != bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values) == (pytest.approx(-0.125), pytest.approx(0.2375))


def test_the_p_value_is_that_of_a_fair_coin():
    from scipy.stats import binomtest  # pyright: ignore[reportMissingImports]

    for b in range(8):
        for c in range(8):
            expected = binomtest(b, b + c).pvalue if b + c else 1.0
            assert mcnemar(b, c) == pytest.approx(expected, rel=1e-12)
