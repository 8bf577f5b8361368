"""The oracles against each other, against answers worked out by hand, and against mergekit's files: they are judged
before they judge.
"""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import pairwise, permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from tests.oracles import methods, mixtures, selection, shares

GOLDEN = Path(__file__).parents[1] / "golden"


def test_budgets_worked_out_by_hand() -> None:
    third = [Fraction(1, 3)] * 3
    assert shares.budgets(third, 10) == [4, 3, 3]
    assert shares.budgets([Fraction(0), Fraction(1, 3), Fraction(2, 3)], 10) == [0, 4, 6]
    assert shares.budgets([Fraction(57, 100), Fraction(43, 100)], 100) == [57, 43]
    assert shares.budgets(third, 1) == [1, 0, 0]


def test_geometric_carried_and_blended_shares_worked_out_by_hand() -> None:
    assert shares.geometric(Fraction(2), 3) == [Fraction(4, 7), Fraction(2, 7), Fraction(1, 7)]
    assert shares.geometric(Fraction(0), 3) == [0, 0, 1]
    assert shares.carry([Fraction(1), Fraction(0), Fraction(0)], Fraction(1, 2)) == [
        Fraction(4, 7),
        Fraction(2, 7),
        Fraction(1, 7),
    ]
    assert shares.carry([Fraction(1, 4), Fraction(3, 4)], Fraction(0)) == [Fraction(1, 4), Fraction(3, 4)]
    assert shares.blend([Fraction(1), Fraction(0)], Fraction(1, 2), [1, 3]) == [Fraction(5, 8), Fraction(3, 8)]


@st.composite
def assignments(draw: st.DrawFn) -> tuple[np.ndarray, list[int]]:
    """Magnitudes with many ties, and budgets."""
    tasks, elements = draw(st.integers(1, 5)), draw(st.integers(1, 12))
    table = draw(
        st.lists(st.lists(st.integers(0, 4), min_size=elements, max_size=elements), min_size=tasks, max_size=tasks)
    )
    cuts = sorted(draw(st.lists(st.integers(0, elements), min_size=tasks - 1, max_size=tasks - 1)))
    ends = [0, *cuts, elements]
    return np.array(table, float), [b - a for a, b in pairwise(ends)]


@given(assignments(), st.integers(0, 99), st.integers(1, 3))
def test_replay_reads_back_what_the_printed_algorithm_did(
    problem: tuple[np.ndarray, list[int]], seed: int, passes: int
) -> None:
    table, budgets = problem
    owners, truth = selection.run_printed(table, budgets, passes, random.Random(seed))
    assert selection.replay(table, budgets, owners, passes=passes, law="printed") == truth


@given(assignments(), st.integers(0, 99))
def test_the_printed_second_pass_assigns_nothing(problem: tuple[np.ndarray, list[int]], seed: int) -> None:
    table, budgets = problem
    _, truth = selection.run_printed(table, budgets, 3, random.Random(seed))
    assert all(count == 0 for counts in truth.passes[1:] for count in counts)


def test_replay_refuses_an_owner_that_is_no_record() -> None:
    table = [[3.0, 1.0, 3.0, 1.0], [1.0, 3.0, 1.0, 3.0]]
    assert selection.replay(table, [2, 2], [0, 1, 0, 1]) == selection.Replay([[2, 2], [0, 0]], [0, 0])
    with pytest.raises(AssertionError, match="had room for all 2 candidates"):
        selection.replay(table, [2, 2], [1, 0, 0, 1])


FALLING = [[3.0] * 3, [2.0] * 3, [1.0] * 3]  # task 0 is the only record anywhere


def test_fresh_records_give_the_second_pass_something_to_do() -> None:
    assert selection.replay(FALLING, [1, 1, 1], [0, 1, 2]) == selection.Replay([[1, 0, 0], [0, 1, 0]], [0, 0, 1])
    assert selection.replay(FALLING, [1, 1, 1], [0, 1, 2], passes=3) == selection.Replay(
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]], [0, 0, 0]
    )
    assert selection.replay(FALLING, [1, 1, 1], [0, 1, 2], law="printed") == selection.Replay(
        [[1, 0, 0], [0, 0, 0]], [0, 1, 1]
    )


