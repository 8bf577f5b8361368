"""The runs that a recipe trains: fine-tuning in a process for each, below OUT/runs.

Finished ones are kept, interrupted ones resume. Several at once share the cores, or take the accelerators in turns; the
first that fails, and Ctrl-C, end the others at once. What libraries print goes to RUN.log beside each run. Cost: that
of the trainings. Not here: what training does, and whether the runs fit together (`prepare`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING

from prefmerge.errors import OutputError, PrefmergeError, RunError
from prefmerge.ground import atomic
from prefmerge.ground.progress import listening
from prefmerge.ground.refused import remedy
from prefmerge.ground.words import listed
from prefmerge.lab.jobs import error_of, gpu_of, settle
from prefmerge.lab.recipe import Experiment, training_config

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from prefmerge.training.job import TrainingProgress

Watch = Callable[[str, "TrainingProgress | str"], None]  # the run's name, and how far it is, or its phase in words
TrainAll = Callable[[list["RunToTrain"], int, Watch], None]  # runs, how many at once


@dataclass(frozen=True)
class RunToTrain:
    """One run that a recipe trains."""

    training: str
    seed: int
    folder: Path

    @property
    def file(self) -> Path:
        """Its configuration."""
        return self.folder.with_suffix(".yaml")

    @property
    def log(self) -> Path:
        return self.folder.with_suffix(".log")


def train(
    recipe: Experiment,
    out: Path,
    jobs: int,
    say: Callable[[str], None],
    watch: Watch = lambda name, now: None,
    train_all: TrainAll | None = None,
) -> dict[str, list[str]]:
    """Train the runs that are not finished, `jobs` at a time. `train_all`: what trains them; by default processes of
    this machine. Returns the folders of all, by training. Raises RunError where one fails.
    """
    (out / "runs").mkdir(parents=True, exist_ok=True)
    folders: dict[str, list[str]] = {}
    todo: list[RunToTrain] = []
    for one in asked_runs(recipe, out):
        folders.setdefault(one.training, []).append(str(one.folder))
        if not trained(recipe, one):
            todo.append(one)
            write_text(one.file, training_config(recipe, one.training, one.seed).to_yaml())
    if todo:
        at_once = min(jobs, len(todo))
        names = listed([one.folder.name for one in todo], 6)
        say(f"Training {names}{f', {at_once} at a time' if len(todo) > 1 else ''}.")
        (train_all or _train_all)(todo, at_once, watch)
    return folders


def untrained(recipe: Experiment, out: Path) -> list[str]:
    """The runs that the recipe trains and that are not there yet."""
    if recipe.runs is not None:
        return []
    return [one.folder.name for one in asked_runs(recipe, out) if not trained(recipe, one)]


def asked_runs(recipe: Experiment, out: Path) -> Iterator[RunToTrain]:
    """Every run that the recipe trains."""
    for training, seeds in recipe.wanted().items():
        for seed in seeds:
            yield RunToTrain(training, seed, out / "runs" / f"{training}-seed-{seed}")


def trained(recipe: Experiment, one: RunToTrain) -> bool:
    """Whether the run is there and finished. Raises RunError where the folder holds a run of another configuration."""
    from prefmerge.training.run_folder import look

    begun = look(one.folder, training_config(recipe, one.training, one.seed), False)
    return begun is not None and begun.finished


def _train_all(todo: list[RunToTrain], at_once: int, watch: Watch) -> None:
    """`at_once` at a time. Whatever is raised, no process outlives the call; one whose parent is killed ends too."""
    from prefmerge.merging.limits import available_cores

    threads = None if at_once == 1 else max(1, available_cores() // at_once)
    waiting, free, working = list(todo), list(range(at_once)), list[_Training]()
    try:
        while waiting or working:
            while waiting and free:
                working.append(_Training(waiting.pop(0), free.pop(0), threads))
            spoken = wait([one.pipe for one in working])
            for one in [one for one in working if one.pipe in spoken]:
                now = one.said()
                if now is not None:
                    watch(one.asked.folder.name, now)
                else:
                    working.remove(one)
                    free.append(one.number)
                    one.process.join()
                    one.pipe.close()
    except PrefmergeError as error:
        others = [one.asked.folder.name for one in working if one.error is None]
        ended = f" The trainings beside it were ended: {listed(others, 6)}." if others else ""
        raise RunError(f"{error}{ended} Run the same command again: it resumes what is not finished.") from error
    finally:
        for one in working:
            one.process.kill()  # nothing is lost but the epoch that it is at
        for one in working:
            one.pipe.close()
            one.process.join()


class _Training:
    """One process and our end of its pipe."""

    def __init__(self, asked: RunToTrain, number: int, threads: int | None) -> None:
        context = get_context("spawn")
        self.asked, self.number = asked, number
        self.error: PrefmergeError | None = None
        self.pipe, theirs = context.Pipe(duplex=False)
        places = (str(asked.file), str(asked.folder), str(asked.log))
        self.process = context.Process(target=_train, args=(theirs, *places, threads, gpu_of(number)))
        self.process.start()
        theirs.close()  # theirs is the only one now, so the pipe ends with the process

    def said(self) -> TrainingProgress | str | None:
        """How far it is, or its phase in words; None when it is done. Raises RunError where it failed or is gone."""
        name, log = self.asked.folder.name, self.asked.log
        try:
            what = self.pipe.recv()
        except (EOFError, OSError):
            self.error = RunError(
                f"training {name} was killed, perhaps for its memory; what it printed is in {log}. With a smaller "
                "--jobs it needs less memory."
            )
            raise self.error from None
        if isinstance(what, PrefmergeError):
            self.error = RunError(f"training {name} failed: {what}")
            raise self.error from what
        if isinstance(what, Exception):
            raise what
        return what


def _train(pipe: Connection, file: str, folder: str, log: str, threads: int | None, gpu: str | None) -> None:
    """What a process does: fine-tune into `folder`, or resume the run that is there."""
    settle(threads, gpu)
    with open(log, "ab") as printed:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(printed.fileno(), stream.fileno())

    def work() -> None:
        from prefmerge.training.config_file import read_config
        from prefmerge.training.finetuning import finetune

        with listening(pipe.send):
            finetune(read_config(file), folder, progress=pipe.send)

    pipe.send(error_of(work, f"the training {Path(folder).name}"))


def write_text(path: Path, text: str) -> None:
    """Write a file unless it holds this text already. Raises OutputError."""
    try:
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            atomic.write_whole(path, text.encode())
    except OSError as error:
        way = remedy(error, "Choose another output.")
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}. {way}") from error
