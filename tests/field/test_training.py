"""Runs of users: damaged images, tasks that change, warm-ups that swallow a task, a base model that changed since."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefmerge.config import FinetuneConfig, make_config
from prefmerge.data.scenarios import Scenario
from prefmerge.errors import DataError, RunError
from prefmerge.runs import Run, read_run
from prefmerge.training import finetuning
from prefmerge.training.config_file import kept_config
from prefmerge.training.defaults import as_begun, of_warm_up, resolved
from prefmerge.training.finetuning import finetune, run_tasks
from prefmerge.training.job import TrainingProgress
from prefmerge.training.kept import read_kept
from prefmerge.training.opened import evaluate_checkpoint, open_run
from tests.data.datasets import image_folder
from tests.models.stubs import ToyEncoder, toy_head, toy_scenario
from tests.models.tiny import picture, tiny_dinov2
from tests.training.test_finetuning import Killed, checkpoints, config
from tests.training.test_kept import holding_out

# Images that cannot be read.


def damaged(photos: Path) -> list[Path]:
    """An empty file, one that was cut short and one that is no image, in the classes of three tasks."""
    cut = photos / "train" / "b" / "0.png"
    picture(1, (30, 30)).save(cut)
    cut.write_bytes(cut.read_bytes()[:-200])
    (photos / "train" / "c" / "1.png").write_bytes(b"")
    (photos / "test" / "d" / "2.png").write_text("not even an image")
    return [cut, photos / "train" / "c" / "1.png", photos / "test" / "d" / "2.png"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for part in ("train", "test"):
        image_folder(tmp_path / "photos" / part, ("a", "b", "c", "d"))
    return tmp_path / "photos"


def of(photos: Path, **data: Any) -> FinetuneConfig:
    return make_config({"model": "/no/such/model", "data": {"name": str(photos), **data}, "scenario": {"tasks": 4}})


def test_journey_1_all_damaged_images_are_named_before_anything_is_trained(photos: Path, tmp_path: Path):
    damaged(photos)
    with pytest.raises(DataError) as error:
        finetune(of(photos), tmp_path / "run")
    assert str(error.value) == (
        "3 of 32 images of photos cannot be read: 'train/b/0.png', 'train/c/1.png', 'test/d/2.png'. Replace or remove "
        "what is damaged, or leave it out: `data: {name: …, skip: unreadable}`."
    )
    assert not (tmp_path / "run").exists()


def test_journey_1_one_damaged_image_is_named_with_what_is_wrong(photos: Path, tmp_path: Path):
    (photos / "train" / "c" / "1.png").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"1\.png.*: cannot be read as an image \(an empty file\)\. Replace or remove what"
    ):
        finetune(of(photos), tmp_path / "run")


def test_journey_1_damaged_images_are_skipped_where_that_is_asked_for(photos: Path):
    from prefmerge.data import load_corpus

    damaged(photos)
    asked = of(photos, skip="unreadable").data[0]
    corpus = load_corpus(asked, 0)
    assert corpus.skipped == ("train/b/0.png", "train/c/1.png", "test/d/2.png")
    assert (corpus.train.label_counts(), corpus.test.label_counts()) == (
        {0: 4, 1: 3, 2: 3, 3: 4},
        {0: 4, 1: 4, 2: 4, 3: 3},
    )
    corpus.train.read(range(14))
    listed = load_corpus(asked.model_copy(update={"skip": corpus.skipped}), 0)
    assert (listed.train.ids, listed.test.ids) == (corpus.train.ids, corpus.test.ids), "a run lists what it skipped"


def test_journey_1_a_thousand_damaged_images_make_a_message_of_one_screen(photos: Path, tmp_path: Path):
    for part in ("train", "test"):
        for i in range(300):
            (photos / part / "a" / f"{'long name ' * 18}{i}.png").write_bytes(b"")
    with pytest.raises(DataError) as error:
        finetune(of(photos), tmp_path / "run")
    assert len(str(error.value)) < 1500
    assert " and 590 more." in str(error.value)


# Tasks whose samples change before they begin.


def interrupted(out: Path, scenario: Scenario, before: int) -> Run:
    """A run that was stopped when task `before` (from 0) was to begin."""

    def stop(now: TrainingProgress) -> None:
        if now.task == before and now.note is None:
            raise Killed

    with pytest.raises(Killed):
        resumed(out, scenario, progress=stop)
    return read_run(out)


def resumed(out: Path, scenario: Scenario, **how: Any) -> Run:
    asked = config().model_copy(update={"held_out": 3})
    return run_tasks(scenario, ToyEncoder(), lambda: toy_head(scenario), asked, out, **how)


def changed(scenario: Scenario, index: int, **parts: Any) -> Scenario:
    tasks = list(scenario.tasks)
    tasks[index] = replace(tasks[index], **parts)
    return replace(scenario, tasks=tuple(tasks))


def test_journey_1_a_task_that_has_not_begun_may_change(tmp_path: Path):
    before = holding_out()
    task = before.tasks[2]
    now = changed(
        before, 2, train=task.train.take(range(8)), held_out=task.held_out.take([2, 0]), test=task.test.take(range(7))
    )
    interrupted(tmp_path / "run", before, 2)
    finished = {name: content for name, content in checkpoints(tmp_path / "run").items() if "task-1" in name}
    told: list[TrainingProgress] = []
    made = resumed(tmp_path / "run", now, progress=told.append)
    assert made.finished
    assert [one.note for one in told if one.note] == [
        "the data changed since the run started: the train samples of task 'task-3' (5 gone, 0 new). These tasks have "
        "not begun, so they are trained on the samples of now."
    ]
    assert checkpoints(tmp_path / "run").items() >= finished.items()

    # All that the run keeps is as if it had begun with these samples.
    resumed(tmp_path / "afresh", now)
    for name in ("samples.json", "held-out/samples.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "afresh" / name).read_bytes(), name
    assert made.tasks == read_run(tmp_path / "afresh").tasks
    kept, afresh = (read_kept(read_run(tmp_path / name)) for name in ("run", "afresh"))
    assert kept is not None
    assert afresh is not None
    assert (kept.labels.tolist(), kept.tasks.tolist()) == (afresh.labels.tolist(), afresh.tasks.tolist())
    np.testing.assert_allclose(kept.embeddings, afresh.embeddings, rtol=1e-5)  # other batches round otherwise
    assert [len(one) for one in kept.held_out] == [3, 3, 2]
    np.testing.assert_array_equal(kept.held_out[2].read([0, 1]), now.tasks[2].held_out.read([0, 1]))


def test_journey_1_a_stop_while_changed_samples_are_taken_over_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before = holding_out()
    now = changed(before, 1, train=before.tasks[1].train.take(range(9)))
    interrupted(tmp_path / "run", before, 1)
    for name in ("write_again", "run_folder.write_manifest"):
        with monkeypatch.context() as patched:
            patched.setattr(f"prefmerge.training.finetuning.{name}", lambda *_: (_ for _ in ()).throw(Killed))
            with pytest.raises(Killed):
                resumed(tmp_path / "run", now)
    assert resumed(tmp_path / "run", now).finished
    assert read_kept(read_run(tmp_path / "run")) is not None


@pytest.mark.parametrize("begun", [0, 1])
def test_journey_1_a_task_that_has_begun_may_not_change(begun: int, tmp_path: Path):
    scenario = holding_out()
    interrupted(tmp_path / "run", scenario, 1)
    if begun:
        (tmp_path / "run" / "progress-02").mkdir()
    fewer = changed(scenario, begun, train=scenario.tasks[begun].train.take(range(9)))
    with pytest.raises(RunError, match=f"the train samples of task 'task-{begun + 1}' .* gone, 0 new"):
        resumed(tmp_path / "run", fewer)


def test_journey_1_a_task_that_has_not_begun_may_not_change_its_classes(tmp_path: Path):
    scenario = holding_out()
    interrupted(tmp_path / "run", scenario, 1)
    moved = changed(scenario, 2, classes=scenario.tasks[1].classes, train=scenario.tasks[1].train)
    with pytest.raises(RunError, match="the data changed since the run started: the classes of task 'task-3'"):
        resumed(tmp_path / "run", moved)


# One data set, given twice.


@pytest.mark.parametrize("how", ["the same", "a link", "a copy"])
def test_journey_4_a_data_set_that_is_given_twice(how: str, photos: Path, tmp_path: Path):
    from prefmerge.data import load_corpus
    from prefmerge.data.scenarios import build_scenario

    second = tmp_path / "second"
    if how == "a copy":
        shutil.copytree(photos, second)
    elif how == "a link":
        second.symlink_to(photos)
    asked = make_config({"model": "toy", "data": [str(photos), str(photos if how == "the same" else second)]})
    scenario = build_scenario(asked, [load_corpus(one, 0) for one in asked.data])
    with pytest.raises(DataError, match=r"the training samples of task '.*' are those of task 'photos'\. One"):
        run_tasks(scenario, ToyEncoder(), lambda: toy_head(scenario), config(), tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()


# Warm-up.


def test_journey_3_own_data_have_a_warm_up_that_fits_them():
    scenario = toy_scenario(2)
    own = resolved(make_config({"model": "toy", "data": ["mine", "cifar100"]}), scenario, ToyEncoder()).training
    assert (own.warmup_steps, own.warmup_fraction) == (None, 0.1)
    papers = resolved(make_config({"model": "toy", "data": ["cars", "cifar100"]}), scenario, ToyEncoder()).training
    assert (papers.warmup_steps, papers.warmup_fraction) == (500, None)
    asked = resolved(
        make_config({"model": "toy", "data": "mine", "training": {"warmup_steps": 7}}), scenario, ToyEncoder()
    )
    assert (asked.training.warmup_steps, asked.training.warmup_fraction) == (7, None)


def test_journey_3_a_run_of_before_keeps_its_warm_up():
    kept = make_config({"model": "toy", "data": "mine", "training": {"warmup_steps": 500, "epochs": 4}, "held_out": 0})
    asked = as_begun(make_config({"model": "toy", "data": "mine"}), kept)
    assert (asked.training.warmup_steps, asked.training.warmup_fraction, asked.training.epochs) == (500, None, 4)
    assert asked.held_out == 0


def test_journey_3_a_warm_up_that_swallows_a_task_is_said_at_the_start(tmp_path: Path):
    told: list[TrainingProgress] = []
    scenario = toy_scenario(3)
    run_tasks(
        scenario,
        ToyEncoder(),
        lambda: toy_head(scenario),
        config(warmup_steps=500),
        tmp_path / "run",
        progress=told.append,
    )
    assert told[0].note == (
        "the warm-up of 500 steps takes all of 3 tasks of 3: task-1 has 8 steps, and its learning rate reaches 0.0002 "
        "of 0.01. If this is not meant, start again with `training: {warmup_fraction: 0.1}`."
    )
    assert [one.note for one in told[1:]] == [None] * (len(told) - 1)
    events = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [one["text"] for one in events if one["event"] == "note"] == [told[0].note]


@pytest.mark.parametrize("training", [{"warmup_steps": 7}, {"warmup_steps": None, "warmup_fraction": 0.9}])
def test_journey_3_a_warm_up_that_ends_is_nothing_to_say(training: dict[str, Any], tmp_path: Path):
    scenario = toy_scenario(3)
    job = finetuning.Job(scenario, ToyEncoder(), config(**training), tmp_path, None, lambda _: None)  # pyright: ignore[reportArgumentType]
    assert of_warm_up(job) == []


# A run has all that it needs.


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos, a model and a finished run of them."""
    home = tmp_path_factory.mktemp("home")
    for part, count in (("train", 6), ("test", 2)):
        for label in range(4):
            (home / "photos" / part / f"class-{label}").mkdir(parents=True)
            for i in range(count):
                image = picture(1000 * label + 100 * len(part) + i, (40, 30))
                image.save(home / "photos" / part / f"class-{label}" / f"{i}.png")
    tiny_dinov2(home / "model")
    finetune(asked_at(home), home / "run")
    return home


