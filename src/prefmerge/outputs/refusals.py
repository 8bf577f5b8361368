"""What the system refuses while an output is written, as an error that names the output.

Cost: none. Not here: what is refused before anything is asked of the system (`write`).
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from prefmerge.errors import DiskFull, OutputBusy, OutputError, OutputExists
from prefmerge.ground import locks
from prefmerge.ground.refused import remedy


@contextlib.contextmanager
def reporting(target: Path) -> Iterator[None]:
    """What the system refuses, as an OutputError that names the target."""
    try:
        yield
    except locks.Busy as error:
        who = f"another prefmerge merge {error.who}".rstrip()
        raise OutputBusy(
            f"{target}: {who} is writing this output. Wait until it has ended, or choose another output; "
            "--force does not take it over."
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"{target}: the disk is full. Free some space, or write to another disk.") from error
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise OutputExists(
                f"{target}: appeared while the merge was running. Choose another output, or give --force."
            ) from error
        way = f" {remedy(error)}".rstrip()
        raise OutputError(f"{target}: cannot be written ({error.strerror or error}).{way}") from error
