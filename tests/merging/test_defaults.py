"""What a merge without further words is: which defaults depend on the order of training, and what the papers set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import prefmerge
from prefmerge.errors import MethodError, RecipeError, UsageError
from prefmerge.merging.candidates import Candidates
from prefmerge.merging.recipe import Recipe
from prefmerge.merging.recipe_file import read_recipe
from prefmerge.methods import METHODS
from prefmerge.runs import Run, RunTask

NAMES = ("cars", "birds", "digits")
BEST = ("optimal", "step", 1.0)
UNKNOWN = ("optimal", "magnitude", 0.5)
PUBLISHED = ("released", "magnitude", 0.5)


def decided(settings: Any) -> tuple[str, str, float]:
    return settings["selection"], settings["importance"], settings["scale"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A base and three tasks, each a step from the one before it, under names of their own."""
    rng = np.random.default_rng(1)
    values = np.cumsum(rng.standard_normal((4, 40)), axis=0).astype(np.float32)
    for name, own in zip(("base", *NAMES), values, strict=True):
        save_file({"w": own}, tmp_path / f"{name}.safetensors")
    return tmp_path


def make_run(folder: Path, training: Any) -> Path:
    """The same files as a run of that training."""
    tasks = tuple(RunTask(name, f"{name}.safetensors") for name in NAMES)
    run = Run(folder, training, "base.safetensors", tasks)
    (folder / "run.json").write_text(json.dumps(run.to_json()), encoding="utf-8")
    return folder


def planned(folder: Path, names: tuple[str, ...] = NAMES, **given: Any) -> tuple[str, str, float]:
    files = [folder / f"{name}.safetensors" for name in names]
    with prefmerge.plan(folder / "base.safetensors", files, **given) as plan:
        assert (plan.settings.scale, plan.recipe.scale) == (plan.recipe.settings()["scale"],) * 2
        return decided(plan.to_json()["recipe"])


# The rule


@pytest.mark.parametrize(
    ("given", "unknown", "known"),
    [
        ({}, UNKNOWN, BEST),
        ({"preference": "alpha:2", "strength": "0.5", "carry": "0.5"}, UNKNOWN, BEST),
        ({"selection": "optimal"}, UNKNOWN, BEST),
        ({"selection": "paper"}, ("paper", "magnitude", 0.5), ("paper", "step", 1.0)),
        ({"selection": "printed"}, ("printed", "magnitude", 0.5), ("printed", "magnitude", 0.5)),
        ({"selection": "released"}, PUBLISHED, PUBLISHED),
        ({"importance": "magnitude"}, UNKNOWN, UNKNOWN),
        ({"importance": "step"}, BEST, BEST),
        ({"selection": "printed", "importance": "step"}, ("printed", "step", 1.0), ("printed", "step", 1.0)),
        ({"scale": "0.7"}, ("optimal", "magnitude", 0.7), ("optimal", "step", 0.7)),
        ({"scale": 0.5, "importance": "step"}, ("optimal", "step", 0.5), ("optimal", "step", 0.5)),
        ({"as_published": True}, PUBLISHED, PUBLISHED),
    ],
    ids=str,
)
def test_what_is_not_given_follows_from_what_is_known(
    folder: Path, given: dict[str, Any], unknown: Any, known: Any
) -> None:
    assert planned(folder, **given) == unknown
    assert planned(folder, **given, sequential=False) == unknown
    assert planned(folder, **given, sequential=True) == known
    make_run(folder, "sequential")
    assert planned(folder, **given) == known
    assert planned(folder, **given, sequential=False) == unknown


@pytest.mark.parametrize("training", ["sequential", "lwf", "ewc", "joint", "independent"])
def test_a_run_says_whether_its_tasks_are_sequential(folder: Path, training: str) -> None:
    make_run(folder, training)
    expected = UNKNOWN if training in ("joint", "independent") else BEST
    assert planned(folder) == expected
    files = [folder / f"{name}.safetensors" for name in NAMES]
    with Candidates(folder / "base.safetensors", files) as candidates:
        model = candidates.model()
    receipt = prefmerge.merge(folder / "base.safetensors", files, folder / "out.safetensors")
    assert decided(receipt.recipe) == expected
    assert load_file(folder / "out.safetensors")["w"].tobytes() == model["w"].tobytes()
    assert "sequential" not in receipt.recipe


def test_the_order_is_that_of_the_run_or_it_is_not_known(folder: Path) -> None:
    make_run(folder, "sequential")
    assert planned(folder, ("cars", "digits")) == BEST
    assert planned(folder, ("cars", "digits", "birds")) == planned(folder, ("digits", "cars")) == UNKNOWN
    save_file({"w": np.ones(40, np.float32)}, folder / "other.safetensors")
    assert planned(folder, ("cars", "other")) == UNKNOWN
    assert planned(folder, ("other", "cars")) == UNKNOWN
    assert planned(folder, ("other", "cars"), sequential=True) == BEST