def asked_at(home: Path) -> FinetuneConfig:
    training = {"epochs": 1, "batch": 8, "device": "cpu", "threads": 1, "workers": 0}
    data, model = str(home / "photos"), {"id": str(home / "model")}
    return make_config({"model": model, "data": data, "scenario": {"tasks": 2}, "training": training, "held_out": 2})


@pytest.fixture
def copy(home: Path, tmp_path: Path) -> Path:
    """A copy of the home, where the second task is not yet trained."""
    shutil.copytree(home, tmp_path / "copy")
    manifest = tmp_path / "copy" / "run" / "run.json"
    said = json.loads(manifest.read_text())
    said["tasks"][1]["done"] = False
    manifest.write_text(json.dumps(said))
    shutil.rmtree(tmp_path / "copy" / "run" / "tasks" / "task-02")
    return tmp_path / "copy"


def other_crop(model: Path) -> None:
    file = model / "preprocessor_config.json"
    said = json.loads(file.read_text())
    said |= {"crop_size": {"height": 14, "width": 14}, "size": {"shortest_edge": 14}, "image_mean": [0.1, 0.1, 0.1]}
    file.write_text(json.dumps(said))


@pytest.mark.parametrize("model", ["another crop", "gone", "as it was"])
def test_journey_5_a_resumed_run_prepares_images_as_it_began(model: str, home: Path, copy: Path):
    if model == "another crop":
        other_crop(copy / "model")
    elif model == "gone":
        shutil.rmtree(copy / "model")
    assert finetune(asked_at(copy), copy / "run").finished
    for file in sorted((home / "run" / "tasks" / "task-02").iterdir()):
        assert (copy / "run" / "tasks" / "task-02" / file.name).read_bytes() == file.read_bytes(), file.name


