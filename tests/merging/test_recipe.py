"""Recipes: every key, every default, every refusal with its wording. Nothing is read: empty files do as models."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefmerge.errors import CheckpointNotFound, MethodError, RecipeError, UsageError
from prefmerge.merging.parameters import every
from prefmerge.merging.recipe import Recipe, TaskEntry
from prefmerge.merging.recipe_file import read_recipe
from prefmerge.methods import METHODS
from prefmerge.methods.parameters import PREFERENCE
from prefmerge.preference import Preference

MODELS = """
base_model: base.safetensors
models:
  - model: cars.safetensors
  - model: birds.safetensors
"""


def read(folder: Path, text: str) -> Recipe:
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    return read_recipe(folder / "recipe.yaml")


def refusal(folder: Path, text: str, error: type[Exception] = RecipeError) -> str:
    with pytest.raises(error) as caught:
        read(folder, text)
    message = str(caught.value)
    assert message.startswith(f"recipe {folder / 'recipe.yaml'}")
    return message.removeprefix(f"recipe {folder / 'recipe.yaml'}").lstrip(":, ")


# What a file says


def test_every_key_of_ours(folder: Path) -> None:
    recipe = read(
        folder,
        """
merge_method: tunable-magmax
base_model: base.safetensors
models:
  - model: cars.safetensors
    name: automobiles
  - model: birds.safetensors
parameters:
  prefer: automobiles=0.8,birds=0.2
  scale: 0.75
  selection: optimal
  importance: step
  strength: 0.1
  carry: 1/3
  toward_last: 0.25
  scope: model
dtype: bfloat16
seed: 7
exclude: ["head.*", logit_scale]
""",
    )
    assert recipe.base == str(folder / "base.safetensors")
    assert [(Path(t.path).name, t.name) for t in recipe.tasks] == [
        ("cars.safetensors", "automobiles"),
        ("birds.safetensors", None),
    ]
    assert recipe.names == ["automobiles", "birds"]
    assert recipe.settings() == {
        "method": "tunable_magmax",
        "scale": 0.75,
        "seed": 7,
        "selection": "optimal",
        "importance": "step",
        "strength": "0.1",
        "carry": "1/3",
        "toward_last": "0.25",
        "start": None,
        "boost": None,
        "drop": None,
        "scope": "model",
        "passes": 2,
        "weights": None,
        "base_weight": None,
        "density": None,
        "normalize": None,
        "dtype": "bfloat16",
        "exclude": ["head.*", "logit_scale"],
        "as_task_vector": False,
        "preference": Preference.explicit(["0.8", "0.2"]).to_json(),
    }
    assert recipe.strength == Fraction(1, 10)  # what was written, not the float nearest to it


@pytest.mark.parametrize(
    ("method", "scale", "density", "normalize"),
    [
        ("tunable_magmax", 0.5, None, None),
        ("magmax", 0.5, None, None),
        ("max_abs", 0.5, None, None),
        ("average", 1.0, None, None),
        ("task_arithmetic", 1.0, None, False),
        ("linear", 1.0, None, True),
        ("random_mix", 1.0, None, None),
        ("ties", 1.0, ["1", "1"], True),
        ("last", 1.0, None, None),
    ],
)
def test_defaults_of_a_file_are_mergekits(
    folder: Path, method: str, scale: float, density: Any, normalize: Any
) -> None:
    settings = read(folder, f"merge_method: {method}\n{MODELS}").settings()
    assert (settings["scale"], settings["density"], settings["normalize"]) == (scale, density, normalize)
    assert settings["weights"] == (["1", "1"] if "weights" in METHODS[method].options else None)
    assert settings["dtype"] is None
    assert settings["exclude"] == []
    assert settings["as_task_vector"] is False


def test_the_command_lines_density_of_ties_is_the_papers() -> None:
    assert Recipe(method="ties", tasks=(TaskEntry(path="a"),)).density == (Fraction(1, 5),)


def test_a_models_own_parameters_win_over_the_common_ones(folder: Path) -> None:
    recipe = read(
        folder,
        """
