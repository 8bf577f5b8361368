from __future__ import annotations

import json
import os
import re
import socket
from pathlib import Path

import numpy as np
import pytest

from prefmerge.checkpoints import from_state_dict, open_checkpoint
from prefmerge.errors import CheckpointError
from prefmerge.outputs.companions import Companions, find_companions, weights_name
from tests.checkpoints.files import write_arrays

BELONG = [
    "1_Pooling/config.json",
    "LICENSE",
    "LICENSE.txt",
    "NOTICE.md",
    "added_tokens.json",
    "additional_chat_templates/tool_use.jinja",
    "assets/figure.png",
    "bpe.codes",
    "chat_template.jinja",
    "config.json",
    "config_sentence_transformers.json",
    "entity_vocab.json",
    "generation_config.json",
    "image_processor/processor.py",
    "layers/attention/README.md",
    "layers/attention/kernels.py",
    "merges.txt",
    "modeling_custom.py",
    "open_clip_config.json",
    "params.json",
    "preprocessor_config.json",
    "processor_config.json",
    "scheduler.py",
    "scheduler/scheduler_config.json",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "spm.model",
    "tekken.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer.model.v3",
    "tokenizer/vocab.txt",
    "tokenizer_config.json",
    "vocab.bpe",
    "vocab.json",
    "vocab.txt",
    "what_nobody_has_heard_of",
]
WEIGHTS = [
    "adapter_config.json",
    "adapter_model.bin",
    "best_model.pth.tar",
    "consolidated.00.pth",
    "epoch=3.ckpt",
    "flax_model.msgpack",
    "layers/default.pt",
    "model-q4.gguf",
    "model.fp16.safetensors",
    "model.onnx",
    "model.onnx_data",
    "pytorch_model.bin",
    "rust_model.ot",
    "tf_model.h5",
]
STATE = [
    "global.distcp",
    "latest",
    "optimizer.bin",
    "optimizer.pt",
    "random_states_0.pkl",
    "rng_state_0.pth",
    "run.json",
    "scheduler.pt",
    "trainer_state.json",
    "training_args.bin",
]
OTHERS = {  # a file in each
    "checkpoint-500": "config.json",
    "epoch_1": "random_states_0.pkl",
    "global_step500": "mp_rank_00_model_states.pt",
    "onnx": "config.json",
    "openvino": "tokenizer.json",
    "original": "params.json",
    "runs": "events.out.tfevents.1.host.2.0",
    "wandb": "log.txt",
}
UNTOLD = [
    ".cache/x.json",
    ".gitattributes",
    ".git/config",
    "README.md",
    "flax_model.msgpack.index.json",
    "model.safetensors.index.fp16.json",
    "pytorch_model.bin.index.json",
    "receipt.json",
]


