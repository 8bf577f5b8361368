"""Two writers of one target: the second is refused at once, or finds that it came too late. The moments that matter
are forced; tests/merging/test_at_once.py runs real merges against each other."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from prefmerge.checkpoints import content_fingerprint, open_checkpoint
from prefmerge.errors import OutputBusy, OutputExists
from prefmerge.ground import atomic, disk, locks
from prefmerge.outputs.receipts import find_receipt
from prefmerge.outputs.write import Output, OutputKind, create_output
from tests.checkpoints.files import info_of
from tests.outputs import killed

KINDS: list[OutputKind] = ["file", "folder"]
IN_HERE = (
    r"out: another prefmerge merge in this process is writing this output\. Wait until it has ended, or choose "
    r"another output; --force does not take it over\."
)
MEANWHILE = (
    r"out: another prefmerge merge has written it meanwhile\. Choose another output, or overwrite it with --force\."
)


def start(target: Path, kind: OutputKind, version: int, *, force: bool = False) -> Output:
    """An output of which every element is written, and equals the version."""
    model = killed.model(version)
    infos = [info_of(name, array) for name, array in model.items()]
    out = create_output(target, infos, metadata={}, kind=kind, force=force)
    for name, array in model.items():
        out.write(name, 0, array)
    return out


def save(target: Path, kind: OutputKind, version: int, *, force: bool = False) -> None:
    with start(target, kind, version, force=force) as out:
        out.publish(killed.receipt(version))


def version_at(target: Path) -> int:
    """Which version is there, after checking that its receipt is its own and that nothing else is beside it."""
    opened, receipt = open_checkpoint(target), find_receipt(target)
    assert receipt is not None
    assert receipt.parent == (target if target.is_dir() else target.parent)
    told = json.loads(receipt.read_bytes())
    assert told["output"]["fingerprint"] == content_fingerprint(opened)
    assert told["version"] == opened.raw("a")[0]
    assert {path.name for path in target.parent.iterdir()} <= {"out", "out.receipt.json"}
    return told["version"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_attack_s1_the_second_is_refused_from_check_to_end(tmp_path: Path, kind: OutputKind, force: bool) -> None:
    if force:
        save(tmp_path / "out", kind, 3)
    with start(tmp_path / "out", kind, 1, force=force) as out:
        before = {path.name for path in tmp_path.iterdir()}
        asked: list[str] = []
        with pytest.raises(OutputBusy, match=IN_HERE):
            create_output(tmp_path / "out", [], metadata=lambda: asked.append("read") or {}, kind=kind, force=force)
        assert not asked  # a task vector's metadata takes a reading of the base
        assert {path.name for path in tmp_path.iterdir()} == before

        def receipt(files: list[dict[str, Any]]) -> bytes:
            with pytest.raises(OutputBusy, match=IN_HERE):
                start(tmp_path / "out", kind, 2, force=force)
            return killed.receipt(1)(files)

        out.publish(receipt)
    assert version_at(tmp_path / "out") == 1
    save(tmp_path / "out", kind, 2, force=True)
    assert version_at(tmp_path / "out") == 2


@pytest.mark.parametrize("kind", KINDS)
def test_one_target_however_it_is_spelled(tmp_path: Path, kind: OutputKind, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path / "real")
    monkeypatch.setenv("HOME", str(tmp_path))
    with start(tmp_path / "real" / "out", kind, 1) as out:
        for spelled in ("out", "./out", "../link/out", "../real/../real/out", "~/link/out", str(tmp_path / "link/out")):
            with pytest.raises(OutputBusy, match="in this process"):
                start(Path(spelled), kind, 2, force=True)
        save(tmp_path / "real" / "out2", kind, 2)  # its neighbours are free
        save(tmp_path / "out", kind, 2)
        out.publish(killed.receipt(1))
    for name in ("out2", "out2.receipt.json"):
        disk.remove(tmp_path / "real" / name)
    assert version_at(tmp_path / "real" / "out") == 1


HOLDER = """
import sys, time
from pathlib import Path
from prefmerge.outputs.write import create_output
from prefmerge.ground import locks
what, target = sys.argv[1], Path(sys.argv[2])
kept = locks.claim(target) if what == "claim" else create_output(target, [], metadata={}, kind=what, force=False)
print("ready", flush=True)
time.sleep(60)
"""


@contextmanager
def a_process_with(what: OutputKind | Literal["claim"], target: Path) -> Iterator[int]:
    """The number of a process that has begun an output, or only claimed its place, and is killed in the end."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, what, str(target)], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"ready\n"
            yield holder.pid
        finally:
            holder.kill()


