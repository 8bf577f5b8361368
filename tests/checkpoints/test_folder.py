from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from prefmerge.checkpoints import open_checkpoint
from prefmerge.checkpoints.paths import name_of
from prefmerge.errors import CheckpointCorrupt, CheckpointNotFound
from tests.checkpoints.files import a_model, arrays_of, assert_same, write_arrays

INDEX = "model.safetensors.index.json"


def sharded(folder: Path, placed: dict[str, str] | None = None, shards: dict[str, list[str]] | None = None) -> Path:
    """a_model in two shards; the index may say otherwise."""
    model = a_model()
    names = sorted(model)
    shards = shards or {"model-00001-of-00002.safetensors": names[:3], "model-00002-of-00002.safetensors": names[3:]}
    folder.mkdir(parents=True, exist_ok=True)
    for file, held in shards.items():
        (folder / file).parent.mkdir(exist_ok=True)
        write_arrays(folder / file, {name: model[name] for name in held}, {"format": "pt"})
    if placed is None:
        placed = {name: file for file, held in shards.items() for name in held}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return folder


def test_one_file(tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    folder.mkdir()
    write_arrays(folder / "model.safetensors", a_model(), {"format": "pt"})
    (folder / "pytorch_model.bin").write_bytes(b"safetensors come first")
    checkpoint = open_checkpoint(folder)
    assert_same(arrays_of(checkpoint), a_model())
    assert (checkpoint.name, checkpoint.path, checkpoint.metadata) == ("clip", folder, {"format": "pt"})
    assert checkpoint.file_of("mask") == "model.safetensors"


@pytest.mark.parametrize("given", ["folder", "index"])
def test_shards(tmp_path: Path, given: str) -> None:
    folder = sharded(tmp_path / "clip")
    checkpoint = open_checkpoint(folder if given == "folder" else folder / INDEX)
    assert_same(arrays_of(checkpoint), a_model())
    assert list(checkpoint.tensors) == sorted(a_model())
    assert checkpoint.name == "clip"
    assert checkpoint.metadata == {"format": "pt"}
    assert checkpoint.file_of("position_ids") == "model-00002-of-00002.safetensors"
    assert [path.name for path in checkpoint.files] == [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    checkpoint.close()
    with pytest.raises(ValueError, match="is closed"):
        checkpoint.raw("mask")


def test_shards_in_a_folder_below(tmp_path: Path) -> None:
    names = sorted(a_model())
    folder = sharded(tmp_path / "clip", shards={"one/x.safetensors": names[:2], "two/x.safetensors": names[2:]})
    assert_same(arrays_of(open_checkpoint(folder)), a_model())


def test_a_hugging_face_cache_of_symlinks(tmp_path: Path) -> None:
    """Its snapshots hold links that leave the folder, to blobs without a suffix; the repository's name is three
    folders up."""
    blobs = tmp_path / "models--openai--clip-tiny" / "blobs"
    snapshot = blobs.parent / "snapshots" / "0123abcd"
    blobs.mkdir(parents=True)
    sharded(snapshot)
    for i, file in enumerate(sorted(snapshot.iterdir())):
        file.rename(blobs / f"{i:040x}")
        file.symlink_to(blobs / f"{i:040x}")
    checkpoint = open_checkpoint(snapshot)
    assert_same(arrays_of(checkpoint), a_model())
    assert checkpoint.name == "clip-tiny"
    blob = checkpoint.files[0].resolve()
    assert blob.suffix == ""
    assert set(open_checkpoint(blob).tensors) == set(sorted(a_model())[:3])


@pytest.mark.parametrize(
    "file", ["diffusion_pytorch_model.safetensors", "open_clip_model.safetensors", "weights-final.safetensors"]
)
def test_the_only_candidate(tmp_path: Path, file: str) -> None:
    write_arrays(tmp_path / file, a_model())
    (tmp_path / "optimizer.pt").write_bytes(b"")
    (tmp_path / "training_args.bin").write_bytes(b"")
    (tmp_path / "config.json").write_text("{}")
    assert_same(arrays_of(open_checkpoint(tmp_path)), a_model())


def test_the_only_index(tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / INDEX).rename(tmp_path / "diffusion_pytorch_model.safetensors.index.json")
    assert_same(arrays_of(open_checkpoint(tmp_path)), a_model())


def test_several_candidates(tmp_path: Path) -> None:
    for name in ("ema", "last"):
        write_arrays(tmp_path / f"{name}.safetensors", a_model())
    with pytest.raises(
        CheckpointNotFound,
        match=r"several checkpoints: ema.safetensors, last.safetensors. Name the one .*ema.safetensors",
    ):
        open_checkpoint(tmp_path)


def test_the_only_shard_of_one_needs_no_index(tmp_path: Path) -> None:
    write_arrays(tmp_path / "model-00001-of-00001.safetensors", a_model())
    assert_same(arrays_of(open_checkpoint(tmp_path)), a_model())


def test_nothing_in_the_folder(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointNotFound, match=r"no checkpoint in this folder\. It is empty; expected model.safetensors"
    ):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointNotFound, match=r"It holds config.json; expected"):
        open_checkpoint(tmp_path)


def test_an_adapter(tmp_path: Path) -> None:
    write_arrays(tmp_path / "adapter_model.safetensors", a_model())
    for given in (tmp_path, tmp_path / "adapter_model.safetensors"):
        with pytest.raises(CheckpointNotFound, match=r"a LoRA adapter, not a whole model\. It can be a task"):
            open_checkpoint(given)


FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
TENSORS = sorted(a_model())
GOOD = {name: FIRST if i < 3 else SECOND for i, name in enumerate(TENSORS)}


@pytest.mark.parametrize(
    ("placed", "message"),
    [
        (
            {**GOOD, "mask": "model-00003-of-00002.safetensors"},
            "names the shard model-00003-of-00002.safetensors for 1 tensors, and it is not there",
        ),
        ({**GOOD, "ghost": FIRST}, f"places tensor 'ghost' in {FIRST}, which does not hold it"),
        (
            {k: v for k, v in GOOD.items() if k != "mask"},
            f"its shard {SECOND} holds 'mask', which the index places nowhere",
        ),
        ({**GOOD, "mask": FIRST}, f"places tensor 'mask' in {FIRST}, which does not hold it"),
        ({}, "has no weight_map"),
        ({"mask": 3}, "has no weight_map"),
    ],
)
def test_an_index_that_disagrees_with_its_shards(tmp_path: Path, placed: dict[str, str], message: str) -> None:
    with pytest.raises(CheckpointCorrupt, match=message):
        open_checkpoint(sharded(tmp_path, placed))


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    folder = sharded(tmp_path, GOOD, {FIRST: [*TENSORS[:3], "mask"], SECOND: TENSORS[3:]})
    with pytest.raises(CheckpointCorrupt, match=f"its shard {FIRST} holds 'mask', which the index places in {SECOND}"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "escape",
    [
        "../outside.safetensors",
        "/etc/outside.safetensors",
        "a/../../outside.safetensors",
        "..\\outside.safetensors",
        "",
    ],
)
def test_an_index_that_leaves_its_folder(tmp_path: Path, escape: str) -> None:
    write_arrays(tmp_path / "outside.safetensors", a_model())
    folder = sharded(tmp_path / "model", {**GOOD, "mask": escape})
    with pytest.raises(CheckpointCorrupt, match=r"places tensor 'mask' in .*, outside its folder"):
        open_checkpoint(folder)


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]", b'{"weight_map": []}'])
def test_an_index_that_is_none(tmp_path: Path, content: bytes) -> None:
    sharded(tmp_path)
    (tmp_path / INDEX).write_bytes(content)
    with pytest.raises(CheckpointCorrupt, match=r"index.json: (not JSON|has no weight_map)"):
        open_checkpoint(tmp_path)


