"""Progress on stderr: bars on a terminal; elsewhere lines, so that a job that takes minutes never looks dead.

    with counting("samples") as report:
        job(progress=report)

Where there is no terminal, a phase that lasts is named after FIRST seconds, and every EVERY seconds a line says how far
each job is and how long it still takes. That time is worked out from what was done since the first report, so loading
and compiling are not in it. Cost: rich's bars are loaded when the first is drawn; one thread that sleeps. Not here:
stdout, which is `show`'s.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from prefmerge.cli.screen import console, say
from prefmerge.ground.progress import listening
from prefmerge.ground.words import duration

if TYPE_CHECKING:
    from prefmerge.ground.progress import Counted, Progress
    from prefmerge.training.job import TrainingProgress

WIDTH_OF_A_NAME = 32  # columns
EVERY = 30.0  # seconds between two lines about one job
FIRST = 5.0  # seconds before a phase is named
_COUNTED = "counted"  # the job that is counted, of those that a line or a bar may be about
_PLAIN = ("what", "bar", "count", "left")


class ProgressView(Protocol):
    """Where progress is shown."""

    def phase(self, what: str, job: str = "") -> None:
        """What begins now and cannot be counted; "": it is over."""

    def begin(self, what: str) -> None:
        """The next step of a job in steps."""

    def count(self, done: int, total: int, what: str, of: str) -> None:
        """How much is done, and of what; `of`: the unit."""

    def pieces(self, done: int, total: int, what: str) -> None:
        """How many pieces of work are done, and which was the last."""

    def say(self, text: str) -> None:
        """A line that stays."""

    def training(self, now: TrainingProgress, run: str = "") -> None:
        """How far a run's training is; `run` names it where several train."""


@contextlib.contextmanager
def _shown(*columns: str, transient: bool = True) -> Iterator[ProgressView]:
    """Bars with these columns on a terminal, else lines. `transient`: bars go when the job is done."""
    if not sys.stderr.isatty():
        lines = _Lines()
        with lines.watched(), listening(lines.phase):
            yield lines
        return
    from rich import progress

    known: dict[str, Callable[[], Any]] = {
        "what": lambda: progress.TextColumn("{task.description}", markup=False),
        "bar": progress.BarColumn,
        "count": progress.MofNCompleteColumn,
        "bytes": progress.DownloadColumn,
        "rate": progress.TransferSpeedColumn,
        "left": progress.TimeRemainingColumn,
    }
    made = [known[one]() if one in known else progress.TextColumn(one, markup=False) for one in columns]
    with progress.Progress(*made, console=console(stderr=True), transient=transient) as drawn:
        bars = _Bars(drawn)
        with listening(bars.phase):
            yield bars


@contextlib.contextmanager
def counting(what: str) -> Iterator[Counted]:
    """Of samples or trials."""
    with _shown(*_PLAIN) as shown:
        yield lambda done, total: shown.count(done, total, what, what)


@contextlib.contextmanager
def merging() -> Iterator[Progress]:
    """Of bytes, with the rate and the tensor."""
    with _shown("what", "bar", "bytes", "rate", "left") as shown:

        def report(done: int, total: int, what: str) -> None:
            # The end of a tensor's name says more than its beginning.
            name = what if len(what) <= WIDTH_OF_A_NAME else f"...{what[3 - WIDTH_OF_A_NAME :]}"
            shown.count(done, total, name, "bytes")

        yield report


@contextlib.contextmanager
def searching() -> Iterator[Progress]:
    """Of trials, with what is being done."""
    with _shown(*_PLAIN) as shown:
        yield lambda done, most, what: shown.count(done, most, what, "trials")


@contextlib.contextmanager
def scoring() -> Iterator[Progress]:
    """Of candidates that a command scores, with what is being done."""
    with _shown(*_PLAIN) as shown:

        def report(done: int, of: int, what: str) -> None:
            if of:
                shown.count(done, of, what, "candidates")
            else:
                shown.begin(what)

        yield report


