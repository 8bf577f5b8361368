"""Replacing a file or a folder so that whoever looks, at any moment and after any kill, sees the old one or the new
one.

Work happens in a folder or file `.NAME.prefmerge-RANDOM.tmp` beside the target, on the same file system, so that a
rename moves it. Its maker holds a lock on it while alive; one without a lock was left by a killed process and is
removed by the next. A full folder cannot be renamed over another, so the two are exchanged (renameat2 on Linux,
renamex_np on macOS). Where the file system cannot, two renames leave a moment without either, from which `recover`
brings the old one back. One writer at a time is the matter of `locks`. POSIX only. Not here: file systems without
flock. There only `rename_new` keeps writers apart, and what is stale is never removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from prefmerge.ground.disk import names, remove, sync, sync_path
from prefmerge.ground.locks import claim, lock, release_all
from prefmerge.ground.refused import naming

_AT_FDCWD = -100  # Linux fcntl.h: paths are relative to the working directory
_FLAGS = {
    "linux": {"exclusive": 1, "exchange": 2},
    "darwin": {"exclusive": 4, "exchange": 2},
}  # RENAME_NOREPLACE, RENAME_EXCL, ...
_made: set[Path] = set()  # the work folders of this process, from before they are there until they are given up
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
    if not source.is_dir():
        try:
            os.link(source, target)  # this call fails too if something is there
        except FileExistsError:
            raise
        except OSError:
            pass  # a file system without hard links: look, then rename
        else:
            with contextlib.suppress(OSError):  # it is in a work folder, which goes as a whole
                os.unlink(source)
            return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    os.rename(source, target)


def replace_folder(new: Path, target: Path, aside: Path | None = None) -> Path:
    """Put the folder `new` where the folder `target` is. Returns where the old one is now, for removal. `aside`: where
    it may be for a moment, a name that `recover` knows; by default beside `new`.
    """
    if exchange(new, target):
        return new
    old = aside or new.with_suffix(".old")
    os.rename(target, old)
    try:
        os.rename(new, target)
    except BaseException:
        os.rename(old, target)
        raise
    return old


@dataclass
class WorkFolder:
    """A locked temporary folder beside a target. `path` is gone, or is the target's old folder, once its content was
    published."""

    path: Path
    _fd: int = field(repr=False)

    def discard(self) -> None:
        """Remove the folder with whatever is in it, and let go of the lock: first, as the descriptor may be the last
        that there is, and whoever takes the folder for stale now removes it too.
        """
        self._unlock()
        remove(self.path)
        _made.discard(self.path)

    def release(self) -> None:
        _made.discard(self.path)
        self._unlock()

    def _unlock(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1  # first, or one that is interrupted would be closed twice
            os.close(fd)


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.prefmerge-{secrets.token_hex(6)}.tmp")


def make_work_folder(target: Path) -> WorkFolder:
    """A new, empty, locked folder beside `target`."""
    while True:
        path = _beside(target)
        _made.add(path)
        path.mkdir()
        fd = os.open(path, os.O_RDONLY)
        lock(fd, wait=True)  # a file system without locks: nobody will take the folder for a stale one either
        if names(path, fd):
            return WorkFolder(path, fd)
        os.close(fd)  # another process came upon the folder before it was locked, and removed it as stale
        _made.discard(path)


def kept_folder(target: Path, key: str) -> Path:
    """Where `keep_work_folder` is, or would be. `key`: a digest, of which 12 digits do."""
    return target.with_name(f".{target.name}.prefmerge-{key[:12]}.tmp")


def keep_work_folder(target: Path, key: str) -> WorkFolder:
    """The folder beside `target` that is called after `key`, locked, with whatever is in it. To be `release`d it stays,
    until someone calls `recover` without that key. Raises PermissionError where another user made it: what is in it is
    not to be believed.
    """
    path = kept_folder(target, key)
    with contextlib.suppress(FileExistsError):
        path.mkdir()
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "another user made it", str(path))
        lock(fd)  # who may be here is the claim's to say; it keeps others from taking the folder for a stale one
    except BaseException:
        os.close(fd)
        raise
    return WorkFolder(path, fd)


def discard_all() -> None:
    """Remove what this process still has beside its targets: an exception that comes from outside, as Ctrl-C does, may
    come between the making of a folder and the code that looks after it.
    """
    for path in list(_made):
        remove(path)
    _made.clear()
    release_all()


def _left_behind(target: Path, suffix: str) -> list[Path]:
    pattern = re.compile(re.escape(f".{target.name}.prefmerge-") + r"[0-9a-f]{12}" + re.escape(suffix))
    try:
        return sorted(target.with_name(name) for name in os.listdir(target.parent) if pattern.fullmatch(name))
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
        stale = lock(fd) is True and names(path, fd)  # where there are no locks we cannot know
    except OSError:
        stale = False
    try:
        yield stale
    finally:
        os.close(fd)


def work_folders(target: Path) -> list[Path]:
    """The temporary folders and files beside `target`, of living makers and of dead ones."""
    return _left_behind(target, ".tmp")


def recover(target: Path, rescue: Callable[[Path], None] | None = None, *, keep: str | None = None) -> None:
    """Undo a replacement that was killed between two renames, and remove what killed processes left beside `target`,
    but the folder of the key `keep`.

    `rescue` is called with each temporary folder before it goes, for what it holds that is still of use.
    """
    restore(target)
    _remove_stale(target, rescue, keep)


def restore(target: Path) -> None:
    """Undo a replacement that was killed between two renames."""
    for old in _left_behind(target, ".old"):
        if not os.path.lexists(target):
            os.rename(old, target)
            sync_path(target.parent)
        else:
            remove(old)


def _remove_stale(target: Path, rescue: Callable[[Path], None] | None = None, keep: str | None = None) -> None:
    kept = None if keep is None else kept_folder(target, keep)
    for path in work_folders(target):
        if path == kept:
            continue
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
    work = make_work_folder(target)
    try:
        yield work.path
        for parent, _, files in os.walk(work.path):
            for name in files:
                sync_path(Path(parent) / name)
            sync_path(Path(parent))
        if os.path.lexists(target):
            remove(replace_folder(work.path, target))
        else:
            rename_new(work.path, target)
        sync_path(target.parent)
        work.release()
    except BaseException as error:
        work.discard()
        if isinstance(error, OSError) and (error.filename is None or str(error.filename).startswith(str(work.path))):
            raise naming(error, target) from error
        raise


def write_whole(target: Path, content: bytes, *, replace: bool = True) -> None:
    """Write a file that is there with all of its content or not at all, in place of what is there.

    Raises FileExistsError if something is there and `replace` is false; an OSError names the target.
    """
    try:
        _remove_stale(target)
        work, fd = _new_file(target)
        try:
            with open(fd, "wb") as file:  # locked until it is closed, and it has its new name by then
                file.write(content)
                file.flush()
                sync(fd)
                if replace:
                    os.replace(work, target)
                else:
                    rename_new(work, target)
        except BaseException:
            work.unlink(missing_ok=True)
            _made.discard(work)
            raise
        _made.discard(work)
        sync_path(target.parent)
    except OSError as error:
        raise naming(error, target) from error


def _new_file(target: Path) -> tuple[Path, int]:
    """A new, empty, locked file beside `target`, and its descriptor."""
    while True:
        path = _beside(target)
        _made.add(path)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        lock(fd, wait=True)
        if names(path, fd):
            return path, fd
        os.close(fd)  # as for folders
        _made.discard(path)


@contextlib.contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """A folder among the system's temporary files, which goes with the block. A killed process leaves its own to the
    next that asks for one of this name.
    """
    target = Path(tempfile.gettempdir()) / name
    _remove_stale(target)
    work = make_work_folder(target)
    try:
        yield work.path
    finally:
        work.discard()
