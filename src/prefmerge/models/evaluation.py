"""How often a model is right: per task and over all, with and without knowing the task.

    right_i = [argmax over c in among of <e_i / |e_i|, h_c> is y_i],   accuracy = mean of right

Task-agnostic: among all classes (of the task's own data set in a sequence of data sets); the papers' number.
Task-aware: among the task's own classes. Source: both papers, section 4.1. `overall` weighs samples equally, `mean`
weighs tasks equally. Shapes: embeddings (N, E), the head's rows (C, E). Cost: every test sample is encoded once, or
read from the cache; all accuracies are then counts. Not here: the checkpoints of a run (`matrix`), runs that differ in
their seed (`seeds`), printing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from prefmerge.data.examples import concatenated
from prefmerge.data.scenarios import Scenario
from prefmerge.errors import DataError
from prefmerge.ground.brief import brief
from prefmerge.ground.progress import Counted
from prefmerge.ground.stats import wilson
from prefmerge.models.features import embed

if TYPE_CHECKING:
    import torch

    from prefmerge.models.encoders.protocol import Encoder
    from prefmerge.models.heads import Head

FORMAT = "prefmerge-evaluation/1"
_ROWS = 8192  # embeddings that meet the head at once: 33 MB of logits for 1,000 classes

Knowing = Literal["agnostic", "aware"]


def right_answers(embeddings: np.ndarray, head: Head, labels: np.ndarray, among: Sequence[int]) -> np.ndarray:
    """Which samples the head names correctly among the classes `among`, (N,) bool.

    `embeddings` (N, E), not normalised; `labels` (N,) and `among` are rows of the head. Of equal logits the first in
    `among` is the answer; a label that is not in `among` is never right.
    """
    import torch

    rows = np.asarray(among, dtype=np.int64)
    answers = np.empty(len(embeddings), np.int64)
    for start in range(0, len(embeddings), _ROWS):
        some = torch.from_numpy(np.ascontiguousarray(embeddings[start : start + _ROWS], np.float32))
        with torch.no_grad():
            logits = head.logits(some.to(head.rows.device), rows.tolist())
        answers[start : start + _ROWS] = rows[logits.cpu().numpy().argmax(axis=1)]
    return answers == np.asarray(labels)


@dataclass(frozen=True)
class Count:
    """Right answers among `n` test samples of a task, or of a class."""

    name: str  # of the task, or of the class
    n: int  # samples
    right: int  # not knowing the task
    right_aware: int  # knowing it

    @property
    def agnostic(self) -> float:
        """Accuracy among all classes, the task unknown."""
        return self.right / self.n

    @property
    def aware(self) -> float:
        """Accuracy among the task's own classes."""
        return self.right_aware / self.n

    def to_json(self) -> dict[str, Any]:
        """A JSON object with both accuracies."""
        return {"name": self.name, "n": self.n, "agnostic": self.agnostic, "aware": self.aware}


