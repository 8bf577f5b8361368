"""WordNet's definitions as a data set, and the recipes on it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks import wordnet as data
from tests.benchmarks.conftest import WORDS

RECIPES = ("wordnet", "wordnet-17", "wordnet-trainings", "wordnet-17-trainings")


def test_definitions_come_without_examples_and_licence(wordnet: Path):
    every = list(data.definitions(wordnet))
    assert len(every) == 41 * WORDS
    number, text = every[0]
    assert number == 3
    assert text.startswith("a ")
    assert text.endswith(" 3")
    assert "example" not in text


def test_training_and_test_share_no_text(wordnet: Path, tmp_path: Path):
    data.write_data(wordnet, tmp_path / "data", train=10, test=5)
    lines = {part: (tmp_path / "data" / f"{part}.csv").read_text().splitlines()[1:] for part in ("train", "test")}
    assert (len(lines["train"]), len(lines["test"])) == (350, 175)
    assert not set(lines["train"]) & set(lines["test"])


def test_missing_files_are_named(tmp_path: Path):
    with pytest.raises(SystemExit, match=r"no data\.noun there\. Install Debian's wordnet-base, or give --wordnet\."):
        data.require(tmp_path)


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipes_have_these_classes_in_one_order(name: str):
    made = data.recipe(data.RECIPE.with_name(f"{name}.yaml"), Path("work"), Path("model"))["finetune"]
    assert made["data"]["name"] == "work/data/train.csv"
    assert made["model"] == {"id": "model", "kind": "sentence", "logit_scale": 20.0}
    assert made["data"]["classes"] == list(data.CLASSES.values())
    order = list(data.CLASSES.values())
    random.Random(0).shuffle(order)
    assert made["scenario"]["class_order"] == order
    assert made["data"]["train_per_class"] <= data.TRAIN
