from __future__ import annotations

import errno
import json
import os
import random
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from prefmerge.checkpoints import content_fingerprint, from_state_dict, open_checkpoint
from prefmerge.checkpoints.protocol import TensorInfo
from prefmerge.errors import OutputError, OutputExists
from prefmerge.ground import atomic, disk
from prefmerge.outputs.receipts import find_receipt
from prefmerge.outputs.write import OutputKind, create_output
from tests.checkpoints.files import OURS, a_model, arrays_of, assert_same, info_of, save

MODEL = a_model()
INFOS = [info_of(name, array) for name, array in MODEL.items()]
KINDS: list[OutputKind] = ["file", "folder"]


def start(target: Path, kind: OutputKind = "file", force: bool = False, **options: Any) -> Any:
    return create_output(target, INFOS, metadata={}, kind=kind, force=force, **options)


def test_the_library_loads_a_file(tmp_path: Path) -> None:
    path = save(tmp_path / "out.safetensors", MODEL, metadata={"x": "ü"}, receipt=b'{"r": 1}')
    assert_same(load_file(path), MODEL)
    assert open_checkpoint(path).metadata == {"format": "pt", "x": "ü"}
    assert {p.name for p in tmp_path.iterdir()} == {"out.safetensors", "out.safetensors.receipt.json"}
    assert find_receipt(path) == tmp_path / "out.safetensors.receipt.json"
    assert (tmp_path / "out.safetensors.receipt.json").read_bytes() == b'{"r": 1}'


def test_a_folder_of_one_file(tmp_path: Path) -> None:
    folder = save(tmp_path / "out", MODEL, kind="folder")
    assert {p.name for p in folder.iterdir()} == {"model.safetensors", "receipt.json"}
    assert_same(load_file(folder / "model.safetensors"), MODEL)
    assert find_receipt(folder) == folder / "receipt.json"


def test_a_folder_of_shards(tmp_path: Path) -> None:
    """No shard above the limit but for a tensor that is; every tensor in the file that the index names."""
    folder = save(tmp_path / "out", MODEL, kind="folder", max_shard_bytes=100)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in MODEL.values())
    shards = sorted(folder.glob("model-*.safetensors"))
    assert [p.name for p in shards] == [
        f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)
    ]
    assert len(shards) == 4
    for shard in shards:
        held = load_file(shard)
        assert len(held) == 1 or sum(array.nbytes for array in held.values()) <= 100
        assert {name for name, file in index["weight_map"].items() if file == shard.name} == set(held)
    assert_same(arrays_of(open_checkpoint(folder)), MODEL)


@pytest.mark.parametrize(
    ("name", "shard", "index"),
    [
        ("model.safetensors", "model-{}.safetensors", "model.safetensors.index.json"),
        (
            "diffusion_pytorch_model.safetensors",
            "diffusion_pytorch_model-{}.safetensors",
            "diffusion_pytorch_model.safetensors.index.json",
        ),
        ("model.fp16.safetensors", "model.fp16-{}.safetensors", "model.safetensors.index.fp16.json"),
        ("my.model.v2.safetensors", "my.model.v2-{}.safetensors", "my.model.v2.safetensors.index.json"),
    ],
)
def test_weights_and_index_are_called_as_asked(tmp_path: Path, name: str, shard: str, index: str) -> None:
    whole = save(tmp_path / "whole", MODEL, kind="folder", weights_name=name)
    assert {p.name for p in whole.iterdir()} == {name, "receipt.json"}
    parts = save(tmp_path / "parts", MODEL, kind="folder", max_shard_bytes=100, weights_name=name)
    shards = {shard.format(f"{i:05}-of-00004") for i in range(1, 5)}
    assert {p.name for p in parts.iterdir()} == {*shards, index, "receipt.json"}
    for folder in (whole, parts, parts / index):
        assert_same(arrays_of(open_checkpoint(folder)), MODEL)
    plain = save(tmp_path / "plain", MODEL, kind="folder")
    assert (whole / name).read_bytes() == (plain / "model.safetensors").read_bytes()
    one = save(tmp_path / "one.safetensors", MODEL, weights_name=name)
    assert one.is_file()
    with start(tmp_path / "out", "folder", weights_name=name, max_shard_bytes=100) as out:
        for taken in (index, *shards):
            with pytest.raises(ValueError, match="is not a name for a file beside the weights, or is taken"):
                out.add_file(taken, b"")


