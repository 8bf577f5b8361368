"""Who may write: one at a time, among threads and processes.

    claim(target)      a target that may not be there yet: a lock file `.NAME.prefmerge.lock` beside it
    held(folder)       a folder that is there: a lock on the folder itself, which leaves no file behind

A writer that dies lets go of what it locked. Source: flock(2). POSIX only. Not here: file systems without flock, where
everything is granted.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prefmerge.ground.disk import make_parents, names, remove_empty

_PATIENCE = 1.0  # seconds until the holder of a lock must have written its name there; it does so at once


def lock(fd: int, *, wait: bool = False) -> bool | None:
    """Lock the file or folder behind a descriptor until that is closed. False: another has it; None: no locks here."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


_claimed: set[Path] = set()  # the lock files of this process, from before they are there until they are gone


class Busy(BlockingIOError):
    """Another writer is at work on a target. `who` is "(process 1234)", "in this process", or empty if unknown."""

    def __init__(self, target: Path, who: str) -> None:
        text = f"another writer {who} is at work on it" if who else "another writer is at work on it"
        super().__init__(errno.EWOULDBLOCK, text, str(target))
        self.who = who


@dataclass
class Claim:
    """The right to write a target, until `release`."""

    _path: Path
    _fd: int
    _parents: list[Path]

    @property
    def beside(self) -> Path:
        """The folder of the target, or the innermost above it that was there before the claim."""
        return self._parents[0].parent if self._parents else self._path.parent

    def release(self) -> None:
        """Let go of the target, and take back the parent folders made for it if nothing is in them."""
        if self._fd >= 0:
            # The file goes while it is still locked: whoever opened it meanwhile finds that its name is gone.
            with contextlib.suppress(OSError):
                if names(self._path, self._fd):
                    os.unlink(self._path)
            fd, self._fd = self._fd, -1  # first, or one that is interrupted would be closed twice
            os.close(fd)
            _claimed.discard(self._path)
        remove_empty(self._parents)
        self._parents = []

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def lock_file(target: Path) -> Path:
    """What is there while someone has a claim on `target`, or after a claimant was killed."""
    return target.with_name(f".{target.name}.prefmerge.lock")


def claim(target: Path) -> Claim:
    """Become the only writer of `target`, in this process and among all, or raise Busy at once.

    The lock is on a file in the target's folder, so a target has one however its path is spelled, and a writer that
    dies lets go of it. Missing parent folders are made.
    """
    path = lock_file(target)
    parents: list[Path] = []
    _claimed.add(path)
    patient_until = time.monotonic() + _PATIENCE
    try:
        while True:
            fd, writable = _open_lock(path, parents)
            try:
                state = _take(path, fd, writable)
                who = _holder(fd) if state == "taken" else None
            except BaseException:
                os.close(fd)
                raise
            if state == "ours":
                return Claim(path, fd, parents)
            os.close(fd)
            if state == "no locks":
                return Claim(path, -1, parents)
            if state == "taken":
                if who is not None or time.monotonic() > patient_until:
                    raise Busy(target, who or "")
                time.sleep(0.01)
    except BaseException:
        remove_empty(parents)
        raise


def _open_lock(path: Path, parents: list[Path]) -> tuple[int, bool]:
    """A descriptor of the lock file, made if it is missing, and whether it can be written. Folders that had to be made
    are added to `parents`."""
    attempts = 100
    while True:
        try:
            parents += make_parents(path.parent)
            try:
                return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666), True
            except PermissionError:
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), False  # another user's was killed
        except FileNotFoundError:  # another writer made these folders too, and took them back
            attempts -= 1
            if not attempts:
                raise


def _take(path: Path, fd: int, writable: bool) -> Literal["ours", "taken", "gone", "no locks"]:
    """Lock a lock file and write in it who holds it."""
    taken = lock(fd)
    if taken is False:
        return "taken"
    if taken is None:
        path.unlink(missing_ok=True)
        return "no locks"
    if not names(path, fd):
        return "gone"  # its holder removed it before it let go
    try:
        if writable and not os.fstat(fd).st_size:
            os.pwrite(fd, _stamp(), 0)
            return "ours"
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    path.unlink(missing_ok=True)  # a killed process left it, with its number in it
    return "gone"


def _stamp() -> bytes:
    return f"{os.getpid()} {socket.gethostname()}".encode()


def release_all() -> None:
    """Remove the lock files that this process has still."""
    for path in list(_claimed):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            content = file.read()
            # Without a name in it, it may be another writer's, who has locked it then.
            if content == _stamp() or (not content and lock(file.fileno()) and names(path, file.fileno())):
                path.unlink()
    _claimed.clear()


def _holder(fd: int) -> str | None:
    """Who holds a lock file, in words; None while that is not written in it, or is a process that is no more."""
    written = re.fullmatch(rb"([0-9]{1,9}) ([A-Za-z0-9._-]{1,255})", os.pread(fd, 300, 0))
    if written is None:
        return None
    pid, host = int(written[1]), written[2].decode()
    if host != socket.gethostname():
        return f"(process {pid} on {host})"
    if pid == os.getpid():
        return "in this process"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass  # another user's
    return f"(process {pid})"


@contextlib.contextmanager
def held(folder: Path, busy: Exception | None = None) -> Iterator[None]:
    """Be the only one who holds `folder`, which is there. Raises `busy`, else Busy, at once where another does."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        if lock(fd) is False:
            raise busy or Busy(folder, "")
        yield
    finally:
        os.close(fd)
