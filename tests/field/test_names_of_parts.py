"""Tensors that are only parts of a weight, and layers with other numbers: no flag shown makes another model."""

from __future__ import annotations

import re

import numpy as np
import pytest

from prefmerge import merge_state_dicts
from prefmerge.errors import CheckpointMismatch
from tests.field.made import LONGEST, State

NAMES = ("layers.0.q.weight", "layers.1.q.weight", "embed.weight")


def model(seed: int) -> State:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal((6, 5)).astype(np.float32) for name in NAMES}


def renamed(state: State, end: str) -> State:
    return {name.replace("weight", end): value for name, value in state.items()}


def refused(base: State, *tasks: State) -> str:
    with pytest.raises(CheckpointMismatch) as raised:
        merge_state_dicts(base, tasks)
    assert len(str(raised.value)) <= LONGEST
    return str(raised.value)


ADAPTERS = [
    ("lora_A.default.weight", "lora_B.default.weight"),
    ("lora_down.weight", "lora_up.weight", "alpha"),
    ("lora_embedding_A.default", "lora_magnitude_vector.default.weight"),
    ("hada_w1_a", "hada_w1_b"),
    ("lokr_w1", "lokr_w2_a"),
    ("ia3_l.default",),
]


@pytest.mark.parametrize("parts", ADAPTERS)
@pytest.mark.parametrize("base_layer", [False, True])
def test_case_6b_an_adapter_inside_a_task_is_not_left_out(parts: tuple[str, ...], base_layer: bool) -> None:
    """Without it the task is the base again."""
    base, inside = model(0), model(0)
    if base_layer:
        inside["layers.0.q.base_layer.weight"] = inside.pop("layers.0.q.weight")
        inside = {f"base_model.model.{name}": value for name, value in inside.items()}
    first = next(name for name in inside if name.endswith(("q.weight", "base_layer.weight")) and ".0." in name)
    at = first.removesuffix("weight").removesuffix("base_layer.")
    inside |= {at + part: np.ones((2, 5), np.float32) for part in parts}
    said = refused(base, inside, model(1))
    assert "is a part of an adapter" in said
    assert "merge_and_unload()" in said
    assert "--exclude" not in said


COMPUTED = [
    ("weight_v", "weight_g"),
    ("weight_orig", "weight_u"),
    ("weight_orig", "weight_mask"),
    ("parametrizations.weight.original1", "parametrizations.weight.original0"),
    ("parametrizations.weight.original", "parametrizations.weight.0.base"),
]


@pytest.mark.parametrize("ends", COMPUTED)
@pytest.mark.parametrize("of_base", [False, True])
def test_case_6f_a_part_of_a_weight_gets_no_name_of_a_weight(ends: tuple[str, str], of_base: bool) -> None:
    """The direction of a weight, or one that is pruned when it is used, has the shape of the weight itself."""
    apart = renamed(model(1), ends[0]) | {name: np.ones((6, 1), np.float32) for name in renamed(model(1), ends[1])}
    said = refused(apart, model(0)) if of_base else refused(model(0), apart, model(2))
    assert "is a part of a weight, which torch computes from several tensors" in said
    assert "--rename" not in said
    assert "--exclude" not in said


def test_case_6f_the_flags_are_still_taken() -> None:
    inside = model(1) | {"layers.0.q.lora_A.weight": np.ones((2, 5), np.float32)}
    merged, _ = merge_state_dicts(model(0), [inside], method="last", scale=1, exclude=["*.lora_*"])
    assert all(
        np.allclose(merged[name], model(1)[name], rtol=0, atol=1e-6) for name in NAMES
    )  # to a rounding of the base


@pytest.mark.parametrize("parts", ADAPTERS)
def test_case_3a_factors_of_adapters_are_not_merged_one_by_one(parts: tuple[str, ...]) -> None:
    """As with codes and scales, what each of them holds means nothing without the others."""
    inside = [
        model(seed) | {f"layers.0.q.{part}": np.full((2, 5), seed, np.float32) for part in parts} for seed in range(3)
    ]
    said = refused(inside[0], *inside[1:])
    assert "products of merged factors are not the merged products" in said
    advised = re.findall(r"--exclude '(\S+)'", said)
    merged, _ = merge_state_dicts(inside[0], inside[1:], exclude=advised)
    for name in set(inside[0]) - {*NAMES, "layers.0.q.alpha"}:
        np.testing.assert_array_equal(merged[name], inside[0][name])


@pytest.mark.parametrize("parts", ADAPTERS)
def test_case_3a_adapters_that_training_left_as_they_are_may_stay_in_a_model(parts: tuple[str, ...]) -> None:
    """Models of several kinds of inputs are published with them; then there is no product to merge."""
    frozen = {f"layers.0.q.{part}": np.full((2, 5), 3, np.float32) for part in parts}
    merged, _ = merge_state_dicts(model(0) | frozen, [model(1) | frozen, model(2) | frozen])
    for name, value in frozen.items():
        np.testing.assert_array_equal(merged[name], value)
    refused(model(0) | frozen, model(1) | frozen, model(2) | frozen | {next(iter(frozen)): np.ones((2, 5), np.float32)})


@pytest.mark.parametrize("of_base", [False, True])
@pytest.mark.parametrize("count", [2, 3])
def test_journey_21_layers_that_are_numbered_from_another_number(of_base: bool, count: int) -> None:
    """What is left when the layers without a partner are left out is merged with its neighbours."""
    from_0 = {f"model.layers.{i}.w": np.full((4, 4), i, np.float32) for i in range(count)}
    from_1 = {f"model.layers.{i + 1}.w": np.full((4, 4), i, np.float32) for i in range(count)}
    said = refused(from_1, from_0) if of_base else refused(from_0, from_1)
    assert f"have numbers from {int(not of_base)} in" in said
    assert "--exclude" not in said


def test_journey_21_a_layer_that_is_lacking_at_the_end_is_still_left_out() -> None:
    layers = {f"model.layers.{i}.w": np.full((4, 4), i, np.float32) for i in range(3)}
    said = refused(layers, {name: value for name, value in layers.items() if ".2." not in name})
    assert "--exclude 'model.layers.2.*'" in said