@dataclass(frozen=True)
class Evaluation:
    """One model on the test samples of every task."""

    __repr__ = brief

    tasks: tuple[Count, ...]  # right answers by task, in the order of training
    classes: tuple[Count, ...] = ()  # those that occur in the test samples; only where asked for
    about: Mapping[str, Any] = field(default_factory=dict)  # which samples these are, where that is known

    @property
    def overall(self) -> Count:
        """All test samples together, each weighing the same."""
        return Count(
            "overall",
            sum(task.n for task in self.tasks),
            sum(task.right for task in self.tasks),
            sum(task.right_aware for task in self.tasks),
        )

    def mean(self, knowing: Knowing = "agnostic") -> float:
        """The mean over tasks, each weighing the same."""
        return sum(self.accuracies(knowing)) / len(self.tasks)

    def accuracies(self, knowing: Knowing = "agnostic") -> tuple[float, ...]:
        """One accuracy per task, in the order of training."""
        return tuple(task.agnostic if knowing == "agnostic" else task.aware for task in self.tasks)

    def rows(self) -> list[tuple[str, int, float, float]]:
        """A table: one row per task, then the mean over tasks and all samples together. A row is a name, the number of
        test samples, the task-agnostic and the task-aware accuracy.
        """
        every = self.overall
        return [
            *((task.name, task.n, task.agnostic, task.aware) for task in self.tasks),
            ("mean over tasks", every.n, self.mean(), self.mean("aware")),
            ("overall", every.n, every.agnostic, every.aware),
        ]

    def to_json(self) -> dict[str, Any]:
        """Accuracies as fractions of 1; `interval` is Wilson's for 95 % of the overall task-agnostic one."""
        every = self.overall
        return {
            "format": FORMAT,
            **({"about": dict(self.about)} if self.about else {}),
            "overall": {
                "n": every.n,
                "agnostic": every.agnostic,
                "aware": every.aware,
                "interval": list(wilson(every.right, every.n)),
            },
            "mean": {"agnostic": self.mean(), "aware": self.mean("aware")},
            "tasks": [task.to_json() for task in self.tasks],
            **({"classes": [one.to_json() for one in self.classes]} if self.classes else {}),
        }


def evaluate(
    encoder: Encoder,
    head: Head,
    scenario: Scenario,
    *,
    batch: int = 256,
    device: str | torch.device | None = None,
    cache: Path | None = None,
    progress: Counted | None = None,
    per_class: bool = False,
    about: Mapping[str, Any] | None = None,
) -> Evaluation:
    """The accuracies of the model that the encoder holds now. `batch`, `device`, `cache`, `progress`: those of `embed`.

    Raises DataError where a task has no test sample, or the head was made for other classes; EncoderError.
    """
    wrong = other_classes(head, scenario)
    if wrong:
        raise DataError(f"the head does not fit the data: {wrong}. Make the head from these data.")
    for task in scenario.tasks:
        if len(task.test) == 0:
            raise DataError(
                f"task {task.name!r} has no test sample, so it has no accuracy. Give it some, or leave it out."
            )
    samples = concatenated([task.test for task in scenario.tasks])
    embeddings = embed(encoder, samples, batch=batch, device=device, cache=cache, progress=progress)
    counts: list[Count] = []
    agnostic, aware = np.empty(len(samples), bool), np.empty(len(samples), bool)
    start = 0
    for task in scenario.tasks:
        own = slice(start, start + len(task.test))
        start = own.stop
        agnostic[own] = right_answers(embeddings[own], head, task.test.labels, task.among)
        aware[own] = right_answers(embeddings[own], head, task.test.labels, task.classes)
        counts.append(Count(task.name, len(task.test), int(agnostic[own].sum()), int(aware[own].sum())))
    classes = _by_class(scenario, samples.labels, agnostic, aware) if per_class else ()
    return Evaluation(tuple(counts), classes, about or {})


def _by_class(scenario: Scenario, labels: np.ndarray, agnostic: np.ndarray, aware: np.ndarray) -> tuple[Count, ...]:
    size = len(scenario.classes)
    n, right, right_aware = (np.bincount(labels[which], minlength=size) for which in (slice(None), agnostic, aware))
    return tuple(
        Count(one.name, int(n[c]), int(right[c]), int(right_aware[c])) for c, one in enumerate(scenario.classes) if n[c]
    )


def other_classes(head: Head, scenario: Scenario) -> str | None:
    """What differs between the classes of the head and those of the data; None where nothing does."""
    names = [one.name for one in scenario.classes]
    if len(head.classes) != len(names):
        return f"it has {len(head.classes)} classes, the data have {len(names)}"
    for at, (theirs, ours) in enumerate(zip(head.classes, names, strict=True)):
        if theirs != ours:
            return f"its class {at + 1} is {theirs!r}, that of the data is {ours!r}"
    return None
