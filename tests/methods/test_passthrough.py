"""Passthrough: one model, alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from prefmerge import merge_state_dicts, read_recipe, verify
from prefmerge.errors import MethodError
from prefmerge.merging.api import run
from tests.methods.problems import state_dicts


def test_scale_one_keeps_every_bit():
    base, _ = state_dicts(0)
    merged, receipt = merge_state_dicts(base, [], method="passthrough")
    assert all(merged[name].tobytes() == values.tobytes() for name, values in base.items())
    assert receipt.tasks == ()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_a_scale_multiplies_the_model(dtype: type):
    base = {name: x.astype(dtype) if x.dtype == np.float32 else x for name, x in state_dicts(0)[0].items()}
    merged, receipt = merge_state_dicts(base, [], method="passthrough", scale=0.3)
    for name, values in base.items():
        whole = values.dtype.kind == "i"
        expected = values if whole else (values.astype(np.float64) * 0.3).astype(dtype)
        np.testing.assert_array_equal(merged[name], expected)
        assert receipt.to_json()["tensors"][name]["role"] == ("copied" if whole else "merged")


def test_a_task_beside_it_is_refused():
    base, tasks = state_dicts(1)
    with pytest.raises(MethodError, match=r"^passthrough takes one model alone, found 1 task beside it\. Give that"):
        merge_state_dicts(base, tasks, method="passthrough")


@pytest.mark.parametrize("parameters", ["    parameters: {scale: 0.5}", "parameters: {scale: 0.5}"])
def test_a_recipe_of_mergekit(tmp_path: Path, parameters: str):
    base, (cars,) = state_dicts(1)
    for name, state in (("base", base), ("cars", cars)):
        save_file(state, tmp_path / f"{name}.safetensors")
    text = f"merge_method: passthrough\nmodels:\n  - model: cars.safetensors\n{parameters}\n"
    (tmp_path / "recipe.yaml").write_text(text)
    run(read_recipe(tmp_path / "recipe.yaml"), tmp_path / "out.safetensors")
    merged = load_file(tmp_path / "out.safetensors")
    np.testing.assert_array_equal(merged["deep.weight"], cars["deep.weight"] * np.float32(0.5))
    assert verify(tmp_path / "out.safetensors")
    (tmp_path / "two.yaml").write_text(text.replace("models:", "models:\n  - model: base.safetensors"))
    with pytest.raises(MethodError, match="passthrough takes one model alone"):
        run(read_recipe(tmp_path / "two.yaml"), tmp_path / "two.safetensors")
