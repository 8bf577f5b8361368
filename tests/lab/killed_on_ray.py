"""Set up in every worker of test_on_ray's cluster: one that finds the file CELL kills itself before it keeps a cell,
one that finds TRAINING when a task of a training is kept. A file that is found goes, so that one worker dies.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefmerge.ground import atomic
from prefmerge.lab.cells import Cell

FLAGS = "PREFMERGE_TEST_FLAGS"  # the variable that names the folder of these files
CELL, TRAINING = "cell", "training"


def setup() -> None:
    keep, whole_folder = Cell.keep, atomic.whole_folder

    def kept(*given: Any) -> None:
        die(CELL)
        keep(*given)

    @contextlib.contextmanager
    def filled(target: Path) -> Iterator[Path]:
        with whole_folder(target) as folder:
            yield folder
        if target.parent.name == "tasks":
            die(TRAINING)

    Cell.keep = kept  # pyright: ignore[reportAttributeAccessIssue]
    atomic.whole_folder = filled


def die(name: str) -> None:
    """Where that file is there."""
    file = Path(os.environ[FLAGS]) / name
    try:
        file.rename(file.with_name(f"killed-{name}-{os.getpid()}"))
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
