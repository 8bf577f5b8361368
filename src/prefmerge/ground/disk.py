"""Small steps on a disk that the other modules here are made of.

    sync_path(p)         what p names has reached the disk
    make_parents(p)      p and the folders above it; returned are those that were missing
    names(p, fd)         whether p still leads to what fd has open
    remove(p)            a folder, a file or a link, as far as it goes
    read_text_file(p)    the bytes of a small file; no pipe, no device, not more than there may be

Cost: system calls; `sync` waits for the disk. POSIX only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
from pathlib import Path

MOST_TEXT = 1 << 27  # bytes; a receipt takes some hundreds for each tensor


def read_text_file(path: str | os.PathLike[str], most: int | None = None) -> bytes:
    """The bytes of a file that people or programs write as text. Raises OSError, also for what is no file (a pipe may
    wait for ever, a device may never end), for more than `most` bytes (MOST_TEXT), for a path that no file can have.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except ValueError as error:  # a NUL in it, or half of a surrogate pair
        raise FileNotFoundError(errno.ENOENT, "no file can be called so", os.fspath(path)) from error
    most = MOST_TEXT if most is None else most
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is a pipe, a device or the like, not a file", os.fspath(path))
        with open(fd, "rb", closefd=False) as file:
            content = file.read(most + 1)
    finally:
        os.close(fd)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", os.fspath(path))
    return content


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


def names(path: Path, fd: int) -> bool:
    """Whether a path leads to the very file or folder behind a descriptor."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def remove(path: Path) -> None:
    """Remove a folder, a file or a link, as far as it goes: what remains is stale, and the next writer tries again."""
    if path.is_symlink() or path.is_file():
        with contextlib.suppress(OSError):
            path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):  # it needs two descriptors, and there may be one
            for name in os.listdir(path):
                remove(path / name)
            path.rmdir()
