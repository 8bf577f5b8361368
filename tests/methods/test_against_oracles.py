"""Every method against slow loops written from the paper (`tests/oracles`), on problems with ties, zeros, 0-d, tiny
and empty tensors, 1 to 64 tasks.

What a merge shows is its values and its receipt. Where task vectors differ everywhere (`real` numbers) the values tell
each element's owner, so the whole assignment is checked; where magnitudes tie, the owners are read from the prepared
rule instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from prefmerge import Preference, merge_state_dicts
from prefmerge.merging.receipt import Receipt
from prefmerge.methods import METHODS
from prefmerge.methods.protocol import Settings
from prefmerge.vectors.workspace import Workspace
from tests.methods.problems import Arrays
from tests.oracles import methods, selection, shares
from tests.oracles.problems import Problem, State, problems

SCALES = st.sampled_from([0.5, 1.0, 0.3])
SCOPES = st.sampled_from(["tensor", "model"])
BLOCKS = st.sampled_from([1, 7, 4096])
SELECTIONS = st.sampled_from(["paper", "optimal", "printed", "released"])
LAWS = st.sampled_from(["paper", "printed", "released"])

thorough = settings(deadline=None, max_examples=60)  # the first example compiles the kernels


def merge(problem: Problem, **options: Any) -> tuple[State, Receipt]:
    """merge_state_dicts with the problem's shares, where the method takes some."""
    if options.get("method", "tunable_magmax") == "tunable_magmax":
        options.setdefault("preference", Preference.explicit(problem.shares))
    return merge_state_dicts(problem.base, problem.tasks, names=problem.names, **options)


def possible_owners(problem: Problem, tensor: str, merged: np.ndarray, scale: float) -> np.ndarray:
    """1 where the merged element is, bit for bit, base + scale * delta of the task; shape (T, P)."""
    of_each_task = [methods.taken(problem.base[tensor], delta, scale) for delta in problem.deltas(tensor)]
    return np.array([bits(values) == bits(merged) for values in of_each_task], int).reshape(len(problem.tasks), -1)


def bits(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.float32).reshape(-1).view(np.uint32)


def owners_by_value(problem: Problem, tensors: Sequence[str], merged: State, scale: float) -> list[int]:
    """The one task whose value each element has. Skips problems in which two tasks share a value."""
    allowed = np.concatenate([possible_owners(problem, name, merged[name], scale) for name in tensors], axis=1)
    assume(bool(np.all(allowed.sum(axis=0) == 1)))
    return [int(task) for task in allowed.argmax(axis=0)]


def importance_of(problem: Problem, tensors: Sequence[str], kind: str) -> np.ndarray:
    """The oracle's importance over several tensors, shape (T, sum of P)."""
    tables = [
        selection.step_importance(problem.deltas(n)) if kind == "step" else np.abs(problem.deltas(n)).astype(float)
        for n in tensors
    ]
    return np.concatenate(tables, axis=1)


def has_near_ties(table_TP: np.ndarray) -> bool:
    """Whether float32 and float64 could rank two tasks differently somewhere: normalised steps are not compared to the
    last bit.
    """
    ranked = np.sort(table_TP, axis=0)
    return bool(np.any(np.diff(ranked, axis=0) <= 1e-5 * ranked[1:])) if len(ranked) > 1 else False


def entries(receipt: Receipt, tensors: Sequence[str], scope: str) -> dict[str, Any]:
    """Where the receipt keeps the counts of this budget: with the tensor, or in the totals."""
    return receipt.to_json()["tensors"][tensors[0]] if scope == "tensor" else receipt.to_json()["totals"]


def by_pass(entry: dict[str, Any], passes: int, tasks: int) -> list[list[int]]:
    """The receipt's counts by pass; passes that had nothing to do may be left out."""
    missing = passes - len(entry["passes"])
    return [*map(list, entry["passes"]), *([0] * tasks for _ in range(missing))]


