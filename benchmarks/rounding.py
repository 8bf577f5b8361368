"""What share of a merge's elements is not the float64 result rounded once to the output's format?

One layer of Qwen2's shapes and five tasks in sequence, each of which changes elements by about STEPS: 1e-4 is 1 % of
the weights' standard deviation, as after careful fine-tuning, 1e-3 is 9 %. The larger the changes, the more there is to
round. All tensors of the outputs are compared (`benchmarks.in_float64`). A minute or two. Not here: time and memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from benchmarks import in_float64, mergekit_recipes
from benchmarks.make_checkpoints import shapes_of
from benchmarks.mergekit_program import Mergekit

CASES = (("bfloat16", 1e-4), ("bfloat16", 1e-3), ("float32", 1e-4))  # format, size of the tasks' changes


def read(folder: Path, name: str) -> np.ndarray:
    """A tensor in float64 (torch reads it: NumPy has no bfloat16)."""
    with safe_open(folder / "model.safetensors", framework="pt") as tensors:
        return tensors.get_tensor(name).double().numpy()


def count(out: Path, method: str, folders: Sequence[Path], dtype: str, names: Sequence[str]) -> dict[str, int]:
    """How many elements of an output are not the float64 result rounded once, and how many are further off."""
    wrong = further = elements = 0
    for name in names:
        base, *tasks = (read(folder, name) for folder in folders)
        away = in_float64.steps(read(out, name), method, base, tasks, dtype)
        wrong, further, elements = wrong + int((away > 0).sum()), further + int((away > 1).sum()), elements + away.size
    return {"elements": elements, "wrong": wrong, "further": further}


def measure(folder: Path, mergekit: Mergekit | None, model: str, tasks: int) -> list[dict[str, Any]]:
    """One row for every case, method and tool."""
    rows = []
    for number, (dtype, step) in enumerate(CASES):
        own = folder / f"case-{number}"
        folders = mergekit_recipes.checkpoints(own, model, tasks, dtype, step=step)
        tools = mergekit_recipes.variants(dtype, mergekit=mergekit is not None)
        merges = [
            (method, tool, own / f"{method}-of-{n}") for method in in_float64.METHODS for n, tool in enumerate(tools)
        ]
        for method, tool, out in merges:
            mergekit_recipes.write(out.with_suffix(".yml"), method, folders, tools[tool])
        theirs = [out for _, tool, out in merges if tool != mergekit_recipes.OURS]
        errors = [
            mergekit_recipes.merge_here(out.with_suffix(".yml"), out)
            for _, tool, out in merges
            if tool == mergekit_recipes.OURS
        ]
        if mergekit:
            errors += mergekit.in_a_row([out.with_suffix(".yml") for out in theirs], theirs, own)
        assert not any(errors), errors
        for method, tool, out in merges:
            counted = count(out, method, folders, dtype, list(shapes_of(model)))
            rows.append({"dtype": dtype, "step": step, "method": method, "tool": tool, **counted})
            print(rows[-1], flush=True)
        shutil.rmtree(own)
    return rows