@contextlib.contextmanager
def steps() -> Iterator[Progress]:
    """Of a job in steps, each of which counts its samples or none: a line for each where there is no terminal."""
    with _shown(*_PLAIN) as shown:
        last = ""

        def report(done: int, of: int, what: str) -> None:
            nonlocal last
            step = what.partition(":")[0]
            if step != last:
                last = step
                shown.begin(what)
            if of:
                shown.count(done, of, what, "samples")

        yield report


@contextlib.contextmanager
def training() -> Iterator[Callable[[TrainingProgress], None]]:
    """Of a run: a bar per task; without a terminal a line per task and epoch."""
    with _shown("what", "bar", "count", "steps", "left", "{task.fields[note]}", transient=False) as shown:
        yield shown.training


@dataclass(frozen=True)
class ExperimentView:
    """What an experiment calls to say how far it is."""

    shown: ProgressView

    def cells(self, done: int, total: int, what: str) -> None:
        """Of pieces of work: a line for each where there is no terminal."""
        self.shown.pieces(done, total, what)

    def runs(self, run: str, now: TrainingProgress | str) -> None:
        """Of every training; a text is a phase of it."""
        if isinstance(now, str):
            self.shown.phase(now, run)
        else:
            self.shown.training(now, run)

    def say(self, text: str) -> None:
        self.shown.say(text)


@contextlib.contextmanager
def experiment() -> Iterator[ExperimentView]:
    """Of trainings and pieces of work."""
    with _shown("what", "bar", "count", "left", "{task.fields[note]}", transient=False) as shown:
        yield ExperimentView(shown)


# On a terminal


class _Bars:
    """rich's bars, one for each job; the phase is a line of its own while there is one."""

    def __init__(self, drawn: Any) -> None:
        self.drawn = drawn
        self.jobs: dict[str, Any] = {}

    def phase(self, what: str, job: str = "") -> None:
        text = f"{job}: {what}" if job else what
        self._update(f"phase {job}", description=f"{text} ...", visible=bool(what))

    def begin(self, what: str) -> None:
        self._update(_COUNTED, completed=0, total=None, description=what)

    def count(self, done: int, total: int, what: str, of: str) -> None:
        self._update(_COUNTED, completed=done, total=total, description=what or of)

    def pieces(self, done: int, total: int, what: str) -> None:
        self.count(done, total, what, "")

    def say(self, text: str) -> None:
        self.drawn.console.print(text, soft_wrap=True, highlight=False)

    def training(self, now: TrainingProgress, run: str = "") -> None:
        if now.note is not None:
            self.say(f"Note: {now.note}")
            return
        job = f"{run}: {_task(now)}" if run else _task(now)
        note = ""
        if now.fisher is not None:
            note = "Fisher information: {} of {} samples".format(*now.fisher)
        if now.step is not None:
            note = f"loss {now.step.loss:.3f}, accuracy {now.step.accuracy:.3f}, epoch {now.step.epoch + 1}"
            self._update(job, completed=now.step.step, total=now.step.steps)
        self._update(job, description=job, **({"note": note} if note else {}))

    def _update(self, job: str, **what: Any) -> None:
        if job not in self.jobs:
            self.jobs[job] = self.drawn.add_task("", total=None, note="")
        self.drawn.update(self.jobs[job], **what)


# Elsewhere


@dataclass
class _Job:
    """What was last said of a job, and when a line is due."""

    text: str
    since: float
    due: float
    printed: str = ""


@dataclass
class _Pace:
    """The time left at the rate since the first report, in words; "" before there is a rate."""

    first: tuple[int, float] | None = None
    last: int = 0

    def left(self, done: int, total: int, now: float) -> str:
        if self.first is None or done < self.last:
            self.first = (done, now)
        self.last = done
        count, passed = done - self.first[0], now - self.first[1]
        return f"; about {duration(passed / count * (total - done))} left" if count and done < total else ""


