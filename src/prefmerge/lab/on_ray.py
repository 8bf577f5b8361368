"""Trainings and cells of an experiment on a cluster of Ray, whose machines see the same files.

    with hired_on(address, recipe, jobs) as crew: train_all(crew, todo, ...); OnRay(hire, crew).do(...)

A training is a task of Ray; cells go to workers that keep a run open, as to processes of one machine (`jobs`). Each has
its processors, and an accelerator where the recipe may use one and the cluster has some. Results are files on the
shared disk, so the work of a lost worker is given to another. A training goes on, a cell starts again. A worker
gets cells once it runs; one that waits for a machine holds up nothing. All machines need one version of everything, and
paths must lead to the same files on each. Source: Ray (Moritz et al. 2018). Cost: each worker loads the libraries and
opens its runs. Not here: the environment of the machines, such as caches and tokens, which is theirs.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefmerge.errors import PrefmergeError, RunError, UsageError
from prefmerge.ground.progress import listening
from prefmerge.ground.words import counted, listed
from prefmerge.lab.jobs import Ended, Hire, Queue, Worker, error_of, limit_threads
from prefmerge.lab.recipe import Experiment, training_config
from prefmerge.lab.trainings import RunToTrain, Watch
from prefmerge.merging.cluster import TRIES, connected
from prefmerge.merging.recording import versions

if TYPE_CHECKING:
    from prefmerge.lab.cells import Cell
    from prefmerge.training.job import TrainingProgress

EVERY = 0.5  # seconds between two looks at how far trainings are


@dataclass(frozen=True)
class Crew:
    """How an experiment lies on a cluster: `workers` at once, each with so many processors and accelerators."""

    workers: int
    processors: int
    accelerators: int
    machines: int

    @classmethod
    def over(cls, machines: Sequence[tuple[int, int]], jobs: int | None, *, accelerated: bool) -> Crew:
        """Over machines of so many processors and accelerators. `jobs`: workers at most; None: one for each accelerator
        that is to be used, else one for each processor. Raises UsageError where no machine has room for one.
        """
        accelerated = accelerated and any(gpus for _, gpus in machines)

        def places(processors: int) -> int:
            each = ((cpus // processors, gpus) for cpus, gpus in machines)
            return sum(min(room, gpus) if accelerated else room for room, gpus in each)

        if not places(1):
            raise UsageError("--ray: no machine of the cluster has a processor. Start it with some.")
        workers = min(jobs or places(1), places(1))
        processors = max(n for n in range(1, max(cpus for cpus, _ in machines) + 1) if places(n) >= workers)
        return cls(workers, processors, int(accelerated), len(machines))

    @property
    def resources(self) -> dict[str, Any]:
        """Of one worker, as Ray takes them."""
        return {"num_cpus": self.processors, "num_gpus": self.accelerators}

    def __str__(self) -> str:
        each = counted(self.processors, "processor") + (" and an accelerator" if self.accelerators else "")
        at_once = f"{self.workers} at once" if self.workers > 1 else "one after another"
        return f"{at_once}, {'each ' if self.workers > 1 else ''}with {each}, on {counted(self.machines, 'machine')}"

    def to_json(self) -> dict[str, int]:
        return dict(vars(self))


@contextlib.contextmanager
def hired_on(address: str, recipe: Experiment, jobs: int | None) -> Iterator[Crew]:
    """A cluster, for the block, and how the experiment lies on it. Raises MissingExtra, UsageError."""
    import ray

    with connected(address):
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        machines = [(int(one.get("CPU", 0)), int(one.get("GPU", 0))) for one in alive]
        yield Crew.over(machines, jobs, accelerated=_may_use_accelerator(recipe))


def _may_use_accelerator(recipe: Experiment) -> bool:
    """Whether any of its trainings or runs may."""
    from prefmerge.training.config_file import run_config

    if recipe.runs is None:
        trainings = [(training, seeds[0]) for training, seeds in recipe.wanted().items()]
        return any(training_config(recipe, *one).training.device == "auto" for one in trainings)
    for folder in (folder for folders in recipe.runs.values() for folder in folders):
        with contextlib.suppress(PrefmergeError):  # what is wrong with it is said where it is opened
            if run_config(Path(folder)).training.device == "auto":
                return True
    return False


# Trainings


def train_all(crew: Crew, todo: list[RunToTrain], at_once: int, watch: Watch) -> None:
    """Train these runs. Raises RunError where one fails; then the others are ended. Nothing outlives the call."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    board: Any = ray.remote(num_cpus=0)(_Board).remote()
    # A worker is used once: it has loaded its libraries for these threads, and holds the model in memory.
    task = ray.remote(**crew.resources, max_retries=TRIES - 1, max_calls=1)(_train)
    waiting, working = list(todo), dict[Any, RunToTrain]()
    try:
        while waiting or working:
            while waiting and len(working) < at_once:
                one = waiting.pop(0)
                places = (str(one.file), str(one.folder), str(one.log))
                working[task.remote(*places, crew.processors, os.getcwd(), versions(), board)] = one
            ready, _ = ray.wait(list(working), num_returns=1, timeout=EVERY)
            with contextlib.suppress(RayError):  # how far they are is not worth a training
                for name, now in ray.get(board.take.remote()):
                    watch(name, now)
            for ref in ready:
                one = working.pop(ref)
                try:
                    error = ray.get(ref)
                except RayTaskError:
                    raise
                except RayError as lost:
                    error = RunError(
                        f"its workers were lost {TRIES} times ({type(lost).__name__}), perhaps for their memory; what "
                        f"they printed is in {one.log}."
                    )
                if error is not None:
                    _failed(one, error, working.values())
    finally:
        for ref in working:
            ray.cancel(ref, force=True)  # nothing is lost but the epoch that it is at
        ray.kill(board)