merge_method: ties
base_model: base.safetensors
models:
  - model: cars.safetensors
    parameters: {weight: 0.57, density: 0.3}
  - model: birds.safetensors
    parameters: {density: 1e-1}
  - model: digits.safetensors
parameters: {weight: 2, density: 0.45, lambda: 1.25, normalize: false, int8_mask: true}
""",
    )
    assert recipe.weights == (Fraction(57, 100), Fraction(2), Fraction(2))
    assert recipe.density == (Fraction(3, 10), Fraction(1, 10), Fraction(9, 20))
    assert recipe.scale == 1.25
    assert recipe.normalize is False
    assert recipe.notes == ("int8_mask has no effect: signs are elected in float64 whatever it says.",)


@pytest.mark.parametrize(
    ("prefer", "expected"),
    [
        ("alpha:2", Preference.geometric(2)),
        ("0.8,0.2", Preference.explicit(["0.8", "0.2"])),
        ("[0.8, 0.2]", Preference.explicit(["0.8", "0.2"])),
        ("{cars: 0.8, birds: 0.2}", Preference.named({"cars": "0.8", "birds": "0.2"})),
        ("uniform", Preference.uniform()),
        ("'@wish.json'", Preference.explicit([3, 1])),
    ],
)
def test_ways_to_write_a_preference(folder: Path, prefer: str, expected: Preference) -> None:
    (folder / "wish.json").write_text("[3, 1]", encoding="utf-8")
    assert (
        read(folder, f"merge_method: tunable_magmax\nparameters:\n  prefer: {prefer}\n{MODELS}").preference == expected
    )


def test_out_dtype_is_how_the_output_is_stored(folder: Path) -> None:
    assert read(folder, f"merge_method: average\ndtype: float32\nout_dtype: float16\n{MODELS}").dtype == "float16"
    assert read(folder, f"merge_method: average\ndtype: float32\nout_dtype:\n{MODELS}").dtype == "float32"


def test_paths_are_looked_for_beside_the_recipe_and_then_here(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    for name in ("only-here", "cars"):
        (here / f"{name}.safetensors").touch()
    monkeypatch.chdir(here)
    recipe = read(
        folder,
        "merge_method: average\nbase_model: base.safetensors\nmodels: [{model: cars.safetensors}, "
        "{model: only-here.safetensors}]",
    )
    assert [t.path for t in recipe.tasks] == [str(folder / "cars.safetensors"), "only-here.safetensors"]
    message = refusal(
        folder,
        "merge_method: average\nbase_model: base.safetensors\nmodels:\n- model: org/gone/x",
        CheckpointNotFound,
    )
    assert message == (
        "line 4: models[0].model: 'org/gone/x' is neither in the recipe's folder nor in the working directory. "
        "Correct the path; what is on the Hugging Face hub is called org/name or org/name@revision."
    )


def test_yaml_merge_keys_and_anchors(folder: Path) -> None:
    recipe = read(
        folder,
        "merge_method: task_arithmetic\nbase_model: base.safetensors\nmodels:\n"
        "- model: cars.safetensors\n  parameters: &p {weight: 0.3}\n- model: birds.safetensors\n  parameters: "
        "{<<: *p}\n",
    )
    assert recipe.weights == (Fraction(3, 10), Fraction(3, 10))


# The base among the models


def test_linear_without_a_base_starts_from_the_first_model(folder: Path) -> None:
    recipe = read(
        folder,
        "merge_method: linear\nmodels:\n"
        "- model: cars.safetensors\n  parameters: {weight: 0.5}\n- model: birds.safetensors\n  parameters: "
        "{weight: 0.3}\n",
    )
    assert recipe.base == str(folder / "cars.safetensors")
    assert recipe.base_weight == Fraction(1, 2)
    assert recipe.weights == (Fraction(3, 10),)


def test_linear_takes_a_listed_base_for_one_of_the_models(folder: Path) -> None:
    models = MODELS + "  - model: ./base.safetensors\n    parameters: {weight: 0.4}\n"
    recipe = read(folder, f"merge_method: linear\n{models}")
    assert recipe.base_weight == Fraction(2, 5)
    assert len(recipe.tasks) == 2
    assert recipe.notes == ()


def test_linear_adds_the_base_when_one_weight_holds_for_all(folder: Path) -> None:
    recipe = read(folder, f"merge_method: linear\nparameters: {{weight: 0.5}}\n{MODELS}")
    assert recipe.base_weight == Fraction(1, 2)
    assert recipe.notes == ("the base takes part with weight 0.5, the one given for all models, as in mergekit.",)
    assert read(folder, f"merge_method: linear\n{MODELS}").base_weight == 0


@pytest.mark.parametrize("method", ["ties", "task_arithmetic", "tunable_magmax", "average"])
def test_the_others_skip_a_listed_base(folder: Path, method: str) -> None:
    recipe = read(folder, f"merge_method: {method}\n{MODELS}  - model: base.safetensors\n")
    assert recipe.names == ["cars", "birds"]
    assert recipe.base_weight == 0
    assert recipe.notes == (
        f"the base is also listed under models; {method} skips it there, since its task vector is zero.",
    )


@pytest.mark.parametrize("base", ["base_model: base.safetensors\n", ""])
def test_slerp_is_between_the_base_and_the_other_model(folder: Path, base: str) -> None:
    models = "models: [{model: base.safetensors}, {model: cars.safetensors}]\n"
    recipe = read(folder, f"merge_method: slerp\n{base}{models}parameters: {{t: 0.3, lambda: 2}}\n")
    assert (recipe.base, recipe.names, recipe.t) == (str(folder / "base.safetensors"), ["cars"], Fraction(3, 10))
    assert recipe.notes == (
        "lambda has no effect on slerp, as in mergekit; write 'scale' to scale the merged task vector.",
    )


def test_nuslerp_without_a_base_is_between_two_models(folder: Path) -> None:
    models = """
