"""The scratch file takes its space when it is made, or says that the disk is full."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from prefmerge.errors import DiskFull, OutputError
from prefmerge.vectors.workspace import Workspace

SIZE = 3_000_001


def refusing(number: int):
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("supported", [True, False])
def test_attack_s3_space_of_scratch_is_taken_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, supported: bool):
    if not supported:
        monkeypatch.setattr(os, "posix_fallocate", refusing(errno.EOPNOTSUPP), raising=False)
    taken = []
    mapped = np.frombuffer

    def look(memory: object, dtype: object) -> np.ndarray:
        for file in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # the listing itself is gone by now
                if str(tmp_path) in os.readlink(file):
                    taken.append(os.stat(file).st_blocks * 512)
        return mapped(memory, dtype)  # pyright: ignore

    if Path("/proc/self/fd").exists():
        monkeypatch.setattr(np, "frombuffer", look)
    with Workspace(memory=0, scratch=tmp_path) as work:
        array = work.allocate(SIZE, np.uint8)
        assert array.size == SIZE
        array[:] = 7
        assert work.spilled == SIZE
    assert not Path("/proc/self/fd").exists() or max(taken) >= SIZE


@pytest.mark.parametrize("supported", [True, False])
def test_attack_s3_a_full_disk_under_scratch_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, supported: bool):
    if supported:
        monkeypatch.setattr(os, "posix_fallocate", refusing(errno.ENOSPC), raising=False)
    else:
        monkeypatch.setattr(os, "posix_fallocate", refusing(errno.EOPNOTSUPP), raising=False)
        monkeypatch.setattr(os, "write", refusing(errno.EDQUOT))
    with Workspace(memory=0, scratch=tmp_path) as work, pytest.raises(DiskFull) as caught:
        work.allocate(SIZE, np.uint8)
    assert str(caught.value) == (
        f"{tmp_path}: the disk is full: it has no room for 3000001 bytes of scratch. Free some space, allow more "
        "memory with --max-memory, or write to another disk."
    )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_takes_no_files_is_told(tmp_path: Path):
    with (
        Workspace(memory=0, scratch=tmp_path / "gone") as work,
        pytest.raises(
            OutputError, match=r"/gone: cannot hold 3000001 bytes of scratch \(No such file or directory\)\."
        ),
    ):
        work.allocate(SIZE, np.uint8)


@pytest.mark.parametrize("threads", [1, 3])
def test_large_items_have_all_threads_and_small_ones_one_each(threads: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("prefmerge.vectors.workspace.LARGE", 10)
    monkeypatch.setattr("prefmerge.vectors.workspace.SMALL", 0)
    sizes = [3, 12, 2, 1, 40, 0, 11]
    seen: list[tuple[int, bool]] = []
    main = threading.current_thread()
    with Workspace(threads=threads) as work:
        work.walk(range(len(sizes)), sizes.__getitem__, lambda i: seen.append((i, threading.current_thread() is main)))
    assert sorted(i for i, _ in seen) == list(range(len(sizes)))
    assert [i for i, _ in seen if sizes[i] >= 10] == [1, 4, 6]  # in order
    assert {i for i, _ in seen[:1]} == {0}
    assert {i for i, _ in seen[2:4]} == {2, 3}  # between the large ones that they stand between
    assert all(alone for i, alone in seen if sizes[i] >= 10)
    assert threads == 1 or [i for i, alone in seen if not alone and i in (2, 3)] != []


def test_small_items_that_follow_each_other_stay_on_one_thread(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("prefmerge.vectors.workspace.SMALL", 2)
    sizes = [5, 2, 2, 1, 6, 0, 1]
    seen: dict[int, tuple[int, int]] = {}  # item -> its thread, and how many came before

    def see(item: int) -> None:
        seen[item] = threading.get_ident(), len(seen)

    with Workspace(threads=4) as work:
        work.walk(range(len(sizes)), sizes.__getitem__, see)
    assert sorted(seen) == list(range(len(sizes)))
    for run in ([1, 2, 3], [5, 6]):
        assert len({seen[item][0] for item in run}) == 1
        assert [seen[item][1] for item in run] == sorted(seen[item][1] for item in run)


def test_many_small_items_end_where_another_fails():
    """Ctrl-C, or an error in a larger tensor, must not wait for tens of thousands of small ones."""
    begun, failed = threading.Event(), threading.Event()
    seen: list[int] = []

    def work_at(item: int) -> None:
        if item == 0:
            begun.wait(30)
            failed.set()
            raise ValueError("the large one")
        seen.append(item)
        begun.set()
        failed.wait(30)
        time.sleep(0.001)

    with Workspace(threads=2) as work, pytest.raises(ValueError, match=r"^the large one$"):
        work.walk(range(100_000), lambda item: 10**5 if item == 0 else 1, work_at)
    assert 1 <= len(seen) < 50_000


def test_a_walk_ends_with_the_first_error():
    def fail(item: int) -> None:
        if item == 2:
            raise ValueError("two")
        seen.append(item)

    seen: list[int] = []
    with Workspace() as work, pytest.raises(ValueError, match=r"^two$"):
        work.walk(range(5), lambda item: 1, fail)
    assert seen == [0, 1]