def test_a_merge_that_depends_on_no_order_reads_no_manifest(folder: Path) -> None:
    damaged = '{"format": "prefmerge-run/1", '
    (folder / "run.json").write_text(damaged, encoding="utf-8")
    several: list[dict[str, Any]] = [
        *({"method": "magmax"}, {"as_published": True}, {"importance": "magnitude"}, {"sequential": False})
    ]
    files = [folder / f"{name}.safetensors" for name in NAMES]
    for given in several:
        prefmerge.plan(folder / "base.safetensors", files, **given).close()
    with pytest.raises(prefmerge.PrefmergeError, match=r"run\.json: cannot be read"):
        planned(folder)


def test_sequential_against_a_run_that_says_otherwise(folder: Path) -> None:
    make_run(folder, "independent")
    several: list[dict[str, Any]] = [{}, {"method": "magmax"}, {"importance": "magnitude"}]
    for given in several:
        with pytest.raises(MethodError) as caught:
            planned(folder, sequential=True, **given)
        assert str(caught.value) == (
            "--sequential says that each task was trained after the one before it, but the run manifest of task "
            f"'cars' ({folder / 'cars.safetensors'}) says that the tasks were fine-tuned independently. Leave it out."
        )


def test_state_dicts_are_sequential_where_it_is_said(folder: Path) -> None:
    base, *tasks = (load_file(folder / f"{name}.safetensors") for name in ("base", *NAMES))
    best, receipt = prefmerge.merge_state_dicts(base, tasks, sequential=True)
    by_hand, _ = prefmerge.merge_state_dicts(base, tasks, selection="optimal", importance="step", scale=1)
    plain, other = prefmerge.merge_state_dicts(base, tasks)
    half, _ = prefmerge.merge_state_dicts(base, tasks, selection="optimal", importance="magnitude", scale=0.5)
    assert decided(receipt.recipe) == BEST
    assert decided(other.recipe) == UNKNOWN
    assert best["w"].tobytes() == by_hand["w"].tobytes() != plain["w"].tobytes() == half["w"].tobytes()


def test_a_receipt_makes_the_same_recipe_wherever_its_checkpoints_are(folder: Path) -> None:
    files = [folder / f"{name}.safetensors" for name in NAMES]
    prefmerge.merge(folder / "base.safetensors", files, folder / "out.safetensors")
    make_run(folder, "sequential")  # what was not known then
    prefmerge.verify(folder / "out.safetensors", rerun=True)


# As published


def test_every_value_of_the_papers_is_one_of_the_methods_parameters() -> None:
    published = {name: method.published for name, method in METHODS.items() if method.published}
    assert published == {
        "tunable_magmax": {"selection": "released", "importance": "magnitude", "scale": 0.5},
        "magmax": {"scale": 0.5},
        "max_abs": {"scale": 0.5},
    }
    for name, values in published.items():
        recipe = Recipe(method=name, as_published=True)
        assert values == {key: recipe.settings()[key] for key in values}
        assert values.keys() <= METHODS[name].options


@pytest.mark.parametrize(("name", "value"), [("selection", "released"), ("importance", "step"), ("scale", 0.5)])
def test_as_published_with_what_it_sets_is_refused(name: str, value: Any) -> None:
    sets = {"selection": "released", "importance": "magnitude", "scale": "0.5"}[name]
    message = f"--as-published sets {name} to {sets}, and --{name} gives it too. Leave one of them out."
    for first, second in (({name: value}, {"as_published": True}), ({"as_published": True}, {name: value})):
        with pytest.raises(UsageError) as caught:
            Recipe().with_overrides(**first).with_overrides(**second)
        assert str(caught.value) == message
    Recipe().with_overrides(as_published=False, **{name: value})


@pytest.mark.parametrize("method", ["ties", "average", "increments", "last"])
def test_methods_on_which_the_papers_do_not_agree_refuse_as_published(method: str) -> None:
    with pytest.raises(UsageError) as caught:
        Recipe(method=method).with_overrides(as_published=True)
    assert str(caught.value) == (
        f"--as-published has no use with method {method}: the papers agree on parameters for tunable_magmax, magmax, "
        "max_abs only. Leave it out and give the parameters, such as the scale."
    )
    changed = Recipe(as_published=True).with_overrides(method=method)
    assert changed.notes == (f"{method} has no use for the recipe's as_published.",)
    assert Recipe(as_published=True).with_overrides(method="magmax").as_published is True


# In a recipe file


def test_both_are_keys_of_a_recipe_file(folder: Path) -> None:
    file = folder / "recipe.yaml"

    def read(text: str) -> Recipe:
        models = "".join(f"- model: {name}.safetensors\n" for name in NAMES)
        file.write_text(f"{text}base_model: base.safetensors\nmodels:\n{models}", encoding="utf-8")
        return read_recipe(file)

    method = "merge_method: tunable_magmax\n"
    assert decided(read(method).settings()) == UNKNOWN
    assert decided(read(f"{method}sequential: true\n").settings()) == BEST
    assert decided(read(f"{method}as_published: true\n").settings()) == PUBLISHED
    with pytest.raises(RecipeError) as caught:
        read(f"{method}as_published: true\nparameters:\n  scale: 1\n")
    assert str(caught.value) == (
        f"recipe {file}, line 4: 'as_published' sets scale to 0.5, and 'scale' gives it too. Leave one of them out."
    )
    with pytest.raises(RecipeError, match=r"line 2: 'as_published' has no use with method ties: the papers agree"):
        read("merge_method: ties\nas_published: true\n")