@pytest.mark.parametrize("block", [1, 7, 4096])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bytes_for_blocks_in_any_order_from_threads(tmp_path: Path, kind: OutputKind, block: int) -> None:
    small = {name: array for name, array in MODEL.items() if array.size < 100} | {"w": MODEL["embed.weight"][:9].copy()}
    expected = save(tmp_path / "whole", small, kind=kind, max_shard_bytes=300)
    blocks = [(name, begin) for name, array in small.items() for begin in range(0, array.size, block)]
    random.Random(0).shuffle(blocks)
    infos = [info_of(name, array) for name, array in small.items()]
    random.Random(1).shuffle(infos)
    with create_output(tmp_path / "parts", infos, metadata={}, kind=kind, force=False, max_shard_bytes=300) as out:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda b: out.write(b[0], b[1], small[b[0]].reshape(-1)[b[1] : b[1] + block]), blocks))
        out.publish(OURS)
    assert content_of(tmp_path / "parts") == content_of(expected)


def test_the_system_may_write_less_than_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Linux does beyond 2 GiB."""
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:70_001], offset))
    assert_same(load_file(save(tmp_path / "out.safetensors", MODEL)), MODEL)


def content_of(path: Path) -> dict[str, bytes]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {file.name if path.is_dir() else "": file.read_bytes() for file in files}


def test_metadata_in_any_order(tmp_path: Path) -> None:
    one = save(tmp_path / "1", MODEL, metadata={"a": "1", "b": "2", "c": "3"})
    two = save(tmp_path / "2", MODEL, metadata={"c": "3", "b": "2", "a": "1"})
    assert one.read_bytes() == two.read_bytes()


def test_what_was_written_can_be_read_before_it_is_published(tmp_path: Path) -> None:
    from prefmerge.checkpoints import Fingerprint

    fingerprint = Fingerprint(INFOS)
    with start(tmp_path / "out") as out:
        for name, array in MODEL.items():
            view = out.raw(name)
            out.write(name, 0, array.reshape(-1))
            assert view.tobytes() == array.tobytes()
            assert not view.flags.writeable
            assert view.flags.aligned
            fingerprint.add(name, view, 0)
        last = out.raw("mask")
        out.publish(b"{}")
    assert last.tobytes() == MODEL["mask"].tobytes()  # a view outlives the output
    assert fingerprint.hexdigest() == content_fingerprint(from_state_dict(MODEL, name="x"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_receipt_is_told_the_weights_files(tmp_path: Path, kind: OutputKind) -> None:
    told: list[list[dict[str, Any]]] = []
    with start(tmp_path / "out", kind, max_shard_bytes=1000) as out:
        for name, array in MODEL.items():
            out.write(name, 0, array.reshape(-1))
        out.publish(lambda files: told.append(files) or b"{}")
    weights = [tmp_path / "out"] if kind == "file" else sorted((tmp_path / "out").glob("*.safetensors"))
    assert told == [[{"name": path.name, "bytes": path.stat().st_size} for path in weights]]


def test_companions(tmp_path: Path) -> None:
    (tmp_path / "blob").write_text("{}")
    (tmp_path / "config.json").symlink_to(tmp_path / "blob")
    with start(tmp_path / "out", "folder") as out:
        for name, array in MODEL.items():
            out.write(name, 0, array.reshape(-1))
        out.add_file("README.md", b"card")
        out.add_file("config.json", tmp_path / "config.json")
        out.add_file("code/model.py", b"pass")
        for bad in [
            "README.md",
            "receipt.json",
            "model.safetensors",
            "model.safetensors.index.json",
            "../x",
            "/x",
            "",
            "a/../../x",
        ]:
            with pytest.raises(ValueError, match="is not a name for a file beside the weights, or is taken"):
                out.add_file(bad, b"")
        out.publish(b"{}")
    made = tmp_path / "out"
    assert not (made / "config.json").is_symlink()
    assert {p.relative_to(made).as_posix(): p.read_text() for p in made.rglob("*") if p.suffix in {".md", ".py"}} == {
        "README.md": "card",
        "code/model.py": "pass",
    }
    with start(tmp_path / "file") as out, pytest.raises(ValueError, match="only a folder takes files"):
        out.add_file("README.md", b"")


@pytest.mark.parametrize("kind", KINDS)
def test_permissions_are_those_of_any_new_file(tmp_path: Path, kind: OutputKind) -> None:
    before = os.umask(0o027)
    try:
        path = save(tmp_path / "out", MODEL, kind=kind)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == (0o640 if kind == "file" else 0o750)
    receipt = find_receipt(path)
    assert receipt is not None
    assert stat.S_IMODE(receipt.stat().st_mode) == 0o640


# Leaving no trace, and the traces that others left.


@pytest.mark.parametrize("kind", KINDS)
def test_unpublished_leaves_nothing(tmp_path: Path, kind: OutputKind) -> None:
    def interrupted() -> None:
        with start(tmp_path / "a" / "b" / "out", kind) as out:
            out.write("mask", 0, MODEL["mask"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_parents_are_made(tmp_path: Path, kind: OutputKind) -> None:
    assert_same(arrays_of(open_checkpoint(save(tmp_path / "a" / "b" / "out.safetensors", MODEL, kind=kind))), MODEL)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_that_is_not_wholly_written(tmp_path: Path, kind: OutputKind) -> None:
    with (
        start(tmp_path / "out", kind) as out,
        pytest.raises(ValueError, match=r"tensor 'embed.weight': 0 of 150000 elements were written"),
    ):
        out.publish(b"{}")
    assert list(tmp_path.iterdir()) == []


def test_blocks_that_do_not_fit(tmp_path: Path) -> None:
    with start(tmp_path / "out") as out:
        for begin, block in [(5, MODEL["mask"]), (-1, MODEL["mask"]), (0, MODEL["mask"].view(np.uint8))]:
            with pytest.raises(ValueError, match="tensor 'mask' takes 9 elements of bool, not elements"):
                out.write("mask", begin, block)


def test_a_tensor_given_twice(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tensor 'mask' is given twice"):
        create_output(tmp_path / "out", [*INFOS, INFOS[5]], metadata={}, kind="file", force=False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stale_temporary_goes_and_a_living_one_stays(tmp_path: Path, kind: OutputKind) -> None:
    stale = tmp_path / ".out.prefmerge-0123456789ab.tmp"
    (stale / "below").mkdir(parents=True)
    (stale / "model.safetensors").write_bytes(b"half")
    (tmp_path / ".out.prefmerge.lock").write_text("999999999 elsewhere")
    others = {
        tmp_path / ".other.prefmerge-0123456789ab.tmp",
        tmp_path / ".out.prefmerge-mine.tmp",
        tmp_path / ".out.tmp",
    }
    for other in others:
        other.mkdir()
    living = atomic.make_work_folder(tmp_path / "out")
    save(tmp_path / "out", MODEL, kind=kind)
    left = {path for path in tmp_path.iterdir() if path.name.startswith(".")}
    assert left == others | {living.path}
    living.discard()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("supported", [True, False])
@pytest.mark.parametrize(("home", "moment"), [(disk, "sync_path"), (atomic, "rename_new")])
def test_what_appears_at_the_last_moment_is_not_overwritten(
    tmp_path: Path, kind: OutputKind, supported: bool, home: ModuleType, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the last check and the rename."""
    if not supported:
        monkeypatch.setattr(atomic, "_rename_with", lambda *_: False)
    real, target = getattr(home, moment), tmp_path / "out"

    def late(*paths: Path) -> None:
        monkeypatch.setattr(home, moment, real)
        target.write_text("x") if kind == "file" else target.mkdir()
        real(*paths)

    with start(target, kind) as out:
        for name, array in MODEL.items():
            out.write(name, 0, array.reshape(-1))
        monkeypatch.setattr(home, moment, late)
        with pytest.raises(OutputExists, match="appeared while the merge was running"):
            out.publish(b"{}")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert target.read_text() == "x" if kind == "file" else not list(target.iterdir())


