"""How often a model is right: per task and over all, with and without knowing the task, for one checkpoint or a run.

    right_i = [argmax over c in among of <e_i / |e_i|, h_c> is y_i],   accuracy = mean of right

Task-agnostic: among all classes (of the task's own data set in a sequence of data sets); the papers' number.
Task-aware: among the task's own classes. Source: both papers, section 4.1. `overall` weighs samples equally, `mean`
weighs tasks equally. Shapes: embeddings (N, E), the head's rows (C, E). Cost: every test sample is encoded once per
checkpoint, or read from the cache; all accuracies are then counts. Not here: printing, target environments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from prefmerge.data.examples import concatenated
from prefmerge.data.scenarios import Scenario
from prefmerge.errors import CheckpointMismatch, DataError
from prefmerge.ground.progress import Counted
from prefmerge.ground.stats import wilson
from prefmerge.models.features import embed
from prefmerge.models.metrics import Metrics, mean_std, metrics
from prefmerge.runs import IN_SEQUENCE, Run, require_finished

if TYPE_CHECKING:
    import torch

    from prefmerge.models.encoders.protocol import Encoder
    from prefmerge.models.heads import Head

FORMAT = "prefmerge-evaluation/1"
MATRIX_FORMAT = "prefmerge-evaluation-matrix/1"
_ROWS = 8192  # embeddings that meet the head at once: 33 MB of logits for 1,000 classes

Knowing = Literal["agnostic", "aware"]
Row = tuple[str, int, float, float]  # name, test samples, task-agnostic accuracy, task-aware accuracy


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

    name: str
    n: int
    right: int  # not knowing the task
    right_aware: int  # knowing it

    @property
    def agnostic(self) -> float:
        return self.right / self.n

    @property
    def aware(self) -> float:
        return self.right_aware / self.n

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "n": self.n, "agnostic": self.agnostic, "aware": self.aware}


@dataclass(frozen=True)
class Evaluation:
    """One model on the test samples of every task. `about` says which, where that is known."""

    tasks: tuple[Count, ...]
    classes: tuple[Count, ...] = ()  # those that occur in the test samples; only where asked for
    about: Mapping[str, Any] = field(default_factory=dict)

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

    def rows(self) -> list[Row]:
        """A table: one row per task, then the mean over tasks and all samples together."""
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


@dataclass(frozen=True)
class MatrixReport:
    """Every checkpoint of a run on every task. Row i: the checkpoint after training on task i (K of them, T tasks)."""

    training: str
    checkpoints: tuple[str, ...]
    baseline: Evaluation  # theta_0
    evaluations: tuple[Evaluation, ...]
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(task.name for task in self.baseline.tasks)

    def matrix(self, knowing: Knowing = "agnostic") -> np.ndarray:
        """(K, T) float64: R[i][j], the accuracy of checkpoint i on task j."""
        return np.array([one.accuracies(knowing) for one in self.evaluations], np.float64)

    def metrics(self, knowing: Knowing = "agnostic") -> Metrics:
        """Those of `metrics`; of checkpoints that were not trained in sequence only the last accuracy has a meaning."""
        return metrics(
            self.matrix(knowing), self.baseline.accuracies(knowing), in_sequence=self.training in IN_SEQUENCE
        )

    def rows(self, knowing: Knowing = "agnostic") -> list[tuple[str, *tuple[float, ...]]]:
        """A table: theta_0, then the checkpoints; name, one accuracy per task, their mean, all samples together."""
        named = [("theta_0", self.baseline), *zip(self.checkpoints, self.evaluations, strict=True)]
        return [
            (name, *one.accuracies(knowing), one.mean(knowing), getattr(one.overall, knowing)) for name, one in named
        ]

    def to_json(self) -> dict[str, Any]:
        def side(knowing: Knowing) -> dict[str, Any]:
            return {
                "baseline": list(self.baseline.accuracies(knowing)),
                "matrix": self.matrix(knowing).tolist(),
                "overall": [getattr(one.overall, knowing) for one in self.evaluations],
                "metrics": self.metrics(knowing).to_json(),
            }

        return {
            "format": MATRIX_FORMAT,
            **({"about": dict(self.about)} if self.about else {}),
            "training": self.training,
            "checkpoints": list(self.checkpoints),
            "tasks": [{"name": task.name, "n": task.n} for task in self.baseline.tasks],
            "agnostic": side("agnostic"),
            "aware": side("aware"),
        }


def evaluate_matrix(
    encoder: Encoder,
    run: Run,
    head: Head,
    scenario: Scenario,
    *,
    batch: int = 256,
    device: str | torch.device | None = None,
    cache: Path | None = None,
    progress: Counted | None = None,
    about: Mapping[str, Any] | None = None,
) -> MatrixReport:
    """`evaluate` theta_0 and every checkpoint of a run, in order; the encoder holds the last one afterwards.

    `progress` counts the samples of all checkpoints together. Raises RunError where a task of the run is not finished,
    and what `evaluate` and `Encoder.load` raise.
    """
    require_finished(run)
    paths = [run.base_path, *(run.task_path(index) for index in range(len(run.tasks)))]
    samples = sum(len(task.test) for task in scenario.tasks)
    evaluations: list[Evaluation] = []
    for index, path in enumerate(paths):

        def counted(done: int, of: int, before: int = index * samples) -> None:
            if progress is not None:
                progress(before + done, len(paths) * samples)

        encoder.load(path)
        evaluations.append(evaluate(encoder, head, scenario, batch=batch, device=device, cache=cache, progress=counted))
    names = tuple(task.name for task in run.tasks)
    return MatrixReport(run.training, names, evaluations[0], tuple(evaluations[1:]), about or {})


def summary_over_seeds(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and sample standard deviation over runs that differ in their seed, of `Evaluation.to_json` objects.

    Every accuracy becomes {"mean", "std"}; std is None for one run. Raises DataError where there is none, or the tasks
    are not the same.
    """
    if not evaluations:
        raise DataError("there is no evaluation to summarise. Give at least one.")
    about = [one.get("about", {}) for one in evaluations]
    for at, theirs in enumerate(about):
        if theirs.get("classes") != about[0].get("classes"):
            raise DataError(
                f"evaluation {at + 1} is of other classes than the first. A mean over seeds needs the same data."
            )
        judged = [one.get("samples", "test") for one in (about[0], theirs)]
        if judged[0] != judged[1]:
            raise DataError(
                f"evaluation {at + 1} is on {judged[1]} samples, the first on {judged[0]} samples. A mean over seeds "
                "needs the same: put the data back where the runs had them."
            )
        if theirs and theirs in about[:at]:
            raise DataError(f"evaluation {at + 1} is the same as an earlier one: {theirs.get('checkpoint')}.")
    names = [[task["name"] for task in one["tasks"]] for one in evaluations]
    for at, theirs in enumerate(names):
        if theirs != names[0]:
            raise DataError(
                f"evaluation {at + 1} has the tasks {', '.join(theirs)}; the first has {', '.join(names[0])}. "
                "A mean over seeds needs the same tasks in the same order."
            )

    def over(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        both = {knowing: mean_std([part[knowing] for part in parts]) for knowing in ("agnostic", "aware")}
        return {knowing: {"mean": mean, "std": std} for knowing, (mean, std) in both.items()}

    return {
        "runs": len(evaluations),
        **{key: about[0][key] for key in ("samples", "note") if key in about[0]},
        "overall": over([one["overall"] for one in evaluations]),
        "mean": over([one["mean"] for one in evaluations]),
        "tasks": [
            {"name": name, **over([one["tasks"][at] for one in evaluations])} for at, name in enumerate(names[0])
        ],
    }


def put(encoder: Encoder, weights: Mapping[str, np.ndarray]) -> None:
    """Copy float32 weights, by the names of `Encoder.state`, into the encoder's tower; what is not named stays.

    Raises CheckpointMismatch for a name or a shape that the tower does not have.
    """
    import torch

    state = encoder.state()
    for name, values in weights.items():
        if name not in state or tuple(state[name].shape) != values.shape:
            there = "no such tensor" if name not in state else f"shape {tuple(state[name].shape)}"
            raise CheckpointMismatch(
                f"{encoder.name}: weights for {name!r} with shape {values.shape}, but the model has {there}. "
                "Take checkpoints of this model."
            )
    with torch.no_grad():
        for name, values in weights.items():
            state[name].copy_(torch.from_numpy(np.ascontiguousarray(values)))
