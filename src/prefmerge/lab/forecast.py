"""What an experiment will cost, before anything is trained, merged or written.

    merges, evaluations, samples    counted, from the cells that are not done
    disk                            bytes of a model x (checkpoints of each run to train, and the states of training)
    seconds                         samples / (samples that the base encodes in a second here, measured)
                                    + merges x (seconds of one merge here, where there are checkpoints to merge)

A sample that is trained on counts as BACKWARD samples. A search and `adapt` end when they like: what they take at most
is counted. Cost: the model is loaded and encodes some batches; one merge. Not here: what a file system adds, the hours
of others on the same machine.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefmerge.data.examples import concatenated
from prefmerge.data.scenarios import joined
from prefmerge.errors import PrefmergeError
from prefmerge.ground.progress import phase
from prefmerge.lab.cells import Cell
from prefmerge.lab.jobs import gpus
from prefmerge.lab.kinds import CheckpointsSpec, FixedSpec, ModelSpec, SearchSpec, SimilaritySpec, TargetSpec
from prefmerge.lab.on_ray import Crew
from prefmerge.lab.prepare import Ready
from prefmerge.lab.recipe import training_config
from prefmerge.lab.trainings import RunToTrain
from prefmerge.merging.limits import available_cores
from prefmerge.target.choice import FINALISTS
from prefmerge.target.judging import FIRST

if TYPE_CHECKING:
    from prefmerge.data.examples import Examples
    from prefmerge.data.scenarios import Scenario
    from prefmerge.models.encoders.protocol import Encoder

BACKWARD = 3  # a forward and a backward pass take as long as so many forward passes
POOL = 14  # candidates of `adapt`, at most
BATCHES = 3  # that are timed, after one that warms up
WHILE_TRAINING = 3  # models that a training keeps beside its checkpoints: weights and two moments


@dataclass(frozen=True)
class WorkAhead:
    """What a piece of work takes."""

    merges: int = 0
    evaluations: int = 0  # models that answer
    samples: int = 0  # encoded

    def __add__(self, other: WorkAhead) -> WorkAhead:
        return WorkAhead(self.merges + other.merges, self.evaluations + other.evaluations, self.samples + other.samples)


@dataclass(frozen=True)
class Rates:
    """What was measured on this machine. `problem`: why the model cannot be opened."""

    device: str = "cpu"
    model_bytes: int = 0
    per_second: float | None = None  # samples
    merge_seconds: float | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Forecast:
    """What is still to be done."""

    cells: int
    to_do: tuple[Cell[Any], ...]
    trainings: tuple[str, ...]
    trained_samples: int  # samples x epochs of all trainings
    count: WorkAhead
    measured: Rates
    disk: int  # bytes
    free: int
    jobs: int
    accelerators: int
    crew: Crew | None = None  # over a cluster

    @property
    def seconds(self) -> float | None:
        """About how long it takes; None where the model cannot be opened. On the CPU, jobs share the cores that were
        measured together; a cluster's are taken to be as fast as these.
        """
        if self.measured.per_second is None:
            return None
        encoded = (self.count.samples + BACKWARD * self.trained_samples) / self.measured.per_second
        merged = self.count.merges * (self.measured.merge_seconds or 0.0)
        if self.crew is not None and not self.crew.accelerators:
            return (encoded + merged) * available_cores() / (self.crew.workers * self.crew.processors)
        return (encoded + merged) / max(1, min(self.jobs, self.accelerators))

    def to_json(self) -> dict[str, Any]:
        return {
            "cells": self.cells,
            "to_do": [cell.called for cell in self.to_do],
            "trainings": list(self.trainings),
            "trained_samples": self.trained_samples,
            "merges": self.count.merges,
            "evaluations": self.count.evaluations,
            "encoded_samples": self.count.samples,
            "disk_bytes": self.disk,
            "free_bytes": self.free,
            "model_bytes": self.measured.model_bytes,
            "samples_per_second": self.measured.per_second,
            "merge_seconds": self.measured.merge_seconds,
            "device": self.measured.device,
            "jobs": self.jobs,
            "accelerators": self.accelerators,
            "ray": None if self.crew is None else self.crew.to_json(),
            "seconds": self.seconds,
            "problem": self.measured.problem,
        }

    def lines(self) -> list[str]:
        """For people."""
        from prefmerge.ground.words import duration

        done, kinds = self.cells - len(self.to_do), Counter(cell.spec.kind for cell in self.to_do)
        of = f" ({', '.join(f'{count} {kind}' for kind, count in kinds.items())})" if kinds else ""
        said = [f"{self.cells} pieces of work, {done} of them done, {len(self.to_do)} to do{of}."]
        if self.trainings:
            said.append(f"To be trained first: {', '.join(self.trainings)}.")
            said.append(f"{len(self.trainings)} trainings on {self.trained_samples:,} samples, epochs counted.")
        said.append(
            f"{self.count.merges:,} merges, {self.count.evaluations:,} evaluations, {self.count.samples:,} samples to "
            "encode; searches and adapt take this at most."
        )
        size = f" (a model has {self.measured.model_bytes / 1e9:.2f} GB)" if self.measured.model_bytes else ""
        said.append(f"Disk: about {self.disk / 1e9:.1f} GB for checkpoints{size}; {self.free / 1e9:.1f} GB are free.")
        if self.disk > self.free:
            said.append("That is more than is free. Choose another output (-o).")
        if self.seconds is not None:
            rate = f"{self.measured.per_second:,.0f} samples a second"
            merge = self.measured.merge_seconds
            rate += f", a merge in {merge:.1f} s" if merge is not None else "; merges come on top"
            said.append(f"Time: about {duration(self.seconds)} on {self.measured.device} ({rate}, measured just now).")
        said.append(self._places())
        said.append("Data: can be opened.")
        said.append(f"Model: {'can be opened' if self.measured.problem is None else self.measured.problem}.")
        return said

    def _places(self) -> str:
        if self.crew is not None:
            return f"Trainings and pieces of work on Ray: {self.crew}."
        at_once = f"{self.jobs} at once" if self.jobs > 1 else "one after another"
        if self.accelerators > 1:
            return f"Trainings and pieces of work: {at_once}, in turns on {self.accelerators} accelerators."
        if self.accelerators == 1:
            return f"Trainings and pieces of work: {at_once}, on one accelerator."
        return f"Trainings and pieces of work: {at_once}{', on shared cores' if self.jobs > 1 else ''}."


def forecast(ready: Ready, jobs: int, rates: Rates | None = None, crew: Crew | None = None) -> Forecast:
    """What is still to be done of an experiment. `rates`: what to assume in place of measuring. `crew`: how it will
    lie on a cluster. Writes nothing. Raises what opening the data raises.
    """
    cells = ready.work.cells()
    to_do = tuple(cell for cell in cells if cell.load(ready.out) is None)
    counted = sum((_count(ready, cell) for cell in to_do), WorkAhead())
    measured = rates or _measured(ready)
    spared = [_samples(ready, one, scenario) for one, scenario in ready.waiting]
    models = [_models(ready, one, scenario) for one, scenario in ready.waiting]
    at_once = min(jobs, len(models))
    return Forecast(
        len(cells),
        to_do,
        tuple(one.folder.name for one, _ in ready.waiting),
        sum(spared),
        counted,
        measured,
        measured.model_bytes * (sum(models) + WHILE_TRAINING * at_once),
        shutil.disk_usage(_there(ready.out)).free,
        jobs,
        len(gpus()) if crew is None else crew.workers * crew.accelerators,
        crew,
    )


def _there(path: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(one for one in (path.absolute(), *path.absolute().parents) if one.is_dir())


def _samples(ready: Ready, one: RunToTrain, scenario: Scenario) -> int:
    """Samples x epochs of a training."""
    from prefmerge.training.steps import EPOCHS

    config = training_config(ready.recipe, one.training, one.seed)
    tasks = (joined(scenario) if one.training == "joint" else scenario).tasks
    return sum(len(task.train) * (task.epochs or config.training.epochs or EPOCHS) for task in tasks)


def _models(ready: Ready, one: RunToTrain, scenario: Scenario) -> int:
    """Models that a finished run has on disk; EWC keeps two more."""
    tasks = 1 if one.training == "joint" else len(scenario.tasks)
    return tasks + 1 + 2 * (one.training == "ewc")


def _count(ready: Ready, cell: Cell[Any]) -> WorkAhead:
    """What one cell takes, at most."""
    samples, spec, tasks = ready.samples, cell.spec, len(ready.samples.names)
    match spec:
        case FixedSpec():
            n = len(spec.scales)
            return WorkAhead(n, n, n * len(samples.ids))
        case ModelSpec():
            return WorkAhead(0, 1, len(samples.ids))
        case SimilaritySpec():
            seen = sum(len(samples.shown(mark.key)) for mark in spec.environments)
            by_features = any(kind != "label" for kind in spec.kinds)
            return WorkAhead(0, 0, tasks * (spec.samples_per_task + seen) if by_features else 0)
        case CheckpointsSpec():
            n = tasks * len(spec.scales)
            return WorkAhead(n, n, n * sum(len(samples.shown(mark.key)) for mark in spec.environments))
        case SearchSpec():
            key = spec.environment.key
            tried = WorkAhead(spec.trials, spec.trials, spec.trials * len(samples.shown(key)))
            return tried + WorkAhead(0, 1, len(samples.judged(key)))
        case TargetSpec():
            judged = len(samples.judged(spec.environment.key))
            if not spec.entry.held_out:
                n = len(spec.scales)
                return WorkAhead(n, n, n * judged)
            held = ready.recipe.held_out.samples * tasks
            if spec.entry.kind != "adapt":
                return WorkAhead(0, 1, judged + held)
            ways, tried = 2 if spec.prior else 1, POOL * FIRST * tasks + (FINALISTS + 1) * held
            return WorkAhead(ways * POOL, ways * (POOL + 1), ways * (judged + tried))
    return WorkAhead()


def _measured(ready: Ready) -> Rates:
    """How fast this machine is with the model of the experiment."""
    from prefmerge.models.encoders import load_encoder
    from prefmerge.training.config_file import run_config
    from prefmerge.training.opened import best_device, open_data, open_encoder

    finished = [one.run for several in ready.runs.values() for one in several if one.run.finished]
    try:
        if finished:
            config = run_config(finished[0].folder)
            encoder, scenario = open_encoder(finished[0], config), open_data(finished[0].folder)[2]
        else:
            asked, scenario = ready.waiting[0]
            config = training_config(ready.recipe, asked.training, asked.seed)
            encoder = load_encoder(config.model)
        device = best_device(config)
        with phase("measuring some batches"):
            test = concatenated([task.test for task in scenario.tasks])
            per_second = _rate(encoder, test, ready.recipe.batch, device)
            merge = _merge_seconds(finished[0]) if finished else None
    except PrefmergeError as error:
        return Rates(problem=str(error).rstrip("."))
    size = sum(tensor.numel() * tensor.element_size() for tensor in encoder.state().values())
    return Rates(device, size, per_second, merge)


def _rate(encoder: Encoder, test: Examples, batch: int, device: str) -> float:
    """Samples that the encoder encodes in a second."""
    from prefmerge.models.features import embed

    embed(encoder, test.take(range(min(batch, len(test)))), batch=batch, device=device)  # warms up
    some = test.take(range(min(batch * BATCHES, len(test))))
    began = time.perf_counter()
    embed(encoder, some, batch=batch, device=device)
    return len(some) / max(time.perf_counter() - began, 1e-9)


def _merge_seconds(run: Any) -> float:
    """How long one merge of the run's checkpoints takes in memory."""
    from prefmerge.merging.candidates import Candidates

    paths = [run.task_path(index) for index in range(len(run.tasks))]
    with Candidates(run.base_path, paths, [task.name for task in run.tasks]) as candidates:
        began = time.perf_counter()
        candidates.vector(method="magmax")
        return time.perf_counter() - began
