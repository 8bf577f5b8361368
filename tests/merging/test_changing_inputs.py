"""A file that changes while it is read: an error that names it, or what its old bytes give; never a mixture, never a
signal.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.merging.changing import CHANGES, OPTIONS, make

IN_PLACE = ("cut", "empty", "rewrite", "rewrite_and_set_back")
SHARD = "base/model-00002-of-00002.safetensors"


def run(folder: Path, victim: str, command: str, *more: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.merging.changing", str(folder), victim, command, *more],
        capture_output=True,
        text=True,
        timeout=3000,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stderr)  # below 0: a signal
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "files"
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("base", "victim", "command"),
    [
        ("base.safetensors", "base.safetensors", "merge"),
        ("base.safetensors", "t2.safetensors", "merge"),
        ("base", SHARD, "merge"),
        ("base.pt", "base.pt", "merge"),
        ("base.safetensors", "t1.safetensors", "optimal"),
        ("base.safetensors", "t1.safetensors", "measure"),
        ("base.safetensors", "base.safetensors", "candidate"),
    ],
)
def test_attack_s3_at_a_block(folder: Path, base: str, victim: str, command: str):
    if base.endswith(".pt"):
        pytest.importorskip("torch", reason="a .pt file needs the torch extra")
    make(folder, base)
    found = run(folder, victim, command, *CHANGES)
    assert [one["change"] for one in found] == list(CHANGES)
    name = str(folder.with_name("files-work") / victim)
    for one in found:
        if one["change"] not in IN_PLACE:
            assert one.get("result") == "old", one
            continue
        assert (one.get("kind"), one.get("exit")) == ("CheckpointChanged", 1), one
        assert one["error"].startswith(f"{name}: "), one
        assert one["error"].endswith(" while it was read. Start again once nothing changes it any more."), one
    size = (folder / victim).stat().st_size
    assert f": went from {size} to {size // 2} bytes while" in found[0]["error"]
    assert f": went from {size} to 0 bytes while" in found[1]["error"]
    assert ": was written to while" in found[2]["error"]


@pytest.mark.parametrize(("victim", "command"), [("base.safetensors", "verify"), ("t1.safetensors", "verify-inputs")])
def test_attack_s3_while_it_is_verified(folder: Path, victim: str, command: str):
    from prefmerge import merge

    paths = make(folder)
    if command == "verify":
        merge(*_apart(paths), folder / "made.safetensors", **OPTIONS)
        (folder / "made.safetensors").replace(folder / "base.safetensors")
        (folder / "made.safetensors.receipt.json").replace(folder / "base.safetensors.receipt.json")
    else:
        # The receipt names the inputs where the process puts them.
        work = folder.with_name("files-work")
        folder.rename(work)
        base, *tasks = [work / path.name for path in paths]
        merge(base, tasks, work / "merged.safetensors", **OPTIONS)
        work.rename(folder)
    for one in run(folder, victim, command, "cut", "rewrite", "rewrite_and_set_back"):
        assert one.get("kind") == "CheckpointChanged", one
        assert victim in one["error"]


def _apart(paths: list[Path]) -> tuple[Path, list[Path]]:
    return paths[0], paths[1:]


@pytest.mark.parametrize("victim", ["base.safetensors", "t2.safetensors"])
def test_attack_s3_at_any_moment(folder: Path, victim: str, request: pytest.FixtureRequest):
    make(folder)
    rounds = request.config.getoption("--attacks") or 3
    changes = ("cut", "rewrite", "replace", "delete")
    found = run(folder, victim, "merge", *changes, "--rounds", str(rounds), "--seed", "3")
    assert len(found) == rounds * len(changes)
    for one in found:
        if "result" in one:
            assert one["result"] in ("old", "new"), one
        else:
            assert victim in one["error"], one
            assert one["exit"] == 1
