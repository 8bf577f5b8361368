"""Set up in every worker of test_on_ray's cluster: one that finds the file TRAINING when a task of a training is kept
kills itself. The file goes then, so that one worker dies.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from prefmerge.ground import atomic

FLAGS = "PREFMERGE_TEST_FLAGS"  # the variable that names the folder of these files
CELL, TRAINING = "cell", "training"  # a test's own worker looks for CELL


def setup() -> None:
    whole_folder = atomic.whole_folder

    @contextlib.contextmanager
    def filled(target: Path) -> Iterator[Path]:
        with whole_folder(target) as folder:
            yield folder
        if target.parent.name == "tasks":
            die(TRAINING)

    atomic.whole_folder = filled


def die(name: str) -> None:
    """Where that file is there."""
    file = Path(os.environ[FLAGS]) / name
    try:
        file.rename(file.with_name(f"killed-{name}-{os.getpid()}"))
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
