"""What both tools are given: checkpoints that they load, and recipes that they read.

mergekit computes in the `dtype` of the recipe. So for an output in bfloat16 there are two ways to call it: `mergekit`
with `dtype: bfloat16`, as most published recipes have it, and `mergekit, float32` with `dtype: float32` and
`out_dtype: bfloat16`. Not here: running them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import in_float64
from benchmarks.make_checkpoints import config_of, make

OURS, THEIRS, WIDER = "prefmerge", "mergekit", "mergekit, float32"
METHODS = (*in_float64.METHODS, "dare_ties", "slerp")


def variants(dtype: str, *, mergekit: bool) -> dict[str, dict[str, str]]:
    """tool -> the keys of the recipe that say in which format the output is."""
    all_of_them = {OURS: {"dtype": dtype}}
    if mergekit:
        all_of_them[THEIRS] = {"dtype": dtype}
        if dtype != "float32":
            all_of_them[WIDER] = {"dtype": "float32", "out_dtype": dtype}
    return all_of_them


def recipe(method: str, folders: Sequence[Path], formats: Mapping[str, str]) -> dict[str, Any]:
    """The recipe of one of METHODS; `folders` are the base and the tasks. slerp is half-way to the first task."""
    weight, density = {"weight": in_float64.WEIGHT}, {"density": in_float64.DENSITY}
    own = {"linear": {"weight": 1.0}, "ties": {"weight": 1.0} | density, "dare_ties": weight | density, "slerp": {}}
    models = [{"model": str(folder), "parameters": own.get(method, weight)} for folder in folders[1:]]
    base: dict[str, Any] = {} if method == "linear" else {"base_model": str(folders[0])}
    if method == "slerp":
        models = [{"model": str(folder)} for folder in folders[:2]]
        base["parameters"] = {"t": 0.5}
    return {"merge_method": method, "models": models, **base, **formats}


def write(file: Path, method: str, folders: Sequence[Path], formats: Mapping[str, str]) -> Path:
    """Write a recipe; JSON is YAML too. Returns its path."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(recipe(method, folders, formats)), encoding="utf-8")
    return file


def checkpoints(folder: Path, model: str, tasks: int, dtype: str, *, step: float = 1e-4) -> list[Path]:
    """A base and its tasks of one of LANGUAGE_MODELS, each a folder that transformers loads."""
    base, made = make(folder, model=model, tasks=tasks, dtype=dtype, step=step)
    folders = []
    for file in (base, *made):
        own = folder / file.stem
        own.mkdir()
        file.rename(own / "model.safetensors")
        (own / "config.json").write_text(json.dumps(config_of(model, dtype)), encoding="utf-8")
        folders.append(own)
    return folders


def merge_here(recipe_file: Path, out: Path) -> str | None:
    """Merge with prefmerge in this process. None, or the error that it ended with."""
    from prefmerge.errors import PrefmergeError
    from prefmerge.merging.api import run
    from prefmerge.merging.recipe_file import read_recipe

    try:
        run(read_recipe(recipe_file), out)
    except PrefmergeError as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None
