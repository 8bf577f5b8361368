"""`adapt --check`: later samples against the mix that a model was adapted to. It writes nothing."""

from __future__ import annotations

import json
import random
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", reason="adapt needs the extra places")
pytest.importorskip("sklearn", reason="adapt needs the extra places")

from prefmerge.errors import DataError, UsageError
from prefmerge.target.adapt import adapt
from prefmerge.target.check import _recalls, check
from prefmerge.target.checked import Checked
from prefmerge.target.parameters.again import Earlier
from prefmerge.target.result import Adapted
from prefmerge.target.shares import Foreign, Tasks
from tests.target.classifiers import World, make, sample


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make("text", tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def made(world: World) -> Adapted:
    """Adapted to a target of mostly the first task."""
    seen = labels(world.root / "many.csv", ["ab"] * 20 + ["cd"] * 15 + ["ef"] * 5)
    return adapt(world.asked(labels=seen, out=world.root / "out"))


def labels(file: Path, names: Sequence[str]) -> Path:
    file.write_text("\n".join(("label", *names)) + "\n")
    return file


def checked(world: World, made: Adapted, **given: Any) -> Checked:
    assert made.parameters.out is not None
    before = {path: path.read_bytes() for path in made.parameters.out.iterdir()}
    done = check(
        made.parameters.out,
        **{
            "checkpoints": world.checkpoints,
            "task_samples": [world.root / "samples"],
            "no_cache": True,
            **given,
        },
    )
    assert {path: path.read_bytes() for path in made.parameters.out.iterdir()} == before
    return done


def test_the_same_mix_is_no_change(world: World, made: Adapted, tmp_path: Path):
    later = labels(tmp_path / "later.csv", ["ab"] * 19 + ["cd"] * 16 + ["gh"] * 5)
    done = checked(world, made, labels=later)
    assert not done.clear
    assert done.verdict.startswith("No clear change: the mixes differ by 0 % of the target (90 % interval [0, ")
    assert done.advice == "Nothing needs to be done. To add these labels to the earlier ones:"
    assert done.command is not None
    words = shlex.split(done.command)
    assert "--forget" not in words
    assert words[words.index("--labels") + 1] == str(later)
    assert made.estimates is not None
    assert done.expected is not None
    assert done.expected.low <= made.estimates.chosen.accuracy.value <= done.expected.high
    assert done.expected.low < 0.99  # all right so far does not show that nothing can go wrong
    assert not done.notes


def test_a_change_is_named_with_what_it_costs_and_the_line_that_adapts_again(
    world: World, made: Adapted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    later = labels(tmp_path / "later.csv", ["ab"] * 4 + ["ef"] * 18 + ["gh"] * 18)
    done = checked(world, made, labels=later)
    assert done.clear
    assert (done.moved.grew, done.moved.shrank) == (["second"], ["first"])
    assert "The mix has moved, by 78 % of the target" in done.verdict
    assert "There is clearly more of second. There is clearly less of first." in done.verdict
    assert done.expected is not None
    assert done.there is not None
    assert json.loads(json.dumps(done.to_json()))["moved"] is True
    from prefmerge.target.parameters import Parameters

    assert done.command is not None
    words = shlex.split(done.command)
    assert words[:2] == ["prefmerge", "adapt"]
    flags = {words[i]: words[i + 1] for i in range(5, len(words) - 1) if words[i].startswith("-")}
    again = Parameters.of(
        checkpoints=words[2:5],
        from_=flags["--from"],
        forget="--forget" in words,
        task_samples=flags["--task-samples"],
        labels=flags["--labels"],
    )
    assert (again.forget, again.labels, again.checkpoints) == (True, later, world.checkpoints)


def test_pairs_are_judged_by_the_model_itself(world: World, made: Adapted, tmp_path: Path):
    rng = random.Random(8)
    names = ["ab"] * 10 + ["cd"] * 8 + ["ef"] * 3
    # A fifth of the answers is wrong because the label is: the model says what it sees.
    rows = [(sample("text", name, rng), "gh" if i % 5 == 0 else name) for i, name in enumerate(names)]
    some = tmp_path / "pairs.csv"
    some.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    done = checked(world, made, pairs=some)
    assert done.on_pairs is not None
    assert done.on_pairs.low < done.on_pairs.value < 0.95
    assert done.command is None or "--forget" in done.command  # labels and pairs are not added
    out = made.parameters.out
    assert out is not None
    (tmp_path / "alone").mkdir()
    shutil.copy(out / "adapt.json", tmp_path / "alone")
    alone = check(
        tmp_path / "alone",
        pairs=some,
        checkpoints=world.checkpoints,
        task_samples=[world.root / "samples"],
        no_cache=True,
    )
    assert alone.on_pairs is None
    assert any("holds no model, so the pairs did not judge it" in note for note in alone.notes)


def test_inputs_of_no_task_are_seen(world: World, made: Adapted, tmp_path: Path):
    rng = random.Random(5)
    texts = [sample("text", name, rng) for name in ["ab"] * 10 + ["xyz"] * 30]
    (tmp_path / "later.txt").write_text("\n".join(texts) + "\n")
    done = checked(world, made, inputs=tmp_path / "later.txt")
    assert done.shares.foreign is not None
    assert done.shares.foreign.low > 0.3
    assert any("look like no task at all" in note for note in done.notes)
    assert any("was estimated from labels, this one from inputs" in note for note in done.notes)
    if not done.clear:
        assert done.advice.startswith("Inputs are there that no task knows")
        assert done.command is None


def test_samples_that_show_no_task_get_no_verdict_and_no_line(world: World, made: Adapted, tmp_path: Path):
    done = checked(world, made, labels=labels(tmp_path / "later.csv", ["ab"] * 20))
    lost = replace(done, shares=replace(done.shares, tells=False))
    assert done.command is not None
    assert (lost.clear, lost.command) == (False, None)
    assert "whether the mix has moved is not known" in lost.verdict
    assert lost.advice == "Give labels of the target, or more samples, and check again."
    strange = replace(done, shares=replace(done.shares, foreign=Foreign(0.5, 0.4, 0.6)))
    assert strange.command is None
    assert strange.advice.startswith("Inputs are there that no task knows")


def test_what_a_class_shows_in_one_domain_says_nothing_of_another(tmp_path: Path):
    """Both tasks have both classes. The first was present, and its samples are all right; of the second 4 of 10 are."""
    known = Tasks(("here", "there"), ("x", "y"), ((0, 1), (0, 1)), np.full((2, 2), 9))
    source = SimpleNamespace(tasks=known)
    right = {"samples": 30, "recall": 1.0, "before": 0.5}
    data = {
        "target": {"shares": {"here": 1.0, "there": 0.0}},
        "estimates": {
            "recall": {"x": right, "y": right},
            "other_tasks": {"there": {"samples": 10, "last": 0.9, "chosen": 0.4}},
        },
    }
    sizes, correct, unit = _recalls(Earlier(tmp_path / "adapt.json", data), source, "chosen")  # pyright: ignore[reportArgumentType]
    assert (sizes[unit].tolist(), correct[unit].tolist()) == ([[30, 30], [10, 10]], [[30, 30], [4, 4]])
    data["estimates"]["other_tasks"] = {}
    _, _, unit = _recalls(Earlier(tmp_path / "adapt.json", data), source, "chosen")  # pyright: ignore[reportArgumentType]
    assert unit.tolist() == [[0, 1], [-1, -1]]  # nothing is known of it


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, r"with what\? Give later samples of the target"),
        ({"labels": "l", "prefer": "1,0"}, "--prefer has no use with --check"),
        ({"labels": "l", "out": "o"}, "--out has no use with --check"),
        ({"labels": "l", "from_": "o"}, "--from has no use with --check"),
        ({"labels": "l"}, r"holds no paths\. Give again: BASE TASK"),
    ],
)
def test_what_makes_no_sense_is_refused(made: Adapted, given: dict[str, Any], told: str):
    assert made.parameters.out is not None
    with pytest.raises(UsageError, match=told):
        check(made.parameters.out, **given)


def test_a_damaged_result_is_refused(world: World, made: Adapted, tmp_path: Path):
    assert made.parameters.out is not None
    data = json.loads((made.parameters.out / "adapt.json").read_text())
    (tmp_path / "adapt.json").write_text(json.dumps(data | {"drawn": ["0.1"]}))
    given = {"labels": world.root / "seen.csv", "checkpoints": world.checkpoints}
    with pytest.raises(DataError, match="its shares cannot be read"):
        check(tmp_path, **given, task_samples=[world.root / "samples"])
