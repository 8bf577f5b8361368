"""Values that differ from layer to layer: what they are for each tensor, in recipes and receipts, with other flags.

That mergekit's recipes with lists, filters and slices give its tensors: tests/methods/test_against_mergekit.py.
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from prefmerge import merge, verify
from prefmerge.errors import RecipeError
from prefmerge.merging.api import run
from prefmerge.merging.layers import depths, stacks
from prefmerge.merging.recipe_file import read_recipe
from prefmerge.merging.recipe_text import recipe_text
from prefmerge.methods.by_layer import ByLayer
from prefmerge.methods.parameters import DENSITY, SCALE

GOLDEN = Path(__file__).parents[1] / "golden"
BASE, CARS, BIRDS = (GOLDEN / f"deep_{name}" for name in ("base", "cars", "birds"))
LISTED = f"base_model: {BASE}\nmodels: [{{model: {CARS}}}, {{model: {BIRDS}}}]\n"
SLICED = f"base_model: {BASE}\nslices: [{{sources: [{{model: {CARS}, layer_range: RANGE}}]}}]\n"


def by_layer(written: Any) -> ByLayer:
    return ByLayer.read(Fraction, written)


@pytest.mark.parametrize(
    ("written", "depth", "value"),
    [
        ([0, 1], Fraction(1, 3), Fraction(1, 3)),
        ([0, 4, 1], Fraction(3, 4), Fraction(5, 2)),
        ([0, 4, 1], Fraction(1), 1),
        ([7], Fraction(1, 2), 7),
        ([{"filter": "mlp", "value": [0, 1]}, {"value": 3}], Fraction(1, 2), 3),
        ([{"filter": "attn", "value": [0, 1]}, {"value": 3}], Fraction(1, 2), Fraction(1, 2)),
        ([{"filter": "*", "value": 2}, {"value": 3}], Fraction(1, 2), 2),
    ],
)
def test_the_value_of_a_tensor(written: Any, depth: Fraction, value: Fraction) -> None:
    rules = by_layer(written)
    assert rules.at("model.layers.3.self_attn.weight", depth) == value
    assert by_layer(rules.to_json(str)) == rules  # as a receipt has it


def test_where_no_rule_holds() -> None:
    rules = by_layer({"filter": "mlp", "value": 1})
    with pytest.raises(KeyError):
        rules.at("norm", Fraction(0))
    assert rules.or_else(Fraction(5)).at("norm", Fraction(0)) == 5
    assert rules.or_else(by_layer([2, 3])).at("norm", Fraction(1)) == 3
    assert rules.or_else(Fraction(5)).or_else(Fraction(6)).at("norm", Fraction(0)) == 5
    words = ByLayer.read(str, ["a", "b", "c"])
    assert [words.at("x", Fraction(i, 4)) for i in range(5)] == ["a", "a", "b", "b", "c"]
    assert ByLayer.read(float, [0.0, 0.1]).at("x", Fraction(1)) == 0.1


@pytest.mark.parametrize(
    ("name", "stack", "layer"),
    [
        ("model.layers.1.mlp.experts.0.w1.weight", "model.layers", 1),
        ("transformer.h.1.attn.c_attn.weight", "transformer.h", 1),
        ("bert.encoder.layer.1.attention.self.query.weight", "bert.encoder.layer", 1),
        ("encoder.block.1.layer.0.SelfAttention.q.weight", "encoder.block", 1),
        ("visual.transformer.resblocks.1.mlp.c_fc.weight", "visual.transformer.resblocks", 1),
        ("blocks.1.attn.qkv.weight", "blocks", 1),
        ("convnext.encoder.stages.1.layers.0.dwconv.weight", "convnext.encoder.stages", 1),
    ],
)
def test_layers_of_the_layouts_that_people_merge(name: str, stack: str, layer: int) -> None:
    names = [name, f"{stack}.0.x.weight", f"{stack}.4.x.weight", "embed.weight", "h.weight", "layers.weight"]
    assert depths(names) == {name: Fraction(layer, 4), f"{stack}.0.x.weight": 0, f"{stack}.4.x.weight": 1}
    assert stacks(names) == {stack: 5}
    assert depths(["layers.0.w"]) == {"layers.0.w": 1}  # as in mergekit


def read(tmp_path: Path, text: str) -> Any:
    (tmp_path / "recipe.yaml").write_text(text)
    return read_recipe(tmp_path / "recipe.yaml")


def test_a_receipt_merges_again(tmp_path: Path) -> None:
    text = "parameters:\n  scale: [1, 0.5]\n  density: [{filter: mlp, value: [0.1, 0.9]}]\n"
    recipe = read(tmp_path, f"merge_method: ties\n{LISTED}{text}")
    receipt = run(recipe, tmp_path / "out")
    assert receipt.recipe[SCALE.name] == [{"value": [1.0, 0.5]}]
    rules = [{"filter": "mlp", "value": ["0.1", "0.9"]}, {"value": ["1"]}]  # and mergekit's default elsewhere
    assert receipt.recipe[DENSITY.name] == [rules, rules]
    assert verify(tmp_path / "out", rerun=True).skipped == ()
    again = recipe_text(receipt)
    assert again is not None
    again = again.replace(f": {BASE.name}\n", f": {BASE}\n")
    for path in (CARS, BIRDS):
        again = again.replace(f"model: {path.name}\n", f"model: {path}\n")
    assert run(read(tmp_path, again), tmp_path / "again").fingerprint == receipt.fingerprint
    assert json.loads((tmp_path / "out" / "receipt.json").read_text())["recipe"] == receipt.to_json()["recipe"]


def test_every_layer_is_as_if_it_were_merged_with_its_own_values(tmp_path: Path) -> None:
    run(read(tmp_path, f"merge_method: magmax\n{LISTED}parameters: {{scale: [1, 0.5, 0.25]}}\n"), tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    for layer, scale in enumerate((1, 0.5, 0.25)):
        merge(BASE, [CARS, BIRDS], tmp_path / f"{layer}", method="magmax", scale=scale)
        alone = load_file(tmp_path / f"{layer}" / "model.safetensors")
        own = [name for name in merged if f"layers.{layer}." in name or (layer == 0 and "layers" not in name)]
        assert own
        for name in own:
            assert np.array_equal(merged[name], alone[name]), name


def test_python_takes_them_too(tmp_path: Path) -> None:
    first = merge(BASE, [CARS, BIRDS], tmp_path / "a", method="magmax", scale=[1, 0.25])
    second = merge(BASE, [CARS, BIRDS], tmp_path / "b", method="magmax", scale=[{"value": [1.0, 0.25]}])
    assert first.fingerprint == second.fingerprint


def test_a_range_behind_the_last_layer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"line 3: .*layer_range: \[0, 40\] ends behind .* it has 3, so \[0, 3\] is all"
    ):
        read(tmp_path, f"merge_method: task_arithmetic\n{SLICED.replace('RANGE', '[0, 40]')}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{LISTED}slices: []\n", "'models' and 'slices' both list the models"),
        (f"{LISTED}slices: [{{sources: [{{model: {CARS}}}]}}]\n", "'models' and 'slices' both list the models"),
        (f"base_model: {BASE}\nslices: [{{parameters: {{}}}}]\n", "'sources' is missing"),
        (SLICED.replace("RANGE", "[0]"), "expected two numbers, such as"),
        (SLICED.replace("RANGE", "3"), "expected two numbers, such as"),
        (SLICED.replace("RANGE", "[a, b]"), "expected two numbers, such as"),
        (SLICED.replace("RANGE", "[2, 1]"), r"\[2, 1\] has no layer"),
    ],
)
def test_slices_that_say_too_little(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        read(tmp_path, f"merge_method: task_arithmetic\n{text}")


def test_a_slice_goes_before_the_recipe_which_holds_where_it_says_nothing(tmp_path: Path) -> None:
    sources = ", ".join(f"{{model: {path}, layer_range: [0, 3]}}" for path in (BASE, CARS, BIRDS))
    own = "parameters: {weight: [{filter: mlp, value: 0.25}]}"
    text = f"base_model: {BASE}\nslices:\n- sources: [{sources}]\n  {own}\n"
    everywhere = "parameters: {weight: [{filter: self_attn, value: 0.5}, {value: 0.1}]}\n"
    receipt = run(read(tmp_path, f"merge_method: task_arithmetic\n{text}{everywhere}"), tmp_path / "out")
    rules = [{"filter": "mlp", "value": ["0.25"]}, {"filter": "self_attn", "value": ["0.5"]}, {"value": ["0.1"]}]
    assert receipt.recipe["weights"] == [rules, rules]


def test_what_needs_one_value(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="the base takes part in linear, and its weight differs"):
        read(tmp_path, f"merge_method: linear\n{LISTED}parameters: {{weight: [1, 0.5]}}\n")


def test_a_base_among_the_models_may_have_its_own_weight_by_layer(tmp_path: Path) -> None:
    rows = "".join(
        f"- {{model: {path}, parameters: {{weight: {weight}}}}}\n" for path, weight in ((BASE, [0, 1]), (CARS, [1, 0]))
    )
    run(read(tmp_path, f"merge_method: linear\nmodels:\n{rows}"), tmp_path / "out")
    merged, base, cars = (load_file(path / "model.safetensors") for path in (tmp_path / "out", BASE, CARS))
    for name, values in merged.items():
        depth = depths(base).get(name, Fraction(0))
        expected = float(depth) * base[name] + float(1 - depth) * cars[name]
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-6, err_msg=name)


def test_a_scale_by_layer_with_budgets_over_the_model(tmp_path: Path) -> None:
    for scale in (1, 0.5, [1, 0.5]):
        merge(BASE, [CARS, BIRDS], tmp_path / str(scale), scope="model", scale=scale)
    first, last, mixed = (load_file(tmp_path / f"{scale}" / "model.safetensors") for scale in (1, 0.5, [1, 0.5]))
    for name, values in mixed.items():
        if "layers.1." not in name:
            assert np.array_equal(values, (last if "layers.2." in name else first)[name]), name


def test_keys_of_the_users_own_hold_anchors(tmp_path: Path) -> None:
    held = "x-more: &more {scale: 0.5}\nx-: [what, {ever: it is}]\n"
    recipe = read(tmp_path, f"{held}merge_method: magmax\n{LISTED}parameters: *more\n")
    assert (recipe[SCALE], recipe.notes) == (0.5, ())
    with pytest.raises(RecipeError, match="line 4: unknown key 'x-scale' in parameters"):
        read(tmp_path, f"merge_method: magmax\n{LISTED}parameters: {{x-scale: 1}}\n")


def test_a_base_may_be_written_as_any_model(tmp_path: Path) -> None:
    written = LISTED.replace(f"base_model: {BASE}", f"base_model: {{model: {{path: {BASE}}}}}")
    assert read(tmp_path, f"merge_method: magmax\n{written}").base == str(BASE)
