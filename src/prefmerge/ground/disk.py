"""Small steps on a disk that the other modules here are made of.

    sync_path(p)         what p names has reached the disk
    make_parents(p)      p and the folders above it; returned are those that were missing
    names(p, fd)         whether p still leads to what fd has open
    remove(p)            a folder, a file or a link, as far as it goes

Cost: system calls; `sync` waits for the disk. POSIX only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path


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
