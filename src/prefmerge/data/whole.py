"""A user's file, read whole: its contents at one moment, or an error.

A file that is written to while it is read would come as a mixture of old and new. So size and time of the file are
compared before and after, and a file that was written just now is looked at again when the clock that stamps files
has moved. `Steady` also compares what several readings gave. Cost: one file in memory; a hash (8 bytes) for each file
that `Steady` has read. Not here: what the contents mean.
"""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path

import xxhash

from prefmerge.errors import DataError

TICK_NS = 12_000_000  # the slowest clock that stamps files in a Linux kernel moves every 10 ms


def read_whole(file: Path, what: str) -> bytes:
    """The bytes of a file. Raises DataError that begins with `what` where it cannot be read, or changes meanwhile."""
    try:
        with file.open("rb") as opened:
            if 0 <= time.time_ns() - os.fstat(opened.fileno()).st_mtime_ns < TICK_NS:
                time.sleep(TICK_NS / 1e9)
            before = os.fstat(opened.fileno())
            content = opened.read()
            after = os.fstat(opened.fileno())
    except OSError as error:
        raise DataError(f"{what}: cannot be read: {error.strerror or error}.") from error
    same = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    if stat.S_ISREG(after.st_mode) and not (same and len(content) == after.st_size):
        raise DataError(f"{what}: changed while it was read. Wait until it is written, then try again.")
    return content


@dataclass(frozen=True)
class Steady:
    """Reads files; whoever reads one again gets the same bytes, or an error. A copy in another process knows what was
    read before it was made.
    """

    _seen: dict[str, int] = field(default_factory=dict, repr=False)  # path -> hash of its bytes

    def read(self, file: Path, what: str) -> bytes:
        """The bytes of a file. Raises DataError that begins with `what`."""
        content = read_whole(file, what)
        digest = xxhash.xxh3_64_intdigest(content)
        if self._seen.setdefault(str(file), digest) != digest:
            raise DataError(f"{what}: changed since it was first read. Put the first one back, or start again.")
        return content