def test_only_tasks_with_a_budget_compete_unless_printed() -> None:
    assert selection.replay(FALLING, [0, 3, 0], [1, 1, 1]) == selection.Replay([[0, 3, 0], [0, 0, 0]], [0, 0, 0])
    assert selection.replay(FALLING, [0, 3, 0], [1, 1, 1], law="printed") == selection.Replay(
        [[0, 0, 0], [0, 0, 0]], [0, 3, 0]
    )


def test_replay_refuses_budgets_that_are_not_met() -> None:
    with pytest.raises(AssertionError, match="not the budgets"):
        selection.replay(FALLING, [1, 1, 1], [0, 1, 1], passes=1)


@given(assignments())
def test_the_best_assignment_is_the_best_of_all(problem: tuple[np.ndarray, list[int]]) -> None:
    table, budgets = problem[0][:, :6], problem[1]
    budgets = shares.budgets([Fraction(n, sum(budgets)) for n in budgets], table.shape[1])
    column = [t for t, n in enumerate(budgets) for _ in range(n)]
    every = (selection.retained(table, owners) for owners in set(permutations(column)))
    assert selection.best_retained(table, budgets) == max(every)


GOLDEN_MERGES = {
    "linear_weights": lambda base, models: methods.linear(models, [0.5, 0.3, 0.7], True),
    "linear_sum": lambda base, models: methods.linear(models, [0.25, 0.6, -0.1], False),
    "linear_base_added": lambda base, models: methods.linear([base, *models[:2]], [0.5, 0.5, 2.0], True),
    "task_arithmetic": lambda base, models: methods.weighted_sum(
        base, methods.deltas(base, models), [0.6, 0.3, -0.2], 0.8
    ),
    "ties_sparse": lambda base, models: _ties(base, models, [1.0, 0.5, 0.25], [0.3] * 3, True, 1.0),
    "ties_mixed_sum": lambda base, models: _ties(base, models, [0.7, 0.4, 0.9], [0.3, 0.7, 1.0], False, 1.25),
    "ties_dense": lambda base, models: _ties(base, models, [1.0, 1.0, 1.0], [1.0] * 3, True, 1.0),
    "ties_negative_weight": lambda base, models: _ties(base, models, [0.8, -0.5, 0.6], [0.7] * 3, False, 1.0),
}


def _ties(
    base: np.ndarray,
    models: list[np.ndarray],
    weights: list[float],
    densities: list[float],
    normalize: bool,
    scale: float,
) -> np.ndarray:
    kept = [methods.trimmed(row, density) for row, density in zip(methods.deltas(base, models), densities, strict=True)]
    return base.reshape(-1) + scale * methods.ties_vector(np.array(kept), weights, normalize)


@pytest.mark.parametrize("recipe", GOLDEN_MERGES)
def test_oracles_agree_with_mergekit(recipe: str) -> None:
    base, *tasks = (load_file(GOLDEN / name / "model.safetensors") for name in ("base", "cars", "birds", "digits"))
    expected = load_file(GOLDEN / "outputs" / f"{recipe}.safetensors")
    for name, start in base.items():
        merged = GOLDEN_MERGES[recipe](start, [task[name] for task in tasks])
        # float32 sums of three terms below 1: a few units of 6e-8.
        np.testing.assert_allclose(merged, expected[name].reshape(-1), rtol=0, atol=5e-7)


def test_a_mix_of_three_tasks_worked_out_by_hand() -> None:
    rows, ones = [[1.0, 0.0, 0.0]] * 3 + [[0.0, 1.0, 0.0]], [1.0] * 4
    assert mixtures.expectation_maximisation(rows, ones, 1.0, [1 / 3] * 3, 5) == [0.75, 0.25, 0]
    assert mixtures.expectation_maximisation(rows, ones, 0.5, [1 / 3] * 3, 5) == [2.5 / 3, 0.5 / 3, 0]
    assert mixtures.best_of_three(lambda s: mixtures.log_likelihood(rows, ones, s), 4) == (0.75, 0.25, 0)
    confusion = [[0.5, 0.5, 0], [0, 1, 0], [0, 0, 1]]
    assert mixtures.best_of_three(lambda s: -mixtures.least_squares(confusion, [0.25, 0.75, 0], s), 4) == (0.5, 0.5, 0)
    assert mixtures.task_likelihood([0.6, 0.3, 0.1], [0.5, 0.25, 0.25], [0, 2]) == pytest.approx(0.8)
