"""Replacing a file or a folder so that whoever looks, at any moment and after any kill, sees the old one or the new
one.

Work happens in a folder `.NAME.prefmerge-RANDOM.tmp` beside the target, on the same file system, so that a rename
moves it. Its maker holds a lock on it while alive; a folder without one was left by a killed process and is removed
by the next. A full folder cannot be renamed over another, so the two are exchanged (renameat2 on Linux, renamex_np on
macOS). Where the file system cannot, two renames leave a moment without either, from which `recover` brings the old
one back. POSIX only. Left out: network file systems without flock, on which stale folders are never removed.
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
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_AT_FDCWD = -100  # Linux fcntl.h: paths are relative to the working directory
_FLAGS = {
    "linux": {"exclusive": 1, "exchange": 2},
    "darwin": {"exclusive": 4, "exchange": 2},
}  # RENAME_NOREPLACE, RENAME_EXCL, ...
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP)


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
        if _names(path, lock):
            return Workspace(path, lock)
        os.close(lock)  # another process found the folder before it was locked, and removed it as stale


def _names(path: Path, fd: int) -> bool:
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
        stale = _names(path, fd)
    except OSError:  # locked by its living maker, or no locks here: then we cannot know
        stale = False
    try:
        yield stale
    finally:
        os.close(fd)


def recover(target: Path) -> None:
    """Undo a replacement that was killed between two renames, and remove what killed processes left beside `target`."""
    for old in _left_behind(target, ".old"):
        if not os.path.lexists(target):
            os.rename(old, target)
            sync_path(target.parent)
        else:
            remove(old)
    for path in _left_behind(target, ".tmp"):
        with _locked_if_stale(path) as stale:
            if stale:
                remove(path)


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `target`, in place of what is there, when the block ends without an exception."""
    recover(target)
    workspace = make_workspace(target)
    try:
        yield workspace.path
        for parent, _, names in os.walk(workspace.path):
            for name in names:
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


def write_whole(target: Path, content: bytes) -> None:
    """Write a file that is there with all of its content or not at all, in place of what is there."""
    work = target.with_name(f".{target.name}.prefmerge-{secrets.token_hex(6)}.tmp")
    try:
        with open(work, "xb") as file:
            file.write(content)
            file.flush()
            sync(file.fileno())
        os.replace(work, target)
    except BaseException:
        work.unlink(missing_ok=True)
        raise
    sync_path(target.parent)
