"""A run on another machine: moved, without its data and without the model that it began from."""

from __future__ import annotations

import csv
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefmerge.config import make_config
from prefmerge.errors import DataError, EncoderError, RunError
from prefmerge.models.encoders import load_encoder
from prefmerge.models.features import embed
from prefmerge.runs import read_run
from prefmerge.target import prefer
from prefmerge.target.checkpoints import Checkpoints
from prefmerge.training import opened
from prefmerge.training.finetuning import finetune
from prefmerge.training.kept import read_kept
from prefmerge.training.opened import evaluate_checkpoint, open_encoder, open_run
from tests.models.tiny import SIZES, picture, resizing, tiny_bert, tiny_clip, tiny_dinov2

# Runs, in a folder with their data and their model


def texts(folder: Path) -> dict[str, Any]:
    rng = random.Random(0)
    for part, count in (("train", 24), ("test", 4)):
        with open(folder / f"{part}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("text", "label"))
            for label in ("ab", "cd", "ef", "gh"):
                writer.writerows(("".join(rng.choices(label, k=6)), label) for _ in range(count))
    tiny_bert(folder / "model")
    return {"data": {"name": "train.csv", "test": "test.csv"}, "model": {"id": "model", "max_length": 9}}


def images(folder: Path) -> dict[str, Any]:
    for part, count in (("train", 12), ("test", 3)):
        for label in range(4):
            (folder / "photos" / part / f"class-{label}").mkdir(parents=True)
            for i in range(count):
                seed = 1000 * label + 100 * len(part) + i
                picture(seed, SIZES[i % 5], ("RGB", "L")[i % 2]).save(
                    folder / "photos" / part / f"class-{label}" / f"{i}.png"
                )
    return {"data": "photos"}


def clip(folder: Path) -> dict[str, Any]:
    tiny_clip(folder / "model")
    return {**images(folder), "model": "model"}


def dinov2(folder: Path) -> dict[str, Any]:
    tiny_dinov2(folder / "model")
    return {**images(folder), "model": {"id": "model", "pooling": "mean"}}


def trained(folder: Path, made: Callable[[Path], dict[str, Any]], **more: Any) -> Path:
    """A run at folder/home/run, of data and a model beside it."""
    home = folder / "home"
    home.mkdir()
    training = {"epochs": 1, "batch": 8, "warmup_steps": 0, "device": "cpu", "threads": 1, "workers": 0}
    given = {"scenario": {"tasks": 2, "class_order": "natural"}, "training": training, "held_out": 6, **more}
    config = make_config({**made(home), **given})
    from prefmerge.training.config_file import anchored

    finetune(anchored(config, home), home / "run")
    return home / "run"


def moved(run: Path) -> Path:
    """The run alone, elsewhere; all that stood beside it is gone."""
    target = run.parent.parent / "target" / "a run"
    target.parent.mkdir()
    run.rename(target)
    shutil.rmtree(run.parent)
    return target


@pytest.mark.parametrize("made", [texts, clip, dinov2], ids=lambda made: made.__name__)
def test_journey_6_a_moved_run_is_evaluated_on_what_it_held_out(made: Callable[[Path], dict[str, Any]], tmp_path: Path):
    run = trained(tmp_path, made)
    there = open_run(run)
    assert (there.judged_on, there.note) == ("test", None)
    held_out = [task.held_out for task in there.scenario.tasks]
    there.encoder.load(there.run.task_path(1))
    before = [embed(there.encoder, one) for one in held_out]
    assert [len(one) for one in held_out] == [6, 6]
    whole = load_encoder(there.config.model)  # of the original folder
    whole.load(there.run.task_path(1))
    np.testing.assert_array_equal(before[0], embed(whole, held_out[0]))
    assert there.encoder.name == there.config.model.id
    scale = there.encoder.logit_scale
    preprocessing = there.encoder.preprocessing

    target = moved(run)
    opened = open_run(target)
    assert opened.judged_on == "held-out"
    assert opened.note is not None
    assert opened.note.startswith("The samples that the run held out take the place of the test samples: ")
    assert opened.encoder.logit_scale == scale == opened.head.scale
    assert opened.encoder.preprocessing == preprocessing  # caches and searches go on after a move
    assert [task.test.ids for task in opened.scenario.tasks] == [one.ids for one in held_out]
    opened.encoder.load(opened.run.task_path(1))
    for task, then in zip(opened.scenario.tasks, before, strict=True):
        np.testing.assert_array_equal(embed(opened.encoder, task.test), then)
    result = evaluate_checkpoint(opened.run.last_path, target, device="cpu")
    assert [one.n for one in result.tasks] == [6, 6]
    assert result.to_json()["about"]["samples"] == "held-out"
    with pytest.raises(DataError):
        open_run(target, samples="test")


def test_a_moved_joint_run_keeps_its_tasks(tmp_path: Path):
    target = moved(trained(tmp_path, texts, training={"method": "joint", "epochs": 1, "device": "cpu", "workers": 0}))
    opened = open_run(target)
    assert [task.name for task in opened.scenario.tasks] == ["task-01", "task-02"]
    assert [task.classes for task in opened.scenario.tasks] == [(0, 1), (2, 3)]
    assert len(evaluate_checkpoint(opened.run.last_path, target, device="cpu").tasks) == 2


def test_a_moved_run_that_kept_nothing_says_what_is_missing(tmp_path: Path):
    target = moved(trained(tmp_path, texts, held_out=0))
    with pytest.raises(DataError, match=r"train\.csv"):
        open_run(target)
    assert open_run(target, samples="none").encoder.kind == "text"  # samples of a target are enough for a search


def test_a_run_takes_its_own_preprocessing_and_not_the_original_folders(tmp_path: Path):
    run = trained(tmp_path, dinov2)
    before = open_run(run).encoder.preprocessing
    resizing(run.parent / "model", size={"shortest_edge": 16}, image_mean=[0, 0, 0])
    opened = open_run(run)
    assert opened.encoder.preprocessing == before
    assert opened.judged_on == "test"


def test_training_samples_that_changed_do_not_void_evaluation(tmp_path: Path):
    run = trained(tmp_path, dinov2)
    picture(7, (16, 16)).save(run.parent / "photos" / "train" / "class-0" / "new.png")
    opened = open_run(run)
    assert opened.judged_on == "test"
    inputs = run.parent / "photos" / "test" / "class-0"
    prefer.from_inputs(Checkpoints.of_run(run), inputs, kind="cosine", draws=0)  # the run's own samples are there
    (run.parent / "photos" / "train" / "class-0" / "1.png").unlink()
    with pytest.raises(RunError, match="the train samples of task 'task-01'"):
        prefer.from_inputs(Checkpoints.of_run(run), inputs, kind="cosine")
    (run.parent / "photos" / "test" / "class-0" / "0.png").unlink()
    with pytest.raises(RunError, match="the test samples of task 'task-01'"):
        open_run(run)


def test_an_image_tower_alone_embeds_no_phrases(tmp_path: Path):
    run = read_run(trained(tmp_path, clip))
    encoder = open_encoder(run, open_run(run.folder).config)
    with pytest.raises(EncoderError, match="the run has its image tower alone, which embeds no phrases"):
        encoder.phrases(["a"])


def test_journey_6_a_moved_run_is_preferred_and_searched(tmp_path: Path):
    pytest.importorskip("optuna", reason="a search draws with optuna (extra places)")
    from prefmerge import search

    target = moved(trained(tmp_path, texts))
    here = tmp_path / "place.csv"
    rows = "".join(
        f"{text},{label}\n" for label in ("ab", "cd", "ef", "gh") for text in (label, label * 2, label[::-1])
    )
    here.write_text(f"text,label\n{rows}")
    result = prefer.from_inputs(Checkpoints.of_run(target), here, kind="cosine", draws=20)
    assert result.about["samples_of_tasks"] == [6, 6]
    assert search(run=target, pairs=here, paper=True, trials=1, batch=1).settings
    assert prefer.from_pairs(Checkpoints.of_run(target), here, draws=20).beside is not None


def test_a_run_from_before_samples_were_held_out_goes_on_and_opens(tmp_path: Path):
    run = trained(tmp_path, texts, held_out=0)
    file = run / "config.yaml"
    assert "held_out: 0\n" in file.read_text()
    file.write_text(file.read_text().replace("held_out: 0\n", ""))
    checkpoint = run / "tasks" / "task-02"
    content = (checkpoint / "model.safetensors").read_bytes()
    shutil.rmtree(checkpoint)
    told = json.loads((run / "run.json").read_text())
    told["tasks"][1]["done"] = False
    (run / "run.json").write_text(json.dumps(told))
    asked = opened.open_data(run)[1]
    finetune(asked.model_copy(update={"held_out": None}), run)  # whoever does not say so now would hold some out
    assert (checkpoint / "model.safetensors").read_bytes() == content
    assert read_kept(read_run(run)) is None
    assert open_run(run).judged_on == "test"
    with pytest.raises(RunError, match="held_out is 0 there, 6 now"):
        finetune(asked.model_copy(update={"held_out": 6}), run)
