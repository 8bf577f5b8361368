"""Replacing a file or a folder so that whoever looks, at any moment and after any kill, sees the old one or the new
one.

Work happens in a folder `.NAME.prefmerge-RANDOM.tmp` beside the target, on the same file system, so that a rename
moves it. Its maker holds a lock on it while alive; a folder without one was left by a killed process and is removed
by the next. A full folder cannot be renamed over another, so the two are exchanged (renameat2 on Linux, renamex_np on
macOS). Where the file system cannot, two renames leave a moment without either, from which `recover` brings the old
one back. `claim` gives a target to one writer at a time, by a lock on `.NAME.prefmerge.lock` beside it. POSIX only.
Left out: file systems without flock. There every claim is granted and only `rename_new` keeps writers apart, and
stale folders are never removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

_AT_FDCWD = -100  # Linux fcntl.h: paths are relative to the working directory
_FLAGS = {
    "linux": {"exclusive": 1, "exchange": 2},
    "darwin": {"exclusive": 4, "exchange": 2},
}  # RENAME_NOREPLACE, RENAME_EXCL, ...
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP)
_PATIENCE = 1.0  # seconds until the holder of a lock must have written its name there; it does so at once


def _rename_with(flag: str, source: Path, target: Path) -> bool:
    """One rename system call with a flag. False where the system or the file system has no such call."""
    flags = _FLAGS.get(sys.platform)
    libc = ctypes.CDLL(None, use_errno=True)
    call = getattr(libc, "renameat2" if sys.platform == "linux" else "renamex_np", None)
    if flags is None or call is None:
        return False
    a, b = os.fsencode(source), os.fsencode(target)
    failed = call(_AT_FDCWD, a, _AT_FDCWD, b, flags[flag]) if sys.platform == "linux" else call(a, b, flags[flag])
    if not failed:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT:
        return False
    raise OSError(code, os.strerror(code), str(source), None, str(target))


def exchange(a: Path, b: Path) -> bool:
    """Swap what two paths name, in one step. False, and nothing done, where that is not supported."""
    return _rename_with("exchange", a, b)


def rename_new(source: Path, target: Path) -> None:
    """Rename to a name that is free. Raises FileExistsError when it is not."""
    if _rename_with("exclusive", source, target):
        return
    if not source.is_dir():
        try:
            os.link(source, target)  # this call fails too if something is there
        except FileExistsError:
            raise
        except OSError:
            pass  # a file system without hard links: look, then rename
        else:
            with contextlib.suppress(OSError):  # it is in a workspace, which goes as a whole
                os.unlink(source)
            return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    os.rename(source, target)


def replace_folder(new: Path, target: Path) -> Path:
    """Put the folder `new` where the folder `target` is. Returns where the old one is now, for removal."""
    if exchange(new, target):
        return new
    old = new.with_suffix(".old")
    os.rename(target, old)
    try:
        os.rename(new, target)
    except BaseException:
        os.rename(old, target)
        raise
    return old


def sync(fd: int) -> None:
    """Have the file or folder behind a descriptor reach the disk; on macOS that takes more than fsync."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        with contextlib.suppress(OSError):  # not on every file system
            fcntl.fcntl(fd, full)
            return
    os.fsync(fd)


def sync_path(path: Path) -> None:
    """`sync` of what a path names."""
    fd = os.open(path, os.O_RDONLY)
    try:
        sync(fd)
    finally:
        os.close(fd)


def make_parents(folder: Path) -> list[Path]:
    """Create a folder and those above it that are missing, and return the ones created, outermost first."""
    missing: list[Path] = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    missing.reverse()
    made: list[Path] = []
    try:
        for path in missing:
            path.mkdir(exist_ok=True)
            made.append(path)
            sync_path(path.parent)
    except OSError:
        remove_empty(made)
        raise
    return made


def remove_empty(folders: list[Path]) -> None:
    """Take back what `make_parents` made, as far as nobody put anything there."""
    for path in reversed(folders):
        with contextlib.suppress(OSError):
            path.rmdir()


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
            os.close(self._fd)
            self._fd = -1
        remove_empty(self._parents)
        self._parents = []

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def claim(target: Path) -> Claim:
    """Become the only writer of `target`, in this process and among all, or raise Busy at once.

    The lock is on a file in the target's folder, so a target has one however its path is spelled, and a writer that
    dies lets go of it. Missing parent folders are made.
    """
    path = target.with_name(f".{target.name}.prefmerge.lock")
    parents: list[Path] = []
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
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "taken"
    except OSError:
        path.unlink(missing_ok=True)
        return "no locks"
    if not names(path, fd):
        return "gone"  # its holder removed it before it let go
    try:
        if writable and not os.fstat(fd).st_size:
            os.pwrite(fd, f"{os.getpid()} {socket.gethostname()}".encode(), 0)
            return "ours"
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    path.unlink(missing_ok=True)  # a killed process left it, with its number in it
    return "gone"


