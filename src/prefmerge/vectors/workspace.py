"""Where a merge does its work: threads, block sizes, thread-local buffers, and large arrays that spill to disk beyond
the memory limit.

None of these changes a result: every value is computed from elements and keyed numbers alone. Cost: `threads` times a
few blocks of float32 plus the arrays asked for. Not here: reading and writing checkpoints.
"""

from __future__ import annotations

import errno
import itertools
import math
import mmap
import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from prefmerge.errors import DiskFull, OutputError

Item = TypeVar("Item")
Made = TypeVar("Made")

BLOCK = 1 << 16  # elements; 256 KiB of float32, so a few of them stay in the second-level cache
ZEROS = 1 << 20  # bytes written at a time where a file system cannot reserve space
PARTS = 16  # blocks in one stretch of masks: fewer, longer kernel calls where only masks are walked
SHARED = 1 << 19  # values of all tasks that a thread holds at once: 2 MiB of float32
LEAST = 1 << 12  # elements
LARGE = 1 << 20  # elements; below it one thread takes a tensor whole, whatever its share of the model
SMALL = 1 << 13  # elements; up to it a tensor is mostly Python's work, of which two threads do no more than one

HEAVY = 2  # problems solved in memory at a time, tens of MiB each: more threads must not mean more of them


class Workspace:
    """Threads and memory of one merge. Close it (or use `with`) to release both.

    threads: workers, at least 1. block: elements read at a time. memory: bytes of large arrays to keep anonymous; what
    goes beyond lives in an unlinked, memory-mapped file in `scratch` (a folder; the system's temporary one by default),
    whose space is taken at once.
    """

    def __init__(
        self, *, threads: int = 1, block: int = BLOCK, memory: int = 1 << 62, scratch: Path | None = None
    ) -> None:
        self.threads = max(1, threads)
        self.block = block
        self.part = block * PARTS
        self.scratch = scratch
        self.heavy = threading.BoundedSemaphore(HEAVY)  # held by whoever fills memory beyond blocks and `allocate`
        self._left = self.memory = memory
        self._spilled = 0
        self._lock = threading.RLock()  # an array may be freed, and give back, while it is held
        self._local = threading.local()
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="prefmerge") if self.threads > 1 else None

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads. What is under way ends first; what has not begun is dropped."""
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    @property
    def spilled(self) -> int:
        """Bytes that went to the scratch file so far."""
        return self._spilled

    def map(self, function: Callable[[Item], Made], items: Iterable[Item]) -> list[Made]:
        """[function(item) for item in items], side by side. Called from inside a worker it runs there, one by one. The
        first error ends it.
        """
        work = list(items)
        if self._pool is None or len(work) < 2 or self.at_hand == 1:
            return [function(item) for item in work]

        def inside(item: Item) -> Made:
            self._local.inside = True
            try:
                return function(item)
            finally:
                self._local.inside = False

        futures = [self._pool.submit(inside, item) for item in work]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise

    @property
    def at_hand(self) -> int:
        """How many threads a `map` called here would use."""
        return 1 if self._pool is None or getattr(self._local, "inside", False) else self.threads

    def walk(self, items: Iterable[Item], size: Callable[[Item], int], function: Callable[[Item], object]) -> None:
        """function(item) for every item, in their order: tensors, or what takes their place, of `size` elements. A
        large one has all threads to itself, for maps of its own; those between two large ones go one to a thread, and
        small ones that follow each other all to the same.
        """
        work = list(items)
        large = max(LARGE, sum(map(size, work)) // (4 * self.threads))
        ended = threading.Event()

        def each(run: list[Item]) -> None:
            for item in run:
                if not ended.is_set():
                    function(item)

        try:
            for alone, group in itertools.groupby(work, lambda item: size(item) >= large):
                if alone:
                    each(list(group))
                else:
                    self.map(each, _runs(group, lambda item: size(item) <= SMALL))
        except BaseException:
            ended.set()  # a thread may be in the middle of many small ones
            raise

    def shared(self, tasks: int) -> int:
        """How many elements to read at a time where a thread holds the values of so many tasks at once."""
        return min(self.block, max(LEAST, SHARED // max(1, tasks)))

    def buffer(self, name: str, shape: int | tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
        """A thread's own scratch array of that name, contents undefined; the same memory at the next call with this
        name.
        """
        size = shape if isinstance(shape, int) else math.prod(shape)
        held: dict[tuple[str, Any], np.ndarray] = self._local.__dict__.setdefault("buffers", {})
        array = held.get((name, dtype))
        if array is None or array.size < size:
            array = held[name, dtype] = np.empty(size, dtype)
        return array[:size] if isinstance(shape, int) else array[:size].reshape(shape)

    def allocate(self, size: int, dtype: Any) -> np.ndarray:
        """A large array, contents undefined: anonymous memory while the limit allows, else a mapped scratch file.
        Raises DiskFull.
        """
        nbytes = size * np.dtype(dtype).itemsize
        with self._lock:
            fits = nbytes <= self._left
            if fits:
                self._left -= nbytes
            else:
                self._spilled += nbytes
        if fits:
            array = np.empty(size, dtype)
            weakref.finalize(array, self._give_back, nbytes)
            return array
        try:
            with tempfile.TemporaryFile(prefix="prefmerge-", dir=self.scratch) as file:  # unlinked from the start
                _reserve(file.fileno(), nbytes)
                return np.frombuffer(mmap.mmap(file.fileno(), nbytes), dtype)
        except OSError as error:
            where = self.scratch or tempfile.gettempdir()
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(
                    f"{where}: the disk is full: it has no room for {nbytes} bytes of scratch. Free some space, allow "
                    "more memory with --max-memory, or write to another disk."
                ) from error
            raise OutputError(f"{where}: cannot hold {nbytes} bytes of scratch ({error.strerror or error}).") from error

    def spare(self, size: int, dtype: Any) -> np.ndarray | None:
        """A large array, contents undefined, for what can be read again; None where it would take more than half of
        what the limit leaves.
        """
        nbytes = size * np.dtype(dtype).itemsize
        with self._lock:
            if 2 * nbytes > self._left:
                return None
            self._left -= nbytes
        array = np.empty(size, dtype)
        weakref.finalize(array, self._give_back, nbytes)
        return array

    def _give_back(self, nbytes: int) -> None:
        with self._lock:
            self._left += nbytes


def _runs(items: Iterable[Item], together: Callable[[Item], bool]) -> Iterator[list[Item]]:
    """The items in their order: those that go together and follow each other in one list, each other in its own."""
    for small, group in itertools.groupby(items, together):
        run = list(group)
        yield from [run] if small else ([item] for item in run)


def _reserve(fd: int, nbytes: int) -> None:
    """Make the file so long and take its space now. A map of a file with holes ends the process when the disk has no
    room for what is written into one.
    """
    if hasattr(os, "posix_fallocate"):  # macOS has none
        try:
            os.posix_fallocate(fd, 0, nbytes)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
    zeros = memoryview(bytes(min(nbytes, ZEROS)))
    for start in range(0, nbytes, ZEROS):
        rest = zeros[: nbytes - start]
        while rest:
            rest = rest[os.write(fd, rest) :]


def spans(size: int, length: int) -> list[tuple[int, int]]:
    """[0, size) cut into stretches of `length`."""
    return [(start, min(start + length, size)) for start in range(0, size, length)]
