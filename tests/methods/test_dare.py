"""DARE: which elements are dropped is a fair and repeatable draw, and what is made of the rest is the paper's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from prefmerge import merge_state_dicts, read_recipe
from prefmerge.errors import RecipeError
from prefmerge.merging.api import run
from tests.methods.problems import gaussian
from tests.oracles import methods as oracle

N = 40_000
BOTH = pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])


def merged(base: Any, tasks: Any, **settings: Any) -> np.ndarray:
    return merge_state_dicts(base, tasks, **settings)[0]["w"]


@BOTH
@pytest.mark.parametrize("density", [0.1, 0.5, 0.93])
@pytest.mark.parametrize("rescale", [True, False])
def test_of_one_task_the_asked_part_is_kept_and_rescaled(method: str, density: float, rescale: bool):
    _, tasks = gaussian(1, N)
    base = {"w": np.zeros(N, np.float32)}
    found = merged(base, tasks, method=method, density=density, rescale=rescale)
    kept = found != 0
    error = np.sqrt(density * (1 - density) / N)
    assert abs(kept.mean() - density) < 5 * error
    expected = tasks[0]["w"] * (np.float64(1) / density if rescale else 1)
    np.testing.assert_array_equal(found[kept], expected.astype(np.float32)[kept])


def test_draws_differ_by_seed_by_task_and_by_tensor_and_are_independent():
    base = {name: np.zeros(N, np.float32) for name in ("v", "w")}
    task = {"v": np.full(N, 2, np.float32), "w": np.ones(N, np.float32)}  # two tensors, not one with two names
    one, _ = merge_state_dicts(base, [task], method="dare_linear", density=0.5)
    other, _ = merge_state_dicts(base, [task], method="dare_linear", density=0.5, seed=1)
    second, _ = merge_state_dicts(base, [base, task], method="dare_linear", density=0.5)
    masks = [found != 0 for found in (one["w"], one["v"], other["w"], second["w"])]
    for i, a in enumerate(masks):
        for b in masks[:i]:
            assert abs((a & b).mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / N)


def test_a_smaller_density_keeps_a_part_of_what_a_larger_one_keeps():
    _, tasks = gaussian(1, N)
    base = {"w": np.zeros(N, np.float32)}
    few, many = (merged(base, tasks, method="dare_linear", density=part) != 0 for part in (0.2, 0.6))
    assert not (few & ~many).any()


@BOTH
def test_without_dropping_it_is_the_plain_sum(method: str):
    base, tasks = gaussian(3, 500)
    how: dict[str, Any] = {"weights": [1, 0.5, -2], "scale": 0.7}
    plain: dict[str, Any] = {"method": "task_arithmetic"}
    if method == "dare_ties":
        plain = {"method": "ties", "density": 1, "normalize": False}
    expected = merged(base, tasks, **plain, **how)
    np.testing.assert_array_equal(merged(base, tasks, method=method, density=1, **how), expected)


@pytest.mark.parametrize("normalize", [True, False])
def test_the_rest_is_merged_as_the_oracle_does(normalize: bool):
    """What each task keeps is seen by merging it alone, in its own place."""
    base, tasks = gaussian(3, 300)
    base = {"w": np.zeros(300, np.float32)}
    nothing, densities, weights = base, [0.3, 0.6, 0.9], [1, 0.5, 2]
    rows = [
        merged(base, [task if i == j else nothing for j in range(3)], method="dare_linear", density=densities)
        for i, task in enumerate(tasks)
    ]
    total = sum(weight * row.astype(np.float64) for weight, row in zip(weights, rows, strict=True))
    how: dict[str, Any] = {"weights": weights, "density": densities, "normalize": normalize}
    found = merged(base, tasks, method="dare_linear", **how)
    np.testing.assert_allclose(found, total / (3.5 if normalize else 1), rtol=1e-6)
    elected = oracle.ties_vector(np.array(rows, np.float64), weights, normalize)
    np.testing.assert_allclose(merged(base, tasks, method="dare_ties", **how), elected, rtol=1e-6, atol=1e-7)


def test_the_mean_over_seeds_is_the_sum_of_the_task_vectors():
    base, tasks = gaussian(2, 50)
    base = {"w": np.zeros(50, np.float32)}
    found = np.mean([merged(base, tasks, method="dare_linear", density=0.5, seed=seed) for seed in range(400)], axis=0)
    spread = np.sqrt(sum(task["w"].astype(np.float64) ** 2 for task in tasks) / 400)
    assert (np.abs(found - sum(task["w"] for task in tasks)) < 5 * spread).all()


def test_a_recipe_of_mergekit(tmp_path: Path):
    """Its keys and its defaults: nothing is dropped where no density is given."""
    base, tasks = gaussian(2, 400)
    for name, state in zip(("base", "cars", "birds"), (base, *tasks), strict=True):
        save_file(state, tmp_path / f"{name}.safetensors")
    text = "\n".join(
        [
            "merge_method: dare_ties",
            "base_model: base.safetensors",
            "models:",
            "  - model: base.safetensors",
            "  - model: cars.safetensors",
            "    parameters: {density: 0.53, weight: 0.4}",
            "  - model: birds.safetensors",
            "    parameters: {weight: 0.3}",
            "parameters: {int8_mask: true, rescale: true, normalize: false, lambda: 1}",
        ]
    )
    (tmp_path / "recipe.yaml").write_text(text)
    recipe = read_recipe(tmp_path / "recipe.yaml")
    receipt = run(recipe, tmp_path / "out.safetensors")
    settings = receipt.to_json()["recipe"]
    assert settings["method"] == "dare_ties"
    assert settings["density"] == ["0.53", "1"]
    again = merged(base, tasks, method="dare_ties", weights=[0.4, 0.3], density=["0.53", 1])
    np.testing.assert_array_equal(load_file(tmp_path / "out.safetensors")["w"], again)
    (tmp_path / "wrong.yaml").write_text(text.replace("dare_ties", "ties"))
    with pytest.raises(RecipeError, match="line 9: rescale: true belongs to methods that drop elements at random"):
        read_recipe(tmp_path / "wrong.yaml")
