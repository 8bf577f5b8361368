"""A run under way: its parts, for what happens in a task and between tasks, and what it reports.

Cost: none. Not here: what is done with the parts (`finetuning`, `between_tasks`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefmerge.config import FinetuneConfig
from prefmerge.data.scenarios import Scenario, Task, joined
from prefmerge.ground import jsons
from prefmerge.training import run_folder

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from prefmerge.models.encoders.protocol import Encoder
    from prefmerge.training.steps import StepReport

TASK_SEEDS = 1000  # task t of a run shuffles with seed * TASK_SEEDS + t: more tasks than any run has


@dataclass(frozen=True)
class TrainingProgress:
    """What a run reports while it works. `step` is None at the start of a task and when it is done.

    `fisher` counts samples while EWC measures, after a task, what it needs for the next.
    """

    task: int  # from 0
    name: str
    tasks: int
    step: StepReport | None = None
    done: bool = False
    resumed: bool = False
    fisher: tuple[int, int] | None = None  # (done, of)
    note: str | None = None  # something to say, which is about no task


@dataclass(frozen=True)
class Job:
    """What is trained, on what, where, and whom it reports to."""

    scenario: Scenario
    encoder: Encoder
    config: FinetuneConfig
    out: Path
    accelerator: Accelerator
    progress: Callable[[TrainingProgress], None]

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What is trained, one after another."""
        return joined(self.scenario).tasks if self.config.training.method == "joint" else self.scenario.tasks

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    def seed(self, index: int) -> int:
        """What task `index` shuffles with."""
        return self.config.seed * TASK_SEEDS + index

    def note(self, text: str) -> None:
        """Say something that is about no task, and log it."""
        self.log("note", text=text)
        self.progress(TrainingProgress(0, "", len(self.tasks), note=text))

    def log(self, event: str, **what: Any) -> None:
        """Add a line to the run's log."""
        if self.accelerator.is_main_process:
            line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "event": event, **what}
            rest = memoryview(jsons.encoded(line, indent=None))
            with run_folder.writing(self.out), open(self.out / run_folder.LOG, "ab", buffering=0) as file:
                whole = file.tell()
                try:
                    while rest:
                        rest = rest[file.write(rest) :]
                except OSError:
                    file.truncate(whole)  # the next line is not to stand in this one
                    raise
