"""What a run keeps for later: the samples and embeddings that it had, whatever happens to data and model since."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prefmerge.config import FinetuneConfig
from prefmerge.data.examples import Examples, concatenated, no_examples
from prefmerge.data.scenarios import Scenario
from prefmerge.errors import RunError
from prefmerge.models.features import embed
from prefmerge.runs import Run, read_run
from prefmerge.training import finetuning, run_folder
from prefmerge.training.finetuning import run_tasks
from prefmerge.training.job import TrainingProgress
from prefmerge.training.kept import Kept, read_kept
from prefmerge.training.opened import open_kept, open_tasks
from tests.models.stubs import ToyEncoder, toy_head, toy_scenario
from tests.training.test_finetuning import checkpoints, config

METHODS = ("sequential", "independent", "joint", "lwf", "ewc")


def holding_out(count: int = 3, **sizes: Any) -> Scenario:
    """The toy's tasks, with some of each task's training samples held out."""
    scenario = toy_scenario(**sizes)
    tasks = []
    for task in scenario.tasks:
        out = np.arange(0, 2 * count, 2)
        rest = np.setdiff1d(np.arange(len(task.train)), out)
        tasks.append(replace(task, train=task.train.take(rest), held_out=task.train.take(out)))
    return replace(scenario, tasks=tuple(tasks))


def run(out: Path, scenario: Scenario, method: str = "sequential", **how: Any) -> Run:
    asked: FinetuneConfig = how.pop("config", config(method)).model_copy(update={"held_out": 3})
    return run_tasks(scenario, ToyEncoder(), lambda: toy_head(scenario), asked, out, **how)


def kept_of(run: Run) -> Kept:
    result = read_kept(run)
    assert result is not None
    return result


def kept_bytes(out: Path) -> dict[str, bytes]:
    files = [*sorted((out / "held-out").iterdir()), out / "base-embeddings.safetensors"]
    return {file.relative_to(out).as_posix(): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run, for tests that copy it."""
    return run(tmp_path_factory.mktemp("done") / "run", holding_out()).folder


@pytest.mark.parametrize("method", METHODS)
def test_what_is_kept_comes_back(method: str, tmp_path: Path):
    scenario = holding_out()
    made = run(tmp_path / "run", scenario, method)
    result = kept_of(read_run(tmp_path / "run"))
    assert result.classes == tuple(one.name for one in scenario.classes)
    assert result.names == ("task-1", "task-2", "task-3")
    for t, task in enumerate(scenario.tasks):
        held_out = result.held_out[t]
        assert (result.of_task[t], result.among[t]) == (task.classes, task.among)
        assert held_out.ids == task.held_out.ids
        assert held_out.labels.tolist() == task.held_out.labels.tolist()
        np.testing.assert_array_equal(held_out.read([2, 0]), task.held_out.read([2, 0]))
        assert held_out.fingerprint([0, 1]) == held_out.take([0, 1]).fingerprint([0, 1]) != held_out.fingerprint([1, 0])
        own = result.tasks == t
        assert sorted(result.labels[own]) == sorted(task.train.labels)
    # All at once, as they were made: batches of other sizes round differently.
    every = concatenated([task.train for task in scenario.tasks])
    np.testing.assert_array_equal(result.embeddings, embed(ToyEncoder(), every, batch=64))
    assert (result.embeddings.dtype, result.labels.dtype, result.tasks.dtype) == (np.float32, np.int64, np.int64)
    said = made.about["kept"]
    assert (said["held_out"], said["embeddings"]) == (9, 39)
    files = kept_bytes(made.folder)
    assert said["embeddings_bytes"] == len(files.pop("base-embeddings.safetensors"))
    assert said["held_out_bytes"] == sum(map(len, files.values()))
    assert sum(n for task in made.tasks for n in task.label_counts.values()) == 39  # of what was trained on


def test_embeddings_are_of_a_hundred_samples_a_class_at_most(tmp_path: Path):
    scenario = holding_out(tasks=1, train=130)
    result = kept_of(run(tmp_path / "run", scenario))
    assert np.bincount(result.labels).tolist() == [100, 100]


