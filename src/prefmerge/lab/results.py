"""The results of an experiment: right answers of every model on every environment, as plain numbers.

A `Score` is one model on the test samples of one environment; `samples` is the digest of those samples, which every
method on that environment must share. `TaskScores` is one model on all test samples, task by task. `Shown` is what a
similarity said of an environment. Nothing here is rounded or averaged: tables do that. Cost: a few hundred bytes each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefmerge.errors import DataError
from prefmerge.ground import jsons
from prefmerge.lab.environments import Environment
from prefmerge.lab.manifest import read_environment

FORMAT = "prefmerge-results/1"
SHARED = "classes of several tasks"  # in `about`: how many there are, and of how many


@dataclass(frozen=True)
class Score:
    """One model on one environment."""

    study: str  # "places" (e1 to e5, or the recipe's own) or "diversity"
    method: str  # as tables print it
    scale: str  # as written in the recipe; "" where the method chooses its own
    seed: int  # of the training
    environment: str
    variant: int
    right: int
    n: int  # test samples
    samples: str  # digest of the environment's sample ids
    shares: tuple[float, ...] | None = None  # the preference, per task
    chosen: str | None = None  # by a method that chooses: a task's name, or settings
    estimate: tuple[float, ...] | None = None  # the accuracy that it promised, and the ends of its interval

    @property
    def accuracy(self) -> float:
        return self.right / self.n


@dataclass(frozen=True)
class TaskScores:
    """One model on the test samples of every task, among all classes."""

    study: str  # "alpha" or "methods"
    method: str
    training: str  # kind of the run that the checkpoints are from
    scale: str
    seed: int
    right: tuple[int, ...]
    n: tuple[int, ...]
    alpha: str | None = None

    @property
    def accuracies(self) -> tuple[float, ...]:
        return tuple(r / n for r, n in zip(self.right, self.n, strict=True))

    @property
    def overall(self) -> float:
        """All samples together, each weighing the same."""
        return sum(self.right) / sum(self.n)


@dataclass(frozen=True)
class Shown:
    """The shares that a similarity gives an environment, beside those that it has."""

    seed: int
    environment: str
    variant: int
    kind: str  # "label", "ot", "cosine", "mmd"
    shares: tuple[float, ...]
    truth: tuple[float, ...]  # of the environment's samples, per task


@dataclass(frozen=True)
class Results:
    """Everything that the tables and figures of one recipe are made from."""

    title: str
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    scales: tuple[str, ...]
    environments: tuple[Environment, ...] = ()
    scores: tuple[Score, ...] = ()
    task_scores: tuple[TaskScores, ...] = ()
    similarities: tuple[Shown, ...] = ()
    paper: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON object; `from_json` gives back an equal one."""
        return {
            "format": FORMAT,
            "title": self.title,
            "tasks": list(self.tasks),
            "seeds": list(self.seeds),
            "scales": list(self.scales),
            "environments": [one.to_json() for one in self.environments],
            "scores": [dataclasses.asdict(one) for one in self.scores],
            "task_scores": [dataclasses.asdict(one) for one in self.task_scores],
            "similarities": [dataclasses.asdict(one) for one in self.similarities],
            "paper": dict(self.paper),
            "missing": list(self.missing),
            "about": dict(self.about),
        }

    @classmethod
    def from_json(cls, data: Any) -> Results:
        """The inverse of `to_json`. Raises DataError for another format."""
        if not isinstance(data, Mapping) or data.get("format") != FORMAT:
            form = data.get("format") if isinstance(data, Mapping) else type(data).__name__
            raise DataError(f"results of format {form!r}; this version reads {FORMAT!r}. Run `prefmerge bench` again.")
        return cls(
            title=data["title"],
            tasks=tuple(data["tasks"]),
            seeds=tuple(data["seeds"]),
            scales=tuple(data["scales"]),
            environments=tuple(read_environment(one) for one in data["environments"]),
            scores=tuple(_made(Score, one) for one in data["scores"]),
            task_scores=tuple(_made(TaskScores, one) for one in data["task_scores"]),
            similarities=tuple(_made(Shown, one) for one in data["similarities"]),
            paper=data["paper"],
            missing=tuple(data["missing"]),
            about=data["about"],
        )

    @classmethod
    def load(cls, path: str | Path) -> Results:
        """Read `results.json`. Raises DataError naming the file."""
        try:
            return cls.from_json(jsons.read(Path(path)))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: cannot be read as results: {error}.") from error


def _made(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """A dataclass of JSON values: lists become tuples."""
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
