"""What messages are made of."""

from __future__ import annotations

import difflib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefmerge.ground.words import counted, did_you_mean, joined, listed, nearest, quoted

NAMES = st.lists(st.text("abcdeAB", min_size=1, max_size=6), max_size=8)


@pytest.mark.parametrize(
    ("names", "most", "text"),
    [
        ("", 3, ""),
        ("a", 3, "a"),
        ("abc", 3, "a, b, c"),
        ("abcd", 3, "a, b, c and 1 more"),
        ("abcdefgh", 6, "a, b, c, d, e, f and 2 more"),
        ("abc", 1, "a and 2 more"),
    ],
)
def test_a_list_says_how_much_it_leaves_out(names: str, most: int, text: str):
    assert listed(names, most) == text
    assert listed(iter(names), most) == text


def test_a_list_in_another_form():
    assert listed("abc", 2, form=str.upper) == "A, B and 1 more"
    assert quoted(["a", "it's", "c"], 2) == "'a', \"it's\" and 1 more"
    assert listed("abc", 2, separator="; ") == "a; b and 1 more"


@pytest.mark.parametrize(("names", "text"), [("", ""), ("a", "a"), ("ab", "a and b"), ("abc", "a, b and c")])
def test_and_stands_before_the_last(names: str, text: str):
    assert joined(iter(names)) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 tasks"), (1, "1 task"), (2, "2 tasks"), (12345, "12,345 tasks"), (1001, "1,001 tasks")]
)
def test_a_number_has_its_noun(number: int, text: str):
    assert counted(number, "task") == text


@given(st.text("abcdeAB", min_size=1, max_size=6), NAMES, st.sampled_from([0.0, 0.3, 0.6]))
def test_the_nearest_is_difflibs(name: str, known: list[str], cutoff: float):
    expected = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    assert nearest(name, iter(known), cutoff=cutoff) == (expected[0] if expected else None)


@given(st.text("abcdeAB", min_size=1, max_size=6), NAMES)
def test_case_does_not_count_where_it_is_folded(name: str, known: list[str]):
    """And what comes back is a known name as it is written, the first of those that differ in case alone."""
    near = nearest(name, known, fold=True)
    assert near == nearest(name.swapcase(), known, fold=True)
    plain = nearest(name.casefold(), [one.casefold() for one in known])
    assert near == (None if plain is None else next(one for one in known if one.casefold() == plain))


def test_a_name_that_is_known_is_its_own_nearest():
    assert nearest("CARS", ["birds", "Cars", "cars"], fold=True) == "Cars"
    assert nearest("cars", ["birds", "Cars", "cars"]) == "cars"
    assert nearest("xyz", ["birds"], cutoff=0.0) == "birds"


def test_a_hint_is_a_sentence_or_nothing():
    assert did_you_mean("scael", ["scale", "seed"]) == " Did you mean 'scale'?"
    assert did_you_mean("xyz", ["scale", "seed"]) == ""
    assert did_you_mean("xyz", []) == ""