@dataclass
class _Lines:
    """Lines on stderr: some at once, the others when they are due."""

    jobs: dict[str, _Job] = field(default_factory=dict)
    pace: _Pace = field(default_factory=_Pace)
    epochs: dict[str, tuple[int, int]] = field(default_factory=dict)  # of each run, task and epoch that were printed
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Inside, a thread prints what is due."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(min(1.0, FIRST, EVERY)):
                self.due()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def due(self) -> None:
        """Print a line for each job that was silent for long enough."""
        with self.lock, contextlib.suppress(OSError, ValueError):  # nobody reads stderr any more
            now = time.monotonic()
            for job in self.jobs.values():
                if now >= job.due:
                    same = f" ({duration(now - job.since)} so far)" if job.printed == job.text else ""
                    self._print(job, job.text + same, now)

    def phase(self, what: str, job: str = "") -> None:
        if what:
            text = f"{job}: {what} ..." if job else f"{what[:1].upper()}{what[1:]} ..."
            self._now(f"phase {job}", text, FIRST)
        else:
            self._forget(f"phase {job}")

    def begin(self, what: str) -> None:
        self.pace = _Pace()
        self._line(_COUNTED, what)

    def count(self, done: int, total: int, what: str, of: str) -> None:
        left = self.pace.left(done, total, time.monotonic())
        amount = f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB" if of == "bytes" else f"{done:,} of {total:,} {of}"
        if done < total:
            self._now(_COUNTED, f"{f'{what}, ' if what and what != of else ''}{amount}{left}")
        else:
            self._forget(_COUNTED)

    def pieces(self, done: int, total: int, what: str) -> None:
        if not what:
            self._line(_COUNTED, f"{total} pieces of work, {done} of them done")
            return
        # The first has loading and compiling in it, so the rate is that of the others.
        left = self.pace.left(done, total, time.monotonic())
        self._line(_COUNTED, f"{done}/{total} {what}{left}", f"{done} of {total} pieces of work done")
        if done == total:
            self._forget(_COUNTED)

    def say(self, text: str) -> None:
        with self.lock:
            say(text)

    def training(self, now: TrainingProgress, run: str = "") -> None:
        if now.note is not None:
            self.say(f"Note: {now.note}")
            return
        who = f"{run}: {_task(now)}" if run else _task(now)
        if now.fisher is not None:
            self._now(run, f"{who}: Fisher information, {now.fisher[0]} of {now.fisher[1]} samples")
        elif now.step is None:
            self._line(run, f"{who}: {'done' if now.done else 'resumes' if now.resumed else 'begins'}")
            self.epochs.pop(run, None)
            if now.done and now.task + 1 == now.tasks:
                self._forget(run)
        else:
            step, at = now.step, (now.task, now.step.epoch)
            text = (
                f"{who}: epoch {step.epoch + 1}, step {step.step} of {step.steps}, loss {step.loss:.3f}, accuracy "
                f"{step.accuracy:.3f}, {duration(step.seconds_left)} left"
            )
            if self.epochs.get(run) == at:
                self._now(run, text)
            else:
                self.epochs[run] = at
                self._line(run, text)

    def _line(self, name: str, text: str, later: str | None = None) -> None:
        """Print it now. `later`: what is said of the job when another line is due."""
        with self.lock:
            now = time.monotonic()
            job = self.jobs.setdefault(name, _Job(text, now, now))
            job.text, job.since = later or text, now
            self._print(job, text, now)

    def _forget(self, name: str) -> None:
        with self.lock:
            self.jobs.pop(name, None)

    def _now(self, name: str, text: str, within: float | None = None) -> None:
        """Keep it for the next line; one of a new job, or with `within`, is due so many seconds from now."""
        with self.lock:
            now = time.monotonic()
            job = self.jobs.setdefault(name, _Job(text, now, now + (within or EVERY)))
            if within is not None:
                job.due = min(job.due, now + within)
            if job.text != text:
                job.text, job.since = text, now

    def _print(self, job: _Job, text: str, now: float) -> None:
        job.printed, job.due = job.text, now + EVERY
        say(text)


def _task(now: TrainingProgress) -> str:
    return f"{now.task + 1}/{now.tasks} {now.name}"
