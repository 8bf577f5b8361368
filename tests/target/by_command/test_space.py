"""What is searched for a command, what stands for it, and what a search begins with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from prefmerge.errors import UsageError
from prefmerge.merging.recipe import Recipe
from prefmerge.methods import METHODS
from prefmerge.preference import Preference
from prefmerge.target.by_command.sources import BASE, MergeInput, Sources
from prefmerge.target.by_command.space import CommandSpace
from prefmerge.target.search.space import Start


def sources(given: dict[str, Any] | None = None, tasks: int = 2) -> Sources:
    names = ("cars", "birds", "digits")[:tasks]
    entries = tuple(MergeInput(name, name, Path(name)) for name in names)
    return Sources(MergeInput("base", "base", Path("base")), entries, names, "folder", given)


def space(text: str | None, given: dict[str, Any] | None = None) -> CommandSpace:
    return CommandSpace.parse(text, sources(given))


@pytest.mark.parametrize(
    ("text", "dimensions", "params", "settings"),
    [
        (
            None,
            {"weights of task 1": (0.0, 1.0), "weights of task 2": (0.0, 1.0)},
            {"weights of task 1": 0.12345, "weights of task 2": 1.0},
            {"method": "task_arithmetic", "weights": ["0.123", "1"]},
        ),
        (
            "weights:2=-0.5..1.5",
            {f"weights.{k} of task {t}": (-0.5, 1.5) for t in (1, 2) for k in (1, 2)},
            {"weights.1 of task 1": -0.5, "weights.2 of task 1": 0.25}
            | {"weights.1 of task 2": 1.5, "weights.2 of task 2": 0},
            {"method": "task_arithmetic", "weights": [["-0.5", "0.25"], ["1.5", "0"]]},
        ),
        (
            "preference, scale=0.5..2",
            {"share 1": (0.0, 1.0), "share 2": (0.0, 1.0), "scale": (0.5, 2.0)},
            {"share 1": 0.25, "share 2": 0.75, "scale": 1.23456},
            {
                "method": "tunable_magmax",
                "preference": Preference.named({"cars": "0.25", "birds": "0.75"}),
                "scale": "1.2346",
            },
        ),
        (
            "density,method=ties|dare_ties|linear,scale=0.7",
            {"method": ("ties", "dare_ties", "linear"), "density": (0.1, 1.0)},
            {"method": "linear", "density": 0.333},
            {"method": "linear", "scale": "0.7"},
        ),
        (
            "preference:2",
            {f"share {t}.{k}": (0.0, 1.0) for k in (1, 2) for t in (1, 2)},
            {"share 1.1": 0.25, "share 2.1": 0.75, "share 1.2": 0, "share 2.2": 0.5},
            {
                "method": "tunable_magmax",
                "preference": [{"cars": "0.25", "birds": "0.75"}, {"cars": "0", "birds": "1"}],
            },
        ),
        (
            "strength:2",
            None,
            {"strength.1": 0.5, "strength.2": 1},
            {"method": "tunable_magmax", "strength": ["0.5", "1"]},
        ),
        ("t:3", None, {"t.1": 0, "t.2": 0.5, "t.3": 1}, {"method": "slerp", "t": ["0", "0.5", "1"]}),
        ("scale:2", None, {"scale.1": 1, "scale.2": 0.5}, {"method": "task_arithmetic", "scale": ["1", "0.5"]}),
        (
            "method=ties,density",
            {"density": (0.1, 1.0)},
            {"density": 0.456},
            {"method": "ties", "density": "0.46"},
        ),
    ],
)
def test_numbers_stand_for_parameters(
    text: str | None, dimensions: dict[str, Any] | None, params: dict[str, Any], settings: dict[str, Any]
):
    made = space(text)
    if dimensions is not None:
        assert made.dimensions() == dimensions
    assert made.dimensions().keys() == params.keys()
    assert made.settings(params) == settings
    Recipe(base="base", tasks=(), **{key: value for key, value in settings.items() if key not in ("weights",)})


def test_what_a_recipe_says_holds_where_nothing_is_searched():
    given = {"method": "ties", "density": ["0.5", "0.6"], "weights": ["1", "2"], "dtype": "float16", "scale": "0.9"}
    made = space("scale", given)
    assert made.settings({"scale": 1.25}) == {**given, "scale": "1.25"}
    assert made.methods == ("ties",)
    other = space("scale,method=magmax", given)
    assert other.settings({"scale": 1.25}) == {"method": "magmax", "dtype": "float16", "scale": "1.25"}
    assert space(None, {"method": "linear", "weights": ["1", "2"]}).settings(
        {"weights of task 1": 0.5, "weights of task 2": 0.25}
    ) == {"method": "linear", "weights": ["0.5", "0.25"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("weihgts", "--space: 'weihgts' is not a parameter of a recipe. Did you mean 'weights'?"),
        ("scale,scale=1", "--space names 'scale' twice."),
        ("scale=1,method=ties", "--space names nothing to search: every part is fixed. Write for instance weights:4."),
        ("", "--space names nothing to search"),
        ("weights:0", "--space weights:0: expected how many values over the layers, from 1 to 64."),
        ("weights:many", "--space weights:many: expected how many values over the layers, from 1 to 64."),
        ("carry:3", "--space carry:3: carry has no values over the layers."),
        ("scale:3=1", "--space scale:3=1: one value is the same in every layer. Leave :3 out."),
        ("scale=2..1", "--space scale=2..1: the first number must be the smaller one."),
        ("scale=a..1", "--space scale=a..1: expected a range such as scale=0.2..1.5."),
        ("density=0.5..1.5", "--space density=1.5: expected a number above 0 and at most 1, found 1.5"),
        ("weights=1", "--space weights=1: a search gives each task its own. Write weights alone."),
        ("preference=0..1", "--space preference=0..1: a search gives each task its own. Write preference alone."),
        ("gamma", "--space gamma: say over what: gamma=LOW..HIGH, or gamma=ONE|ANOTHER."),
        ("method=tises|linear", "--space method=tises: method 'tises' is not known"),
        ("density,method=linear|magmax", "--space: density has no use with method linear or magmax. Leave it out."),
        ("t,preference", "--space: no method has preference, t. Leave one out."),
        ("scale=fast,weights", "--space scale=fast: expected a finite number, found 'fast'"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, message: str):
    with pytest.raises(UsageError, match=re.escape(message)):
        space(text)


def test_a_search_begins_with_the_inputs_and_with_what_people_try():
    starts = space("weights:2").starts(sources())
    assert [(one.what, one.task) for one in starts[:3]] == [("base", BASE), ("task cars", 0), ("task birds", 1)]
    assert starts[1].params == {
        "weights.1 of task 1": 1.0,
        "weights.2 of task 1": 1.0,
        "weights.1 of task 2": 0.0,
        "weights.2 of task 2": 0.0,
    }
    assert [(one.what, dict(one.settings)) for one in starts[3:]] == [
        ("linear, equal weights", {"method": "linear"}),
        ("MAGMAX", {"method": "magmax"}),
        ("tunable-magmax, equal shares", {"method": "tunable_magmax", **METHODS["tunable_magmax"].needed(2)}),
        *(
            (f"task arithmetic, weights {w}", {"method": "task_arithmetic", "weights": [w, w]})
            for w in ("0.3", "0.5", "1")
        ),
    ]
    assert set(starts[-1].params or {}) == set(starts[1].params or {})
    assert all(one.params is None for one in space("preference").starts(sources()))
    assert all(one.params is None for one in space("weights,scale").starts(sources()))
    assert space("weights=0.4..0.6").starts(sources())[0].params is None  # the base lies outside


def test_a_recipe_is_tried_as_it_is_and_its_format_holds_for_all():
    given = {"method": "ties", "density": ["0.5", "0.5"], "dtype": "bfloat16", "exclude": ["head.*"]}
    starts = space("density", given).starts(sources(given))
    assert (starts[3].what, starts[3].settings) == ("the recipe", given)
    assert all(one.settings["dtype"] == "bfloat16" for one in starts[3:])
    assert all(one.settings["exclude"] == ["head.*"] for one in starts[3:])
    assert all(not one.settings for one in starts[:3])  # inputs are what they are


def test_an_input_as_a_recipe():
    made = sources()
    vector = MergeInput("lora", "lora", None)
    with_adapter = Sources(made.base, (*made.tasks, vector), (*made.names, "lora"), "folder")
    assert made.recipe(Start("base", {}, None, BASE)).method == "passthrough"
    assert made.recipe(Start("task birds", {}, None, 1)).base == "birds"
    last = with_adapter.recipe(Start("task lora", {}, None, 2))
    assert (last.base, [task.path for task in last.tasks], last.method, last.scale) == ("base", ["lora"], "last", 1)


def test_every_choice_is_checked_once():
    made = space("method=ties|tunable_magmax,selection,density,scale")
    methods = [one["method"] for one in made.examples()]
    assert sorted(set(methods)) == ["ties", "tunable_magmax"]
    assert len(methods) == 2 + 2
    assert len(list(space("weights:2").examples())) == 1
