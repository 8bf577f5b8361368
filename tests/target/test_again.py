"""`--from`: an earlier result and more of the target give what all of it at once gives."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="adapt needs the extra places")
pytest.importorskip("sklearn", reason="adapt needs the extra places")

from prefmerge.errors import DataError, UsageError
from prefmerge.target.adapt import adapt
from prefmerge.target.parameters import Parameters, declarations
from prefmerge.target.parameters.again import PATHS, read_earlier
from tests.merging.receipts import GOLDEN
from tests.target.classifiers import World, make, sample


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make("text", tmp_path_factory.mktemp("text"))


def labels(file: Path, names: Sequence[str]) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n".join(("label", *names)) + "\n")
    return file


def result(tmp_path: Path, **changes: Any) -> Path:
    """The file of a result, as far as `--from` reads it."""
    told = Parameters.of(run="/somewhere/my-run", labels="seen.csv", seed=3, metric="balanced").to_json()
    data: dict[str, Any] = {
        "format": "prefmerge-adapt/1",
        "parameters": told | changes.pop("parameters", {}),
        "tasks": ["first", "second"],
        "target": {},
        "shown": {"labels": {"ab": 3}, "inputs": 0, "pairs": 0} | changes.pop("shown", {}),
        **changes,
    }
    (tmp_path / "adapt.json").write_text(json.dumps(data))
    return tmp_path / "adapt.json"


def same(made: Any) -> dict[str, Any]:
    data = made.to_json()
    return {name: value for name, value in data.items() if name != "cost"}


def test_labels_add_up_to_one_call_with_all_of_them(world: World, tmp_path: Path):
    some, more = ["ab"] * 5 + ["cd"] * 2, ["ab"] * 4 + ["cd"] + ["ef"]
    first = adapt(world.asked(labels=labels(tmp_path / "a" / "seen.csv", some), seed=3, out=tmp_path / "first"))
    again = {
        "from_": tmp_path / "first",
        "checkpoints": world.checkpoints,
        "task_samples": [world.root / "samples"],
        "no_cache": True,
        "threads": 1,
    }
    asked = Parameters.of(**again, labels=labels(tmp_path / "b" / "seen.csv", more), out=tmp_path / "second")
    assert asked.seed == 3
    second = adapt(asked)
    at_once = adapt(
        world.asked(labels=labels(tmp_path / "c" / "seen.csv", some + more), seed=3, out=tmp_path / "at-once")
    )
    assert same(second) == same(at_once) != same(first)
    ours, theirs = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("second", "at-once"))
    assert ours == theirs
    third = Parameters.of(**{**again, "from_": tmp_path / "second" / "adapt.json"})
    assert same(adapt(third))["target"] == same(at_once)["target"]  # nothing new: the labels are counted in the file
    alone = Parameters.of(**again, forget=True, labels=tmp_path / "b" / "seen.csv")
    assert adapt(alone).evidence.shown.labels == {"ab": 4, "cd": 1, "ef": 1}


def test_labels_that_may_be_given_twice_get_a_note(world: World, tmp_path: Path):
    file = result(tmp_path, parameters={"run": None}, shown={"labels": {"ab": 3, "cd": 2}})
    given = {"from_": file, "checkpoints": world.checkpoints, "task_samples": [world.root / "samples"]}
    for names, doubted in ((["ab"] * 3 + ["cd"] * 4, True), (["ab"] * 2 + ["cd"] * 4, False)):
        made = adapt(Parameters.of(**given, no_cache=True, labels=labels(tmp_path / "seen.csv", names)))
        assert made.evidence.shown.labels["cd"] == 6
        assert doubted == any("counts 5 labels, and seen.csv has at least as many" in note for note in made.notes)


def test_inputs_are_given_again_with_the_new_ones(world: World, tmp_path: Path):
    rng = random.Random(5)
    texts = [sample("text", "ab", rng) for _ in range(14)]
    few, all_ = tmp_path / "few.txt", tmp_path / "all.txt"
    few.write_text("\n".join(texts[:8]) + "\n")
    all_.write_text("\n".join(texts) + "\n")
    first = adapt(world.asked(labels=None, inputs=few))
    assert first.evidence.shown.inputs == 8
    (tmp_path / "adapt.json").write_text(json.dumps(first.to_json()))
    given = {
        "from_": tmp_path,
        "checkpoints": world.checkpoints,
        "task_samples": [world.root / "samples"],
        "no_cache": True,
    }
    with pytest.raises(UsageError, match=r"Give again: --inputs \(the 8 inputs of before, together with new ones\)\.$"):
        Parameters.of(**given, labels=world.root / "seen.csv")
    few.write_text("\n".join(texts[8:]) + "\n")
    with pytest.raises(UsageError, match=r"--inputs: there are 6, and 8 were shown before\."):
        adapt(Parameters.of(**given, inputs=few))
    both = adapt(Parameters.of(**given, inputs=all_))
    assert both.evidence.shown.inputs == 14
    assert same(both) == same(adapt(world.asked(labels=None, inputs=all_, no_cache=True)))


def test_parameters_given_now_hold_and_the_others_are_those_of_before(tmp_path: Path):
    made = Parameters.of(from_=result(tmp_path), run="r", seed=0)
    assert (made.run, made.seed, made.metric, made.labels) == (Path("r"), 0, "balanced", None)
    stated = result(tmp_path, parameters={"prefer": "1,0", "labels": None}, shown={"labels": {}})
    assert Parameters.of(from_=stated, run="r").prefer == "1,0"
    assert Parameters.of(from_=stated, run="r", prefer="0,1").prefer == "0,1"
    assert Parameters.of(from_=stated, run="r", labels="new.csv").prefer is None
    assert replace(made, seed=9).seed == 9
    # From Python, an argument that is None is one that was not given.
    assert Parameters.of(from_=stated, run="r", prefer=None, checkpoints=None).prefer == "1,0"


def test_the_run_is_where_the_receipt_says_that_the_base_was(tmp_path: Path):
    (tmp_path / "my-run" / "base").mkdir(parents=True)
    file = result(tmp_path)
    with pytest.raises(UsageError, match=r"holds no paths and no samples\. Give again: --run \(it was 'my-run'\)\.$"):
        Parameters.of(from_=file)
    (tmp_path / "receipt.json").write_text("{}")
    with pytest.raises(UsageError, match="--run"):  # no receipt
        Parameters.of(from_=file)
    receipt = json.loads((GOLDEN / "default.json").read_text())
    for path in (str(tmp_path / "my-run" / "base"), "my-run/base"):  # earlier versions wrote the whole path
        receipt["inputs"]["base"]["path"] = path
        (tmp_path / "receipt.json").write_text(json.dumps(receipt))
        (tmp_path / "my-run" / "run.json").unlink(missing_ok=True)
        with pytest.raises(UsageError, match="--run"):  # no run is there
            Parameters.of(from_=file)
        (tmp_path / "my-run" / "run.json").write_text("{}")
        assert Parameters.of(from_=tmp_path).run == tmp_path / "my-run"


@pytest.mark.parametrize(
    ("file", "given", "told"),
    [
        ({"parameters": {"candidate": ["a.yaml"]}}, {"run": "r"}, r"Give again: --candidate \(it was a\.yaml\)\.$"),
        (
            {"parameters": {"run": None, "checkpoints": ["base", "x"], "head": "h", "task_samples": ["s"]}},
            {},
            r"Give again: BASE TASK\.\.\. \(they were base x\), --task-samples \(it was s\) and --head \(it was h\)\.$",
        ),
        ({}, {"run": "r", "prefer": "1,0"}, "--prefer states the mix, and"),
        ({}, {"run": "r", "pairs": "p.csv"}, "--pairs have labels, and"),
        ({"shown": {"pairs": 4}}, {"run": "r", "labels": "l"}, "was made with 4 pairs, which have labels already"),
        ({"shown": {"pairs": 4}}, {"run": "r"}, r"--pairs \(the 4 pairs of before"),
        ({}, {"run": "r", "forget": True}, r"what is the target like\?"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, file: dict[str, Any], given: dict[str, Any], told: str):
    with pytest.raises(UsageError, match=told):
        Parameters.of(from_=result(tmp_path, **file), **given)


@pytest.mark.parametrize(
    ("text", "told"),
    [("[]", "is no result of"), ("{", "cannot be read"), ('{"format": "prefmerge-adapt/1"}', "is no result of")],
)
def test_what_is_no_result_is_refused(tmp_path: Path, text: str, told: str):
    (tmp_path / "adapt.json").write_text(text)
    with pytest.raises(DataError, match=told):
        read_earlier(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        read_earlier(tmp_path / "gone.json")
    with pytest.raises(UsageError, match=r"^--labels stands where the folder"):  # `--check --labels more.csv`
        read_earlier(Path("--labels"))


def test_forget_needs_something_to_forget():
    with pytest.raises(UsageError, match=r"^--forget has no use without --from\.$"):
        Parameters.of(run="r", labels="l", forget=True)


def test_other_tasks_are_refused(world: World, tmp_path: Path):
    shutil.copytree(world.root / "second", tmp_path / "third")
    file = result(tmp_path, parameters={"run": None})
    samples = tmp_path / "samples"
    shutil.copytree(world.root / "samples", samples)
    (samples / "second.csv").rename(samples / "third.csv")
    given = {"checkpoints": [*world.checkpoints[:2], tmp_path / "third"], "task_samples": [samples]}
    with pytest.raises(UsageError, match="is of the tasks first, second; these are first, third"):
        adapt(Parameters.of(from_=file, **given))


def test_paths_are_the_parameters_that_are_paths():
    paths = {
        name
        for name, (kind, declared) in declarations(Parameters).items()
        if "Path" in str(kind) and not declared.local
    }
    assert set(PATHS) == paths


def test_a_label_of_an_earlier_result_that_no_task_has_gets_the_class_like_it(world: World, tmp_path: Path):
    asked = world.asked(labels=labels(tmp_path / "a" / "seen.csv", ["ab"] * 5), out=tmp_path / "first")
    adapt(asked)
    file = tmp_path / "first" / "adapt.json"
    file.write_text(file.read_text().replace('"ab": 5', '"aab": 5'))
    with pytest.raises(UsageError, match=r"'aab', which is no class of these tasks\. Did you mean 'ab'\?"):
        adapt(world.asked(from_=tmp_path / "first", out=tmp_path / "again"))