def test_a_run_that_holds_none_out_is_as_it_was(tmp_path: Path):
    scenario = toy_scenario()
    run_tasks(scenario, ToyEncoder(), lambda: toy_head(scenario), config(), tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert not names & {"held-out", "base-embeddings.safetensors"}
    made = read_run(tmp_path / "run")
    assert "kept" not in made.about
    assert read_kept(made) is None


def test_keeping_samples_changes_no_byte_of_the_training(tmp_path: Path):
    scenario = holding_out()
    run(tmp_path / "kept", scenario, "ewc")
    bare = replace(scenario, tasks=tuple(replace(task, held_out=no_examples()) for task in scenario.tasks))
    run_tasks(bare, ToyEncoder(), lambda: toy_head(bare), config("ewc"), tmp_path / "bare")
    result = checkpoints(tmp_path / "kept")
    for name in [name for name in result if name.startswith(("held-out", "base-embeddings"))]:
        del result[name]
    assert result == checkpoints(tmp_path / "bare")


class Stop(Exception):
    pass


@pytest.mark.parametrize("where", ["kept", "list", "manifest", "task-1", "task-2"])
def test_a_run_that_is_killed_anywhere_ends_with_the_same_bytes(
    where: str, tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch
):
    scenario = holding_out()

    def stop(*_: Any, **__: Any) -> Any:
        raise Stop

    def heard(now: TrainingProgress) -> None:
        if now.done and now.name == where:
            raise Stop

    with monkeypatch.context() as patched:
        if where == "kept":
            patched.setattr(finetuning, "write_kept", stop)
        elif where == "list":
            patched.setattr("prefmerge.training.kept._embedded", stop)
        elif where == "manifest":
            patched.setattr(run_folder, "write_manifest", stop)
        with pytest.raises(Stop):
            run(tmp_path / "run", scenario, progress=heard)
    assert run(tmp_path / "run", scenario).finished
    assert kept_bytes(tmp_path / "run") == kept_bytes(done)
    assert checkpoints(tmp_path / "run") == checkpoints(done)
    assert read_run(tmp_path / "run").about["kept"] == read_run(done).about["kept"]


def test_force_begins_anew_without_what_was_kept(tmp_path: Path):
    run(tmp_path / "run", holding_out())
    scenario = toy_scenario()
    run_tasks(scenario, ToyEncoder(), lambda: toy_head(scenario), config(), tmp_path / "run", force=True)
    assert not (tmp_path / "run" / "held-out").exists()
    assert not (tmp_path / "run" / "base-embeddings.safetensors").exists()


@pytest.mark.parametrize(
    "name", ["held-out/samples.json", "held-out/task-02.safetensors", "base-embeddings.safetensors"]
)
@pytest.mark.parametrize("damage", ["gone", "cut", "empty", "a byte"])
def test_damage_is_told(name: str, damage: str, tmp_path: Path, done: Path):
    made = read_run(shutil.copytree(done, tmp_path / "run"))
    file = made.folder / name
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        flipped = content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]
        file.write_bytes({"cut": content[:-7], "empty": b"", "a byte": flipped}[damage])
    said = "No such file" if damage == "gone" else "its contents are not those that the run wrote"
    with pytest.raises(RunError, match=rf"{name}: what the run kept cannot be read: {said}.*\. Copy the whole run"):
        read_kept(read_run(made.folder))


def test_a_format_of_the_future_is_told(tmp_path: Path, done: Path):
    made = read_run(shutil.copytree(done, tmp_path / "run"))
    file = made.folder / "held-out" / "samples.json"
    file.write_text(file.read_text().replace("held-out/1", "held-out/9"))
    about = json.loads((made.folder / "run.json").read_text())
    del about["kept"]["files"]["held-out/samples.json"]
    (made.folder / "run.json").write_text(json.dumps(about))
    with pytest.raises(RunError, match="its format is 'prefmerge-held-out/9'; this prefmerge reads 'prefmerge-held-ou"):
        read_kept(read_run(made.folder))


def test_images_that_vanish_after_opening_are_told(tmp_path: Path, done: Path):
    result = kept_of(read_run(shutil.copytree(done, tmp_path / "run")))
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(RunError, match=r"task-01\.safetensors: what the run kept cannot be read"):
        result.held_out[0].read([0])


def test_a_task_may_hold_none_out(tmp_path: Path):
    scenario = holding_out()
    first = replace(scenario.tasks[0], held_out=no_examples())
    result = kept_of(run(tmp_path / "run", replace(scenario, tasks=(first, *scenario.tasks[1:]))))
    assert [len(one) for one in result.held_out] == [0, 3, 3]
    assert set(result.tasks.tolist()) == {0, 1, 2}


@pytest.mark.parametrize("kind", ["datasets", "domain-incremental"])
def test_other_layouts_of_tasks_come_back(kind: str, tmp_path: Path):
    scenario = holding_out()
    everything = tuple(range(len(scenario.classes)))
    tasks = [
        replace(task, among=task.classes) if kind == "datasets" else replace(task, classes=everything)
        for task in scenario.tasks
    ]
    scenario = replace(scenario, kind=kind, tasks=tuple(tasks))
    made = run(tmp_path / "run", scenario)
    result = kept_of(made)
    assert result.of_task == tuple(task.classes for task in scenario.tasks)
    assert result.among == tuple(task.among for task in scenario.tasks)
    for opened in (open_kept(made.folder), open_tasks(made.folder)):
        assert opened is not None
        assert opened[2].kind == kind
        assert opened[2].classes == tuple(replace(one, phrases=()) for one in scenario.classes)
        for task, then in zip(opened[2].tasks, scenario.tasks, strict=True):
            assert (task.name, task.classes, task.among) == (then.name, then.classes, then.among)


def test_texts_are_kept_as_they_are(tmp_path: Path):
    class Texts(ToyEncoder):
        def keep(self, inputs: Any) -> tuple[str, list[Any]]:
            return "text", [f"“{one[0]:.2f}”\n" for one in inputs]

    scenario = holding_out()
    run_tasks(scenario, Texts(), lambda: toy_head(scenario), config(), tmp_path / "run")
    result = kept_of(read_run(tmp_path / "run")).held_out[1]
    assert result.read([0, 1]) == Texts().keep(scenario.tasks[1].held_out.read([0, 1]))[1]
    assert result.fingerprint([0]) != result.fingerprint([1])


def test_reading_needs_no_torch(done: Path):
    code = f"""
import sys
for name in ("torch", "transformers", "accelerate"):
    sys.modules[name] = None
from prefmerge.training.kept import read_kept
from prefmerge.runs import read_run
found = read_kept(read_run({str(done)!r}))
assert found is not None and len(found.held_out[0].read([0, 1])) == 2 and found.embeddings.shape[1] == 4
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert told.returncode == 0, told.stderr


def test_readers_can_be_sent_to_other_processes(done: Path):
    import pickle

    result: Examples = kept_of(read_run(done)).held_out[0]
    again = pickle.loads(pickle.dumps(result))
    assert torch.equal(torch.tensor(np.array(again.read([1]))), torch.tensor(np.array(result.read([1]))))
