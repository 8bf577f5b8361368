"""Shares and budgets: exact, in order, and clear about what is wrong."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefmerge.errors import PreferenceError
from prefmerge.ground import atomic
from prefmerge.preference import Preference, as_text, blended, budgets, carried, exact

NAMES = ("cars", "birds", "digits")
shares = st.lists(st.fractions(0, 10, max_denominator=1000), min_size=1, max_size=64).filter(any)


def test_what_was_written_is_what_is_meant():
    assert budgets(Preference.parse("0.57,0.43").shares("ab"), 100) == (57, 43)  # floor(0.57 * 100) is 56 in floats
    assert exact(0.57) == exact("0.57") == exact(np.float32(0.57)) == Fraction(57, 100)
    assert Preference.parse("8,2").shares("ab") == Preference.parse("0.8,0.2").shares("ab")
    assert Preference.parse("1/3,2/3").shares("ab") == (Fraction(1, 3), Fraction(2, 3))
    assert Preference.geometric("0.1").shares("abc") == (Fraction(1, 111), Fraction(10, 111), Fraction(100, 111))


@given(shares, st.integers(0, 10**12))
def test_budgets_meet_their_sum_and_are_never_one_off_their_share(values: list[Fraction], elements: int):
    resolved = Preference.explicit(values).shares([str(i) for i in range(len(values))])
    counts = budgets(resolved, elements)
    assert sum(counts) == elements
    assert all(0 <= n - math.floor(s * elements) <= 1 for n, s in zip(counts, resolved, strict=True))
    assert all(n == 0 for n, s in zip(counts, resolved, strict=True) if s == 0)
    # The remainder goes to the first tasks with a positive share.
    extra = [n - math.floor(s * elements) for n, s in zip(counts, resolved, strict=True) if s > 0]
    assert extra == sorted(extra, reverse=True)


def test_the_remainder_passes_by_a_task_that_was_asked_nothing_of():
    assert budgets(Preference.parse("0,1,1,1").shares("abcd"), 5) == (0, 2, 2, 1)
    assert budgets(Preference.uniform().shares("abc"), 5) == (2, 2, 1)  # the paper's 1{t <= R}
    assert budgets(Preference.uniform().shares("abc"), 1) == (1, 0, 0)


def test_geometric():
    assert Preference.geometric(2).shares("abc") == (Fraction(4, 7), Fraction(2, 7), Fraction(1, 7))
    assert Preference.geometric(0).shares("abc") == (0, 0, 1)
    assert Preference.geometric(1).shares("abc") == Preference.uniform().shares("abc")


@pytest.mark.parametrize("gamma", [1, 100, 1e6])
@pytest.mark.parametrize("distances", [[0.0, 0.1, 0.2], [1e3, 1e3, 1e3], [0.0, 1e3, 1e3], [1.0, 1.5, 9.0]])
def test_log_similarities_never_underflow_to_nothing(gamma: float, distances: list[float]):
    found = Preference.from_log_similarities([-gamma * d for d in distances]).shares(NAMES)
    assert sum(found) == 1
    assert found[0] == max(found) > 0


def test_similarities():
    assert Preference.from_similarities([0.3, 0.1, 0.0]).shares(NAMES) == (Fraction(3, 4), Fraction(1, 4), 0)
    with pytest.raises(PreferenceError, match="no task has any similarity to the place"):
        Preference.from_log_similarities([-math.inf, -math.inf])


@given(shares, st.fractions(0, 1, max_denominator=50))
def test_carry_keeps_the_sum_and_zero_changes_nothing(values: list[Fraction], carry: Fraction):
    resolved = Preference.explicit(values).shares([str(i) for i in range(len(values))])
    assert sum(carried(resolved, carry)) == 1
    assert carried(resolved, Fraction(0)) == resolved


def test_carry_and_strength_by_hand():
    assert carried((Fraction(1), Fraction(0)), Fraction(1, 2)) == (Fraction(2, 3), Fraction(1, 3))
    assert blended((Fraction(1), Fraction(0)), Fraction(1, 2), (2, 8)) == (Fraction(3, 5), Fraction(2, 5))
    assert blended((Fraction(1), Fraction(0)), Fraction(0), (2, 8)) == (Fraction(1, 5), Fraction(4, 5))
    for wrong in (Fraction(-1, 10), Fraction(11, 10)):
        with pytest.raises(PreferenceError, match="between 0 and 1"):
            carried((Fraction(1),), wrong)
        with pytest.raises(PreferenceError, match="between 0 and 1"):
            blended((Fraction(1),), wrong, (1,))


@pytest.mark.parametrize(
    "preference",
    [
        Preference.uniform(),
        Preference.geometric("0.1"),
        Preference.explicit(["0.57", "1/3", 2]),
        Preference.named({"birds": 0.2, "cars": "0.8"}),
        Preference.counts([3, 0, 7]),
        Preference.from_log_similarities([-1000.0, -1000.25, -3000.0], NAMES),
    ],
    ids=lambda p: p.kind,
)
def test_json_round_trip(preference: Preference, tmp_path: Path):
    preference.save(tmp_path / "preference.json")
    again = Preference.parse(f"@{tmp_path / 'preference.json'}")
    assert again == preference
    assert again.shares(NAMES) == preference.shares(NAMES)


def test_plain_json_is_understood(tmp_path: Path):
    for content, expected in (
        ([0.8, 0.2, 0], "0.8,0.2,0"),
        ({"cars": 0.8, "birds": 0.2}, "cars=0.8,birds=0.2"),
        ({"counts": [1, 2, 3]}, "counts:1,2,3"),
    ):
        (tmp_path / "p.json").write_text(json.dumps(content))
        assert Preference.load(tmp_path / "p.json").describe() == expected


@given(st.fractions(max_denominator=10**6))
def test_text_reads_back_exactly(value: Fraction):
    assert exact(as_text(value)) == value


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "preference '': share 1: expected a finite number"),
        ("0.5,x", "share 2: expected a finite number such as 0.8 or 4/5, found 'x'"),
        ("inf,1", "share 1: expected a finite number"),
        ("1/0,1", "share 1: expected a finite number"),
        ("-1,2", "share 1 is -1; shares cannot be negative"),
        ("0,0", "every share is zero"),
        ("alpha:-1", "alpha is -1; it cannot be negative"),
        ("alpha:two", "alpha: expected a finite number"),
        ("cars=0.5,cars=0.5", "names 'cars' twice"),
        ("@nowhere.json", "preference file 'nowhere.json' does not exist"),
    ],
)
def test_a_spec_that_makes_no_sense(spec: str, message: str):
    with pytest.raises(PreferenceError) as error:
        Preference.parse(spec)
    assert message in str(error.value)


def test_a_preference_that_does_not_fit_the_tasks():
    with pytest.raises(PreferenceError, match="has 2 shares, but there are 3 tasks: cars, birds, digits"):
        Preference.parse("0.5,0.5").shares(NAMES)
    with pytest.raises(
        PreferenceError, match=r"names 'bird', but the tasks are cars, birds, digits\. Did you mean 'birds'"
    ):
        Preference.parse("bird=1").shares(NAMES)
    assert Preference.parse("birds=1").left_out(NAMES) == ["cars", "digits"]
    with pytest.raises(PreferenceError, match="expected a number of elements"):
        Preference.counts([1, 2.5])  # type: ignore[list-item]  # what a user might pass


@pytest.mark.parametrize(
    "content", ["{", '{"format": "other/1"}', "3", '{"format": "prefmerge-preference/1", "kind": "shares"}']
)
def test_a_file_that_is_no_preference_is_named(content: str, tmp_path: Path):
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(PreferenceError, match=r"p\.json"):
        Preference.load(tmp_path / "p.json")


@pytest.mark.parametrize("text", ["1e9999999", "1E-99999999", "2e401", "1e" + "9" * 5000])
def test_numbers_that_would_take_for_ever_are_refused(text: str):
    with pytest.raises(PreferenceError, match="is beyond any share or scale"):
        Preference.parse(f"{text},1")
    assert Preference.parse("1e-300,1e300,1e+0002").shares(["a", "b", "c"])[1] > 0


def test_a_preference_is_saved_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "p.json"
    Preference.parse("0.8,0.2").save(file)
    assert file.read_text() == json.dumps(Preference.parse("0.8,0.2").to_json(), indent=1) + "\n"

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "sync", full)
    with pytest.raises(OSError, match="No space left"):
        Preference.uniform().save(file)
    assert Preference.load(file) == Preference.parse("0.8,0.2")
    assert [each.name for each in tmp_path.iterdir()] == ["p.json"]
