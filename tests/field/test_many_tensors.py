"""Checkpoints of very many small tensors: what is kept for each of them, in memory and in the receipt, is small."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from prefmerge import Receipt, merge, verify
from prefmerge.merging import grouped

EACH = 16 << 10  # bytes; what one more tensor of 16 elements may take: three headers, a plan, a receipt
FEW, MANY = 100, 500


def made(folder: Path, count: int) -> list[Path]:
    paths: list[Path] = []
    for seed, name in enumerate(("base", "t1", "t2")):
        values = np.random.default_rng(seed).standard_normal((count, 16)).astype(np.float32)
        paths.append(folder / f"{name}-{count}.safetensors")
        save_file({f"layers.{i}.weight": values[i] for i in range(count)}, paths[-1])
    return paths


def peak(folder: Path, count: int, **how: Any) -> int:
    """The most memory in bytes that a merge of so many tensors took at a time."""
    base, *tasks = made(folder, count)
    tracemalloc.start()
    try:
        merge(base, tasks, folder / f"out-{count}.safetensors", threads=1, **how)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "how",
    [
        {"method": "magmax"},
        {"scope": "tensor"},
        {"scope": "model"},
        {"scope": "model", "selection": "paper"},
        {"scope": "model", "selection": "paper", "strength": 0.5},
        {"scope": "model", "selection": "released"},
        {"scope": "model", "importance": "step", "sequential": True, "strength": 0.5},
        {"method": "ties"},
        {"method": "dare_ties"},
    ],
    ids=lambda how: " ".join(map(str, how.values())),
)
def test_attack_s4_a_small_tensor_takes_little_memory(how: dict[str, Any], tmp_path: Path) -> None:
    base, *tasks = made(tmp_path, 2)
    merge(base, tasks, tmp_path / "first.safetensors", threads=1, **how)  # compiles the kernels
    assert peak(tmp_path, MANY, **how) - peak(tmp_path, FEW, **how) < EACH * (MANY - FEW)


@pytest.mark.parametrize("how", [{"method": "magmax"}, {}, {"selection": "paper"}], ids=["magmax", "optimal", "paper"])
def test_case_20_the_receipt_of_many_tensors_is_smaller_than_their_weights(how: dict[str, Any], tmp_path: Path) -> None:
    base, *tasks = made(tmp_path, grouped.MANY)
    out = tmp_path / "out.safetensors"
    receipt = merge(base, tasks, out, threads=1, **how)
    written = Path(f"{out}.receipt.json")
    assert written.stat().st_size < 0.75 * out.stat().st_size
    assert Receipt.load(written).tensors == receipt.tensors
    assert verify(out).tensors == len(receipt.tensors)


def test_case_20_a_receipt_of_few_tensors_says_everything_of_each(tmp_path: Path) -> None:
    base, *tasks = made(tmp_path, FEW)
    merge(base, tasks, tmp_path / "out.safetensors", threads=1, method="magmax")
    data = json.loads((tmp_path / "out.safetensors.receipt.json").read_text())
    assert data["format"] == "prefmerge-receipt/1"
    assert "groups" not in data
    assert data["tensors"]["layers.0.weight"].keys() == {"shape", "dtype", "role", "owned", "xxh3"}
