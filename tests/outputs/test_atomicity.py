"""An output is the old one or the new one, whole and with its receipt, whenever the process dies and whatever call
fails."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefmerge.checkpoints import content_fingerprint, open_checkpoint
from prefmerge.errors import DiskFull, OutputError
from prefmerge.ground import atomic, locks
from prefmerge.outputs.receipts import find_receipt, receipt_beside
from prefmerge.outputs.write import OutputKind
from tests.outputs import killed

LINUX_OR_MAC = sys.platform in ("linux", "darwin")
pytestmark = pytest.mark.skipif(not LINUX_OR_MAC, reason="the writer is POSIX only")


def version_at(place: Path, kind: OutputKind) -> int | None:
    """Which version is at the target, after checking that it is whole; None for nothing."""
    target = place / killed.TARGET[kind]
    if not target.exists():
        assert find_receipt(target) is None
        return None
    checkpoint = open_checkpoint(target)
    version = int(checkpoint.raw("a")[0])
    for name, array in killed.model(version).items():
        np.testing.assert_array_equal(checkpoint.raw(name), array)
    found = find_receipt(target)
    assert found is not None
    receipt = json.loads(found.read_bytes())
    assert receipt["version"] == version
    assert receipt["output"]["fingerprint"] == content_fingerprint(checkpoint)
    if kind == "folder":
        assert {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()} == {
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "below/copy.txt",
            "config.json",
            "receipt.json",
        }
        assert (target / "config.json").read_text() == (target / "below/copy.txt").read_text() == str(version)
    return version


def expected_names(kind: OutputKind) -> set[str]:
    names = {"merged"} if kind == "folder" else {"merged.safetensors", "merged.safetensors.receipt.json"}
    return names | {"source-1.txt", "source-2.txt"}


def kill_everywhere(place: Path, kind: OutputKind, *, previous: bool, exchange: bool) -> int:
    """Run every case and return how many changes a merge makes."""
    command = [sys.executable, killed.__file__, str(place), kind, "old" if previous else "none", str(int(exchange))]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.parametrize(
    ("kind", "previous", "exchange"),
    [
        ("file", True, True),
        ("file", False, True),
        ("file", False, False),
        ("folder", True, True),
        ("folder", False, True),
    ],
)
def test_a_kill_after_every_change_to_the_disk(
    tmp_path: Path, kind: OutputKind, previous: bool, exchange: bool
) -> None:
    cases = kill_everywhere(tmp_path, kind, previous=previous, exchange=exchange)
    found = [version_at(tmp_path / str(n), kind) for n in range(1, cases + 1)]
    old = 1 if previous else None
    turn = found.index(2)
    assert found == [old] * turn + [2] * (cases - turn)  # never back again
    assert turn > 10  # writes, syncs and renames were really counted
    for n in range(1, cases + 1):
        killed.publish(tmp_path / str(n), kind, 1)
        assert version_at(tmp_path / str(n), kind) == 1
        assert {path.name for path in (tmp_path / str(n)).iterdir()} == expected_names(kind)


def test_a_kill_without_an_exchange(tmp_path: Path) -> None:
    """Two renames leave one moment without a folder; the next merge at this target brings the old one back first."""
    cases = kill_everywhere(tmp_path, "folder", previous=True, exchange=False)
    found = []
    for n in range(1, cases + 1):
        with locks.claim(tmp_path / str(n) / "merged"):
            atomic.recover(tmp_path / str(n) / "merged")
        found.append(version_at(tmp_path / str(n), "folder"))
        assert {path.name for path in (tmp_path / str(n)).iterdir()} == expected_names("folder")
    turn = found.index(2)
    assert found == [1] * turn + [2] * (cases - turn)


def test_a_kill_while_a_receipt_waits(tmp_path: Path) -> None:
    """Killed twice: the receipt that the first kill left waiting is put in place before the second merge does
    anything."""
    cases = kill_everywhere(tmp_path / "once", "file", previous=True, exchange=True)
    targets = {n: tmp_path / "once" / str(n) / killed.TARGET["file"] for n in range(1, cases + 1)}
    waiting = [n for n, target in targets.items() if find_receipt(target) != receipt_beside(target)]
    assert waiting
    for n in waiting:
        command = [
            sys.executable,
            killed.__file__,
            str(tmp_path / f"twice-{n}"),
            "file",
            str(tmp_path / "once" / str(n)),
            "1",
        ]
        cases = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        assert cases > 15
        for second in range(1, cases + 1):
            assert version_at(tmp_path / f"twice-{n}" / str(second), "file") in (1, 2, 3)


class Failing:
    """Calls that count together, of which the n-th raises an OSError."""

    def __init__(self, n: int, code: int) -> None:
        self.n, self.code, self.calls = n, code, 0

    def wrap(self, call: Any) -> Any:
        def failing(*args: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == self.n:
                raise OSError(self.code, os.strerror(self.code))
            return call(*args, **options)

        return failing


def publish_failing(place: Path, kind: OutputKind, failing: Failing) -> OutputError | None:
    """What publishing version 2 raises when one of its calls fails."""
    with pytest.MonkeyPatch.context() as patched:
        for name in ("pwrite", "ftruncate", "fsync", "mkdir", "rename", "replace", "link"):
            patched.setattr(os, name, failing.wrap(getattr(os, name)))
        patched.setattr(shutil, "copyfile", failing.wrap(shutil.copyfile))
        patched.setattr(atomic, "_rename_with", failing.wrap(atomic._rename_with))  # pyright: ignore[reportPrivateUsage]
        try:
            killed.publish(place, kind, 2)
        except OutputError as error:
            return error
    return None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_any_call_that_fails(tmp_path: Path, kind: OutputKind, code: int) -> None:
    """An error instead of a kill: one OutputError, the old output or the new one, and no temporary left."""
    n = failed = 0
    failing = Failing(0, code)
    while failing.calls >= n:  # until there are fewer calls than n
        n += 1
        place, failing = tmp_path / str(n), Failing(n, code)
        killed.prepare(place, kind, "old")
        error = publish_failing(place, kind, failing)
        if error is not None:
            failed += 1
            assert isinstance(error, DiskFull) == (code == errno.ENOSPC)
            assert str(place / killed.TARGET[kind]) in str(error)
        assert version_at(place, kind) in ((1, 2) if error else (2,))
        assert not [path for path in place.iterdir() if path.name.endswith((".tmp", ".old"))]
    assert failed > 10
