"""What a target is described with: labels that nobody knows, shares in percent, doubts that come first."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest

from prefmerge.errors import DataError, PreferenceError
from prefmerge.preference import Preference
from prefmerge.target.prefer import from_labels

THIRD = Fraction(1, 3)


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    file = tmp_path / "tasks.json"
    file.write_text(json.dumps({"bags": {"Bag": 9, "Purse": 9}, "shoes": {"Boot": 9, "Sandal": 9}}))
    return file


def seen(folder: Path, **counts: int) -> Path:
    file = folder / "seen.json"
    file.write_text(json.dumps(counts))
    return file


# Labels that nobody knows.


def test_journey_10_more_than_half_of_the_labels_are_unknown(tasks: Path, tmp_path: Path):
    with pytest.raises(DataError) as error:
        from_labels(None, seen(tmp_path, Bags=33, Boot=2), task_labels=tasks, draws=0)
    assert str(error.value) == (
        f"{tmp_path / 'seen.json'}: 33 of the target's 35 labels are no class of any task: 'Bags'. The 4 classes are "
        "'Bag', 'Purse', 'Boot' and 1 more. Did you mean 'Bag' by 'Bags'? Write the labels as the tasks' class names."
    )


def test_journey_10_half_may_be_unknown_and_it_is_said(tasks: Path, tmp_path: Path):
    made = from_labels(None, seen(tmp_path, Hats=5, Boot=5), task_labels=tasks, draws=0)
    assert made.shares.tolist() == [0, 1]
    assert made.notes[0].startswith("5 of the target's 10 labels are no class of any task and not counted: 'Hats'.")
    with pytest.raises(DataError, match="6 of the target's 11 labels are no class"):
        from_labels(None, seen(tmp_path, Hats=6, Boot=5), task_labels=tasks, draws=0)


def test_journey_10_a_spelling_that_folds_alike_is_no_unknown_label(tasks: Path, tmp_path: Path):
    made = from_labels(None, seen(tmp_path, **{"  bag": 3, "SANDAL": 1}), task_labels=tasks, draws=0)
    assert made.shares.tolist() == [0.75, 0.25]
    assert not any("no class" in note for note in made.notes)


# Shares in percent.


@pytest.mark.parametrize(
    ("spec", "shares"),
    [
        ("50%,30%,20%", ("1/2", "3/10", "1/5")),
        ("50 %, 30 %, 20 %", ("1/2", "3/10", "1/5")),
        ("50%,0.3,1/5", ("1/2", "3/10", "1/5")),
        ("a=80%,c=20%", ("4/5", "0", "1/5")),
        ("33.3%,33.3%,33.4%", ("333/1000", "333/1000", "334/1000")),
    ],
)
def test_journey_11_shares_in_percent(spec: str, shares: tuple[str, ...]):
    assert Preference.parse(spec).shares(("a", "b", "c")) == tuple(map(Fraction, shares))


def test_journey_11_percent_in_python_and_in_files(tmp_path: Path):
    assert Preference.explicit(["50%", "50%"]) == Preference.explicit([0.5, 0.5])
    (tmp_path / "p.json").write_text('{"a": "75%", "b": "25%"}')
    assert Preference.load(tmp_path / "p.json").shares(("a", "b")) == (Fraction(3, 4), Fraction(1, 4))


@pytest.mark.parametrize("spec", ["%,50%", "-5%,50%", "alpha:50%", "5%%,1", "a=%"])
def test_journey_11_percent_where_it_makes_no_sense(spec: str):
    with pytest.raises(PreferenceError):
        Preference.parse(spec)
