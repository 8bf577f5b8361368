"""The sentences say what the numbers say, and nothing where there is nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from prefmerge.analysis import Measured, findings
from tests.analysis.test_task_vectors import measure

ZERO = {"b.0.attn.weight": np.zeros(8, np.float32), "b.1.mlp.weight": np.zeros(4, np.float32)}


def of(*rows: Sequence[float], label: str = "tasks", training: str | None = None) -> Measured:
    """Tasks whose first tensor is given and whose second stays at a tenth."""
    tasks = [
        {"b.0.attn.weight": np.array(row, np.float32), "b.1.mlp.weight": np.full(4, 0.1, np.float32)} for row in rows
    ]
    return replace(measure(ZERO, tasks, label=label), training=training)


GROWING = of([1] * 8, [1] * 6 + [-2] * 2, [3] * 8)
SAME = of([1, -1] * 4, [-1, 1] * 4, label="against", training="independent")


def test_sign_conflicts() -> None:
    assert findings.sign_conflicts([GROWING]) == (
        "16.7 % of the elements that at least two tasks changed have both signs (16.7 % among the top 20 %)."
    )
    assert findings.sign_conflicts([GROWING, SAME]).endswith(
        "66.7 % of the elements that at least two tasks changed have both signs in against (66.7 % among the top "
        "20 %). "
        "Tasks has fewer conflicts than against: 0.25 times as many."
    )
    assert findings.sign_conflicts([SAME, GROWING]).endswith(
        "Tasks has fewer conflicts than against: 0.25 times as many."
    )
    assert findings.sign_conflicts([SAME, replace(SAME, label="b")]).endswith(
        "About as many conflicts in against as in b."
    )
    assert findings.sign_conflicts([of([1] * 8)]) == ("No element was changed by two tasks, so no signs can conflict.")


def test_pairs_and_layers() -> None:
    assert (
        findings.pairs(GROWING) == "task0 and task2 disagree least (0.0 % of the signs), task1 and task2 most (16.7 %)."
    )
    assert findings.pairs(of([1] * 8)) == "No two tasks changed the same element."
    assert findings.layers([GROWING]) == "Most conflicts: block 0 (25.0 %), fewest: block 1 (0.0 %)."
    assert findings.layers([GROWING, SAME], "tensor") == (
        "Most conflicts in tasks: b.0.attn.weight (25.0 %), fewest: b.1.mlp.weight (0.0 %); "
        "most conflicts in against: b.0.attn.weight (100.0 %), fewest: b.1.mlp.weight (0.0 %)."
    )
    assert findings.layers([of([1] * 8)]) == "There is no other layer to compare with."


def test_contributions() -> None:
    assert findings.contributions(GROWING) == (
        "In the MAGMAX merge task2 contributes most (66.7 % of the changed elements), task0 least (0.0 %); no order in "
        "time (the later task contributes more in 2 of 3 pairs). 33.3 % are tied: several tasks changed them by the "
        "same, largest magnitude."
    )
    growing = of([4, 1, 1, 1, 1, 1, 1, 1], [1, 4, 4, 1, 1, 1, 1, 1], [3] * 3 + [5] * 5)
    assert "least (8.3 %); the later task contributes more in 3 of 3 pairs. 33.3 %" in findings.contributions(growing)
    assert "contributes everything, being alone." in findings.contributions(of([1] * 8))
    assert findings.contributions(measure(ZERO, [ZERO])) == "No task changed anything, so nothing is contributed."


def test_case_19_equal_contributions_are_said_once() -> None:
    same = "In the MAGMAX merge all tasks contribute the same ({} of the changed elements each)."
    assert same.format("33.3 %") in findings.contributions(of([1] * 4 + [2] * 4, [2] * 4 + [1] * 4))
    one_each = np.eye(8) + 1
    assert same.format("8.3 %") in findings.contributions(of(*one_each.tolist()))
    assert same.format("0.0 %") in findings.contributions(of([1] * 8, [-1] * 8))  # all tied
    assert "contributes most" in findings.contributions(of([1] * 3 + [2] * 5, [2] * 3 + [1] * 5))


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((1, 2, 3, 4), "the later task has the larger parameters in 6 of 6 pairs."),
        ((4, 3, 2, 1), "the earlier task has the larger parameters in 6 of 6 pairs."),
        ((1, 2, 4, 3), "the later task has the larger parameters in 5 of 6 pairs."),
        ((2, 1, 4, 3), "no order in time (the later task has the larger parameters in 4 of 6 pairs)."),
        ((1, 1, 1, 1), "no order in time (the later task has the larger parameters in 0 of 6 pairs)."),
    ],
)
def test_an_order_in_time_is_claimed_where_it_is(sizes: tuple[float, ...], said: str) -> None:
    found = findings.distributions(of(*([size] * 8 for size in sizes)))
    assert found.endswith(said)
    assert found.startswith("Mean |tau| lies between ")


def test_distributions_of_little() -> None:
    assert findings.distributions(of([1] * 8)) == "Mean |tau| is 7.00e-01."
    assert findings.distributions(measure(ZERO, [ZERO])) == "No task changed anything."


def test_magnitudes() -> None:
    assert findings.magnitudes([GROWING]) == (
        "Attention changed most (mean |tau| of the merge 3.00e+00, 30.0 times MLP); blocks differ by a factor of 30.0 "
        "at most."
    )
    nothing = measure(ZERO, [ZERO], label="still")
    assert findings.magnitudes([GROWING, nothing]).endswith("at most; no weight changed in still.")


def test_angles() -> None:
    assert findings.angles([SAME]) == "Mean cosine between task vectors -0.99 (-0.99 to -0.99)."
    both = findings.angles([GROWING, SAME])
    assert both.startswith("Mean cosine between task vectors 0.")
    assert ", steps " in both
    assert both.endswith(" in tasks; between task vectors -0.99 (-0.99 to -0.99) in against.")
    assert findings.angles([of([1] * 8)]) == "Fewer than two task vectors have a direction."


def test_all_of_them() -> None:
    found = findings.every([GROWING, SAME])
    assert len(found) == 4 + 1 + 2 + 3
    assert all(sentence.endswith(".") for sentence in found)
