"""A file of weights that is being read: always the bytes that it had when it was opened, or an error.

A memory map would be a little faster, and its fault cannot be caught: a file that is cut short while it is read, or a
disk that fails, ends the process without a word. So blocks are read with `pread`, of which a short count and an error
are values. What a writer does in place shows in the size or the times of the file; whoever has read a file calls
`check` before using what was read. A file that is deleted, or replaced by a rename, keeps its old bytes for whoever
has it open.

Hundreds of shards may be open at once, and descriptors are few: those that were not used for longest are closed, and
opened again when needed, if it is still the same file. Not here: a change by a process that maps the file on a
file system without times for that (tmpfs), and one that sets back times and size with the kernel's clock.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
import time
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import NoReturn, final

import numpy as np

from prefmerge.errors import CheckpointChanged, CheckpointNotFound

TICK_NS = 12_000_000  # the slowest clock that stamps files in a Linux kernel moves every 10 ms
MOST_OPEN = 512  # descriptors, where the system's limit does not ask for fewer
HASHED_AT_ONCE = 1 << 20  # bytes
MOST_AT_ONCE = 1 << 30  # bytes; some systems refuse 2 GiB

NO_FILE = "is a pipe, a device or the like, not a file. Write the checkpoint to a file, and name that."
_READ = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0)  # or a pipe would wait for someone to write

_lock = threading.RLock()  # over the descriptors of all files; not held while one is read
_opened: OrderedDict[int, weakref.ref[InputFile]] = OrderedDict()  # by id; used last comes last


@final
class InputFile:
    """The file at `path`, opened. Raises CheckpointNotFound. Safe to read from any thread."""

    _fd = -1  # also where the making of it was interrupted

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.closed = False
        self._users = 1  # until it is known what the file is, nobody else may close it
        try:
            self._open()
        except FileNotFoundError:
            raise CheckpointNotFound(f"{path}: no such file.") from None
        except OSError as error:
            raise CheckpointNotFound(f"{path}: cannot be read ({error.strerror or error}).") from error
        if not (stat.S_ISREG(mode := os.fstat(self._fd).st_mode) or stat.S_ISDIR(mode)):
            self.let_go()
            raise CheckpointNotFound(f"{path}: {NO_FILE}")
        self._first = self._settled()
        self.size = self._first.st_size
        self._users = 0

    @property
    def state(self) -> tuple[int, int, int, int]:
        """What differs where it was written to or replaced: its number, size and times in nanoseconds."""
        return (self._first.st_ino, self.size, self._first.st_mtime_ns, self._first.st_ctime_ns)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer`, bytes, from `offset` on. Raises CheckpointChanged where the file ends before."""
        fd = self._take()
        try:
            while buffer:
                count = os.preadv(fd, [buffer if len(buffer) <= MOST_AT_ONCE else buffer[:MOST_AT_ONCE]], offset)
                if count == len(buffer):
                    return
                if count == 0:
                    self._complain(os.fstat(fd))
                buffer, offset = buffer[count:], offset + count
        except OSError as error:
            raise CheckpointNotFound(f"{self.path}: cannot be read ({error.strerror or error}).") from error
        finally:
            self._give_back()

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset` on, fewer at the end of the file."""
        content = bytearray(max(0, min(count, self.size - offset)))
        self.read_into(memoryview(content), offset)
        return bytes(content)

    def check(self) -> None:
        """Raise CheckpointChanged where someone wrote to the file since it was opened."""
        fd = self._take()
        try:
            now = os.fstat(fd)
        finally:
            self._give_back()
        if not _same(self._first, now):
            self._complain(now)

    def check_path(self) -> None:
        """Raise CheckpointChanged where its path leads elsewhere now: for a library that has opened it by its path."""
        try:
            now = os.stat(self.path)
        except OSError:
            raise CheckpointChanged(f"{self.path}: was removed while it was read. {_AGAIN}") from None
        if not self._is(now) or not _same(self._first, now):
            self._complain(now)

    def mapped_at(self) -> list[tuple[int, int, int]]:
        """Where this process has mapped the file: first address, last address and offset in the file. Empty where the
        system does not say.
        """
        stretches: list[tuple[int, int, int]] = []
        try:
            with open("/proc/self/maps", "rb") as maps:
                for line in maps:
                    span, _, offset, device, inode = line.split()[:5]
                    if int(inode) == self._first.st_ino and _device(device) == self._first.st_dev:
                        low, high = span.split(b"-")
                        stretches.append((int(low, 16), int(high, 16), int(offset, 16)))
        except (OSError, ValueError):
            return []
        return stretches

    def sha256(self) -> str:
        """The SHA-256 of the whole file, in hexadecimal."""
        digest, buffer = hashlib.sha256(), memoryview(bytearray(min(self.size, HASHED_AT_ONCE)))
        for offset in range(0, self.size, HASHED_AT_ONCE):
            block = buffer[: min(HASHED_AT_ONCE, self.size - offset)]
            self.read_into(block, offset)
            digest.update(block)
        return digest.hexdigest()

    def close(self) -> None:
        with _lock:
            self.closed = True
            _opened.pop(id(self), None)
            if not self._users:
                self.let_go()

    def __del__(self) -> None:
        self.let_go()  # nobody uses it any more, so there is nothing to lock

    def let_go(self) -> None:
        """Close the descriptor. The next reading opens it again."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    @property
    def busy(self) -> bool:
        """Whether someone reads it now."""
        return self._users > 0

    def _settled(self) -> os.stat_result:
        """What the file is, once a later change must give it another time: what was written in this very tick of the
        kernel's clock could be written over in the same tick.
        """
        status = os.fstat(self._fd)
        age = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns)
        if 0 <= age < TICK_NS:
            time.sleep((TICK_NS - age) / 1e9)
            status = os.fstat(self._fd)
        return status

    def _take(self) -> int:
        """Its descriptor, which stays open until `_give_back`."""
        with _lock:
            if self.closed:
                raise ValueError(f"{self.path} is closed")
            self._users += 1
            try:
                if self._fd < 0:
                    self._reopen()
            except BaseException:
                self._users -= 1
                raise
            _opened.move_to_end(id(self))
            return self._fd

    def _give_back(self) -> None:
        with _lock:
            self._users -= 1
            if self.closed and not self._users:
                self.let_go()

    def _open(self) -> None:
        with _lock:
            self._fd = _descriptor(self.path)
            _opened[id(self)] = weakref.ref(self)
            _make_room(most_open())

    def _reopen(self) -> None:
        try:
            self._open()
        except FileNotFoundError:
            raise CheckpointChanged(f"{self.path}: was removed while it was read. {_AGAIN}") from None
        except OSError as error:
            raise CheckpointNotFound(f"{self.path}: cannot be read ({error.strerror or error}).") from error
        now = os.fstat(self._fd)
        if not self._is(now) or not _same(self._first, now):
            self.let_go()
            self._complain(now)

    def _is(self, now: os.stat_result) -> bool:
        return (now.st_dev, now.st_ino) == (self._first.st_dev, self._first.st_ino)

    def _complain(self, now: os.stat_result) -> NoReturn:
        if not self._is(now):
            how = "was replaced by another file"
        elif now.st_size != self._first.st_size:
            how = f"went from {self._first.st_size} to {now.st_size} bytes"
        else:
            how = "was written to"
        raise CheckpointChanged(f"{self.path}: {how} while it was read. {_AGAIN}")


_AGAIN = "Start again once nothing changes it any more."


def _same(first: os.stat_result, now: os.stat_result) -> bool:
    """Whether nobody wrote to the file. A new or removed name for it (a link, a deletion, a rename over it) moves its
    ctime too and changes no byte: then the mtime has to do.
    """
    if (first.st_size, first.st_mtime_ns) != (now.st_size, now.st_mtime_ns):
        return False
    return first.st_ctime_ns == now.st_ctime_ns or first.st_nlink != now.st_nlink


def _device(text: bytes) -> int:
    major, minor = text.split(b":")
    return os.makedev(int(major, 16), int(minor, 16))


def _descriptor(path: Path) -> int:
    """A new descriptor. The lock is held."""
    try:
        return os.open(path, _READ)
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        _make_room(0)
        return os.open(path, _READ)


def most_open() -> int:
    """A quarter of what the process may open: the output, the libraries and the caller need some as well."""
    try:
        import resource
    except ImportError:  # not a Unix system
        return MOST_OPEN
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_OPEN if soft < 0 else max(1, min(MOST_OPEN, soft // 4))


def _make_room(leave: int) -> None:
    """Close what nobody reads now, the longest unused first, until `leave` are open. The lock is held."""
    for key in list(_opened)[: max(0, len(_opened) - leave)]:
        file = _opened[key]()
        if file is None:
            del _opened[key]
        elif not file.busy:
            file.let_go()
            del _opened[key]


def fill(file: InputFile, offset: int, size: int, storage: np.dtype, buffer: np.ndarray | None) -> np.ndarray:
    """`size` elements of `file` from `offset` on, in the first bytes of `buffer`, or in a new array where that is too
    small.
    """
    nbytes = size * storage.itemsize
    if buffer is None or buffer.nbytes < nbytes:
        buffer = np.empty(nbytes, np.uint8)
    space = buffer[:nbytes]
    file.read_into(space.data, offset)
    return space.view(storage)