@pytest.mark.parametrize("kind", KINDS)
def test_attack_s1_another_process_is_named_and_its_death_frees_the_target(tmp_path: Path, kind: OutputKind) -> None:
    target = tmp_path / "made" / "out"
    with a_process_with(kind, target) as pid:
        for force in (False, True):
            with pytest.raises(OutputBusy, match=rf"out: another prefmerge merge \(process {pid}\) is writing this"):
                start(target, kind, 2, force=force)
    assert len(list(target.parent.iterdir())) == 2  # a lock and a temporary folder, of a process that was killed
    save(target, kind, 2)
    assert version_at(target) == 2


def test_who_holds_a_target_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_PATIENCE", 0.05)
    for written, who in [
        ("17 node-3.cluster", r" \(process 17 on node-3.cluster\)"),
        ("", ""),  # not written yet, or on a full disk
        ("\x1b[2J", ""),
        (f"{2**22 + 1} {os.uname().nodename}", ""),  # killed, while a child of it lives on with the lock
    ]:
        with open(tmp_path / ".out.prefmerge.lock", "w") as file:
            file.write(written)
            file.flush()
            fcntl.flock(file, fcntl.LOCK_EX)
            with pytest.raises(OutputBusy, match=f"out: another prefmerge merge{who} is writing this output"):
                start(tmp_path / "out", "file", 1)


