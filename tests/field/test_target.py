"""What a target is described with: labels that nobody knows, shares in percent, doubts that come first."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from prefmerge.cli.prefer import preferred
from prefmerge.data.examples import no_examples
from prefmerge.errors import DataError, PreferenceError
from prefmerge.preference import Preference
from prefmerge.target.checkpoints import Checkpoints
from prefmerge.target.prefer import from_inputs, from_labels
from prefmerge.target.preferred import Preferred
from prefmerge.target.shares import Shares
from prefmerge.target.shares.doubts import with_doubts

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


# Doubts come before the numbers that they are about.


def printed(made: Preferred, capsys: pytest.CaptureFixture[str]) -> str:
    preferred(made, None)
    return capsys.readouterr().out


def test_journey_9_few_labels_are_doubted_before_the_shares(
    tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    made = from_labels(None, seen(tmp_path, Bag=1, Boot=1), task_labels=tasks)
    assert made.doubts[0].startswith(
        "2 labels do not tell which tasks the target is made of: every task could have its"
    )
    assert made.doubts[0].endswith(" %. What would help: labels of the target, or more of them.")
    text = printed(made, capsys)
    assert text.startswith(made.doubts[0])
    assert text.count("do not tell") == 1
    assert made.to_json()["about"]["notes"][0] == made.doubts[0]


def test_journey_9_enough_labels_are_not_doubted(tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    made = from_labels(None, seen(tmp_path, Bag=60, Boot=12), task_labels=tasks)
    assert made.doubts == ()
    assert printed(made, capsys).startswith("task ")


@pytest.mark.parametrize(("shown", "doubted"), [([[-2.0] * 3, [2.0] * 3], True), ([[-2.0] * 3] * 30, False)])
def test_journey_9_inputs_by_the_papers_distance(shown: list[list[float]], doubted: bool, tmp_path: Path):
    rng = np.random.default_rng(0)
    for name, at in (("a", -2.0), ("b", 2.0)):
        np.save(tmp_path / f"{name}.npy", rng.normal(at, 1, (60, 3)))
    np.save(tmp_path / "target.npy", np.array(shown))
    files = [tmp_path / "a.npy", tmp_path / "b.npy"]
    checkpoints = Checkpoints(("a", "b"))
    how = {"settings": {"gamma": 300.0}, "draws": 60}
    made = from_inputs(checkpoints, tmp_path / "target.npy", kind="mmd", task_samples=files, **how)
    assert [doubt.startswith("2 inputs do not tell which tasks") for doubt in made.doubts] == [True] * doubted


def shares_of(low: list[float], high: list[float], tells: bool = True, notes: tuple[str, ...] = ()) -> Shares:
    middle = (np.array(low) + np.array(high)) / 2
    shares = middle / middle.sum()
    empty = np.zeros((1, 2))
    return Shares(
        ("a", "b"), ("x", "y"), shares, shares[None], np.array(low), np.array(high), 0.9, 30, empty[0], empty, "inputs",
        tells=tells, notes=notes,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("shares", "first"),
    [
        (shares_of([0.0, 0.01], [0.99, 1.0]), "30 inputs do not tell which tasks the target is made of"),
        (shares_of([0.0, 0.4], [0.45, 1.0]), "The shares are wide open: from 30 inputs, b has 40 to 100 %."),
        (shares_of([0.1, 0.8], [0.2, 0.9]), None),
    ],
)
def test_journey_9_an_estimate_from_inputs_says_first_how_open_it_is(shares: Shares, first: str | None):
    from prefmerge.target import estimated

    shares = with_doubts(replace(shares, notes=("Something else.",)))
    made = estimated._preferred(
        Checkpoints(("a", "b")),
        shares,
        no_examples(),
        shares.notes,
        inputs=Path("i"),
        draws=9,
        level=0.9,
        seed=0,
    )
    assert [doubt.startswith(first or "?") for doubt in made.doubts] == ([True] if first else [])
    assert made.notes == ("Something else.",)