def _failed(one: RunToTrain, error: Exception, others: Collection[RunToTrain]) -> None:
    if not isinstance(error, PrefmergeError):
        raise error
    names = [other.folder.name for other in others]
    ended = f" The trainings beside it were ended: {listed(names, 6)}." if names else ""
    again = "Run the same command again: it resumes what is not finished."
    raise RunError(f"training {one.folder.name} failed: {error}{ended} {again}") from error


class _Board:
    """Where trainings say how far they are."""

    def __init__(self) -> None:
        self._told: list[tuple[str, TrainingProgress | str]] = []

    def put(self, name: str, now: TrainingProgress | str) -> None:
        self._told.append((name, now))

    def has_all(self) -> None:
        """Returns when what the caller has put is there."""

    def take(self) -> list[tuple[str, TrainingProgress | str]]:
        told, self._told = self._told, []
        return told


def _train(
    file: str, folder: str, log: str, threads: int, cwd: str, wanted: dict[str, str], board: Any
) -> Exception | None:
    """What a worker does: fine-tune into `folder`, or resume the run that is there. Returns what went wrong."""
    import ray
    from ray.exceptions import RayError

    _settle(threads, cwd)
    name = Path(folder).name

    def work() -> None:
        from prefmerge.training.config_file import read_config
        from prefmerge.training.finetuning import finetune

        _require_same(wanted)

        def said(now: TrainingProgress | str) -> None:
            board.put.remote(name, now)

        with listening(said):
            finetune(read_config(file), folder, progress=said)

    with _printing_to(log):
        error = error_of(work, f"the training {name}")
    with contextlib.suppress(RayError):
        ray.get(board.has_all.remote())
    return error


@contextlib.contextmanager
def _printing_to(log: str) -> Iterator[None]:
    """What libraries print in the block goes to the end of a file."""
    streams = (sys.stdout, sys.stderr)
    kept = [os.dup(number) for number in (1, 2)]
    try:
        with open(log, "ab") as printed:
            for number in (1, 2):
                os.dup2(printed.fileno(), number)
        yield
    finally:
        for stream in streams:
            stream.flush()
        for number, was in zip((1, 2), kept, strict=True):
            os.dup2(was, number)
            os.close(was)


def _settle(threads: int, cwd: str) -> None:
    """Make a worker one of several. Before the libraries are loaded."""
    limit_threads(threads)
    os.chdir(cwd)  # paths may begin there