@pytest.mark.parametrize("kind", KINDS)
def test_threads(tmp_path: Path, kind: OutputKind) -> None:
    for n in range(20):
        target = tmp_path / str(n) / "out"  # whose folder each of them would make
        barrier, said = threading.Barrier(3), list[object]()

        def write(version: int, target: Path = target, barrier: Any = barrier, said: list[object] = said) -> None:
            barrier.wait()
            try:
                save(target, kind, version)
                said.append(version)
            except (OutputBusy, OutputExists) as error:
                said.append(error)

        threads = [threading.Thread(target=write, args=(version,)) for version in (1, 2, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        won = [entry for entry in said if isinstance(entry, int)]
        assert len(said) == 3
        assert won == [version_at(target)]


@pytest.mark.parametrize("follower", [True, False])
def test_a_lock_that_goes_between_opening_and_locking(
    tmp_path: Path, follower: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is then locked is a file without a name, which keeps nobody out; its name may be another's lock by now."""
    held, real = [locks.claim(tmp_path / "out")], fcntl.flock

    def late(fd: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        held.pop().release()
        if follower:
            held.append(locks.claim(tmp_path / "out"))
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    if follower:
        with pytest.raises(locks.Busy):
            locks.claim(tmp_path / "out")
    else:
        held.append(locks.claim(tmp_path / "out"))
    with pytest.raises(locks.Busy):
        locks.claim(tmp_path / "out")
    held.pop().release()
    assert not list(tmp_path.iterdir())


def test_what_a_killed_holder_wrote_is_not_taken_for_the_next_ones(tmp_path: Path) -> None:
    (tmp_path / ".out.prefmerge.lock").write_text("999999999 a-machine-with-a-rather-long-name.somewhere.example")
    with locks.claim(tmp_path / "out"), pytest.raises(locks.Busy) as refused:
        locks.claim(tmp_path / "out")
    assert refused.value.who == "in this process"
    assert not list(tmp_path.iterdir())


def test_a_folder_that_goes_before_the_lock_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another writer had made it, and took it back."""
    real = disk.make_parents

    def late(folder: Path) -> list[Path]:
        monkeypatch.setattr(locks, "make_parents", real)
        made = real(folder)
        disk.remove_empty(made)
        return made

    monkeypatch.setattr(locks, "make_parents", late)
    save(tmp_path / "a" / "out", "file", 1)
    assert version_at(tmp_path / "a" / "out") == 1


# Without locks only the renames keep two writers apart.


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.usefixtures("no_locks")
@pytest.mark.parametrize("kind", KINDS)
def test_too_late_without_locks(tmp_path: Path, kind: OutputKind) -> None:
    with start(tmp_path / "out", kind, 1) as first, start(tmp_path / "out", kind, 2) as second:
        second.publish(killed.receipt(2))
        with pytest.raises(OutputExists, match=MEANWHILE):
            first.publish(killed.receipt(1))
    assert version_at(tmp_path / "out") == 2


@pytest.mark.usefixtures("no_locks")
@pytest.mark.parametrize("flags", [True, False])
@pytest.mark.parametrize(
    ("kind", "moment"), [*(("file", moment) for moment in range(4)), *(("folder", moment) for moment in range(2))]
)
def test_any_order_without_locks(
    tmp_path: Path, kind: OutputKind, moment: int, flags: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second publishes all of its own before or after a rename of the first: weights, then receipt."""
    if not flags:
        monkeypatch.setattr(atomic, "_rename_with", lambda *_: False)
    with start(tmp_path / "out", kind, 1) as first, start(tmp_path / "out", kind, 2) as second:
        real, said = atomic.rename_new, list[OutputExists]()
        step = 0

        def at(now: int) -> None:
            if now == moment:
                monkeypatch.setattr(atomic, "rename_new", real)
                try:
                    second.publish(killed.receipt(2))
                except OutputExists as error:
                    said.append(error)

        def rename(source: Path, target: Path) -> None:
            nonlocal step
            at(step)
            real(source, target)
            at(step + 1)
            step += 2

        monkeypatch.setattr(atomic, "rename_new", rename)
        try:
            first.publish(killed.receipt(1))
        except OutputExists as error:
            said.append(error)
    assert len(said) == 1
    assert version_at(tmp_path / "out") == (2 if moment == 0 else 1)


@pytest.mark.parametrize("linked", [True, False])
def test_a_rename_without_the_system_call(tmp_path: Path, linked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hard link fails too where something is, even if it appears after any look; without those, a look must do."""
    monkeypatch.setattr(atomic, "_rename_with", lambda *_: False)
    real = os.link

    def link(source: Path, target: Path) -> None:
        target.write_text("another's")
        if not linked:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        real(source, target)

    (tmp_path / "new").write_text("new")
    monkeypatch.setattr(os, "link", link)
    with pytest.raises(FileExistsError):
        atomic.rename_new(tmp_path / "new", tmp_path / "out")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"new": "new", "out": "another's"}
    (tmp_path / "out").unlink()
    monkeypatch.setattr(os, "link", real)
    atomic.rename_new(tmp_path / "new", tmp_path / "out")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"out": "new"}


# What else is written whole.


def test_whole_folder_has_one_writer(tmp_path: Path) -> None:
    with atomic.whole_folder(tmp_path / "out") as folder:
        (folder / "x").write_text("1")
        with (
            pytest.raises(BlockingIOError, match="another writer in this process is at work on it"),
            atomic.whole_folder(tmp_path / "out"),
        ):
            pass
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    with (
        a_process_with("claim", tmp_path / "out") as pid,
        pytest.raises(BlockingIOError, match=rf"another writer \(process {pid}\) is at work on it"),
        atomic.whole_folder(tmp_path / "out"),
    ):
        pass
    with atomic.whole_folder(tmp_path / "out") as folder:
        (folder / "x").write_text("2")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "x").read_text() == "2"


def test_write_whole_replaces_only_if_told(tmp_path: Path) -> None:
    atomic.write_whole(tmp_path / "x", b"1", replace=False)
    with pytest.raises(FileExistsError):
        atomic.write_whole(tmp_path / "x", b"2", replace=False)
    assert (tmp_path / "x").read_bytes() == b"1"
    atomic.write_whole(tmp_path / "x", b"2")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x", b"2")]
