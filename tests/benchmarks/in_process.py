"""Commands of benchmarks in the process of the tests, where a process for each would take most of the time."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Sequence

from typer.testing import CliRunner

from benchmarks import common
from prefmerge.cli import app

run_measured = common.run_measured


def measured_here(processes: int) -> Callable[[Sequence[str]], common.Measured]:
    """In place of `common.run_measured`: the first so many commands in processes of their own, as they are measured,
    the others here. What they take is then what this process has taken, its memory with all that it has loaded.
    """
    calls = itertools.count()

    def run(command: Sequence[str]) -> common.Measured:
        if next(calls) < processes or list(command[: len(common.PREFMERGE)]) != common.PREFMERGE:
            return run_measured(command)
        wall, processor = time.perf_counter(), time.process_time()
        done = CliRunner().invoke(app, list(command[len(common.PREFMERGE) :]), prog_name="prefmerge")
        if done.exit_code:
            raise RuntimeError(f"{' '.join(command)} ended with {done.exit_code}: {done.stderr}{done.exception!r}")
        memory = common._memory(os.getpid())  # pyright: ignore[reportPrivateUsage]
        seconds = time.perf_counter() - wall, time.process_time() - processor
        return common.Measured(*seconds, memory["RssAnon"], memory["VmHWM"])

    return run