def put(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base with its weights alone; beside it there is room."""
    (tmp_path / "base").mkdir()
    write_arrays(tmp_path / "base" / "model.safetensors", {"a": np.zeros(3)})
    return tmp_path / "base"


def found(base: Path) -> Companions:
    return find_companions(open_checkpoint(base))


def test_everything_is_copied_but_weights_states_and_other_checkpoints(base: Path) -> None:
    put(base, *BELONG, *WEIGHTS, *STATE, *UNTOLD, "download.lock", "half.tmp")
    put(base, *(f"{folder}/{name}" for folder, name in OTHERS.items()))
    put(base, "best/config.json", "best/model.safetensors", "best/tokenizer.json")  # another checkpoint, by its content
    companions = found(base)
    assert list(companions.files) == sorted(BELONG)
    assert companions.size == len(BELONG)
    assert companions.unmerged == ()
    assert companions.left_out == {
        "other checkpoints, formats or logs": tuple(sorted(f"{name}/" for name in (*OTHERS, "best"))),
        "temporary files": ("download.lock", "half.tmp"),
        "training state": tuple(STATE),
        "weights": tuple(WEIGHTS),
    }


def test_the_note_is_one_short_sentence_without_the_name_of_a_host(base: Path) -> None:
    assert found(base).notes() == []
    put(base, *(f"x{i}.gguf" for i in range(7)), "optimizer.pt", "events.out.tfevents.17.my-host.1.0")
    put(base, "events.out.tfevents.18.my-host.1.0", "runs/x", "odd\n\x1b.pt")
    assert found(base).notes() == [
        "not copied from the base's folder: runs/ (other checkpoints, formats or logs); "
        "events.out.*, optimizer.pt (training state); "
        r"'odd\n\x1b.pt', x0.gguf, x1.gguf, x2.gguf, x3.gguf and 3 more (weights)."
    ]


def test_a_base_without_a_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    path = write_arrays(tmp_path / "base.safetensors", {"a": np.zeros(3)})
    assert find_companions(open_checkpoint(path)) == Companions()
    assert find_companions(from_state_dict({"a": np.zeros(3)}, name="x")) == Companions()


@pytest.mark.parametrize("index", ["model.safetensors.index.json", "some.index.json"])
def test_an_index_stands_for_its_folder(tmp_path: Path, index: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "parts").mkdir()
    write_arrays(tmp_path / "parts" / "x.safetensors", {"a": np.zeros(3)})
    (tmp_path / index).write_text('{"weight_map": {"a": "parts/x.safetensors"}}')
    companions = find_companions(open_checkpoint(tmp_path / index))
    assert companions.files == {"config.json": tmp_path / "config.json"}
    assert companions.notes() == []


def test_the_modules_of_a_sentence_transformer_come_with_their_weights(base: Path) -> None:
    put(base, "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors", "2_Dense/optimizer.pt")
    put(base, "2_Dense/inner/pytorch_model.bin", "2_Dense/rust_model.ot", "3_Dense/config.json", "3_Dense/model.bin")
    rows = [{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}, {"path": "../elsewhere"}, {"path": 3}, None]
    (base / "modules.json").write_text(json.dumps(rows))
    companions = found(base)
    assert list(companions.files) == [
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/inner/pytorch_model.bin",
        "2_Dense/model.safetensors",
        "modules.json",
    ]
    assert companions.notes() == [
        "copied from the base as they are, not merged: 2_Dense/inner/pytorch_model.bin, 2_Dense/model.safetensors.",
        "not copied from the base's folder: 3_Dense/ (other checkpoints, formats or logs); "
        "2_Dense/optimizer.pt (training state); 2_Dense/rust_model.ot (weights).",
    ]
    for broken in ("[" * 100_000, "{}", "\xff"):
        (base / "modules.json").write_text(broken)
        assert list(found(base).files) == ["1_Pooling/config.json", "modules.json"]


def test_a_language_model_that_only_ends_in_bin(base: Path) -> None:
    put(base, "alphabet.json", "language_model/unigrams.txt", "lid.bin", "short.bin")
    (base / "language_model" / "5gram.bin").write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0...")
    (base / "lid.bin").write_bytes(bytes.fromhex("ba164f2f0c000000"))
    assert list(found(base).files) == [
        "alphabet.json",
        "language_model/5gram.bin",
        "language_model/unigrams.txt",
        "lid.bin",
    ]


def test_links_are_followed_in_the_folder_only(base: Path) -> None:
    outside = put(base.parent / "outside", "secret.txt", "tokenizer/vocab.txt")
    put(base, "vocab/a.txt", ".git/config", "real.json")
    links = {
        "tokenizer.json": "../outside/secret.txt",
        "absolute.json": str(outside / "secret.txt"),
        "tokenizer": "../outside/tokenizer",
        "through.json": "tokenizer/vocab.txt",
        "remote.txt": ".git/config",
        "nothing.json": "gone.json",
        "self.json": "self.json",
        "here": ".",
        "vocab/up": "..",
        "alias": "vocab",
        "again": "vocab",
        "vocab.json": "real.json",
        "passwords": "/etc/passwd",
    }
    for name, to in links.items():
        (base / name).symlink_to(to)
    companions = found(base)
    assert {name: path.read_text() for name, path in companions.files.items()} == dict.fromkeys(
        ["again/a.txt", "real.json", "vocab.json", "vocab/a.txt"], "x"
    )
    assert companions.left_out["links out of the folder, or to nothing"] == (
        "absolute.json",
        "nothing.json",
        "passwords",
        "remote.txt",
        "self.json",
        "through.json",
        "tokenizer",
        "tokenizer.json",
    )
    circles = companions.left_out["links in a circle, or to a folder that another link leads to"]
    assert set(circles) >= {"alias", "here", "vocab/up"}
    assert list(find_companions(open_checkpoint(base_link(base))).files) == list(companions.files)


def base_link(base: Path) -> Path:
    """The base by another name: a link to the folder itself is the user's own word."""
    (base.parent / "link").symlink_to("base")
    return base.parent / "link"


def test_the_blobs_of_the_same_repository_only(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / "abc"
    put(repository, "blobs/1", "blobs/deep/2", "secret", "snapshots/def/config.json", "snapshots/abc/x")
    put(tmp_path / "models--org--other", "blobs/3")
    write_arrays(repository / "blobs" / "weights", {"a": np.zeros(3)})
    (snapshot / "model.safetensors").symlink_to("../../blobs/weights")
    (snapshot / "code").mkdir()
    for name, to in {
        "config.json": "../../blobs/1",
        "code/a.py": "../../../blobs/1",
        "deep.json": "../../blobs/deep/2",
        "secret.json": "../../secret",
        "other.json": "../../../models--org--other/blobs/3",
        "def.json": "../def/config.json",
    }.items():
        (snapshot / name).symlink_to(to)
    companions = found(snapshot)
    assert list(companions.files) == ["code/a.py", "config.json", "x"]
    assert companions.notes() == [
        "not copied from the base's folder: deep.json, def.json, other.json, secret.json "
        "(links out of the folder, or to nothing)."
    ]


def test_neither_files_nor_folders(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(base / "pipe.json")
    monkeypatch.chdir(base)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.json")
        assert found(base).notes() == [
            "not copied from the base's folder: pipe.json, socket.json (neither files nor folders)."
        ]


def test_what_may_not_be_read_is_told_before_anything_is_done(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(base, "config.json", "code/a.py")
    wanted = (
        r"{}: cannot be read \(Permission denied\), and an output folder takes the files of the base's folder along\. "
        r"Make it readable, or move it out of the folder\."
    )
    with monkeypatch.context() as patch:  # root may read anything
        patch.setattr(os, "access", lambda path, mode: path.name != "a.py")
        with pytest.raises(CheckpointError, match=wanted.format(re.escape(str(base / "code" / "a.py")))):
            found(base)
    listed = Path.iterdir

    def refuse(path: Path):
        if path.name == "code":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(CheckpointError, match=wanted.format(re.escape(str(base / "code")))):
        found(base)


def test_a_deep_folder_needs_no_deep_stack(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(base)
    for _ in range(600):
        os.mkdir("d")
        os.chdir("d")
    Path("x.py").write_text("x")
    os.chdir(base)
    assert list(found(base).files) == ["d/" * 600 + "x.py"]


@pytest.mark.parametrize(
    ("own", "kept"),
    [
        ("model.safetensors", "model.safetensors"),
        ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors"),
        ("open_clip_model.safetensors", "open_clip_model.safetensors"),
        ("model.fp16.safetensors", "model.fp16.safetensors"),
        ("my-finetune.safetensors", "my-finetune.safetensors"),
        ("model-00001-of-00001.safetensors", "model.safetensors"),
    ],
)
def test_the_base_keeps_its_name(tmp_path: Path, own: str, kept: str) -> None:
    write_arrays(tmp_path / own, {"a": np.zeros(3)})
    assert weights_name(open_checkpoint(tmp_path)) == kept


@pytest.mark.parametrize(
    ("index", "shard", "kept"),
    [
        ("model.safetensors.index.json", "x.safetensors", "model.safetensors"),
        (
            "diffusion_pytorch_model.safetensors.index.json",
            "diffusion_pytorch_model-00002-of-00002.safetensors",
            "diffusion_pytorch_model.safetensors",
        ),
        (
            "diffusion_pytorch_model.safetensors.index.fp16.json",
            "diffusion_pytorch_model-00002-of-00002.fp16.safetensors",
            "diffusion_pytorch_model.fp16.safetensors",
        ),
        ("model.safetensors.index.fp16.json", "model.fp16-00002-of-00002.safetensors", "model.fp16.safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model-00002-of-00002.safetensors", "model.safetensors"),
        (
            "diffusion_pytorch_model.bin.index.json",
            "diffusion_pytorch_model-00002-of-00002.safetensors",
            "diffusion_pytorch_model.safetensors",
        ),
        ("some.index.json", "x.safetensors", "model.safetensors"),
    ],
)
def test_the_base_keeps_the_name_of_its_index(tmp_path: Path, index: str, shard: str, kept: str) -> None:
    write_arrays(tmp_path / shard, {"a": np.zeros(3)})
    (tmp_path / index).write_text(json.dumps({"weight_map": {"a": shard}}))
    assert weights_name(open_checkpoint(tmp_path / index)) == kept
    if index != "some.index.json":  # a folder is not searched for an index of nothing that it names
        assert weights_name(open_checkpoint(tmp_path)) == kept


@pytest.mark.parametrize(
    ("own", "kept"),
    [
        ("pytorch_model.bin", "model.safetensors"),
        ("pytorch_model.fp16.bin", "model.fp16.safetensors"),
        ("diffusion_pytorch_model.bin", "diffusion_pytorch_model.safetensors"),
        ("open_clip_pytorch_model.bin", "open_clip_model.safetensors"),
        ("last.ckpt", "model.safetensors"),
    ],
)
def test_pickled_weights_get_the_name_that_their_library_loads(tmp_path: Path, own: str, kept: str) -> None:
    torch = pytest.importorskip("torch", reason="writes a pickle")
    torch.save({"a": torch.zeros(3)}, tmp_path / own)
    assert weights_name(open_checkpoint(tmp_path)) == kept


def test_a_single_file_keeps_a_name_that_a_library_looks_for(tmp_path: Path) -> None:
    for own, kept in {
        "base.safetensors": "model.safetensors",
        "diffusion_pytorch_model.safetensors": "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model.fp16.safetensors": "diffusion_pytorch_model.fp16.safetensors",
    }.items():
        assert weights_name(open_checkpoint(write_arrays(tmp_path / own, {"a": np.zeros(3)}))) == kept
    assert weights_name(from_state_dict({"a": np.zeros(3)}, name="x")) == "model.safetensors"
