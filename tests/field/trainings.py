"""Trainings that only say what they do: what `lab.trainings` starts in place of fine-tuning, in processes of their own.

Imported by those processes, so it loads nothing that is large.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from prefmerge.errors import DataError
from prefmerge.lab.jobs import settle


def scripted(pipe: Any, file: str, folder: str, log: str, threads: int | None, gpu: str | None) -> None:
    """Do what the name of a file beside the run's configuration says; leave one that says that it began."""
    settle(threads, gpu)
    run = Path(folder)
    (run.parent / f"{run.name}.began").write_text(f"{os.environ.get('OMP_NUM_THREADS')} {gpu}")
    (asked,) = run.parent.parent.glob(f"{run.name}.*")
    match asked.suffix:
        case ".fails":
            pipe.send(DataError("photos/cup.jpg: is no picture."))
        case ".dies":
            os.kill(os.getpid(), signal.SIGKILL)
        case ".interrupts":
            os.kill(os.getppid(), signal.SIGINT)
            time.sleep(120)
        case ".sleeps":
            time.sleep(120)
        case _:
            pipe.send("loading the model")
            pipe.send(None)
