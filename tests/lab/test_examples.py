"""The recipes that are shipped: each can be read, and says what the papers say of its setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefmerge.lab.recipe import read_experiment, training_config

FOLDER = Path(__file__).parents[2] / "examples" / "bench"
RECIPES = sorted(FOLDER.glob("*.yaml"))
# Table 1 of Tunable MAGMAX, and the sizes of environments in its section 4.3.
TASKS = {"5": (5, 1000), "20": (20, 500), "50": (50, 200)}


def test_there_is_one_for_every_setting():
    named = {file.stem for file in RECIPES}
    papers = {
        f"{data}-{tasks}{model}"
        for data in ("cifar100", "imagenet-r")
        for tasks in TASKS
        for model in ("", "-vit-l-14")
    }
    assert papers | {"cub200-5", "cars-5", "domainnet", "eight-datasets", "wordnet"} <= named


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_it_can_be_read(file: Path):
    recipe = read_experiment(file)
    assert f"examples/bench/{file.name}" in file.read_text()  # the command that runs it
    for training, seeds in recipe.wanted().items():
        made = training_config(recipe, training, seeds[0])
        assert (made.seed, made.training.method) == (seeds[0], training)
    assert {"0.5", "1.0"} <= set(recipe.scales)


@pytest.mark.parametrize(
    "file", [file for file in RECIPES if file.stem.startswith(("cifar", "imagenet"))], ids=lambda f: f.stem
)
def test_it_is_the_papers_setting(file: Path):
    recipe = read_experiment(file)
    made = training_config(recipe, "sequential", 3)
    data, tasks, *model = (
        file.stem.split("-") if file.stem.startswith("cifar") else file.stem.replace("-r", "_r", 1).split("-")
    )
    assert made.data[0].name == data
    assert made.scenario.tasks == TASKS[tasks][0]
    assert recipe.size(TASKS[tasks][0]) == TASKS[tasks][1]
    assert recipe.environments.variants == (42, 123, 456, 789, 1011)
    assert recipe.seeds == (3, 4, 5)
    wanted = {"": "openai/clip-vit-base-patch16", "vit-l-14": "openai/clip-vit-large-patch14"}
    assert made.model.id == wanted.get("-".join(model), "ViT-B-16/laion400m_e32")
    assert (made.training.batch, made.training.learning_rate, made.training.weight_decay) == (128, 1e-5, 0.1)
    if not model:
        assert recipe.paper.environments == file.stem
