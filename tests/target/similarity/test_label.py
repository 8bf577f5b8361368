"""Label similarity against pairs of samples counted one by one, by hand, and on labels that do not fit."""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefmerge.errors import PreferenceError
from prefmerge.target.similarity import label
from tests.oracles import similarity as oracle
from tests.target.similarity.problems import NAMES

counts = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 9), min_size=1)


def test_by_hand():
    tasks = [{"cat": 30, "dog": 10}, {"dog": 5, "fox": 15}, {"owl": 7}]
    found = label(tasks, {"cat": 1, "dog": 2, "yak": 1}, NAMES)
    # 3/4 1/4 + 1/4 2/4, 1/4 2/4, nothing.
    assert found.fractions == (Fraction(5, 16), Fraction(1, 8), 0)
    assert found.similarities.tolist() == [0.3125, 0.125, 0]
    assert found.distances.tolist() == [0.6875, 0.875, 1]
    assert found.log_similarities.tolist() == pytest.approx([np.log(0.3125), np.log(0.125), -np.inf])
    assert found.preference().shares(NAMES) == (Fraction(5, 7), Fraction(2, 7), 0)
    assert found.shares().tolist() == [5 / 7, 2 / 7, 0]
    assert found.to_json()["log_similarities"][2] is None


@given(st.lists(counts, min_size=1, max_size=4), counts)
def test_is_the_chance_that_two_labels_are_equal(tasks: list[dict[str, int]], target: dict[str, int]):
    names = [f"task {i}" for i in range(len(tasks))]
    expected = tuple(oracle.label_similarity(task, target) for task in tasks)
    if not any(expected):
        with pytest.raises(PreferenceError, match="no label of the target occurs in any task"):
            label(tasks, target, names)
        return
    found = label(tasks, target, names)
    assert found.fractions == expected
    assert found.preference().shares(names) == tuple(value / sum(expected) for value in expected)
    np.testing.assert_allclose(
        found.log_similarities, [np.log(float(v)) if v else -np.inf for v in expected], atol=1e-14
    )


def test_shares_are_exact_where_floats_are_not():
    tasks = [{"a": 3}, {"b": 7}, {"c": 11}]
    shares = label(tasks, {"a": 57, "b": 43}, NAMES).preference().shares(NAMES)
    assert shares == (Fraction(57, 100), Fraction(43, 100), 0)
    # 10^400 exceeds float64: the logarithm is taken of whole numbers.
    tiny = label([{"a": 1, "b": 10**400}, {"b": 1}], {"a": 1}, NAMES[:2])
    assert tiny.log_similarities[0] == pytest.approx(-400 * np.log(10))
    assert tiny.shares().tolist() == [1, 0]


def test_balanced_tasks_agree_with_counting_the_labels_of_each():
    tasks = [{f"{t}{i}": 500 for i in range(4)} for t in range(3)]
    target = {"00": 3, "01": 4, "20": 1}
    assert label(tasks, target, NAMES).preference().shares(NAMES) == (Fraction(7, 8), 0, Fraction(1, 8))


def test_labels_that_no_task_knows_cancel():
    tasks = [{"cat": 2}, {"dog": 2}]
    target = {"yak": 90, "cat": 6, "emu": 1, "dog": 3}
    assert label(tasks, target, NAMES[:2]).preference().shares(NAMES[:2]) == (Fraction(2, 3), Fraction(1, 3))


def test_no_overlap_says_what_was_found_and_what_to_write():
    tasks = [{"tabby cat": 5, "dog": 5}, {f"bird {i}": 5 for i in range(9)}]
    expected = (
        "no label of the target occurs in any task. The target has 'Dog', 'tabby_cat', 'yak'; the tasks have 'tabby "
        "cat', 'dog', 'bird 0', 'bird 1', 'bird 2' and 6 more. Did you mean 'dog' by 'Dog'? Did you mean 'tabby cat' "
        "by 'tabby_cat'? Write the target's labels as the tasks' class names."
    )
    with pytest.raises(PreferenceError, match=f"^{re.escape(expected)}$"):
        label(tasks, {"Dog": 1, "tabby_cat": 2, "yak": 1}, NAMES[:2])


@pytest.mark.parametrize("count", [0, -1, 1.5, "3", True, None])
def test_counts_that_are_not_counts(count: object):
    with pytest.raises(
        PreferenceError, match=r"^the target counts .* samples of 'b'; expected a whole number of at least 1"
    ):
        label([{"a": 1}], {"a": 1, "b": count}, ["one"])  # pyright: ignore[reportArgumentType]
    with pytest.raises(PreferenceError, match=r"^task 'one' counts .* samples of 'a'"):
        label([{"a": count}], {"a": 1}, ["one"])  # pyright: ignore[reportArgumentType]


def test_nothing_to_compare():
    with pytest.raises(PreferenceError, match=r"^the target has no labels"):
        label([{"a": 1}], {}, ["one"])
    with pytest.raises(PreferenceError, match=r"^task 'two' has no labels"):
        label([{"a": 1}, {}], {"a": 1}, ["one", "two"])
    with pytest.raises(PreferenceError, match="needs at least one task"):
        label([], {"a": 1}, [])
    with pytest.raises(PreferenceError, match="1 tasks were given, but 2 names"):
        label([{"a": 1}], {"a": 1}, ["one", "two"])
    with pytest.raises(PreferenceError, match="two tasks are called 'one'"):
        label([{"a": 1}] * 2, {"a": 1}, ["one", "one"])


def test_numpy_counts_are_counts():
    assert label([{"a": np.int64(3)}], {"a": np.int32(2)}, ["one"]).fractions == (1,)  # pyright: ignore[reportArgumentType]
