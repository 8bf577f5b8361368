"""Set up in every worker of test_on_ray's cluster: one that finds the file KILL kills itself in the middle of a group.

The file names where it goes then, so that one worker dies, and the test sees that it did.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from prefmerge.merging import pieces

FLAG = "PREFMERGE_TEST_KILL"  # the variable that names KILL


def setup() -> None:
    pieces.EVERY = 0.0
    add, flag = pieces.Pieces.add, Path(os.environ[FLAG])

    def added(*given: Any) -> None:
        add(*given)
        try:
            flag.rename(flag.with_name(f"killed-{os.getpid()}"))
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    pieces.Pieces.add = added  # pyright: ignore[reportAttributeAccessIssue]
