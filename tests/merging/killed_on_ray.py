"""Set up in every worker of test_on_ray's cluster: one that finds the file KILL kills itself in the middle of a group,
one that finds COUNT in the middle of a count.

A file that is found goes, so that one worker dies, and the test sees that it did.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from prefmerge.merging import pieces
from prefmerge.methods.records import Records

FLAG = "PREFMERGE_TEST_KILL"  # the variable that names KILL
COUNT = "count"  # beside it


def setup() -> None:
    pieces.EVERY = 0.0
    add, count, flag = pieces.Pieces.add, Records.count, Path(os.environ[FLAG])

    def added(*given: Any) -> None:
        add(*given)
        _die(flag)

    def counted(*given: Any) -> int:
        answer = count(*given)
        _die(flag.with_name(COUNT))
        return answer

    pieces.Pieces.add = added  # pyright: ignore[reportAttributeAccessIssue]
    Records.count = counted  # pyright: ignore[reportAttributeAccessIssue]


def _die(found: Path) -> None:
    try:
        found.rename(found.with_name(f"killed-{found.name}-{os.getpid()}"))
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