def _require_same(wanted: dict[str, str]) -> None:
    """Raise RunError where this machine has other versions than the one that asks."""
    own = versions()
    differing = [f"{name} {own.get(name)}, not {was}" for name, was in wanted.items() if own.get(name) != was]
    if differing:
        raise RunError(f"a machine of the cluster has {listed(differing, 6)}. Make them the same on all.")


# Cells


@dataclass(frozen=True)
class OnRay:
    """An `Executor`: cells side by side on the cluster that this process is connected to. `hire` is sent to workers, so
    it must be importable. Raises RunError where the workers of one cell are lost again and again.
    """

    hire: Hire
    crew: Crew

    def do(self, cells: Sequence[Cell[Any]], ended: Ended) -> None:
        import ray

        queue, workers = Queue(cells, ended), list[_OneOnRay]()
        lost: dict[str, int] = {}
        try:
            workers += [_OneOnRay(self.hire, self.crew) for _ in range(min(self.crew.workers, len(cells)))]
            while queue.unfinished:
                for worker in workers:
                    if worker.idle:
                        worker.hand(queue.take(worker.last, [one.last for one in workers if one is not worker]))
                (ready, *_), _ = ray.wait([one.ref for one in workers if one.ref is not None], num_returns=1)
                worker = next(one for one in workers if one.ref == ready)
                cell = worker.cell
                try:
                    error = worker.answer()
                except _Lost as gone:
                    key = "" if cell is None else cell.key
                    lost[key] = lost.get(key, 0) + 1
                    if lost[key] == TRIES:
                        what = "did not start" if cell is None else f"did {cell.called} were lost"
                        raise RunError(
                            f"the workers that {what}, {TRIES} times ({gone}), perhaps for their memory. Run the same "
                            "command again: it keeps what is finished. With a smaller --jobs it needs less memory."
                        ) from gone
                    if cell is not None:
                        queue.give_back(cell)
                    workers[workers.index(worker)] = _OneOnRay(self.hire, self.crew)
                    worker.end()
                    continue
                if cell is not None:
                    queue.finish(cell, error)
        finally:
            for worker in workers:
                worker.end()  # nothing is lost but what it is at: a finished cell is a file


class _Lost(Exception):
    """A worker is gone."""


class _OneOnRay:
    """One worker on the cluster. `ref`: what it is at, at first its start; `cell` and `last`: as those of a process."""

    def __init__(self, hire: Hire, crew: Crew) -> None:
        import ray

        self._actor: Any = ray.remote(**crew.resources, max_restarts=0)(_Cells).remote()
        self.ref: Any = self._actor.start.remote(pickle.dumps(hire), crew.processors, os.getcwd(), versions())
        self.cell: Cell[Any] | None = None
        self.last: Cell[Any] | None = None

    @property
    def idle(self) -> bool:
        return self.ref is None

    def hand(self, cell: Cell[Any] | None) -> None:
        if cell is not None:
            self.cell = self.last = cell
            self.ref = self._actor.do.remote(cell)

    def answer(self) -> PrefmergeError | None:
        """Why its cell could not be done, if so. Raises _Lost."""
        import ray
        from ray.exceptions import ObjectLostError, RayActorError

        try:
            error: Exception | None = ray.get(self.ref)
        except (RayActorError, ObjectLostError) as gone:
            raise _Lost(type(gone).__name__) from gone
        started, self.ref, self.cell = self.cell is not None, None, None
        if error is not None and not (started and isinstance(error, PrefmergeError)):
            raise error
        return error

    def end(self) -> None:
        import ray

        with contextlib.suppress(Exception):  # it may be gone
            ray.kill(self._actor)


class _Cells:
    """What a worker has: a `Worker`, and its open run."""

    _worker: Worker

    def start(self, hire: bytes, threads: int, cwd: str, wanted: dict[str, str]) -> Exception | None:
        """Load the libraries. Returns what went wrong."""
        _settle(threads, cwd)

        def work() -> None:
            _require_same(wanted)
            self._worker = pickle.loads(hire)(threads)  # which loads them

        return error_of(work, "the start of a worker")

    def do(self, cell: Cell[Any]) -> Exception | None:
        """Do a cell and keep its result. Returns what went wrong."""
        return error_of(lambda: self._worker.do(cell), cell.called)
