"""Thirty recipes like those that people publish for mergekit: how many run, that they are right, and that they load.

`tests/golden/thirty`: two linear, three TIES, two task_arithmetic and five slerp with lists and filters, eight DARE,
two stacks, two over slices of one model, two with another tokenizer, one with an adapter, and one each of arcee_fusion,
DELLA and several documents. What draws nothing is compared with what mergekit makes of it in float32, rounded once to
the recipe's format; the others with their definition: for what is drawn, every element must be one that some draw
gives. (DELLA and the documents: `tests/methods/test_thinned.py`, `test_recipe_documents.py`.)
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from prefmerge import merge_recipes, open_checkpoint, verify
from prefmerge.checkpoints import from_float32, to_float32
from prefmerge.checkpoints.dtypes import by_name
from prefmerge.merging.layers import depths

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
THIRTY = sorted(path.stem for path in (GOLDEN / "thirty").glob("*.yml"))
MERGEKIT = {path.stem for path in (GOLDEN / "thirty" / "outputs").iterdir()}
# Models with a tokenizer, of other sizes each; and models that have the same one.
VOCABULARIES = ("25_ties_union", "26_linear_tokenizer_of_a_model", "29_della_tokens")
SAME_VOCABULARY = ("30_several_documents",)
RUN = [name for name in THIRTY if name not in (*VOCABULARIES, *SAME_VOCABULARY)]
Tensors = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models beside the recipes, and an adapter."""
    folder = tmp_path_factory.mktemp("thirty")
    for name in ("deep_base", "deep_cars", "deep_birds", "deep_digits", "thirty"):
        shutil.copytree(GOLDEN / name, folder / name)
    rng = np.random.default_rng(5)
    factors = {"lora_A": (2, 8), "lora_B": (8, 2)}
    module = "base_model.model.model.layers.1.self_attn.q_proj"
    (folder / "lora").mkdir()
    save_file(
        {f"{module}.{name}.weight": rng.normal(size=shape).astype(np.float32) for name, shape in factors.items()},
        folder / "lora" / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (folder / "lora" / "adapter_config.json").write_text(json.dumps(config))
    return folder


def recipe_of(name: str) -> dict[str, Any]:
    return yaml.safe_load((GOLDEN / "thirty" / f"{name}.yml").read_text())


def in_float32(folder: Path) -> Tensors:
    checkpoint = open_checkpoint(folder)
    tensors = {
        name: to_float32(checkpoint.raw(name), info.dtype).reshape(info.shape)
        for name, info in checkpoint.tensors.items()
    }
    checkpoint.close()
    return tensors


def test_there_are_thirty_and_the_page_says_how_many_run() -> None:
    assert len(THIRTY) == len({*RUN, *VOCABULARIES, *SAME_VOCABULARY}) == 30
    page = (ROOT / "docs" / "from-mergekit.md").read_text(encoding="utf-8")
    assert "Of thirty recipes like those that people publish, all run" in page


@pytest.mark.parametrize("name", RUN)
def test_it_runs_is_right_and_loads(name: str, models: Path, tmp_path: Path) -> None:
    merge_recipes(models / "thirty" / f"{name}.yml", tmp_path / "out")
    assert verify(tmp_path / "out", inputs=True, rerun=True).skipped == ()
    recipe, merged = recipe_of(name), in_float32(tmp_path / "out")
    dtype = by_name(recipe["dtype"])
    checkpoint = open_checkpoint(tmp_path / "out")
    assert {info.dtype for info in checkpoint.tensors.values()} == {dtype}
    checkpoint.close()
    if recipe["merge_method"] == "dare_ties":
        near_one_of_its_draws(recipe, models, merged)
    else:
        expected = by_mergekit(name) if name in MERGEKIT else BY_DEFINITION[name](models)
        assert merged.keys() == expected.keys()
        for tensor, values in expected.items():
            low, high = (rounded(values + step, recipe["dtype"]) for step in (-1e-6, 1e-6))
            assert ((merged[tensor] >= low) & (merged[tensor] <= high)).all(), tensor
    loads(tmp_path / "out")


def by_mergekit(name: str) -> Tensors:
    return load_file(GOLDEN / "thirty" / "outputs" / f"{name}.safetensors")


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """The values in a number format, as float32."""
    stored = from_float32(np.ascontiguousarray(values, np.float32).reshape(-1), by_name(dtype))
    return to_float32(stored, by_name(dtype)).reshape(values.shape)


def loads(folder: Path) -> None:
    torch = pytest.importorskip("torch", reason="loads what was merged")
    transformers = pytest.importorskip("transformers", reason="loads what was merged")
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, output_loading_info=True, dtype=torch.float32
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.no_grad():
        assert model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=2, do_sample=False).shape[1] > 3


# What is drawn


