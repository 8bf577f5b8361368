"""Outputs that are refused before anything is written."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from prefmerge.checkpoints import open_checkpoint
from prefmerge.errors import DiskFull, OutputError, OutputExists
from prefmerge.ground import atomic
from prefmerge.outputs.receipts import find_receipt
from prefmerge.outputs.write import OutputKind
from tests.checkpoints.files import OURS, save
from tests.outputs.test_write import KINDS, MODEL, content_of, start


@pytest.mark.parametrize("kind", KINDS)
def test_an_existing_output(tmp_path: Path, kind: OutputKind) -> None:
    path = save(tmp_path / "out", MODEL, kind=kind)
    before = content_of(path)
    with pytest.raises(OutputExists, match=r"out: already exists. .*--force"):
        start(path, kind)
    assert content_of(path) == before
    save(path, {"a": np.ones(3)}, kind=kind, force=True, receipt=b"new")
    assert list(open_checkpoint(path).tensors) == ["a"]
    receipt = find_receipt(path)
    assert receipt is not None
    assert receipt.read_bytes() == b"new"


@pytest.mark.parametrize("force", [True, False])
def test_the_wrong_kind_is_in_the_way(tmp_path: Path, force: bool) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputExists, match="file: a file is in the way of the output folder"):
        start(tmp_path / "file", "folder", force)
    with pytest.raises(
        OutputExists, match=r"folder: a folder is in the way of the output file. .*folder/merged.safetensors"
    ):
        start(tmp_path / "folder", "file", force)
    with pytest.raises(OutputExists, match="pipe: neither a file nor a folder"):
        start(tmp_path / "pipe", "file", force)
    (tmp_path / "new.receipt.json").mkdir()
    with pytest.raises(OutputExists, match=r"new.receipt.json: a folder is where the receipt goes"):
        start(tmp_path / "new", "file", force)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder", "pipe", "new.receipt.json"}


def test_a_folder_that_prefmerge_did_not_make(tmp_path: Path) -> None:
    precious = tmp_path / "out" / "thesis.tex"
    precious.parent.mkdir()
    with pytest.raises(OutputExists, match="already exists"):
        start(precious.parent, "folder")
    precious.write_text("x")
    with pytest.raises(
        OutputExists, match=r"holds no receipt.json, so prefmerge did not make this folder .*even with --force"
    ):
        start(precious.parent, "folder", force=True)
    precious.unlink()
    save(precious.parent, MODEL, kind="folder", force=True)  # an empty one holds nothing to lose


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_link_is_neither_replaced_nor_followed(tmp_path: Path, kind: OutputKind, force: bool) -> None:
    real = save(tmp_path / "real", MODEL, kind=kind)
    before = content_of(real)
    for name, goal in (("link", real), ("dangling", tmp_path / "gone")):
        (tmp_path / name).symlink_to(goal)
        with pytest.raises(
            OutputExists, match=f"{name}: is a link to {goal}, .* Name {goal} as the output, or remove the link"
        ):
            start(tmp_path / name, kind, force)
        assert (tmp_path / name).is_symlink()
    assert content_of(real) == before


def test_a_link_where_the_receipt_goes(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("x")
    (tmp_path / "out.receipt.json").symlink_to(tmp_path / "notes")
    for force in (True, False):
        with pytest.raises(OutputExists, match=r"out.receipt.json: a link is where the receipt goes"):
            start(tmp_path / "out", "file", force)
    assert (tmp_path / "notes").read_text() == "x"


def test_a_receipt_without_its_output(tmp_path: Path) -> None:
    """It may be another program's file."""
    receipt = tmp_path / "out.receipt.json"
    receipt.write_text("precious")
    with pytest.raises(
        OutputExists,
        match=r"out.receipt.json: already exists, where the receipt of out goes, though out does not. .*--f",
    ):
        start(tmp_path / "out")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {receipt.name: "precious"}
    save(tmp_path / "out", MODEL, force=True)
    assert receipt.read_text() == OURS.decode()


@pytest.mark.parametrize("supported", [True, False])
def test_a_receipt_that_appears_at_the_last_moment(
    tmp_path: Path, supported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the weights are in place already: they are taken back."""
    if not supported:
        monkeypatch.setattr(atomic, "_rename_with", lambda *_: False)
    rename, receipt = atomic.rename_new, tmp_path / "out.receipt.json"

    def late(source: Path, target: Path) -> None:
        if target == receipt:
            receipt.write_text("precious")
        rename(source, target)

    monkeypatch.setattr(atomic, "rename_new", late)
    with pytest.raises(OutputExists, match="appeared while the merge was running"):
        save(tmp_path / "out", MODEL)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {receipt.name: "precious"}


@pytest.mark.parametrize("kind", KINDS)
def test_no_disk_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: OutputKind) -> None:
    usage = namedtuple("usage", "total used free")
    needed = sum(
        len(content)
        for name, content in content_of(save(tmp_path / "x", MODEL, kind=kind)).items()
        if "receipt" not in name
    )
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, needed + 20))
    start(tmp_path / "deep" / "out", kind, scratch_bytes=20).discard()
    with pytest.raises(
        DiskFull,
        match=f"out: needs {needed} bytes and 21 bytes of scratch, and {tmp_path} has {needed + 20} bytes free",
    ):
        start(tmp_path / "deep" / "out", kind, scratch_bytes=21)
    start(tmp_path / "deep" / "out", kind, beside_bytes=20).discard()
    with pytest.raises(DiskFull, match=f"out: needs {needed + 21} bytes, and {tmp_path} has {needed + 20} bytes free"):
        start(tmp_path / "deep" / "out", kind, beside_bytes=21)
    assert not (tmp_path / "deep").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match=r"out: cannot be written \(Permission denied\)"):
            start(tmp_path / "out")
    finally:
        tmp_path.chmod(0o700)


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"out: cannot be written \(Not a directory\)"):
        start(tmp_path / "file" / "out")
