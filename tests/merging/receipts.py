"""Small merges whose receipts are kept in tests/golden/receipts: one for each method, kind of output, kind of tensor.

    python -m tests.merging.receipts        writes the golden files again, from the code as it is

They were written before a receipt was made of classes, so they hold the format of version 1. In a golden file the
folder of the inputs is `/made`, and the machine is `host`; what varies from run to run is kept as it was.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

import prefmerge

GOLDEN = Path(__file__).parent.parent / "golden" / "receipts"
BESIDE_BASE = {"config.json": '{"model_type": "llama", "torch_dtype": "float32"}', "tokenizer.json": "{}"}

FILES: dict[str, dict[str, Any]] = {
    "default": {},
    "sequential": {"sequential": True},
    "as_published": {"as_published": True},
    "uniform": {"selection": "paper"},
    "paper": {"preference": "cars=0.7,birds=0.3", "selection": "paper", "seed": 3},
    "printed": {"preference": "alpha:2", "selection": "printed", "passes": 3},
    "toward_last": {"preference": "0.2,0,0.8", "selection": "optimal", "scale": 0.5, "toward_last": "0.25"},
    "whole_model": {"preference": "5,3,2", "selection": "paper", "scope": "model", "importance": "step", "scale": 0.5},
    "blended": {"preference": "0.5,0.3,0.2", "selection": "paper", "strength": "0.5", "carry": "1/3", "scope": "model"},
    "increments": {"method": "increments", "preference": "0.6,0.2,0.2"},
    "magmax": {"method": "magmax"},
    "max_abs": {"method": "max_abs", "scale": 0.3, "exclude": ["head.*"]},
    "average": {"method": "average", "dtype": "bfloat16"},
    "task_arithmetic": {"method": "task_arithmetic", "weights": [1, "1/3", 0.5]},
    "linear": {"method": "linear", "weights": [2, 1, None], "base_weight": "0.5", "normalize": False},
    "random_mix": {"method": "random_mix", "seed": 7},
    "ties": {"method": "ties", "density": "0.4", "weights": [1, 2, 3]},
    "last": {"method": "last", "as_task_vector": True},
    "sha256": {"method": "magmax", "sha256": True},
}
FOLDERS: dict[str, dict[str, Any]] = {"folder": {"preference": "cars=1", "selection": "paper", "dtype": "float16"}}
IN_MEMORY: dict[str, dict[str, Any]] = {
    "memory": {"preference": "uniform", "selection": "paper"},
    "memory_average": {"method": "average"},
}
CASES = [*FILES, *FOLDERS, *IN_MEMORY]


def states() -> list[dict[str, np.ndarray]]:
    """The base and three tasks, from whole numbers alone: the same on every machine and with every NumPy."""
    made = []
    for task in range(4):
        state: dict[str, np.ndarray] = {}
        for place, (name, shape) in enumerate({"a.weight": (6, 7), "b.weight": (5,), "head.weight": (3, 4)}.items()):
            at = np.arange(int(np.prod(shape)), dtype=np.int64)
            base = (at * 37 + place * 11) % 101 - 50
            step = ((at + 1) * (task * 53 + 29) + place * 17) % 89 - 44 if task else 0 * at
            state[name] = ((base * 64 + step * (1 + task)) / 1024).astype(np.float32).reshape(shape)
        state["copy.weight"] = state["b.weight"].copy()
        state["same"] = np.array([1.5, -2.0], np.float32)
        state["steps"] = np.array([task], np.int64)
        state["nothing"] = np.zeros((0,), np.float32)
        made.append(state)
    return made


def merged(case: str, folder: Path) -> prefmerge.Receipt:
    """Make the inputs in `folder`, merge them, and give the receipt."""
    base, *tasks = states()
    names = ["cars", "birds", "digits"]
    if case in IN_MEMORY:
        return prefmerge.merge_state_dicts(base, tasks, names=names, **IN_MEMORY[case])[1]
    with contextlib.chdir(folder):
        for name, state in zip(("base", *names), (base, *tasks), strict=True):
            Path(name).mkdir()
            save_file(state, Path(name) / "model.safetensors")
            for other, content in BESIDE_BASE.items() if name == "base" else ():
                (Path(name) / other).write_text(content)
        out = "out" if case in FOLDERS else "out.safetensors"
        given = FOLDERS[case] if case in FOLDERS else FILES[case]
        return prefmerge.merge("base", names, out, threads=2, **given)


def written(case: str, folder: Path) -> bytes:
    """The receipt as it was written, or would be."""
    receipt = merged(case, folder)
    place = {**dict.fromkeys(FILES, "out.safetensors.receipt.json"), **dict.fromkeys(FOLDERS, "out/receipt.json")}
    return (folder / place[case]).read_bytes() if case in place else receipt.to_bytes()


def main() -> None:
    """Write the golden files."""
    GOLDEN.mkdir(exist_ok=True)
    for case in CASES:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(os.path.realpath(made))
            text = written(case, folder).decode().replace(str(folder), "/made")
            run: Mapping[str, Any] = json.loads(text)["run"]
            if "host" in run:
                text = text.replace(json.dumps(run["host"]), '"host"')
            (GOLDEN / f"{case}.json").write_text(text)


if __name__ == "__main__":
    main()
