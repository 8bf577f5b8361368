"""Files and folders that are no checkpoint: what they are, and what to do, and never to run what they hold."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from prefmerge import merge
from prefmerge.errors import CheckpointCorrupt, PrefmergeError, UnsupportedDtype
from tests.field.made import message, put, write

PAGES = [b"<!DOCTYPE html><html>404", b"\xef\xbb\xbf\n <html>sign in", b'<?xml version="1.0"?><Error><Code>NoSuchKey']


def tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.pt"))
    return out.getvalue()


@pytest.mark.parametrize("name", ["x.pt", "pytorch_model.bin", "last.ckpt"])
@pytest.mark.parametrize(
    ("content", "saying"),
    [
        *((page, "is a web page, not weights") for page in PAGES),
        (b"Access to model org/x is restricted.", "is a text, not weights"),
        (b'{"error": "gated"}', "is a text, not weights"),
        (gzip.compress(b"weights", mtime=0), "is compressed (gzip). Unpack it first"),
        (b"\x28\xb5\x2f\xfd\x00", "is compressed (zstd). Unpack it first"),
        (b"GGUF\x03\x00\x00\x00", "holds weights of GGUF"),
        (tar(), "is an archive (tar). Unpack it first"),
    ],
)
def test_case_7a_what_is_no_pickle_is_not_to_be_trusted(tmp_path: Path, name: str, content: bytes, saying: str) -> None:
    """Nobody is told to load a web page with torch as a file that they trust."""
    (tmp_path / name).write_bytes(content)
    said = message(tmp_path / name, CheckpointCorrupt)
    assert saying in said
    assert "torch.load" not in said
    assert "weights_only" not in said


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("x.gguf", "GGUF"),
        ("tf_model.h5", "TensorFlow"),
        ("flax_model.msgpack", "Flax"),
        ("x.onnx", "ONNX"),
        ("weights.npz", "NumPy"),
        ("x.nemo", "NeMo"),
        ("x.pt2", "torch.export"),
    ],
)
def test_case_9b_a_file_of_another_library_is_named(tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / name).write_bytes(b"\x00\x01\x02")
    assert f"holds weights of {what}" in message(tmp_path / name)
    assert "save_file of safetensors" in message(tmp_path / name)
    assert f"weights of {what}" in message(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors.incomplete",
        "model.safetensors.part",
        "model.safetensors.crdownload",
        ".cache/huggingface/download/ab.12.incomplete",
    ],
)
def test_case_9a_a_download_that_did_not_end(tmp_path: Path, name: str) -> None:
    write(tmp_path / "config.json", "{}")
    write(tmp_path / name)
    assert "A download into it did not end. Download it again." in message(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model-00001-of-00002.safetensors"])
def test_case_9a_links_whose_blobs_are_gone(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / name).symlink_to(tmp_path / "blobs" / "ab12")
    said = message(folder)
    assert f"links that lead to nothing: {name}" in said
    assert "It is empty" not in said


def test_case_10c_tensors_that_are_no_plain_arrays_are_named(tmp_path: Path) -> None:
    base = put(tmp_path / "base.safetensors", {"a": np.zeros((3, 3), np.float32)})
    for tensor, saying in (
        (
            torch.eye(3).to_sparse(),
            "a sparse_coo tensor of float32, which prefmerge cannot read. Save what its to_dense",
        ),
        (torch.zeros(3, 3, dtype=torch.bits8), "a tensor of bits8"),
    ):
        torch.save({"a": tensor}, tmp_path / "task.pt")
        with pytest.raises(PrefmergeError) as raised:
            merge(base, [tmp_path / "task.pt"], tmp_path / "out.safetensors")
        assert isinstance(raised.value, UnsupportedDtype)
        assert saying in str(raised.value)