def test_journey_5_an_evaluation_takes_the_runs_own_preparation(home: Path, tmp_path: Path):
    shutil.copytree(home, tmp_path / "copy")
    other_crop(tmp_path / "copy" / "model")
    merged = tmp_path / "copy" / "merged"
    shutil.copytree(home / "run" / "tasks" / "task-02", merged)
    other_crop(merged)  # of a checkpoint from elsewhere
    here = evaluate_checkpoint(home / "run" / "tasks" / "task-02", home / "run", device="cpu")
    there = evaluate_checkpoint(merged, tmp_path / "copy" / "run", device="cpu")
    assert [task.right for task in here.tasks] == [task.right for task in there.tasks]
    assert (
        open_run(tmp_path / "copy" / "run", "none").encoder.preprocessing
        == open_run(home / "run", "none").encoder.preprocessing
    )


def test_journey_6_images_that_are_added_void_no_evaluation(home: Path, tmp_path: Path):
    shutil.copytree(home, tmp_path / "copy")
    run, photos = tmp_path / "copy" / "run", tmp_path / "copy" / "photos"
    kept = (run / "config.yaml").read_text().replace(str(home), str(tmp_path / "copy"))
    (run / "config.yaml").write_text(kept)
    before = open_run(run).scenario
    for part in ("train", "test"):
        picture(7, (30, 30)).save(photos / part / "class-1" / "new.png")
    after = open_run(run)
    assert after.judged_on == "test"
    assert [task.test.ids for task in after.scenario.tasks] == [task.test.ids for task in before.tasks]
    (photos / "test" / "class-1" / "0.png").unlink()
    with pytest.raises(RunError, match=r"the test samples of task 'task-01' \(1 gone, 1 new\)"):
        open_run(run)


