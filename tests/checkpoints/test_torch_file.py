from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefmerge.checkpoints import open_checkpoint, to_float32
from prefmerge.errors import CheckpointCorrupt, CheckpointNotFound, MissingExtra, UnsafePickle, UnsupportedDtype
from tests.checkpoints.files import a_model, arrays_of, assert_same

torch: Any = pytest.importorskip("torch", reason="reading .pt files is the torch extra's")


def state_dict() -> dict[str, Any]:
    return {name: torch.from_numpy(array) for name, array in a_model().items()}


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".pth", ".ckpt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_reads_both_formats(tmp_path: Path, suffix: str, zipped: bool) -> None:
    path = tmp_path / f"birds{suffix}"
    torch.save(state_dict(), path, _use_new_zipfile_serialization=zipped)
    checkpoint = open_checkpoint(path)
    assert_same(arrays_of(checkpoint), a_model())
    assert (checkpoint.name, checkpoint.path, checkpoint.files) == ("birds", path, (path,))
    assert checkpoint.file_of("mask") == path.name
    assert dict(checkpoint.metadata) == {}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists what a process has mapped")
def test_weights_are_mapped_and_not_read(tmp_path: Path) -> None:
    torch.save(state_dict(), tmp_path / "x.pt")
    checkpoint = open_checkpoint(tmp_path / "x.pt")
    assert str(tmp_path / "x.pt") in Path("/proc/self/maps").read_text()
    assert checkpoint.raw("position_ids")[-1] == 10


def test_bfloat16(tmp_path: Path) -> None:
    value = torch.randn(100, generator=torch.Generator().manual_seed(0)).bfloat16()
    torch.save({"w": value}, tmp_path / "x.pt")
    checkpoint = open_checkpoint(tmp_path / "x.pt")
    assert checkpoint.tensors["w"].dtype.name == "bfloat16"
    assert to_float32(checkpoint.raw("w"), checkpoint.tensors["w"].dtype).tobytes() == value.float().numpy().tobytes()


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict"])
def test_nested(tmp_path: Path, wrapper: str) -> None:
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    torch.save(
        {"epoch": 3, wrapper: state_dict(), "optimizer": optimizer, "best": torch.tensor(0.5)}, tmp_path / "x.pt"
    )
    assert_same(arrays_of(open_checkpoint(tmp_path / "x.pt")), a_model())


def test_plain_values_are_left_out(tmp_path: Path) -> None:
    torch.save({**state_dict(), "epoch": 3, "lr": 0.1, "note": "x", "shape": (1, 2), "none": None}, tmp_path / "x.pt")
    assert_same(arrays_of(open_checkpoint(tmp_path / "x.pt")), a_model())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_common_prefixes(tmp_path: Path, prefix: str) -> None:
    torch.save({prefix + name: value for name, value in state_dict().items()}, tmp_path / "x.pt")
    assert_same(arrays_of(open_checkpoint(tmp_path / "x.pt")), a_model())


def test_a_prefix_that_one_tensor_lacks_stays(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "x.pt")
    assert set(open_checkpoint(tmp_path / "x.pt").tensors) == {"module.a", "b"}


def test_tied_and_shared_tensors(tmp_path: Path) -> None:
    """Only the whole tensor again is an alias: not a part, not a transpose, not an equal copy, not another empty
    one."""
    w = torch.arange(9.0).reshape(3, 3)
    tensors = {
        "a": w,
        "z": w,
        "m": w.view(3, 3),
        "part": w[:2],
        "t": w.T,
        "copy": w.clone(),
        "e1": torch.ones(0),
        "e2": torch.ones(0),
    }
    torch.save(tensors, tmp_path / "x.pt")
    checkpoint = open_checkpoint(tmp_path / "x.pt")
    assert dict(checkpoint.aliases) == {"m": "a", "z": "a"}
    assert_same(arrays_of(checkpoint), {name: value.numpy() for name, value in tensors.items()})


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("code-of-the-pickle-ran",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code(tmp_path: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.ones(2), "x": Payload()}, "evil.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        UnsafePickle,
        match=r"evil.pt: is a pickle that wants to run code \(posix.mkdir\)(?s:.*)torch.save\(tensors\(torch.load",
    ):
        open_checkpoint("evil.pt")
    assert not Path("code-of-the-pickle-ran").exists()


