"""How the weights of a folder are cut: as the base's, or as asked; and always the same tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

import prefmerge
from prefmerge.cli import app
from prefmerge.errors import UsageError

SHAPES = {"embed.weight": (30, 4), "layers.0.w": (20, 4), "layers.1.w": (20, 4), "head.w": (30, 4), "scale": ()}
PLACED = {  # not in the order of names, as transformers follows the order of the network
    "embed.weight": "model-00001-of-00003.safetensors",
    "layers.0.w": "model-00001-of-00003.safetensors",
    "layers.1.w": "model-00002-of-00003.safetensors",
    "scale": "model-00002-of-00003.safetensors",
    "head.w": "model-00003-of-00003.safetensors",
}


def sharded(folder: Path, seed: int, index: str = "model.safetensors.index.json", **called: str) -> None:
    """A checkpoint in three files; `called`: other names of them."""
    rng = np.random.default_rng(seed)
    state = {name: np.asarray(rng.standard_normal(shape), np.float32) for name, shape in SHAPES.items()}
    folder.mkdir()
    placed = {name: called.get(f"_{file[10]}", file) for name, file in PLACED.items()}
    for file in set(placed.values()):
        save_file({name: state[name] for name in placed if placed[name] == file}, folder / file)
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": placed}))


@pytest.fixture
def inputs(tmp_path: Path) -> list[Path]:
    for seed, name in enumerate(("base", "cars", "birds")):
        sharded(tmp_path / name, seed)
    return [tmp_path / name for name in ("base", "cars", "birds")]


def placed(out: Path, index: str = "model.safetensors.index.json") -> dict[str, str]:
    """Tensor -> file, by the index; which says what the files hold, and the receipt what files there are."""
    content = json.loads((out / index).read_text())
    held = {name: file.name for file in out.glob("*.safetensors") for name in load_file(file)}
    assert content["weight_map"] == held
    receipt = json.loads((out / "receipt.json").read_text())
    files = {file.name: file.stat().st_size for file in out.glob("*.safetensors")}
    assert {file["name"]: file["bytes"] for file in receipt["output"]["files"]} == files
    return held


def test_a_folder_is_cut_as_its_base_is(inputs: list[Path], tmp_path: Path) -> None:
    base, *tasks = inputs
    receipt = prefmerge.merge(base, tasks, tmp_path / "out")
    assert placed(tmp_path / "out") == PLACED
    assert prefmerge.verify(tmp_path / "out", inputs=True, rerun=True).skipped == ()
    alone = prefmerge.merge(base, tasks, tmp_path / "out.safetensors")
    assert alone.fingerprint == receipt.fingerprint
    again = prefmerge.merge(tmp_path / "out", tasks, tmp_path / "again")
    assert placed(tmp_path / "again") == PLACED
    assert [file.name for file in again.output.files] == sorted(set(PLACED.values()))


def test_names_of_shards_that_follow_no_rule_are_kept(tmp_path: Path) -> None:
    own = {"_1": "first.safetensors", "_2": "second.safetensors", "_3": "third.safetensors"}
    for seed, name in enumerate(("base", "cars")):
        sharded(tmp_path / name, seed, **own)
    prefmerge.merge(tmp_path / "base", [tmp_path / "cars"], tmp_path / "out")
    assert set(placed(tmp_path / "out").values()) == set(own.values())


@pytest.mark.parametrize("given", [{"dtype": "bfloat16"}, {"as_task_vector": True, "method": "last"}])
def test_other_number_formats_and_tensors_are_cut_by_size(given: dict[str, Any], inputs: list[Path]) -> None:
    base, *tasks = inputs
    with_buffer = load_file(base / "model-00002-of-00003.safetensors") | {"ids": np.arange(3)}
    save_file(with_buffer, base / "model-00002-of-00003.safetensors")
    index = base / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": PLACED | {"ids": "model-00002-of-00003.safetensors"}}))
    prefmerge.merge(base, tasks[:1], base.with_name("out"), exclude=["ids"], **given)
    assert [path.name for path in base.with_name("out").glob("*.safetensors*")] == ["model.safetensors"]
    prefmerge.verify(base.with_name("out"))


@pytest.mark.parametrize("size", ["1KB", "600", 1500, "1GB"])
def test_a_size_that_is_asked_for_holds(size: str | int, inputs: list[Path], tmp_path: Path) -> None:
    base, *tasks = inputs
    expected = prefmerge.merge(base, tasks, tmp_path / "whole.safetensors")
    line = ["merge", *map(str, inputs), "-o", str(tmp_path / "out"), "--max-shard-size", str(size)]
    assert CliRunner().invoke(app, line).exit_code == 0
    receipt = prefmerge.merge(base, tasks, tmp_path / "python", max_shard_size=size)
    assert receipt.fingerprint == expected.fingerprint
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert files == [file.name for file in receipt.output.files]
    if size == "1GB":
        assert files == ["model.safetensors"]
        assert not (tmp_path / "out" / "model.safetensors.index.json").exists()
    else:
        limit = {"1KB": 1000, "600": 600}.get(str(size), 1500)
        of_file = placed(tmp_path / "out")
        for file in files:
            state = load_file(tmp_path / "out" / file)
            assert sum(values.nbytes for values in state.values()) <= limit or len(state) == 1
        assert len(set(of_file.values())) > 1
    assert prefmerge.verify(tmp_path / "out", rerun=True).fingerprint == expected.fingerprint


@pytest.mark.parametrize(
    ("out", "size", "message"),
    [
        ("out.safetensors", "1GB", "out.safetensors is one file, and --max-shard-size cuts the weights of a folder"),
        ("out", "large", "--max-shard-size 'large' is not a size; write for instance 256MiB or 2GB"),
        ("out", "0", "--max-shard-size '0' must be positive"),
    ],
)
def test_sizes_that_make_no_sense(out: str, size: str, message: str, inputs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        prefmerge.merge(inputs[0], inputs[1:], tmp_path / out, max_shard_size=size)
    assert not (tmp_path / out).exists()


def test_pickled_shards_are_cut_the_same_way(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="writes pickles")
    for seed, name in enumerate(("base", "cars")):
        sharded(tmp_path / f"{name}-plain", seed)
        (tmp_path / name).mkdir()
        for file in set(PLACED.values()):
            state = load_file(tmp_path / f"{name}-plain" / file)
            pickle = f"pytorch_{file.removesuffix('.safetensors')}.bin"
            torch.save({key: torch.from_numpy(value) for key, value in state.items()}, tmp_path / name / pickle)
        names = {key: f"pytorch_{file.removesuffix('.safetensors')}.bin" for key, file in PLACED.items()}
        (tmp_path / name / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))
    prefmerge.merge(tmp_path / "base", [tmp_path / "cars"], tmp_path / "out")
    assert placed(tmp_path / "out") == PLACED