def test_journey_6_added_rows_move_none_between_training_and_test(tmp_path: Path):
    """Without a test set a fifth is held out: which samples that are must not depend on what was added since."""
    from prefmerge.data import load_corpus
    from prefmerge.data.scenarios import build_scenario
    from prefmerge.training.samples import as_started, changed_tasks, samples_of
    from tests.data.datasets import text_csv

    def scenario(per_class: int) -> Scenario:
        text_csv(tmp_path / "a.csv", ("cat", "dog"), per_class)
        asked = make_config({"model": "toy", "data": str(tmp_path / "a.csv"), "scenario": {"tasks": 2}})
        return build_scenario(asked, [load_corpus(one, 0) for one in asked.data])

    before = scenario(10)
    (tmp_path / "samples.json").write_text(json.dumps(samples_of(before)))
    added = scenario(25)
    assert changed_tasks(added, tmp_path), "the fifth is another one"
    after = as_started(added, tmp_path)
    assert changed_tasks(after, tmp_path, {("task-01", "test")}, ("test",)) == {}
    assert not {*after.tasks[0].train.ids} & {*before.tasks[0].test.ids}, "no test sample is trained on"


def test_journey_6_a_run_keeps_its_configuration_with_what_it_skipped(photos: Path, tmp_path: Path):
    damaged(photos)
    tiny_dinov2(tmp_path / "model")
    asked = asked_at(tmp_path)
    asked = asked.model_copy(update={"data": (of(photos, skip="unreadable").data[0],)})
    finetune(asked, tmp_path / "run")
    kept = kept_config(tmp_path / "run").data[0]
    assert kept.skip == ("train/b/0.png", "train/c/1.png", "test/d/2.png")
    assert finetune(asked, tmp_path / "run").finished, "`unreadable` asks for what the run has"
    assert open_run(tmp_path / "run").judged_on == "test"
