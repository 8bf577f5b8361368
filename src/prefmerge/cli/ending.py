"""How a command ends, whoever ends it: one message at most, an exit code, nothing left behind.

    with ending(context):
        ...       0 done; an error's message and its code, 1 or 2; 128 + n where signal n came

SIGTERM and SIGHUP raise KeyboardInterrupt as Ctrl-C does, so every `with` and `finally` takes back what is not
finished, in this process and in those that it waits for. A signal that its parent ignores (nohup) stays ignored. What
comes in the next seconds is the same wish: a second Ctrl-C, or the SIGHUP that follows a SIGTERM, may not stop the
cleaning up. What is printed on stdout leaves the process at the end, so a pipe that nobody reads stops no work. Not
here: SIGKILL, after which the next run cleans up.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Any, TextIO, cast

import typer

from prefmerge import shown
from prefmerge.cli.screen import say, say_error
from prefmerge.errors import PrefmergeError
from prefmerge.ground.refused import lacks_memory, remedy

RESUMES = ("finetune", "adapt", "prefer", "search", "bench", "demo")  # commands that keep what they did
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ONE_WISH = 5.0  # seconds
_TAKE_MEMORY = ("--max-memory", "--batch", "--jobs", "--threads")
MOST_DESCRIPTORS = 1 << 16


class EndedBySignal(KeyboardInterrupt):
    """A signal asks the process to end."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def ending(context: typer.Context) -> Iterator[None]:
    """Whatever comes of the block becomes one message and typer.Exit; an exception that is a bug stays as it is."""
    resumes = "--resume" in context.args  # before the command takes them
    with _signals() as heeded:
        try:
            with heeded, _results(), _warnings():
                yield
        except BaseException as error:
            if isinstance(error, typer.Exit | SystemExit | GeneratorExit) or hasattr(error, "format_message"):
                raise
            said = _said(error, heeded.number, context, resumes=resumes)
            if said is None:
                raise
            _discard_all()
            say_error(said[0])
            raise typer.Exit(said[1]) from error


def _discard_all() -> None:
    """Take back what is half written. Where its module was not loaded nothing is, and there may be no memory for it."""
    atomic: Any = sys.modules.get("prefmerge.ground.atomic")
    if atomic is not None:
        atomic.discard_all()


def _with_less(context: typer.Context) -> str:
    """What of the command's options decides how much memory it takes, as a half sentence."""
    command = context.command.get_command(context, context.invoked_subcommand or "")  # pyright: ignore
    options = {name for one in getattr(command, "params", ()) for name in one.opts}
    takes = [name for name in _TAKE_MEMORY if name in options]
    return f", or give a smaller {' or '.join(takes)}" if takes else ""


def _said(error: BaseException, number: int | None, context: typer.Context, *, resumes: bool) -> tuple[str, int] | None:
    """The message and the exit code of what ends a command; None for a bug. `number`: the signal that came, if any:
    what is raised after it may be raised by what it interrupted. `resumes`: the command was asked to.
    """
    if number is not None or isinstance(error, KeyboardInterrupt):
        number = signal.SIGINT if number is None else number
        how = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
        resumes = resumes or context.invoked_subcommand in RESUMES
        left = "the same command resumes" if resumes else "nothing is left half written"
        return f"{how}; {left}.", 128 + number
    if isinstance(error, PrefmergeError):
        return str(error), error.exit_code
    if lacks_memory(error):
        return f"there is not enough memory. Free some{_with_less(context)}.", 1
    if isinstance(error, OSError) and error.errno is not None:
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        return f"{where}the system refuses it ({error.strerror or error}). {remedy(error)}".rstrip(), 1
    if isinstance(error, Exception) and (way := remedy(error)):  # a library's own name for what the system refuses
        return f"the system refuses it ({error}). {way}", 1
    return None