def test_the_exchange_is_one_call_here(tmp_path: Path) -> None:
    """Or the tests of atomicity test the fallback only."""
    if sys.platform not in ("linux", "darwin"):
        pytest.skip("this system cannot swap two files in one call")
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert atomic.exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / "b").exists()
    assert (tmp_path / "b" / "a").exists()
    with pytest.raises(FileNotFoundError):
        atomic.exchange(tmp_path / "a", tmp_path / "missing")


def test_a_failed_fallback_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_rename_with", lambda *_: False)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "x").touch()
    with pytest.raises(FileNotFoundError):
        atomic.replace_folder(tmp_path / "missing.tmp", tmp_path / "old")
    assert (tmp_path / "old" / "x").exists()


# Receipts.


def test_receipts_that_are_not_there(tmp_path: Path) -> None:
    assert find_receipt(tmp_path / "missing") is None
    assert find_receipt(tmp_path) is None
    (tmp_path / "x.safetensors").write_bytes(b"")
    assert find_receipt(tmp_path / "x.safetensors") is None


@pytest.mark.parametrize("change", ["nothing", "values", "size", "half", "no output"])
def test_a_waiting_receipt_counts_when_it_describes_the_weights(tmp_path: Path, change: str) -> None:
    path = save(tmp_path / "out", MODEL, receipt=b'{"old": 1}')
    fingerprint = content_fingerprint(open_checkpoint(path))
    output = {"files": [{"name": "out", "bytes": path.stat().st_size}], "fingerprint": fingerprint}
    if change == "values":
        output["fingerprint"] = "xxh3-128:" + "0" * 32
    if change == "size":
        output["files"] = [{"name": "out", "bytes": 3}]
    text = json.dumps({} if change == "no output" else {"output": output})
    waiting = tmp_path / ".out.prefmerge-0123456789ab.tmp" / "out.receipt.json"
    waiting.parent.mkdir()
    waiting.write_text(text[:-5] if change == "half" else text)
    assert find_receipt(path) == (waiting if change == "nothing" else tmp_path / "out.receipt.json")
    save(path, {"a": np.ones(3)}, force=True, receipt=b"new")
    assert not waiting.parent.exists()
    assert (tmp_path / "out.receipt.json").read_bytes() == b"new"