def in_competition(problem: Problem, law: str) -> Problem:
    """The problem without tasks that nobody asked anything of: budgets count the tensors that the others changed."""
    if law in ("printed", "released"):
        return problem
    asked = [t for t, share in enumerate(problem.shares) if share > 0]
    return Problem(problem.base, [problem.tasks[t] for t in asked], [problem.shares[t] for t in asked])


@thorough
@given(problems(), SELECTIONS, SCOPES, SCALES, BLOCKS, st.sampled_from(["magnitude", "step"]), st.integers(0, 5))
def test_budgets_are_met_and_every_element_is_one_tasks(
    problem: Problem, kind: str, scope: str, scale: float, block: int, importance: str, seed: int
) -> None:
    merged, receipt = merge(
        problem, selection=kind, scope=scope, scale=scale, block=block, importance=importance, seed=seed
    )
    assert merged.keys() == problem.base.keys()
    tasks, judged = len(problem.tasks), in_competition(problem, kind)
    total = [0] * tasks
    for tensors in judged.groups(scope):
        allowed = np.concatenate([possible_owners(problem, name, merged[name], scale) for name in tensors], axis=1)
        expected = shares.budgets(problem.shares, allowed.shape[1], kind)
        assert np.all(allowed.sum(axis=0) >= 1), "an element is no task's"
        assert selection.can_own(allowed, expected)
        entry = entries(receipt, tensors, scope)
        assert entry["asked"] == expected
        assert entry["owned"] == expected
        total = [a + b for a, b in zip(total, expected, strict=True)]
        if kind != "optimal":
            columns = zip(*by_pass(entry, 2, tasks), entry["random"], strict=True)
            assert [sum(column) for column in columns] == expected
    assert (receipt.to_json()["totals"]["owned"] or [0] * tasks) == total  # none where nothing was merged
    assert receipt.to_json()["elements"]["merged"] == sum(total)
    for name, array in problem.base.items():
        assert merged[name].shape == array.shape
        assert merged[name].dtype == array.dtype
        if name not in judged.changed():
            assert merged[name].tobytes() == array.tobytes()


@thorough
@given(problems(kinds=["real"]), SCOPES, BLOCKS, st.integers(1, 4), st.integers(0, 5), LAWS)
def test_the_assignment_is_one_that_the_algorithm_makes(
    problem: Problem, scope: str, block: int, passes: int, seed: int, law: str
) -> None:
    merged, receipt = merge(problem, selection=law, scope=scope, scale=1.0, block=block, passes=passes, seed=seed)
    for tensors in problem.groups(scope):
        owners = owners_by_value(problem, tensors, merged, 1.0)
        table, budget = importance_of(problem, tensors, "magnitude"), shares.budgets(problem.shares, len(owners), law)
        truth = selection.replay(table, budget, owners, passes=passes, law=law)
        entry = entries(receipt, tensors, scope)
        assert by_pass(entry, passes, len(problem.tasks)) == truth.passes
        assert entry["random"] == truth.random
        if law == "printed":
            assert not np.any(truth.passes[1:]), "the lemma: the printed second pass assigns nothing"


@thorough
@given(problems(kinds=["real"], most_tasks=12), SCOPES, st.integers(1, 3))
def test_the_algorithm_ranks_by_steps_where_asked(problem: Problem, scope: str, passes: int) -> None:
    merged, receipt = merge(problem, selection="paper", importance="step", scope=scope, scale=1.0, passes=passes)
    for tensors in problem.groups(scope):
        owners = owners_by_value(problem, tensors, merged, 1.0)
        table = importance_of(problem, tensors, "step")
        assume(not has_near_ties(table))
        truth = selection.replay(table, shares.budgets(problem.shares, len(owners)), owners, passes=passes)
        entry = entries(receipt, tensors, scope)
        assert by_pass(entry, passes, len(problem.tasks)) == truth.passes
        assert entry["random"] == truth.random