models:
  - model: cars.safetensors
    parameters: {weight: 0.25}
  - model: birds.safetensors
"""
    recipe = read(folder, f"merge_method: nuslerp\n{models}")
    assert (recipe.base, recipe.names) == (str(folder / "cars.safetensors"), ["birds"])
    assert (recipe.base_weight, recipe.weights) == (Fraction(1, 4), (Fraction(1),))
    recipe = read(folder, f"merge_method: nuslerp\nbase_model: base.safetensors\n{models}parameters: {{weight: 2}}\n")
    assert (recipe.base_weight, recipe.weights) == (0, (Fraction(1, 4), Fraction(2)))
    assert recipe.notes == ()


@pytest.mark.parametrize(
    ("base", "weight"),
    [("base_model: base.safetensors\n", 1), ("base_model: cars.safetensors\n", 1), ("", 1)],
)
def test_karcher_takes_the_base_for_one_of_the_models(folder: Path, base: str, weight: int) -> None:
    models = "models: [{model: cars.safetensors, parameters: {weight: 3}}, {model: birds.safetensors}]\n"
    recipe = read(folder, f"merge_method: karcher\n{base}{models}")
    assert recipe.base_weight == weight
    assert recipe.names == (["cars", "birds"] if "base.s" in base else ["birds"])
    assert "weight has no effect on karcher." in recipe.notes
    assert ("the base takes part as one of the models, as in mergekit." in recipe.notes) is ("base.s" in base)


# What mergekit ignores is noted, what prefmerge ignores is refused


@pytest.mark.parametrize(
    ("method", "parameters", "note"),
    [
        ("task_arithmetic", "density: 0.5", "density has no effect on task_arithmetic."),
        (
            "linear",
            "lambda: 0.5",
            "lambda has no effect on linear, as in mergekit; write 'scale' to scale the merged task vector.",
        ),
        ("linear", "int8_mask: false", "int8_mask has no effect: signs are elected in float64 whatever it says."),
    ],
)
def test_notes(folder: Path, method: str, parameters: str, note: str) -> None:
    recipe = read(folder, f"merge_method: {method}\nparameters: {{{parameters}}}\n{MODELS}")
    assert note in recipe.notes
    assert recipe.scale == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "merge_method: magmax\nparameters:\n  prefer: alpha:2\n",
            "line 3: 'prefer' has no use with method magmax; it is for tunable_magmax, increments. ",
        ),
        (
            "merge_method: average\nparameters: {weight: 2}\n",
            "line 2: 'weight' has no use with method average; it is for task_arithmetic, linear, ties, dare_linear, "
            "dare_ties, breadcrumbs, breadcrumbs_ties, della_linear, della, nuslerp. ",
        ),
        (
            "merge_method: ties\nseed: 3\n",
            "line 2: 'seed' has no use with method ties; it is for tunable_magmax, random_mix, dare_linear, "
            "dare_ties, della_linear, della. ",
        ),
    ],
)
def test_settings_without_use(folder: Path, text: str, message: str) -> None:
    assert refusal(folder, text + MODELS) == message + "Leave it out or choose another method."


def test_passes_have_no_use_with_optimal(folder: Path) -> None:
    assert refusal(
        folder, f"merge_method: tunable_magmax\nparameters: {{selection: optimal, passes: 3}}\n{MODELS}"
    ) == ("line 2: 'passes' has no use with selection optimal, which has no passes. Leave it out.")


# Flags over the file


def test_an_explicit_flag_wins(folder: Path) -> None:
    recipe = read(
        folder,
        f"merge_method: tunable_magmax\nparameters: {{scale: 0.9, strength: 0.5, prefer: alpha:2}}\ndtype: "
        f"float16\n{MODELS}",
    )
    changed = recipe.with_overrides(strength="1", preference="0.9,0.1", scale=None, dtype="F32", seed="5")
    assert (changed.strength, changed.scale, changed.dtype, changed.seed) == (1, 0.9, "float32", 5)
    assert changed.preference == Preference.explicit(["0.9", "0.1"])
    assert changed.tasks == recipe.tasks


def test_a_density_flag_speaks_for_every_task(folder: Path) -> None:
    recipe = read(
        folder, f"merge_method: ties\n{MODELS}  - model: digits.safetensors\n    parameters: {{density: 0.9}}\n"
    )
    assert recipe.with_overrides(density="0.3").density == (Fraction(3, 10),) * 3


def test_another_method_drops_what_it_has_no_use_for_and_says_so(folder: Path) -> None:
    recipe = read(folder, f"merge_method: tunable_magmax\nparameters: {{prefer: alpha:2, scope: model}}\n{MODELS}")
    changed = recipe.with_overrides(method="magmax")
    assert changed.preference is None
    assert changed.scope == "tensor"
    assert changed.scale == 0.5
    assert changed.notes == ("magmax has no use for the recipe's preference, scope.",)
    assert recipe.with_overrides(method="ties").scope == "model"  # which ties honours


@pytest.mark.parametrize(
    ("method", "flags", "message"),
    [
        (
            "average",
            {"preference": "alpha:2"},
            "--prefer has no use with method average; it is for tunable_magmax, increments. Leave it out or choose "
            "another method.",
        ),
        (
            "magmax",
            {"seed": 1},
            "--seed has no use with method magmax; it is for tunable_magmax, random_mix, dare_linear, "
            "dare_ties, della_linear, della. Leave it out or choose another method.",
        ),
        (
            "magmax",
            {"density": 0.1},
            "--density has no use with method magmax; it is for ties, dare_linear, dare_ties, breadcrumbs, "
            "breadcrumbs_ties, della_linear, della. Leave it out or choose another method.",
        ),
        (
            "magmax",
            {"scale": 0.1, "as_task_vector": True},
            "--scale has no effect on a task vector, which is written unscaled and in float32. Leave it out.",
        ),
        (
            "magmax",
            {"dtype": "float16", "as_task_vector": True},
            "--dtype has no effect on a task vector, which is written unscaled and in float32. Leave it out.",
        ),
    ],
)
def test_flags_without_use(method: str, flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Recipe(method=method).with_overrides(**flags)
    assert str(caught.value) == message


def test_a_flag_that_says_the_default_is_refused_only_when_strict() -> None:
    recipe = Recipe(method="average")
    assert recipe.with_overrides(seed=0, scope="tensor", passes=2) == recipe
    with pytest.raises(UsageError, match=r"^--seed has no use"):
        recipe.with_overrides(strict=True, seed=0)


def test_values_that_make_no_sense() -> None:
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"scale": "inf"}, "scale: expected a finite number, found 'inf'."),
        ({"carry": "-0.1"}, "carry: expected a number from 0 to 1, found -0.1."),
        ({"scope": "layer"}, "scope: expected tensor or model, found 'layer'."),
        ({"seed": 1.5}, "seed: expected a whole number of at least 0, found 1.5."),
        ({"exclude": [1]}, "exclude: expected a list of patterns such as 'head.*', found [1]."),
    )
    for flags, message in cases:
        with pytest.raises(MethodError) as caught:
            Recipe().with_overrides(**flags)
        assert str(caught.value) == message
    with pytest.raises(UsageError, match=r"'stength' is not a parameter of a recipe\. Did you mean 'strength'\?"):
        Recipe().with_overrides(stength=1)


# Settings and back


def test_every_parameter_of_every_method_is_a_setting() -> None:
    said = {one.name for one in every().values() if one.recorded and not one.quiet}
    assert {name for method in METHODS.values() for name in method.options} <= set(every())
    assert set(Recipe().settings()) == {*said, "method"}
    assert set(Recipe(rename="a=b").settings()) == {*said, "rename", "method"}


def test_settings_hold_no_path_and_no_name() -> None:
    recipe = Recipe(
        base="here/base",
        tasks=(TaskEntry(path="here/cars"), TaskEntry(path="here/birds")),
        preference=Preference.named({"birds": 1}),
    )
    text = json.dumps(recipe.settings())
    assert "cars" not in text
    assert "birds" not in text
    assert "here" not in text
    assert recipe.settings(["birds", "cars"])["preference"]["values"] == ["1", "0"]


UNIT = st.fractions(0, 1, max_denominator=1000)


@given(
    method=st.sampled_from(sorted(METHODS)),
    settings=st.fixed_dictionaries(
        {
            "scale": st.none() | st.floats(-2, 2),
            "seed": st.integers(0, 2**63 - 1),
            "selection": st.sampled_from(["paper", "optimal", "printed"]),
            "importance": st.sampled_from(["magnitude", "step"]),
            "strength": UNIT,
            "carry": UNIT,
            "scope": st.sampled_from(["tensor", "model"]),
            "passes": st.integers(1, 9),
            "density": st.none() | UNIT.filter(bool),
            "normalize": st.none() | st.booleans(),
            "dtype": st.sampled_from([None, "bfloat16"]),
            "exclude": st.lists(st.text(min_size=1)),
            "as_task_vector": st.booleans(),
            "preference": st.sampled_from([None, Preference.geometric("0.7"), Preference.named({"b": 2, "a": 1})]),
        }
    ),
    weights=st.lists(st.fractions(-2, 2, max_denominator=99), min_size=2, max_size=2),
)
def test_a_receipts_settings_make_the_same_recipe(
    method: str, settings: dict[str, Any], weights: list[Fraction]
) -> None:
    tasks = tuple(TaskEntry(path=path, weight=weight) for path, weight in zip("ab", weights, strict=True))
    first = Recipe(base="base", tasks=tasks, method=method, base_weight=Fraction(method == "linear", 3), **settings)
    told = json.loads(json.dumps(first.settings()))
    again = Recipe.from_settings(told, base="base", tasks=["a", "b"], names=["a", "b"])
    assert again.settings() == told == first.settings()
    assert all(again.used(one) == first.used(one) for one in every().values() if one is not PREFERENCE)
