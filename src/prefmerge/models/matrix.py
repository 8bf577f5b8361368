"""Every checkpoint of a run on every task: the matrix that forgetting and transfer are read from.

    R[i][j] = accuracy of the checkpoint after task i on task j      K checkpoints, T tasks; one more row for theta_0

Cost: K + 1 evaluations; images are decoded once. Not here: the formulas (`metrics`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefmerge.data.scenarios import Scenario
from prefmerge.ground.brief import brief
from prefmerge.ground.progress import Counted
from prefmerge.models.evaluation import Evaluation, Knowing, evaluate
from prefmerge.models.metrics import Metrics, metrics
from prefmerge.models.prepared import Room, decoded_once
from prefmerge.runs import IN_SEQUENCE, Run, require_finished

if TYPE_CHECKING:
    import torch

    from prefmerge.models.encoders.protocol import Encoder
    from prefmerge.models.heads import Head

FORMAT = "prefmerge-evaluation-matrix/1"


@dataclass(frozen=True)
class MatrixReport:
    """Every checkpoint of a run on every task. Row i: the checkpoint after training on task i (K of them, T tasks)."""

    __repr__ = brief

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
            "format": FORMAT,
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
    room = Room()
    tasks = tuple(replace(task, test=decoded_once(encoder, task.test, room)) for task in scenario.tasks)
    scenario = replace(scenario, tasks=tasks)
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
