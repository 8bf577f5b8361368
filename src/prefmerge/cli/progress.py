"""Progress on stderr: a bar on a terminal; elsewhere lines for a job that takes hours, nothing for the others.

    with counting("samples") as report:
        job(progress=report)        None where nothing is to be drawn

Cost: rich's bars are loaded when the first is drawn. Not here: stdout, which is `show`'s.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefmerge.ground.progress import Counted, Progress
    from prefmerge.training.job import TrainingProgress

WIDTH_OF_A_NAME = 32  # columns
_PLAIN = ("what", "bar", "count", "left")


@contextlib.contextmanager
def _bars(*columns: str, transient: bool = True) -> Iterator[Any]:
    """rich's bars with these columns (`what`, `bar`, `count`, `bytes`, `rate`, `left`, or a text); None where stderr is
    no terminal. `transient`: they go when the job is done.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich import progress
    from rich.console import Console

    known: dict[str, Callable[[], Any]] = {
        "what": lambda: progress.TextColumn("{task.description}", markup=False),
        "bar": progress.BarColumn,
        "count": progress.MofNCompleteColumn,
        "bytes": progress.DownloadColumn,
        "rate": progress.TransferSpeedColumn,
        "left": progress.TimeRemainingColumn,
    }
    made = [known[one]() if one in known else progress.TextColumn(one, markup=False) for one in columns]
    with progress.Progress(*made, console=Console(stderr=True, markup=False), transient=transient) as bars:
        yield bars


@contextlib.contextmanager
def counting(what: str) -> Iterator[Counted | None]:
    """Of samples or trials."""
    with _bars(*_PLAIN) as bars:
        if bars is None:
            yield None
            return
        job = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(job, completed=done, total=total)


@contextlib.contextmanager
def merging() -> Iterator[Progress | None]:
    """Of bytes, with the rate and the tensor."""
    with _bars("what", "bar", "bytes", "rate", "left") as bars:
        if bars is None:
            yield None
            return
        job = bars.add_task("", total=None)

        def report(done: int, total: int, what: str) -> None:
            # The end of a tensor's name says more than its beginning.
            shown = what if len(what) <= WIDTH_OF_A_NAME else f"...{what[3 - WIDTH_OF_A_NAME :]}"
            bars.update(job, completed=done, total=total, description=shown)

        yield report


@contextlib.contextmanager
def searching() -> Iterator[Progress | None]:
    """Of trials, with what is being done."""
    with _bars(*_PLAIN) as bars:
        if bars is None:
            yield None
            return
        job = bars.add_task("trials", total=None)
        yield lambda done, most, what: bars.update(job, completed=done, total=most, description=what)


@contextlib.contextmanager
def working() -> Iterator[Progress]:
    """Of pieces of work; without a terminal a line for each, with the time left at the rate so far."""
    with _bars("bar", "count", "left", "what", transient=False) as bars:
        if bars is None:
            yield _working_lines()
            return
        job = bars.add_task("", total=None)
        yield lambda done, total, what: bars.update(job, completed=done, total=total, description=what)


def _working_lines() -> Progress:
    first: tuple[int, float] | None = None

    def report(done: int, total: int, what: str) -> None:
        nonlocal first
        if first is None:
            first = (done, time.monotonic())
            _line(f"{total} pieces of work, {done} of them done")
            return
        rate = (time.monotonic() - first[1]) / (done - first[0])
        _line(f"{done}/{total} {what}; about {rate * (total - done) / 60:.0f} min left")

    return report


@contextlib.contextmanager
def training() -> Iterator[Callable[[TrainingProgress], None]]:
    """Of a run: a bar per task; without a terminal a line per task and epoch."""
    with _bars("what", "bar", "count", "steps", "left", "{task.fields[told]}", transient=False) as bars:
        if bars is None:
            yield _training_lines()
            return
        opened: dict[int, Any] = {}

        def report(now: TrainingProgress) -> None:
            if now.note is not None:
                bars.console.print(f"Note: {now.note}", soft_wrap=True)
                return
            if now.task not in opened:
                opened[now.task] = bars.add_task(f"{now.task + 1}/{now.tasks} {now.name}", total=None, told="")
            if now.fisher is not None:
                bars.update(opened[now.task], told="Fisher information: {} of {} samples".format(*now.fisher))
            if now.step is not None:
                told = f"loss {now.step.loss:.3f}, accuracy {now.step.accuracy:.3f}, epoch {now.step.epoch + 1}"
                bars.update(opened[now.task], completed=now.step.step, total=now.step.steps, told=told)

        yield report


def _training_lines() -> Callable[[TrainingProgress], None]:
    shown = -1

    def report(now: TrainingProgress) -> None:
        nonlocal shown
        if now.note is not None:
            _line(f"Note: {now.note}")
            return
        if now.fisher is not None:
            return
        who = f"{now.task + 1}/{now.tasks} {now.name}"
        if now.step is None:
            _line(f"{who}: {'done' if now.done else 'resumes where it was interrupted' if now.resumed else 'begins'}")
            shown = -1
        elif now.step.epoch != shown:
            shown = now.step.epoch
            _line(
                f"{who}: epoch {now.step.epoch + 1}, step {now.step.step} of {now.step.steps}, loss "
                f"{now.step.loss:.3f}, accuracy {now.step.accuracy:.3f}, {duration(now.step.seconds_left)} left"
            )

    return report


def _line(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """In hours and minutes, minutes and seconds, or seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