def test_a_receipt_that_cannot_be_put_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without hard links the old weights cannot come back; the new ones keep their receipt, and the next merge settles
    it."""
    path = save(tmp_path / "out", {"a": np.zeros(3)})
    new = {"a": np.ones(3)}
    told = {
        "files": [{"name": "out", "bytes": path.stat().st_size}],
        "fingerprint": content_fingerprint(from_state_dict(new, name="x")),
    }
    receipt = json.dumps({"output": told}).encode()
    replace, beside = os.replace, tmp_path / "out.receipt.json"

    def failing(*paths: Path) -> None:
        if beside in paths:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        replace(*paths)

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", failing_link)
        patched.setattr(os, "replace", failing)
        with pytest.raises(OutputError, match=r"out: cannot be written \(Input/output error\)"):
            save(path, new, force=True, receipt=receipt)
    waiting = find_receipt(path)
    assert waiting is not None
    assert waiting != beside
    assert waiting.read_bytes() == receipt
    with pytest.raises(OutputExists, match="out: already exists"):
        start(path)
    assert {file.name for file in tmp_path.iterdir()} == {"out", "out.receipt.json"}
    assert beside.read_bytes() == receipt


def failing_link(*_: Path) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


# What others make of the output.


@pytest.mark.parametrize("limit", [20_000, 10**9])
def test_transformers_loads_the_folder(tmp_path: Path, limit: int) -> None:
    torch: Any = pytest.importorskip("torch", reason="transformers needs torch")
    transformers: Any = pytest.importorskip("transformers", reason="the loader under test")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=500
    )
    model = transformers.BertModel(config)
    model.save_pretrained(tmp_path / "base")
    base = open_checkpoint(tmp_path / "base")
    with create_output(
        tmp_path / "out", list(base.tensors.values()), metadata={}, kind="folder", force=False, max_shard_bytes=limit
    ) as out:
        for name in base.tensors:
            out.write(name, 0, base.raw(name))
        out.add_file("config.json", tmp_path / "base" / "config.json")
        out.publish(b"{}")
    assert (tmp_path / "out" / "model.safetensors.index.json").exists() == (limit < 10**9)
    loaded = transformers.AutoModel.from_pretrained(tmp_path / "out")
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_bfloat16_and_other_formats_pass_as_they_are(tmp_path: Path) -> None:
    from prefmerge.checkpoints import by_name

    infos = [
        TensorInfo("b", by_name("bfloat16"), (2, 2)),
        TensorInfo("f", by_name("float8_e5m2"), (3,)),
        TensorInfo("c", by_name("C64"), (1,)),
    ]
    values = {"b": np.arange(4, dtype=np.uint16), "f": np.arange(3, dtype=np.uint8), "c": np.arange(1, dtype=np.uint64)}
    with create_output(tmp_path / "x.safetensors", infos, metadata={}, kind="file", force=False) as out:
        for name, stored in values.items():
            out.write(name, 0, stored)
        out.publish(b"{}")
    checkpoint = open_checkpoint(tmp_path / "x.safetensors")
    assert [info.dtype.code for info in checkpoint.tensors.values()] == ["BF16", "C64", "F8_E5M2"]
    assert {name: checkpoint.raw(name).tobytes() for name in values} == {
        name: v.tobytes() for name, v in values.items()
    }