@thorough
@given(
    problems(kinds=["grid"], most_tasks=20),
    BLOCKS,
    st.integers(1, 3),
    st.integers(0, 5),
    LAWS,
)
def test_equal_magnitudes_are_all_records(problem: Problem, block: int, passes: int, seed: int, kind: Any) -> None:
    work = Workspace(threads=1, block=block)
    for name in in_competition(problem, kind).changed():
        deltas = problem.deltas(name)
        chosen = Settings(
            tasks=len(problem.tasks),
            shares=tuple(problem.shares),
            values={"seed": seed, "selection": kind, "passes": passes},
        )
        rule = METHODS["tunable_magmax"].prepare([Arrays(deltas, name)], chosen, work)
        owners = [int(task) for task in rule.owners[0]]  # type: ignore[attr-defined]  # only owner rules have them
        truth = selection.replay(
            np.abs(deltas),
            shares.budgets(problem.shares, len(owners), kind),
            owners,
            passes=passes,
            law=kind,
        )
        entry = rule.report.entries()
        assert by_pass(entry, passes, len(problem.tasks)) == truth.passes
        assert list(entry["random"]) == truth.random


def test_a_full_task_takes_each_candidate_equally_often() -> None:
    """100 seeds, two tasks: the later one is the record everywhere and may take 12 of 48 elements; a fair draw gives
    each 25 +- 4.3 of 100.
    """
    rng = np.random.default_rng(0)
    base = {"w": np.zeros(48, np.float32)}
    tasks = [{"w": rng.uniform(1, 2, 48).astype(np.float32)}, {"w": rng.uniform(3, 4, 48).astype(np.float32)}]
    taken = np.zeros(48)
    together = 0
    for seed in range(100):
        merged, _ = merge_state_dicts(
            base, tasks, preference=Preference.explicit([3, 1]), selection="paper", scale=1.0, seed=seed
        )
        mine = merged["w"] > 2.5
        assert mine.sum() == 12
        taken += mine
        together += int(mine[0] and mine[1])
    assert np.all(np.abs(taken - 25) < 5 * 4.33), taken
    assert together < 25, "neighbours are drawn together"  # 12/48 * 11/47 of 100 is 6


@thorough
@given(problems(), st.sampled_from(["magmax", "max_abs"]), SCALES, BLOCKS)
def test_magmax_is_the_argmax(problem: Problem, method: str, scale: float, block: int) -> None:
    merged, receipt = merge(problem, method=method, scale=scale, block=block)
    for name in problem.changed():
        deltas = problem.deltas(name)
        owners = selection.magmax_owners(np.abs(deltas))
        expected = methods.taken(problem.base[name], deltas[owners, range(len(owners))], scale)
        assert np.array_equal(bits(merged[name]), bits(expected))
        assert receipt.to_json()["tensors"][name]["owned"] == [owners.count(t) for t in range(len(problem.tasks))]


@thorough
@given(problems(), SCALES, BLOCKS)
def test_last_is_the_last_task(problem: Problem, scale: float, block: int) -> None:
    merged, _ = merge(problem, method="last", scale=scale, block=block)
    for name in problem.changed():
        assert np.array_equal(
            bits(merged[name]), bits(methods.taken(problem.base[name], problem.deltas(name)[-1], scale))
        )


@thorough
@given(problems(), SCALES, BLOCKS, st.integers(0, 5))
def test_random_mix_takes_each_element_from_a_task(problem: Problem, scale: float, block: int, seed: int) -> None:
    merged, receipt = merge(problem, method="random_mix", scale=scale, block=block, seed=seed)
    for name in problem.changed():
        allowed, entry = possible_owners(problem, name, merged[name], scale), receipt.to_json()["tensors"][name]
        if entry["role"] == "unchanged":  # every task that was drawn left it alone
            assert merged[name].tobytes() == problem.base[name].tobytes()
            assert np.all(allowed.sum(axis=0) >= 1)
        else:
            assert selection.can_own(allowed, entry["owned"])


