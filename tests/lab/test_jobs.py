"""Cells in order and side by side, whatever they compute; workers that fail, are killed, or are interrupted."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest

from prefmerge.errors import DataError, PrefmergeError, RunError
from prefmerge.lab.cells import Cell
from prefmerge.lab.jobs import Executor, Processes, Serial
from prefmerge.lab.kinds import MeasureSpec


def cell(name: str, run: str = "a", after: Cell[Any] | None = None) -> Cell[Any]:
    return Cell(MeasureSpec(), 1 if after is None else 2, run, "identity", 1, name, after)


class Writer:
    """Says in a file who did what; a cell's title may ask it to do something else."""

    def __init__(self, log: Path, threads: int | None) -> None:
        self.log, self.threads = log, threads

    def do(self, one: Cell[Any]) -> None:
        with open(self.log, "a") as file:
            file.write(f"{os.getpid()} {one.run} {one.title}\n")
        word = one.title.split()[0]
        if word == "refused":
            raise DataError("the disk caught fire.")
        if word == "broken":
            raise ZeroDivisionError("a fault of the program's")
        if word == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "sleeps":
            time.sleep(120)
        if word == "threads":
            assert os.environ["OMP_NUM_THREADS"] == str(self.threads)

    def close(self) -> None:
        with open(self.log, "a") as file:
            file.write(f"{os.getpid()} - closed\n")


def did(executor: Executor, *cells: Cell[Any]) -> dict[str, str | None]:
    """What was told of each cell, by title, in the order of the telling."""
    told: dict[str, str | None] = {}

    def tell(one: Cell, error: PrefmergeError | None) -> None:
        assert one.title not in told
        told[one.title] = None if error is None else str(error)

    executor.do(cells, tell)
    return told


@pytest.fixture(params=["serial", "processes"])
def executor(request: pytest.FixtureRequest, tmp_path: Path) -> Executor:
    hire = partial(Writer, tmp_path / "log")
    return Serial(hire) if request.param == "serial" else Processes(hire, 2, 1)


def lines(tmp_path: Path) -> list[list[str]]:
    return [line.split(" ", 2) for line in (tmp_path / "log").read_text().splitlines()]


def test_a_cell_comes_after_the_one_that_it_needs(executor: Executor):
    first = cell("first")
    second = cell("second", after=first)
    third = cell("third", after=second)
    free = cell("free", after=cell("done by an earlier call"))
    told = did(executor, third, second, first, free)
    assert [title for title in told if title != "free"] == ["first", "second", "third"]
    assert told == dict.fromkeys(["first", "second", "third", "free"])


def test_every_process_has_its_threads(tmp_path: Path):
    assert did(Processes(partial(Writer, tmp_path / "log"), 2, 3), cell("threads")) == {"threads": None}


def test_what_comes_after_a_failure_fails_and_the_rest_is_done(executor: Executor, tmp_path: Path):
    bad = cell("refused")
    needing = cell("needing", after=bad)
    told = did(executor, bad, needing, cell("last of all", after=needing), cell("other"))
    assert told == {
        "refused": "the disk caught fire.",
        "needing": "it needs what failed: the disk caught fire.",
        "last of all": "it needs what failed: it needs what failed: the disk caught fire.",
        "other": None,
    }
    assert {title for _, _, title in lines(tmp_path)} == {"refused", "other", "closed"}


def test_a_fault_of_the_program_ends_everything_and_is_raised(executor: Executor, tmp_path: Path):
    with pytest.raises(ZeroDivisionError, match="a fault of the program's") as raised:
        did(executor, cell("broken"), cell("sleeps", "b"))
    assert not active_children()
    if isinstance(executor, Processes):
        assert "in do" in raised.value.__notes__[0]  # where it was raised over there


def test_a_worker_keeps_to_its_run(executor: Executor, tmp_path: Path):
    """Each run is opened once, although the cells come mixed."""
    told = did(executor, *(cell(f"{i}", "ab"[i % 2]) for i in range(12)))
    assert len(told) == 12
    by_process: dict[str, list[str]] = {}
    for process, run, title in lines(tmp_path):
        if title != "closed":
            by_process.setdefault(process, []).append(run)
    for runs in by_process.values():
        assert sum(a != b for a, b in itertools.pairwise(runs)) <= 1


def test_nothing_to_do(executor: Executor):
    assert did(executor) == {}


def test_a_worker_that_dies_is_one_message_and_nobody_is_waited_for(tmp_path: Path):
    began = time.monotonic()
    with pytest.raises(RunError, match=r"was killed, perhaps for its memory\. Run the same command again"):
        did(Processes(partial(Writer, tmp_path / "log"), 2, 1), cell("sleeps"), cell("dies", "b"))
    assert not active_children()
    assert time.monotonic() - began < 60  # the other one sleeps longer


def test_a_worker_that_is_killed_at_any_moment(tmp_path: Path):
    """While it starts, reads, works or waits: never a hang, never another error."""
    rng = random.Random(0)
    for _ in range(4):
        moment = rng.uniform(0, 0.5)

        def kill(moment: float = moment) -> None:
            time.sleep(moment)
            while not (children := active_children()):
                time.sleep(0.001)
            rng.choice(children).kill()

        thread = threading.Thread(target=kill)
        thread.start()
        cells = [cell("sleeps"), cell("sleeps too", "b"), cell("more")]
        with pytest.raises(RunError, match="was killed"):
            did(Processes(partial(Writer, tmp_path / "log"), 2, 1), *cells)
        thread.join()
        assert not active_children()


INTERRUPTED = """
import signal
import sys
from functools import partial
from pathlib import Path
from prefmerge.lab.jobs import Processes
from tests.lab.test_jobs import Writer, cell
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests were started with it ignored
    Processes(partial(Writer, Path(sys.argv[1])), 2, 1).do([cell("sleeps"), cell("sleeps too", "b")], print)
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_parent(tmp_path: Path, end: signal.Signals):
    psutil = pytest.importorskip("psutil")
    (tmp_path / "go.py").write_text(INTERRUPTED)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(tmp_path / "go.py"), str(tmp_path / "log")]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 120
        while not (tmp_path / "log").exists() or len(lines(tmp_path)) < 2:
            assert process.poll() is None, "it ended before it could be stopped"
            assert time.monotonic() < until
            time.sleep(0.01)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(end)
        _, said = process.communicate(timeout=60)
    assert len(workers) >= 2
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert alive == []
    assert said.count("Traceback") == (end == signal.SIGINT)  # the parent's KeyboardInterrupt, and no worker's