class _Heeded:
    """The part of a command in which a signal raises. Before it nothing is begun, and after it nothing is left to be
    taken back: there a signal ends the process as if nobody had asked.
    """

    def __init__(self) -> None:
        self.number: int | None = None  # of the signal that came
        self._owner, self._inside, self._until = os.getpid(), False, 0.0

    def __enter__(self) -> None:
        self._inside = True

    def __exit__(self, *_: object) -> None:
        self._inside = False

    def __call__(self, number: int, _: FrameType | None) -> None:
        if time.monotonic() < self._until:
            return
        if not self._inside or os.getpid() != self._owner:  # a fork, as data loaders make them, has no share in it
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._until = time.monotonic() + ONE_WISH
        self.number = number
        raise EndedBySignal(number)

    def again(self, number: int) -> None:
        """Raise once more, where the exception was lost in a place that can raise none."""
        self._until = 0.0
        timer = threading.Timer(0.01, os.kill, (self._owner, number))
        timer.daemon = True
        timer.start()


@contextlib.contextmanager
def _signals() -> Iterator[_Heeded]:
    """SIGTERM, SIGHUP and SIGINT raise EndedBySignal in the main thread, while what is yielded is entered."""
    heeded = _Heeded()
    if threading.current_thread() is not threading.main_thread():
        yield heeded
        return
    hook = sys.unraisablehook

    def lost(what: Any) -> None:
        if isinstance(what.exc_value, EndedBySignal):
            heeded.again(what.exc_value.number)
        else:
            hook(what)

    usual = (signal.SIG_DFL, signal.default_int_handler)
    before = {one: handler for one in SIGNALS if (handler := signal.getsignal(one)) in usual}
    try:
        for one in before:
            signal.signal(one, heeded)
        sys.unraisablehook = lost
        yield heeded
    finally:
        sys.unraisablehook = hook
        for one, handler in before.items():
            signal.signal(one, handler)


@contextlib.contextmanager
def _results() -> Iterator[None]:
    """Streams that take whatever is printed. What goes to stdout, but to a terminal, is kept and written at the end: so
    a pipe that is closed, or a disk that is full, changes nothing of the work.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed when the process began
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (stays open until the process ends)
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    stdout = sys.stdout
    if stdout.isatty():
        yield
        return
    kept = io.TextIOWrapper(io.BytesIO(), stdout.encoding or "utf-8", "backslashreplace", newline="")
    sys.stdout = kept
    try:
        yield
    except BaseException:
        _write(stdout, kept)
        raise
    refused = _write(stdout, kept)
    if refused is not None:
        say_error(f"the work is done, but stdout does not take its results ({refused.strerror or refused}).")
        raise typer.Exit(1)


def _write(stdout: TextIO, kept: io.TextIOWrapper) -> OSError | None:
    """What was kept, on stdout. Returns why that does not take it; a pipe whose reader has seen enough, as `head` has,
    is no reason.
    """
    sys.stdout = stdout
    kept.flush()
    try:
        stdout.write(cast(io.BytesIO, kept.buffer).getvalue().decode(kept.encoding))
        stdout.flush()
    except OSError as error:
        _let_go(stdout)
        return None if isinstance(error, BrokenPipeError) else error
    return None


def _let_go(stdout: TextIO) -> None:
    """What is still in the stream's buffer goes nowhere, or Python would try it again at its end."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stdout.fileno())
        os.close(null)


@contextlib.contextmanager
def _warnings() -> Iterator[None]:
    """Warnings are notes; those that are meant for programmers are not shown."""

    def show(text: Warning | str, kind: type[Warning], *_: Any) -> None:
        if not issubclass(kind, RuntimeWarning | DeprecationWarning | PendingDeprecationWarning | ResourceWarning):
            say(f"note: {text}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def open_streams() -> None:
    """Take the places of standard streams that are closed: the next file would get their descriptors, and whatever a
    library prints would go into it.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest that is free


def raise_limits() -> None:
    """Take as many descriptors as the process may have: shards of inputs and of the output need one each."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.contextmanager
def safe_to_show() -> Iterator[None]:
    """What typer refuses is shown by typer, and its message may hold whatever a file is called."""
    try:
        yield
    except Exception as error:  # typer has no public class for what it refuses; all of it is raised again
        if hasattr(error, "format_message") and isinstance(said := getattr(error, "message", None), str):
            error.__dict__["message"] = shown.message(said)
        raise