def weights(tasks: int) -> st.SearchStrategy[list[float]]:
    return st.lists(st.sampled_from([0.0, 0.25, 0.6, 1.0, 1.7, -0.4]), min_size=tasks, max_size=tasks)


def close(problem: Problem, merged: State, name: str, expected: np.ndarray) -> None:
    """Float64 sums rounded to float32 at most three times, on values of a size below 20."""
    np.testing.assert_allclose(merged[name].reshape(-1), expected, rtol=5e-7, atol=5e-6)
    assert merged[name].shape == problem.base[name].shape


@thorough
@given(st.data(), problems(most_tasks=9), SCALES, BLOCKS, st.booleans())
def test_weighted_sums(data: st.DataObject, problem: Problem, scale: float, block: int, normalize: bool) -> None:
    given_weights = data.draw(weights(len(problem.tasks)))
    total = sum(given_weights)
    assume(abs(total) > 0.2)
    factors = [w / total for w in given_weights] if normalize else given_weights
    average, _ = merge(problem, method="average", scale=scale, block=block)
    arithmetic, _ = merge(
        problem, method="task_arithmetic", weights=given_weights, normalize=normalize, scale=scale, block=block
    )
    linear, _ = merge(problem, method="linear", weights=given_weights, normalize=normalize, block=block)
    count = len(problem.tasks)
    for name in problem.changed():
        base, deltas = problem.base[name], problem.deltas(name)
        close(problem, average, name, methods.weighted_sum(base, deltas, [1 / count] * count, scale))
        close(problem, arithmetic, name, methods.weighted_sum(base, deltas, factors, scale))
    for name, array in problem.base.items():
        if array.dtype == np.float32:  # also those that no task changed: the sum of the weights need not be 1
            close(
                problem, linear, name, methods.linear([task[name] for task in problem.tasks], given_weights, normalize)
            )


@thorough
@given(
    st.data(),
    problems(kinds=["real"], most_tasks=9),
    st.sampled_from([0.2, 0.3, 0.7, 1.0]),
    SCALES,
    BLOCKS,
    st.booleans(),
    st.sampled_from(["tensor", "model"]),
)
def test_ties(
    data: st.DataObject, problem: Problem, density: float, scale: float, block: int, normalize: bool, scope: str
) -> None:
    given_weights = data.draw(weights(len(problem.tasks)))
    merged, _ = merge(
        problem,
        method="ties",
        weights=given_weights,
        density=density,
        normalize=normalize,
        scale=scale,
        block=block,
        scope=scope,
    )
    for tensors in problem.groups(scope):
        deltas = problem.joined_deltas(tensors)
        if scope == "model":  # tensors that no task changed count towards the density of the model, as zeros
            frozen = sum(array.size for array in problem.base.values() if array.dtype == np.float32) - deltas.shape[1]
            deltas = np.concatenate([deltas, np.zeros((len(deltas), frozen), np.float32)], axis=1)
        kept = np.array([methods.trimmed(row, density) for row in deltas])
        mass = np.array(given_weights) @ kept
        assume(bool(np.all((np.abs(mass) > 1e-9) | (np.abs(kept).sum(axis=0) == 0))))  # no sign hangs on a rounding
        vector = methods.ties_vector(kept, given_weights, normalize)
        start = 0
        for name in tensors:
            size = problem.base[name].size
            close(problem, merged, name, problem.base[name].reshape(-1) + scale * vector[start : start + size])
            start += size