def _holder(fd: int) -> str | None:
    """Who holds a lock file, in words; None while that is not written in it, or is a process that is no more."""
    found = re.fullmatch(rb"([0-9]{1,9}) ([A-Za-z0-9._-]{1,255})", os.pread(fd, 300, 0))
    if found is None:
        return None
    pid, host = int(found[1]), found[2].decode()
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


@dataclass
class Workspace:
    """A locked temporary folder beside a target. `path` is gone, or is the target's old folder, once its content was
    published."""

    path: Path
    _lock: int = field(repr=False)

    def discard(self) -> None:
        """Remove the folder with whatever is in it, and let go of the lock."""
        remove(self.path)
        self.release()

    def release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def make_workspace(target: Path) -> Workspace:
    """A new, empty, locked folder beside `target`."""
    while True:
        path = target.with_name(f".{target.name}.prefmerge-{secrets.token_hex(6)}.tmp")
        path.mkdir()
        lock = os.open(path, os.O_RDONLY)
        with contextlib.suppress(
            OSError
        ):  # a file system without locks: nobody will take the folder for a stale one either
            fcntl.flock(lock, fcntl.LOCK_EX)
        if names(path, lock):
            return Workspace(path, lock)
        os.close(lock)  # another process found the folder before it was locked, and removed it as stale


def names(path: Path, fd: int) -> bool:
    """Whether a path leads to the very file or folder behind a descriptor."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def remove(path: Path) -> None:
    """Remove a folder, a file or a link, as far as it goes: what remains is stale, and the next merge tries again."""
    if path.is_symlink() or path.is_file():
        with contextlib.suppress(OSError):
            path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _left_behind(target: Path, suffix: str) -> list[Path]:
    pattern = re.compile(re.escape(f".{target.name}.prefmerge-") + r"[0-9a-f]{12}" + re.escape(suffix))
    try:
        return sorted(entry for entry in target.parent.iterdir() if pattern.fullmatch(entry.name))
    except OSError:
        return []


@contextlib.contextmanager
def _locked_if_stale(path: Path) -> Iterator[bool]:
    """Whether the maker of `path` is gone; its lock is ours meanwhile."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        stale = names(path, fd)
    except OSError:  # locked by its living maker, or no locks here: then we cannot know
        stale = False
    try:
        yield stale
    finally:
        os.close(fd)


def workspaces(target: Path) -> list[Path]:
    """The temporary folders beside `target`, of living makers and of dead ones."""
    return _left_behind(target, ".tmp")


def recover(target: Path, rescue: Callable[[Path], None] | None = None) -> None:
    """Undo a replacement that was killed between two renames, and remove what killed processes left beside `target`.

    `rescue` is called with each temporary folder before it goes, for what it holds that is still of use.
    """
    for old in _left_behind(target, ".old"):
        if not os.path.lexists(target):
            os.rename(old, target)
            sync_path(target.parent)
        else:
            remove(old)
    for path in workspaces(target):
        with _locked_if_stale(path) as stale:
            if stale:
                if rescue is not None:
                    rescue(path)
                remove(path)


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `target`, in place of what is there, when the block ends without an exception.

    Raises Busy where another writer is at work on `target`.
    """
    with claim(target):
        yield from _filled(target)


def _filled(target: Path) -> Iterator[Path]:
    recover(target)
    workspace = make_workspace(target)
    try:
        yield workspace.path
        for parent, _, files in os.walk(workspace.path):
            for name in files:
                sync_path(Path(parent) / name)
            sync_path(Path(parent))
        if os.path.lexists(target):
            remove(replace_folder(workspace.path, target))
        else:
            rename_new(workspace.path, target)
        sync_path(target.parent)
        workspace.release()
    except BaseException:
        workspace.discard()
        raise


def write_whole(target: Path, content: bytes, *, replace: bool = True) -> None:
    """Write a file that is there with all of its content or not at all, in place of what is there.

    Raises FileExistsError if something is there and `replace` is false.
    """
    work = target.with_name(f".{target.name}.prefmerge-{secrets.token_hex(6)}.tmp")
    try:
        with open(work, "xb") as file:
            file.write(content)
            file.flush()
            sync(file.fileno())
        if replace:
            os.replace(work, target)
        else:
            rename_new(work, target)
    except BaseException:
        work.unlink(missing_ok=True)
        raise
    sync_path(target.parent)