def near_one_of_its_draws(recipe: Mapping[str, Any], models: Path, merged: Tensors) -> None:
    """Each task's value is dropped, or kept and divided by the density; then as in TIES."""
    sources = recipe["slices"][0]["sources"] if "slices" in recipe else recipe["models"]
    tasks = [one for one in sources if one["model"] != recipe["base_model"]]
    base = in_float32(models / "thirty" / recipe["base_model"])
    others = [in_float32(models / "thirty" / one["model"]) for one in tasks]
    common = recipe.get("parameters") or {}
    layers = depths(base)
    dropped = 0
    for name, start in base.items():
        at = float(layers.get(name, 0))
        density, weight = ([along(one["parameters"][key], at) for one in tasks] for key in ("density", "weight"))
        taus = np.array([other[name] - start for other in others], np.float64)
        nearest = np.full(start.shape, np.inf)
        for kept in product((0, 1), repeat=len(tasks)):
            factors = [
                one / (part if common.get("rescale", True) else 1) for one, part in zip(kept, density, strict=True)
            ]
            tau = elected(taus * np.reshape(factors, (-1, *[1] * start.ndim)), weight, common["normalize"])
            values = start + tau
            slack = 1e-6 + np.abs(values - rounded(values, recipe["dtype"]))
            nearest = np.minimum(nearest, np.abs(merged[name] - values) - slack)
        assert (nearest <= 1e-7).all(), name
        dropped += int((merged[name] == rounded(start, recipe["dtype"])).sum())
    assert dropped, "nothing was dropped"


def along(written: Any, depth: float) -> float:
    """The value of a list at a depth."""
    values = written if isinstance(written, list) else [written]
    return float(np.interp(depth * (len(values) - 1), range(len(values)), values))


def elected(taus: np.ndarray, weights: list[float], normalize: bool) -> np.ndarray:
    weighed = taus * np.reshape(weights, (-1, *[1] * (taus.ndim - 1)))
    sign = np.where(weighed.sum(axis=0) >= 0, 1, -1)
    agrees = np.sign(weighed) == sign
    total = (weighed * agrees).sum(axis=0)
    if not normalize:
        return total
    mass = (agrees * np.reshape(weights, (-1, *[1] * (taus.ndim - 1)))).sum(axis=0)
    return total / np.where(mass == 0, 1, mass)


# What mergekit refuses, or what no golden file has


def of_one_model(models: Path) -> Tensors:
    return averaged(models, [[(0, 0.5), (1, 0.5)], [(1, 0.5), (2, 0.5)]])


def of_one_model_with_a_slice_alone(models: Path) -> Tensors:
    return averaged(models, [[(0, 1.0)], [(1, 0.75), (2, 0.25)]])


def averaged(models: Path, layers: list[list[tuple[int, float]]]) -> Tensors:
    """The model `cars` with sums of its own layers."""
    cars = in_float32(models / "deep_cars")
    made = {name: values for name, values in cars.items() if ".layers." not in name}
    for name, values in cars.items():
        if ".layers.0." in name:
            for number, row in enumerate(layers):
                parts = [weight * cars[name.replace(".0.", f".{own}.", 1)].astype(np.float64) for own, weight in row]
                made[name.replace(".0.", f".{number}.", 1)] = np.sum(parts, axis=0).reshape(values.shape)
    return made


def with_an_adapter(models: Path) -> Tensors:
    base, cars, birds = (in_float32(models / f"deep_{name}") for name in ("base", "cars", "birds"))
    factors = load_file(models / "lora" / "adapter_model.safetensors")
    left, right = (next(values for name, values in factors.items() if key in name) for key in ("lora_B", "lora_A"))
    made = {name: base[name] + 0.5 * (cars[name] - base[name]) + 0.3 * (birds[name] - base[name]) for name in base}
    made["model.layers.1.self_attn.q_proj.weight"] += 0.5 * 4 / 2 * (left.astype(np.float64) @ right)
    return made


BY_DEFINITION = {
    "23_linear_of_one_model": of_one_model,
    "24_linear_of_one_model": of_one_model_with_a_slice_alone,
    "27_task_arithmetic_adapter": with_an_adapter,
}


# With other vocabularies: that rows go where they belong is tested in `test_vocabularies.py`, by mergekit's own output


@pytest.fixture(scope="module")
def with_tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipes beside models that have a tokenizer, each of another size."""
    folder = tmp_path_factory.mktemp("with-tokenizers")
    for name in ("base", "cars", "birds"):
        shutil.copytree(GOLDEN / "vocabularies" / name, folder / f"deep_{name}")
    shutil.copytree(GOLDEN / "thirty", folder / "thirty")
    return folder


@pytest.mark.parametrize(("name", "rows"), list(zip(VOCABULARIES, (42, 41, 39), strict=True)))
def test_it_runs_over_several_vocabularies(name: str, rows: int, with_tokenizers: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    merge_recipes(with_tokenizers / "thirty" / f"{name}.yml", out)
    assert verify(out, inputs=True, rerun=True).skipped == ()
    assert in_float32(out)["model.embed_tokens.weight"].shape[0] == rows
    assert json.loads((out / "config.json").read_text())["vocab_size"] == rows
    loads(out)


def test_it_runs_where_all_have_one_vocabulary(models: Path, tmp_path: Path) -> None:
    (name,) = SAME_VOCABULARY
    words = [f"w{i}" for i in range(15)]
    vocabulary = {word: i for i, word in enumerate([*words, "<|im_start|>"])}
    tokenizer = {"model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"}, "added_tokens": []}
    for model in ("deep_base", "deep_cars", "deep_birds"):
        (models / model / "tokenizer.json").write_text(json.dumps(tokenizer))
    merge_recipes(models / "thirty" / f"{name}.yml", tmp_path / "out")
    half = load_file(tmp_path / "out-parts" / "half" / "model.safetensors")
    base, cars, merged = (in_float32(one) for one in (models / "deep_base", models / "deep_cars", tmp_path / "out"))
    for tensor, values in merged.items():
        expected = base[tensor] + 0.8 * (half[tensor] - base[tensor]) + 0.1 * (cars[tensor] - base[tensor])
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-6, err_msg=tensor)
    loads(tmp_path / "out")