@thorough
@given(problems(most_tasks=20), SCOPES, st.sampled_from(["magnitude", "step"]), st.integers(0, 5))
def test_optimal_retains_what_scipys_solver_retains(problem: Problem, scope: str, importance: str, seed: int) -> None:
    merged, receipt = merge(problem, selection="optimal", scope=scope, scale=1.0, importance=importance, seed=seed)
    for tensors in in_competition(problem, "paper").groups(scope):
        table = importance_of(problem, tensors, importance)
        best = selection.best_retained(table, shares.budgets(problem.shares, table.shape[1]))
        entry = entries(receipt, tensors, scope)
        assert 0 <= entry["gap"] < 1e-6
        if importance == "magnitude":  # the value of an element tells how much of it was kept
            kept = sum(
                float(np.abs(np.asarray(merged[name], np.float64) - problem.base[name]).sum()) for name in tensors
            )
            size = table.shape[1]
            assert abs(kept - best) <= 1e-6 * best + 1e-7 * size  # merged values are rounded to 2^-24 of about 1
        else:
            owners = owners_by_value(problem, tensors, merged, 1.0)
            assert selection.retained(table, owners) == pytest.approx(best, rel=1e-6)


@thorough
@given(problems(kinds=["real"], most_tasks=20), SCOPES, st.sampled_from(["paper", "printed"]), st.integers(1, 3))
def test_optimal_retains_at_least_what_the_paper_does(problem: Problem, scope: str, kind: str, passes: int) -> None:
    best, _ = merge(problem, selection="optimal", scope=scope, scale=1.0)
    paper, _ = merge(problem, selection=kind, scope=scope, scale=1.0, passes=passes)
    for tensors in problem.groups(scope):
        table = importance_of(problem, tensors, "magnitude")
        kept = [selection.retained(table, owners_by_value(problem, tensors, merged, 1.0)) for merged in (best, paper)]
        assert kept[0] >= kept[1] * (1 - 1e-6)


@thorough
@given(
    problems(),
    SCOPES,
    st.sampled_from(["paper", "optimal"]),
    st.sampled_from(["0", "0.25", "0.5", "0.57", "1"]),
    st.sampled_from(["0", "0.3", "0.5", "1"]),
)
def test_strength_and_carry_change_the_budgets_as_written(
    problem: Problem, scope: str, kind: str, strength: str, carry: str
) -> None:
    _, receipt = merge(problem, selection=kind, scope=scope, strength=float(strength), carry=float(carry))
    carried = shares.carry(problem.shares, Fraction(carry))
    assert [Fraction(s) for s in receipt.to_json()["shares"]] == carried
    speaking = Problem(problem.base, problem.tasks, carried)
    judged = problem if Fraction(strength) < 1 else in_competition(speaking, "paper")
    for tensors in judged.groups(scope):
        owned = selection.magmax_owners(np.abs(problem.joined_deltas(tensors)))
        own = [owned.count(t) for t in range(len(problem.tasks))]
        expected = shares.budgets(shares.blend(carried, Fraction(strength), own), len(owned))
        entry = entries(receipt, tensors, scope)
        assert entry["asked"] == expected
        assert entry["owned"] == expected


@thorough
@given(problems(kinds=["real"]), SCOPES)
def test_no_strength_with_optimal_selection_is_magmax(problem: Problem, scope: str) -> None:
    dialled, _ = merge(problem, selection="optimal", strength=0, scope=scope)
    magmax, _ = merge(problem, method="magmax")
    for name in problem.base:
        assert dialled[name].tobytes() == magmax[name].tobytes()


@thorough
@given(problems(), st.sampled_from(["0", "0.5", "1", "2", "0.57"]), SCOPES)
def test_geometric_shares_become_budgets(problem: Problem, alpha: str, scope: str) -> None:
    deltas = [problem.deltas(name) for name in problem.base]
    assume(
        all(any(of[t].any() for of in deltas) for t in range(len(problem.tasks)))
    )  # the share of a task that is the base goes to the others
    _, receipt = merge(problem, preference=Preference.geometric(alpha), selection="paper", scope=scope)
    wanted = shares.geometric(Fraction(alpha), len(problem.tasks))
    for tensors in in_competition(Problem(problem.base, problem.tasks, wanted), "paper").groups(scope):
        elements = problem.joined_deltas(tensors).shape[1]
        assert entries(receipt, tensors, scope)["owned"] == shares.budgets(wanted, elements)
