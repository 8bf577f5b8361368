"""Whole runs: what is in the folder, what starts from what, and a kill at any moment changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import prefmerge
from prefmerge.config import FinetuneConfig, make_config
from prefmerge.data.examples import Examples
from prefmerge.data.scenarios import Scenario, joined
from prefmerge.errors import ConfigError, DataError, DiskFull, OutputError, OutputExists, RunError
from prefmerge.runs import IN_SEQUENCE, Run, read_run
from prefmerge.training import between_tasks, finetuning, run_folder
from prefmerge.training.config_file import kept_config
from prefmerge.training.finetuning import run_tasks
from prefmerge.training.job import TASK_SEEDS, TrainingProgress
from prefmerge.training.steps import fine_tune
from tests.forks import begun
from tests.models.stubs import ToyEncoder, toy_examples, toy_head, toy_scenario

TASKS = 3


def config(method: str = "sequential", **training: Any) -> FinetuneConfig:
    own = {
        "method": method,
        "epochs": 2,
        "batch": 5,
        "learning_rate": 0.01,
        "warmup_steps": 1,
        "ewc": {"coefficient": 10},
    }
    machine = {"device": "cpu", "threads": 1, "workers": 0}
    return make_config({"model": "toy", "data": "toy", "training": {**own, **machine, **training}, "seed": 3})


def run(out: Path, method: str = "sequential", scenario: Scenario | None = None, **how: Any) -> Run:
    scenario = scenario or toy_scenario(TASKS)
    asked = how.pop("config", config(method))
    return run_tasks(scenario, ToyEncoder(), lambda: toy_head(scenario), asked, out, **how)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def checkpoints(out: Path) -> dict[str, bytes]:
    """Every checkpoint of a run, and its head, byte for byte."""
    return {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*.safetensors"))}


def test_what_a_run_leaves(tmp_path: Path):
    out = tmp_path / "run"
    made = run(out)
    assert sorted(path.name for path in out.iterdir()) == [
        "base",
        "config.yaml",
        "head.safetensors",
        "log.jsonl",
        "run.json",
        "samples.json",
        "tasks",
    ]
    assert sorted(path.name for path in (out / "tasks").iterdir()) == ["task-1", "task-2", "task-3"]
    assert made == read_run(out)
    assert made.finished
    assert made.tasks[1].classes == ("class 2", "class 3")
    assert made.tasks[1].label_counts == {"class 2": 8, "class 3": 8}
    samples = json.loads((out / "samples.json").read_text())["tasks"]
    assert samples[0]["train"][:2] == ["train-0-0", "train-0-1"]
    assert len(samples[2]["test"]) == 10
    events = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [one["event"] for one in events if one["event"] != "step"] == ["begin", *["task", "done"] * TASKS]
    assert {"loss", "accuracy", "learning_rate", "epoch", "step", "steps"} <= next(
        one for one in events if one["event"] == "step"
    ).keys()


def test_the_configuration_kept_is_the_one_resolved(tmp_path: Path):
    run(tmp_path / "run")
    assert kept_config(tmp_path / "run") == config()


@pytest.mark.parametrize("method", ["sequential", "independent"])
def test_where_a_task_starts(method: str, tmp_path: Path):
    """theta_t against `fine_tune` from theta_{t-1}, or from theta_0."""
    scenario, asked = toy_scenario(TASKS), config(method)
    made = run(tmp_path / "run", method)
    for index, task in enumerate(scenario.tasks):
        encoder = ToyEncoder()
        encoder.load(made.task_path(index - 1) if method == "sequential" and index else made.base_path)
        head, seed = toy_head(scenario), 3 * TASK_SEEDS + index
        fine_tune(encoder, head, task.train, task.classes, asked.training, epochs=2, seed=seed)
        assert all(torch.equal(encoder.state()[name], w) for name, w in weights(made.task_path(index)).items())


def test_the_first_task_is_the_same_in_every_training_but_joint(tmp_path: Path):
    first = {m: weights(run(tmp_path / m, m).task_path(0)) for m in (*IN_SEQUENCE, "independent")}
    last = {m: weights(tmp_path / m / "tasks" / "task-3") for m in first}
    for method in first:
        assert all(torch.equal(first["sequential"][name], w) for name, w in first[method].items())
        if method != "sequential":
            assert any(not torch.equal(last["sequential"][name], w) for name, w in last[method].items())


def test_joint_is_one_task_with_everything(tmp_path: Path):
    made, whole = run(tmp_path / "run", "joint"), joined(toy_scenario(TASKS)).tasks[0]
    assert [task.name for task in made.tasks] == ["joint"]
    assert made.tasks[0].classes == tuple(f"class {c}" for c in range(6))
    assert sum(made.tasks[0].label_counts.values()) == len(whole.train) == 48
    # What is evaluated stays in tasks.
    assert len(json.loads((tmp_path / "run" / "samples.json").read_text())["tasks"]) == TASKS


@pytest.mark.parametrize("method", ["lwf", "ewc"])
def test_coefficient_zero_is_sequential_bit_for_bit(method: str, tmp_path: Path):
    plain = run(tmp_path / "plain")
    zero = config(method, **{method: {"coefficient": 0.0}})
    other = run(tmp_path / "other", config=zero)
    for index in range(TASKS):
        a, b = weights(plain.task_path(index)), weights(other.task_path(index))
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_ewc_stays_nearer(tmp_path: Path):
    def moved(coefficient: float) -> float:
        made = run(tmp_path / str(coefficient), config=config("ewc", ewc={"coefficient": coefficient}, epochs=8))
        a, b = weights(made.task_path(0)), weights(made.task_path(2))
        return float(sum((a[name] - b[name]).square().sum() for name in a))

    assert moved(1e3) < 0.7 * moved(0.0)


class Killed(BaseException):
    """Stands for a kill: nothing catches it but what cleans up."""


@pytest.mark.parametrize("method", ["sequential", "ewc"])
@pytest.mark.parametrize(
    ("where", "call"),
    [
        ("write_manifest", 1),  # begun, and nothing trained
        ("write_manifest", 3),  # task 2 saved, and not yet counted as done
        ("save_checkpoint", 3),  # task 2 trained, and not yet saved
        ("remove_state", 2),  # task 2 counted as done, its scratch still there
        ("progress", 7),  # in the midst of a task
    ],
)
def test_a_stop_at_any_moment_changes_nothing(
    method: str, where: str, call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run(tmp_path / "whole", method)
    calls = 0

    def counted() -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Killed

    def progress(_: TrainingProgress) -> None:
        if where == "progress":
            counted()

    with monkeypatch.context() as patched:
        if where != "progress":
            real = getattr(run_folder, where)
            patched.setattr(run_folder, where, lambda *a: (counted(), real(*a))[1])
        with pytest.raises(Killed):
            run(tmp_path / "cut", method, progress=progress)
    told: list[TrainingProgress] = []
    assert run(tmp_path / "cut", method, progress=told.append).finished
    assert checkpoints(tmp_path / "cut") == checkpoints(tmp_path / "whole")
    assert not [path.name for path in (tmp_path / "cut").iterdir() if "progress" in path.name or "fisher" in path.name]
    again: list[TrainingProgress] = []
    run(tmp_path / "cut", method, progress=again.append)
    assert again == []  # a finished run is left alone


def killed(out: Path) -> None:
    def progress(now: TrainingProgress) -> None:
        if now.task == 2 and now.step is not None and now.step.epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    run(out, scenario=toy_scenario(5), config=config(epochs=3, save_every=1), progress=progress)


def test_a_run_killed_in_the_middle_of_task_3_of_5_ends_with_the_same_checkpoints(tmp_path: Path):
    asked = config(epochs=3, save_every=1)
    run(tmp_path / "whole", scenario=toy_scenario(5), config=asked)
    process = begun(killed, tmp_path / "cut")
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [task.done for task in read_run(tmp_path / "cut").tasks] == [True, True, False, False, False]
    told: list[TrainingProgress] = []
    run(tmp_path / "cut", scenario=toy_scenario(5), config=asked, progress=told.append)
    assert told[0].task == 2
    assert told[0].resumed
    assert told[1].step is not None
    assert told[1].step.epoch == 1  # the first epoch of the task was kept
    assert checkpoints(tmp_path / "cut") == checkpoints(tmp_path / "whole")


def test_another_configuration_is_refused_and_what_does_not_matter_is_not(tmp_path: Path):
    out = tmp_path / "run"
    run(out)
    with pytest.raises(RunError) as raised:
        run(out, config=config(learning_rate=0.5))
    assert str(raised.value) == (
        f"{out}: holds a run of another configuration: training.learning_rate is 0.01 there, 0.5 now. Give another "
        "folder, or --force to start over."
    )
    run(out, config=config(workers=1, save_every=None))
    before = checkpoints(out)
    assert run(out, config=config(learning_rate=0.5), force=True).finished
    assert checkpoints(out) != before


def test_other_samples_are_refused(tmp_path: Path):
    out = tmp_path / "run"
    run(out)
    scenario = toy_scenario(TASKS)
    task = scenario.tasks[1]
    fewer = Scenario(
        scenario.kind,
        scenario.inputs,
        scenario.classes,
        (
            scenario.tasks[0],
            type(task)(task.name, task.classes, task.among, task.train.take(range(15)), task.test),
            scenario.tasks[2],
        ),
    )
    with pytest.raises(RunError) as raised:
        run(out, scenario=fewer)
    assert str(raised.value) == (
        f"{out}: the data changed since the run started: the train samples of task 'task-2' (1 gone, 0 new). "
        "Restore the data, or start another run."
    )


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path):
    (tmp_path / "photo.png").write_bytes(b"mine")
    for force in (False, True):
        with pytest.raises(OutputExists, match="holds something that is not a run of prefmerge"):
            run(tmp_path, force=force)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputExists, match="is a file; a run is a folder"):
        run(tmp_path / "file")


def test_a_full_disk_is_seen_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(finetuning.shutil, "disk_usage", lambda _: type("U", (), {"free": 100})())
    with pytest.raises(DiskFull, match=r"needs about 0\.0 GB \(3 tasks, the base, and the state of training\)"):
        run(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_the_checkpoints_merge_and_step_importance_knows_the_training(tmp_path: Path):
    made = run(tmp_path / "sequential")
    paths = [made.task_path(i) for i in range(TASKS)]
    receipt = prefmerge.merge(made.base_path, paths, tmp_path / "merged", preference="alpha:2", importance="step")
    assert receipt.data["totals"]["owned"]
    apart = run(tmp_path / "independent", "independent")
    with pytest.raises(prefmerge.PrefmergeError, match="fine-tuned independently"):
        prefmerge.merge(
            apart.base_path, [apart.task_path(i) for i in range(TASKS)], tmp_path / "other", importance="step"
        )


def test_fisher_samples_are_drawn_once_for_all(tmp_path: Path):
    task = toy_scenario().tasks[0].train
    some: Examples = between_tasks.some_of(task, 5, 3)
    assert len(some) == 5
    assert between_tasks.some_of(task, 5, 3).ids == some.ids
    assert between_tasks.some_of(task, 5, 4).ids != some.ids
    assert between_tasks.some_of(task, None, 3) is task


def test_what_was_left_to_a_default_is_spelled_out_and_resumes(tmp_path: Path):
    least = make_config({"model": "toy", "data": ["one", "two", "three"], "training": {"device": "cpu", "batch": 16}})
    scenario = toy_scenario(TASKS)
    own = (2, None, 1)  # epochs of the data sets
    tasks = tuple(replace(task, epochs=epochs) for task, epochs in zip(scenario.tasks, own, strict=True))
    scenario = replace(scenario, tasks=tasks)
    spelled = finetuning.resolved(least, scenario, ToyEncoder())
    assert (spelled.training.epochs, spelled.training.warmup_steps, spelled.training.warmup_fraction) == (10, None, 0.1)
    assert [one.epochs for one in spelled.data] == [2, None, 1]
    run(tmp_path / "run", scenario=scenario, config=spelled)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {one["task"]: one["steps"] for one in lines if one["event"] == "step"} == {
        "task-1": 2,
        "task-2": 10,
        "task-3": 1,
    }
    told: list[TrainingProgress] = []
    run(tmp_path / "run", scenario=scenario, config=least, progress=told.append)
    assert told == []  # what was None is not another configuration


@pytest.mark.parametrize(("own", "epochs"), [((30, 30, 30), 30), ((None, None, None), 10), ((30, 20, 30), 10)])
def test_the_epochs_of_a_single_data_set(own: tuple[int | None, ...], epochs: int):
    scenario = toy_scenario(TASKS)
    tasks = tuple(replace(task, epochs=one) for task, one in zip(scenario.tasks, own, strict=True))
    least = make_config({"model": "toy", "data": "one"})
    assert finetuning.resolved(least, replace(scenario, tasks=tasks), ToyEncoder()).training.epochs == epochs


def test_force_removes_nothing_before_the_new_run_can_begin(tmp_path: Path):
    out = tmp_path / "run"
    run(out)
    (out / "notes.txt").write_text("mine")
    before = checkpoints(out)

    def no_head() -> Any:
        raise DataError("no such data")

    with pytest.raises(DataError):
        run_tasks(toy_scenario(TASKS), ToyEncoder(), no_head, config(learning_rate=0.5), out, force=True)
    assert checkpoints(out) == before
    assert run(out, config=config(learning_rate=0.5), force=True).finished
    assert (out / "notes.txt").read_text() == "mine"
    assert checkpoints(out) != before


@pytest.mark.parametrize("call", range(1, 7))
def test_a_stop_while_a_run_starts_over(call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Between the old run and the new one there is nothing that either would resume from."""
    new = config(learning_rate=0.5)
    run(tmp_path / "clean", config=new)

    def stop(now: TrainingProgress) -> None:
        if now.task == 1 and now.step is not None and now.step.epoch == 1:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "run", progress=stop)  # leaves the state of an interrupted task
    calls = 0
    real = run_folder.disk.remove

    def counted(path: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Killed
        real(path)

    with monkeypatch.context() as patched:
        patched.setattr(run_folder.disk, "remove", counted)
        with pytest.raises(Killed):
            run(tmp_path / "run", config=new, force=True)
    run(tmp_path / "run", config=new)
    assert checkpoints(tmp_path / "run") == checkpoints(tmp_path / "clean")


def test_an_encoder_of_images_is_not_given_texts(tmp_path: Path):
    with pytest.raises(ConfigError) as raised:
        run(tmp_path / "run", scenario=replace(toy_scenario(TASKS), inputs="text"))
    assert str(raised.value) == (
        "model 'toy' reads images, and the data are texts. Choose a model of texts, or other data."
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("what", ["contents", "labels"])
def test_changed_contents_and_labels_of_a_task_that_has_begun_are_refused(what: str, tmp_path: Path):
    out, scenario, asked = tmp_path / "run", toy_scenario(TASKS), config(epochs=3, save_every=1)

    def stop(now: TrainingProgress) -> None:
        if now.task == 2 and now.step is not None and now.step.epoch == 1:
            raise Killed

    with pytest.raises(Killed):
        run(out, config=asked, progress=stop)
    task = scenario.tasks[2]
    if what == "contents":
        inputs = np.array(task.train.read(range(len(task.train)))) + 1
        other = replace(toy_examples(inputs, task.train.labels), ids=task.train.ids)
    else:
        other = replace(task.train, labels=task.train.labels[::-1].copy())
    changed = replace(scenario, tasks=(*scenario.tasks[:2], replace(task, train=other)))
    with pytest.raises(RunError, match=f"{what} of train samples of task 'task-3' changed. Restore the data"):
        run(out, config=asked, scenario=changed)


@pytest.mark.parametrize("rate", [1e30, 3e38])
def test_training_that_diverges_is_stopped_and_not_saved(rate: float, tmp_path: Path):
    with pytest.raises(RunError, match=r"training diverged: .* not finite at step \d+ of \d+ of the task\. Lower"):
        run(tmp_path / "run", config=config(learning_rate=rate, weight_decay=1e6))
    assert not any((tmp_path / "run" / "tasks").iterdir())


def test_two_processes_do_not_share_a_run(tmp_path: Path):
    def again(now: TrainingProgress) -> None:
        with pytest.raises(RunError, match="another process is at work on this run"):
            run(tmp_path / "run")
        raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "run", progress=again)
    assert run(tmp_path / "run").finished


def test_a_lost_checkpoint_is_noticed(tmp_path: Path):
    made = run(tmp_path / "run")
    shutil.rmtree(made.task_path(1))
    with pytest.raises(RunError, match=r"the checkpoint tasks/task-2 is gone\. Put it back, or start over"):
        run(tmp_path / "run")


@pytest.mark.parametrize("damage", ["cut", "of another version"])
def test_a_state_that_cannot_be_read_says_what_to_remove(damage: str, tmp_path: Path):
    def stop(now: TrainingProgress) -> None:
        if now.step is not None and now.step.epoch == 1:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "run", progress=stop)
    state = tmp_path / "run" / "progress-01" / "state.pt"
    if damage == "cut":
        state.write_bytes(state.read_bytes()[:1000])
    else:
        state.rename(state.with_name("model.safetensors"))
    with pytest.raises(RunError, match=r"progress-01: the state of the interrupted task .* Remove this folder"):
        run(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "progress-01")
    assert run(tmp_path / "run").finished


def test_a_moved_folder_is_the_same_run(tmp_path: Path):
    out = tmp_path / "run"
    old, new = ({"model": {"id": f"/{at}/toy"}, "data": f"/{at}/toy.csv"} for at in ("old", "new"))
    rest = {key: config().model_dump(mode="json")[key] for key in ("training", "seed")}
    run(out, config=make_config({**old, **rest}))
    assert run(out, config=make_config({**new, **rest})).finished
    with pytest.raises(RunError, match=r"model\.id is '/old/toy' there, '/new/other' now"):
        run(out, config=make_config({**new, **rest, "model": "/new/other"}))


@pytest.mark.parametrize(
    ("out", "remedy"),
    [("/proc/x", "Give another -o RUN"), ("file/run", "Give another -o RUN"), ("n" * 300, "Give a shorter name")],
    ids=["proc", "file", "long"],
)
def test_a_place_that_cannot_be_written(out: str, remedy: str, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=rf"cannot be written: .* {remedy}\."):
        run(Path(out) if out.startswith("/") else tmp_path / out)


def test_a_disk_that_fills_up_is_said_to_be_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_folder, "save_checkpoint", full)
    with pytest.raises(DiskFull, match="the disk is full, or files may not grow so large"):
        run(tmp_path / "run")