def test_a_whole_module(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pt")
    with pytest.raises(UnsafePickle, match=r"wants to run code \(torch.nn.modules.linear.Linear\)"):
        open_checkpoint(tmp_path / "x.pt")


def test_a_plain_pickle(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(pickle.dumps({"w": Payload()}))
    with pytest.raises(UnsafePickle, match=r"x.pt: is a pickle"):
        open_checkpoint(tmp_path / "x.pt")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "x.pt")
    with pytest.raises(UnsafePickle, match=r"is a TorchScript program(?s:.*)torch.jit.load"):
        open_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [0, 40, -40])
def test_truncated(tmp_path: Path, zipped: bool, kept: int) -> None:
    path = tmp_path / "x.pt"
    torch.save(state_dict(), path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises((CheckpointCorrupt, UnsafePickle), match=r"x.pt: "):
        open_checkpoint(path)


def test_pointer_and_junk(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointCorrupt, match="git lfs pull"):
        open_checkpoint(tmp_path / "x.pt")
    (tmp_path / "x.pt").write_bytes(b"hello, world" * 9)
    with pytest.raises(CheckpointCorrupt, match="is a text, not weights"):
        open_checkpoint(tmp_path / "x.pt")
    (tmp_path / "x.pt").write_bytes(b"hello\x00world" * 9)
    with pytest.raises(CheckpointCorrupt, match="torch cannot read it"):
        open_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3}, r"holds no tensors \(keys: 'epoch'\)"),
        ({}, r"holds no tensors \(keys: none\)"),
        ([1, 2], "holds a list, not a state dict"),
        ({"encoders": [torch.ones(2)], "b": torch.ones(1)}, "'encoders' is a list with tensors inside"),
        ({3: torch.ones(2)}, "key 3 is a int; tensors are named by strings"),
    ],
)
def test_what_is_no_state_dict(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointCorrupt, match=message):
        open_checkpoint(tmp_path / "x.pt")


def test_sparse_tensors(tmp_path: Path) -> None:
    torch.save({"w": torch.eye(3).to_sparse()}, tmp_path / "x.pt")
    with pytest.raises(UnsupportedDtype, match=r"x.pt: tensor 'w' is a sparse_coo tensor of float32"):
        open_checkpoint(tmp_path / "x.pt")


def test_eight_bit_floats(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3).to(torch.float8_e4m3fn)}, tmp_path / "x.pt")
    assert open_checkpoint(tmp_path / "x.pt").tensors["w"].dtype.family == "other"


def test_sharded_bin(tmp_path: Path) -> None:
    """The names in an index are the names in its shards: prefixes stay."""
    import json

    tensors = {f"module.{name}": value for name, value in state_dict().items()}
    names = sorted(tensors)
    shards = {"pytorch_model-00001-of-00002.bin": names[:2], "pytorch_model-00002-of-00002.bin": names[2:]}
    for file, held in shards.items():
        torch.save({name: tensors[name] for name in held}, tmp_path / file)
    placed = {name: file for file, held in shards.items() for name in held}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": placed}))
    assert_same(arrays_of(open_checkpoint(tmp_path)), {name: value.numpy() for name, value in tensors.items()})


def test_not_there_and_no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefmerge.checkpoints.torch_file import open_torch_file

    with pytest.raises(CheckpointNotFound, match="no such file"):
        open_torch_file(tmp_path / "x.pt")
    torch.save(state_dict(), tmp_path / "x.pt")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra, match=r"reading x.pt needs .* pip install 'prefmerge\[torch\]'"):
        open_checkpoint(tmp_path / "x.pt")


def test_arrays_are_read_only(tmp_path: Path) -> None:
    torch.save(state_dict(), tmp_path / "x.pt")
    with pytest.raises(ValueError, match="read-only"):
        open_checkpoint(tmp_path / "x.pt").raw("layer.weight")[0] = np.float64(1)
