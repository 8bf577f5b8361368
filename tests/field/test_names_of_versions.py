"""Tensors that another version of a library names otherwise, and renames that the user gives."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from prefmerge import merge, merge_state_dicts, verify
from prefmerge.cli.app import app
from prefmerge.errors import MethodError, RecipeError
from tests.field.test_names import (
    BASE,
    BIRDS,
    CARS,
    PLAIN,
    RENAMES,
    State,
    files,
    floats,
    named,
    own_words,
    same,
    taken,
)

# 6f: other versions of a library


def normed(seed: int) -> State:
    return {
        "conv.parametrizations.weight.original0": floats(seed, 1, 1, 3),
        "conv.parametrizations.weight.original1": floats(seed + 10, 4, 4, 3),
        "conv.bias": floats(seed + 20, 4),
        "LayerNorm.weight": floats(seed + 30, 4),
        "LayerNorm.bias": floats(seed + 40, 4),
        "features.denseblock1.denselayer2.norm1.weight": floats(seed + 50, 4),
        "features.denseblock1.denselayer2.norm2.weight": floats(seed + 55, 4),
        "encoder.mlp.0.weight": floats(seed + 60, 4, 4),
        "encoder.mlp.3.weight": floats(seed + 70, 4, 4),
        "out.parametrizations.weight.original": floats(seed + 80, 4, 4),
        "out.parametrizations.weight.0._u": floats(seed + 81, 4),
        "out.parametrizations.weight.0._v": floats(seed + 82, 4),
    }


OLDER = {
    "conv.parametrizations.weight.original0": "conv.weight_g",
    "conv.parametrizations.weight.original1": "conv.weight_v",
    "LayerNorm.weight": "LayerNorm.gamma",
    "LayerNorm.bias": "LayerNorm.beta",
    "features.denseblock1.denselayer2.norm1.weight": "features.denseblock1.denselayer2.norm.1.weight",
    "features.denseblock1.denselayer2.norm2.weight": "features.denseblock1.denselayer2.norm.2.weight",
    "encoder.mlp.0.weight": "encoder.mlp.linear_1.weight",
    "encoder.mlp.3.weight": "encoder.mlp.linear_2.weight",
    "out.parametrizations.weight.original": "out.weight_orig",
    "out.parametrizations.weight.0._u": "out.weight_u",
    "out.parametrizations.weight.0._v": "out.weight_v",
}


@pytest.mark.parametrize("prefix", ["", "module.net."])
@pytest.mark.parametrize("of_base", [False, True])
def test_case_6f_names_of_other_versions(prefix: str, of_base: bool) -> None:
    base, *tasks = [normed(seed) for seed in (0, 1, 2)]
    older = [named(state, lambda name: prefix + OLDER.get(name, name)) for state in (base, *tasks)]
    if of_base:
        merged, notes = taken(older[0], tasks)
        expected = merge_state_dicts(older[0], older[1:], names=["cars", "birds"])[0]
    else:
        merged, notes = taken(base, older[1:])
        expected = merge_state_dicts(base, tasks, names=["cars", "birds"])[0]
    assert same(merged, expected)
    assert any("its name in another version of the library" in note and "11 such names" in note for note in notes)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            ["language_model.model.norm.weight", "language_model.lm_head.weight", "vision_tower.a.weight"],
            ["model.language_model.norm.weight", "lm_head.weight", "model.vision_tower.a.weight"],
        ),
        (
            ["visual.a.weight", "model.layers.0.weight", "model.embed_tokens.weight", "lm_head.weight"],
            [
                "model.visual.a.weight",
                "model.language_model.layers.0.weight",
                "model.language_model.embed_tokens.weight",
                "lm_head.weight",
            ],
        ),
    ],
)
def test_case_6f_vision_language_models_of_another_version(old: list[str], new: list[str]) -> None:
    states = [{name: floats(10 * seed + i, 4, 4) for i, name in enumerate(new)} for seed in range(3)]
    older = [dict(zip(old, state.values(), strict=True)) for state in states]
    merged, notes = taken(states[0], older[1:])
    assert same(merged, merge_state_dicts(states[0], states[1:], names=["cars", "birds"])[0])
    assert notes
    assert same(taken(older[0], states[1:])[0], merge_state_dicts(older[0], older[1:], names=["cars", "birds"])[0])


@pytest.mark.parametrize("where", ["command line", "recipe", "python"])
def test_case_6f_renames_that_the_user_gives(where: str, tmp_path: Path) -> None:
    base, tasks = files(tmp_path, BASE, named(CARS, own_words), BIRDS)
    out = tmp_path / "out.safetensors"
    if where == "python":
        merge(base, tasks, out, rename=RENAMES)
    elif where == "recipe":
        lines = ["merge_method: tunable_magmax", "base_model: base.safetensors", "models:"]
        lines += [f"  - model: {path.name}" for path in tasks]
        lines += ["rename:", *(f"  - '{rule}'" for rule in RENAMES)]
        (tmp_path / "recipe.yaml").write_text("\n".join(lines))
        result = CliRunner().invoke(app, ["merge", str(tmp_path / "recipe.yaml"), "-o", str(out)])
        assert result.exit_code == 0, result.output
    else:
        given = [word for rule in RENAMES for word in ("--rename", rule)]
        result = CliRunner().invoke(app, ["merge", *map(str, (base, *tasks)), "-o", str(out), *given])
        assert result.exit_code == 0, result.output
    assert same(load_file(out), PLAIN)
    receipt = json.loads((tmp_path / "out.safetensors.receipt.json").read_text())
    assert receipt["recipe"]["rename"] == RENAMES
    verify(out, inputs=True, rerun=True)


def test_case_6f_a_receipt_says_nothing_of_renames_where_there_are_none() -> None:
    assert "rename" not in merge_state_dicts(BASE, [CARS])[1].recipe


@pytest.mark.parametrize(
    ("rules", "error", "message"),
    [
        (["zzz=y"], RecipeError, "--rename 'zzz=y' matches no tensor of a task"),
        (["querry="], RecipeError, "the nearest part of a name is 'query'"),
        ([r"layer\.\d=layer"], RecipeError, "gives two tensors of task 'cars' one name"),
        (["query"], MethodError, "rename: expected OLD=NEW"),
        (["=x"], MethodError, "rename: expected OLD=NEW"),
        (["(query=x"], MethodError, "rename: expected a regular expression"),
        ([r"query=\9"], MethodError, "rename: expected a regular expression"),
        ([3], MethodError, "rename: expected OLD=NEW"),
    ],
)
def test_case_6f_renames_that_make_no_sense(rules: list[Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        taken(BASE, [CARS, BIRDS], rename=rules)


def test_case_6f_an_expression_may_hold_an_equals_sign() -> None:
    tasks = [named(state, lambda name: name.replace("query", "q_proj")) for state in (CARS, BIRDS)]
    assert same(taken(BASE, tasks, rename=r"(?<=attention\.)q_proj(?=\.weight)=query")[0], PLAIN)
