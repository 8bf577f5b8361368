"""Doing the cells of an experiment: one after another in this process, or side by side in processes of their own.

    executor.do(cells, ended)        ended(cell, error) for each cell as it ends; error is None where it is done

An executor knows which cell comes after which and which run a cell is about, and nothing of what a cell computes: that
is the `Worker`'s. A worker keeps its run open, so it gets cells of that run while there are any, and then of a run that
no other worker has open. A cell is handed out when the cell that it comes after is done; where that one failed, it
fails too.

Every process has a pipe of its own and shares nothing with the others. So one that is killed cannot leave a lock behind
and is seen at once, as the end of its pipe. A `ProcessPoolExecutor` promises neither: its manager thread walks tables
that `submit` changes at the same time. Cost: a process takes as long to start as its imports. Not here: other machines
(`on_ray`).
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Protocol

from prefmerge.errors import DataError, PrefmergeError, RunError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from prefmerge.lab.cells import Cell

Ended = Callable[["Cell[Any]", PrefmergeError | None], None]


class Worker(Protocol):
    """Does cells, one after another."""

    def do(self, cell: Cell[Any], /) -> None:
        """Do a cell and keep its result. Raises PrefmergeError where it cannot be done."""
        ...

    def close(self) -> None: ...


Hire = Callable[[int | None], Worker]  # makes a worker that uses so many threads (None: as many as it likes)


class Executor(Protocol):
    """Does cells. What a cell raises that is no PrefmergeError ends everything, and is raised."""

    def do(self, cells: Sequence[Cell[Any]], ended: Ended, /) -> None: ...


@dataclass(frozen=True)
class Serial:
    """One cell after another, in this process."""

    hire: Hire

    def do(self, cells: Sequence[Cell[Any]], ended: Ended) -> None:
        queue, worker, last = Queue(cells, ended), self.hire(None), None
        try:
            while (cell := queue.take(last, ())) is not None:
                last = cell
                error = None
                try:
                    worker.do(cell)
                except PrefmergeError as refused:
                    error = refused
                queue.finish(cell, error)
        finally:
            worker.close()


@dataclass(frozen=True)
class Processes:
    """Side by side in `count` processes with so many threads each. `hire` is sent to them, so it must be importable.

    Raises RunError where a process is killed. Whatever is raised, no process outlives the call; one whose parent is
    killed ends too.
    """

    hire: Hire
    count: int
    threads: int

    def do(self, cells: Sequence[Cell[Any]], ended: Ended) -> None:
        queue, workers = Queue(cells, ended), list[_Process]()
        try:
            for number in range(min(self.count, len(cells))):
                workers.append(_Process(self.hire, self.threads, gpu_of(number)))
            while queue.unfinished:
                for worker in workers:
                    if worker.cell is None:
                        worker.hand(queue.take(worker.last, [one.last for one in workers if one is not worker]))
                spoken = wait([worker.pipe for worker in workers])
                for worker in workers:
                    if worker.pipe in spoken:
                        queue.finish(*worker.answer())
        except BaseException:
            for worker in workers:
                worker.process.kill()  # nothing is lost but what it is at: a finished cell is a file
            raise
        finally:
            for worker in workers:
                worker.pipe.close()  # an idle process ends with it
            for worker in workers:
                worker.process.join()


class Queue:
    """The cells that are not finished, and what is called as one ends."""

    def __init__(self, cells: Sequence[Cell[Any]], ended: Ended) -> None:
        self.ended = ended
        self.waiting = list(cells)
        self.unfinished = {cell.key for cell in cells}

    def take(self, last: Cell[Any] | None, others: Collection[Cell[Any] | None]) -> Cell[Any] | None:
        """The next cell for a worker whose last one was `last`, while the others are at `others`: of the run that it
        has open, and best of the same merge at another scale. None where there is no cell left, or each waits for one
        that is not finished.
        """
        able = [cell for cell in self.waiting if cell.after is None or cell.after.key not in self.unfinished]
        if not able:
            return None
        run, title = (None, None) if last is None else (last.run, last.title)
        runs, titles = ({getattr(one, name, None) for one in others} for name in ("run", "title"))

        def farness(cell: Cell[Any]) -> tuple[bool, ...]:
            return cell.run != run, cell.title != title, cell.run in runs, cell.title in titles

        chosen = min(able, key=farness)  # of equals the first
        self.waiting.remove(chosen)
        return chosen

    def give_back(self, cell: Cell[Any]) -> None:
        """Have a cell given out again, whose worker is gone."""
        self.waiting.insert(0, cell)

    def finish(self, cell: Cell[Any], error: PrefmergeError | None) -> None:
        """Say that a cell is done, or why not; then the cells that come after it cannot be done either."""
        self.unfinished.discard(cell.key)
        self.ended(cell, error)
        if error is None:
            return
        for other in [other for other in self.waiting if other.after is not None and other.after.key == cell.key]:
            self.waiting.remove(other)
            self.finish(other, DataError(f"it needs what failed: {error}"))


class _Process:
    """One process and our end of its pipe. `cell` is what it is at, `last` what it was given last."""

    def __init__(self, hire: Hire, threads: int, gpu: str | None) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, threads, gpu))
        self.cell: Cell[Any] | None = None
        self.last: Cell[Any] | None = None
        self.process.start()
        theirs.close()  # theirs is the only one now, so the pipe ends with the process
        self._send(hire)

    def hand(self, cell: Cell[Any] | None) -> None:
        if cell is not None:
            self._send(cell)
            self.cell = self.last = cell

    def answer(self) -> tuple[Cell[Any], PrefmergeError | None]:
        """The cell that it was at and why that could not be done, if so. Raises RunError where the process is gone."""
        try:
            error = self.pipe.recv()
        except (EOFError, OSError) as gone:
            raise _killed() from gone
        assert self.cell is not None
        cell, self.cell = self.cell, None
        if error is not None and not isinstance(error, PrefmergeError):
            raise error
        return cell, error

    def _send(self, what: Hire | Cell[Any]) -> None:
        try:
            self.pipe.send(what)
        except OSError as gone:
            raise _killed() from gone


def _killed() -> RunError:
    return RunError(
        "a process that was at work on the cells was killed, perhaps for its memory. Run the same command again: it "
        "keeps what is finished. With a smaller --jobs it needs less memory."
    )


def _work(pipe: Connection, threads: int, gpu: str | None) -> None:
    """What a process does until its pipe ends."""
    settle(threads, gpu)
    hire: Hire = pipe.recv()  # which loads the libraries
    worker = hire(threads)
    try:
        while True:
            try:
                cell = pipe.recv()
            except (EOFError, OSError):
                return
            pipe.send(error_of(lambda cell=cell: worker.do(cell), cell.called))
    finally:
        worker.close()


def settle(threads: int | None, gpu: str | None) -> None:
    """Make this process one of several: it ends with its parent and takes its part of the machine (None: all of it).
    Call it before the libraries are loaded, which read the environment then.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    limit_threads(threads)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu


def limit_threads(threads: int | None) -> None:
    """Have libraries that are not loaded yet use so many threads (None: as many as they like)."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS") if threads is not None else ():
        os.environ[name] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def gpus() -> list[str]:
    """What CUDA calls each accelerator that this process may use; [] where there is none."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    asked = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return asked[:count] if len(asked) >= count else [str(number) for number in range(count)]


def gpu_of(number: int) -> str | None:
    """The accelerator of process `number`: in turns. None where there is no choice."""
    several = gpus() if "torch" in sys.modules else []
    return several[number % len(several)] if len(several) > 1 else None


def error_of(work: Callable[[], object], what: str) -> Exception | None:
    """What `work` raises, in a form that can be sent; None where it is done."""
    try:
        work()
    except PrefmergeError as error:
        return error
    except Exception as error:  # the parent raises it: nothing is lost here
        error.add_note(f"In a process that did {what}:\n{traceback.format_exc()}")
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # an error that cannot be sent is sent as its text
            return RuntimeError(f"{what}:\n{traceback.format_exc()}")
        return error
    return None


def _end_with_parent() -> None:
    """End this process when its parent has: it would hold memory and write beside the next one."""
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
