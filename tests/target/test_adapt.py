"""What `adapt` says, and what it does not say, of a target that the tasks do not cover."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="adapt needs the extra places")
pytest.importorskip("sklearn", reason="adapt needs the extra places")

from prefmerge.errors import DataError
from prefmerge.target.adapt import adapt
from tests.target.classifiers import World, make, sample


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make("text", tmp_path_factory.mktemp("text"))


def inputs(file: Path, words: str, count: int) -> Path:
    rng = random.Random(5)
    file.write_text("".join(f"{sample('text', words, rng)}\n" for _ in range(count)))
    return file


def test_where_most_inputs_are_of_no_task_no_accuracy_is_told(world: World, tmp_path: Path):
    made = adapt(world.asked(labels=None, inputs=inputs(tmp_path / "foreign.txt", "xyz", 40)))
    foreign = made.evidence.shares.foreign
    assert foreign is not None
    assert foreign.low > 0.5
    assert made.choice is not None  # candidates are ranked all the same
    assert made.estimates is None
    assert made.notes[0] == "most inputs are of no task, so nothing is said of how good the model is there."
    known = adapt(world.asked(labels=None, inputs=inputs(tmp_path / "known.txt", "ab", 40)))
    assert known.estimates is not None
    assert not any("of no task" in note for note in known.notes)


def pairs(file: Path, labels: list[str]) -> Path:
    rng = random.Random(6)
    rows = "".join(f"{sample('text', label, rng)},{label}\n" for label in labels)
    file.write_text(f"text,label\n{rows}")
    return file


def test_pairs_of_no_class_are_left_aside_with_a_note(world: World, tmp_path: Path):
    some = pairs(tmp_path / "some.csv", ["ab"] * 8 + ["xy"] * 2 + ["cd"] * 4)
    made = adapt(world.asked(labels=None, pairs=some))
    note = "2 of the target's 14 labels are no class of any task and not counted: 'xy' (first at sample 'some/00008')."
    assert note in made.notes
    assert made.evidence.pairs is not None
    assert len(made.evidence.pairs) == 12
    assert made.evidence.shares.samples == 12
    with pytest.raises(DataError, match=r"most\.csv: 3 of the target's 4 labels are no class of any task: 'xy'"):
        adapt(world.asked(labels=None, pairs=pairs(tmp_path / "most.csv", ["ab"] + ["xy"] * 3)))
