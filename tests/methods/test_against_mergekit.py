"""The methods that mergekit has and that draw nothing: each of its recipes, unchanged, gives its tensors.

The files in `tests/golden` were made by mergekit 0.1.5 (`make_golden.py`). mergekit sums in float32, prefmerge in
float64; with values below 2 and three tasks that is a few units of 1.2e-7, hence 1e-6.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from prefmerge.merging.api import run
from prefmerge.merging.recipe_file import read_recipe
from prefmerge.methods import METHODS

GOLDEN = Path(__file__).parents[1] / "golden"
RECIPES = sorted(path.stem for path in GOLDEN.glob("*.yml"))


def test_there_are_recipes() -> None:
    drawn = {"dare_linear", "dare_ties", "della_linear", "della"}
    texts = ((GOLDEN / f"{name}.yml").read_text() for name in RECIPES)
    said = {text.partition("merge_method: ")[2].split()[0] for text in texts}
    assert said == {name for name, method in METHODS.items() if method.mergekit} - drawn
    assert sorted(path.stem for path in (GOLDEN / "outputs").iterdir()) == RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_mergekit_recipe_runs_unchanged(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN)  # mergekit's paths are relative to the working directory
    run(read_recipe(f"{name}.yml"), tmp_path / "merged")
    expected = load_file(GOLDEN / "outputs" / f"{name}.safetensors")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert merged.keys() == expected.keys()
    for tensor, values in expected.items():
        assert merged[tensor].dtype == values.dtype
        assert merged[tensor].shape == values.shape
        np.testing.assert_allclose(merged[tensor], values, rtol=0, atol=1e-6, err_msg=tensor)