def test_paths_that_are_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointNotFound, match=r"no such file or folder.$"):
        open_checkpoint("missing.safetensors")
    with pytest.raises(CheckpointNotFound, match="hf download openai/clip-vit-base-patch16"):
        open_checkpoint("openai/clip-vit-base-patch16")
    Path("model.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(CheckpointNotFound, match=r"model.gguf: holds weights of GGUF, .* does not read. Convert it"):
        open_checkpoint("model.gguf")
    Path("model.x").write_bytes(bytes(100))
    with pytest.raises(
        CheckpointNotFound, match=r"model.x: not a checkpoint that prefmerge can read. It reads .safetensors"
    ):
        open_checkpoint("model.x")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/cars.safetensors", "cars"),
        ("a/v1.5.safetensors", "v1.5"),
        ("a/model.safetensors", "a"),
        ("a/pytorch_model.bin", "a"),
        ("a/model.safetensors.index.json", "a"),
        ("a/model-00001-of-00003.safetensors", "a"),
        ("a/open_clip_pytorch_model.bin", "a"),
        ("a/diffusion_pytorch_model.safetensors", "a"),
        ("a/model_cars.pt", "model_cars"),
    ],
)
def test_names(tmp_path: Path, path: str, name: str) -> None:
    assert name_of(tmp_path / path) == name


def test_given_names_win(tmp_path: Path) -> None:
    write_arrays(tmp_path / "cars.safetensors", a_model())
    assert open_checkpoint(tmp_path / "cars.safetensors", name="fleet").name == "fleet"
    assert open_checkpoint(tmp_path, name="fleet").name == "fleet"
    assert open_checkpoint(tmp_path).name == tmp_path.name


def test_what_transformers_saved(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="transformers needs torch")
    transformers = pytest.importorskip("transformers", reason="writes the folder under test")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=500
    )
    model = transformers.BertModel(config).to(torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert (tmp_path / INDEX).exists()  # or it tests one file only
    checkpoint = open_checkpoint(tmp_path)
    expected = {name: value.view(torch.uint16).numpy() for name, value in model.state_dict().items()}
    assert_same(arrays_of(checkpoint), expected)


def test_no_torch_for_safetensors(tmp_path: Path) -> None:
    import subprocess
    import sys

    sharded(tmp_path)
    code = (
        "import sys, prefmerge.checkpoints as c; c.open_checkpoint(sys.argv[1]); "
        "c.from_state_dict({}, name='x'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_threads_may_read_at_once(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    checkpoint = open_checkpoint(sharded(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        sums = list(pool.map(lambda _: float(np.sum(checkpoint.raw("embed.weight"))), range(64)))
    assert len(set(sums)) == 1
