"""How much an element matters to a task: what selections rank by.

    magnitude   I_t = |tau_t|                                                (the paper)
    step        I_t = |tau_t - tau_{t-1}| / rms_t,  tau_0 = 0                  (ours, for sequentially trained tasks)

rms_t is the root mean square of the step over the tensor, from float64 sums over fixed stretches of 65,536 elements, so
no block size changes it; I_t is 0 where rms_t is 0. t-1 is the task before t in the full order, even one that the user
asked nothing of. Cost: `step` reads two task vectors for one, and every competing task once more for its rms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from prefmerge.methods import kernels
from prefmerge.methods.protocol import Deltas
from prefmerge.vectors.workspace import BLOCK, Workspace, spans


class MagnitudeImportance:
    """I_t = |tau_t|. `read` may leave the sign on: rankings take the magnitude themselves."""

    def read(
        self, deltas: Deltas, tensor: int, task: int, start: int, stop: int, out: np.ndarray, work: Workspace
    ) -> None:
        """Fill `out`, shape (stop - start,), float32."""
        deltas.read(task, start, stop, out)

    def gather(self, deltas: Deltas, tensor: int, task: int, indices: np.ndarray, out: np.ndarray) -> None:
        """Fill `out` for the elements at `indices`, ascending."""
        deltas.gather(task, indices, out)


class StepImportance:
    """I_t = |tau_t - tau_{t-1}| / rms_t. `rms_ST` has one row per tensor, one entry per task."""

    def __init__(self, rms_ST: np.ndarray) -> None:
        self.rms_ST = rms_ST

    @classmethod
    def measured(cls, tensors: Sequence[Deltas], tasks: Sequence[int], count: int, work: Workspace) -> StepImportance:
        """Read the steps of `tasks` once for their root mean squares. `count`: T."""
        stretches = [
            (i, task, start, stop)
            for i, deltas in enumerate(tensors)
            for task in tasks
            for start, stop in spans(deltas.size, BLOCK)
        ]

        def squares(stretch: tuple[int, int, int, int]) -> float:
            i, task, start, stop = stretch
            tau, before = _steps(tensors[i], task, start, stop, work)
            return float(kernels.step_squares(tau, before))

        totals = np.zeros((len(tensors), count))
        for (i, task, _, _), value in zip(stretches, work.map(squares, stretches), strict=True):
            totals[i, task] += value
        rms = np.zeros((len(tensors), count), np.float32)
        for i, deltas in enumerate(tensors):
            for task in tasks:
                rms[i, task] = math.sqrt(totals[i, task] / deltas.size) if deltas.size else 0.0
        return cls(rms)

    def read(
        self, deltas: Deltas, tensor: int, task: int, start: int, stop: int, out: np.ndarray, work: Workspace
    ) -> None:
        """Fill `out`, shape (stop - start,), float32."""
        tau, before = _steps(deltas, task, start, stop, work)
        kernels.step_importance(tau, before, self.rms_ST[tensor, task], out)

    def gather(self, deltas: Deltas, tensor: int, task: int, indices: np.ndarray, out: np.ndarray) -> None:
        """Fill `out` for the elements at `indices`, ascending."""
        tau, before = np.empty(len(indices), np.float32), np.zeros(len(indices), np.float32)
        deltas.gather(task, indices, tau)
        if task:
            deltas.gather(task - 1, indices, before)
        kernels.step_importance(tau, before, self.rms_ST[tensor, task], out)


Importance = MagnitudeImportance | StepImportance


def _steps(deltas: Deltas, task: int, start: int, stop: int, work: Workspace) -> tuple[np.ndarray, np.ndarray]:
    tau, before = work.buffer("step", stop - start), work.buffer("step-before", stop - start)
    deltas.read(task, start, stop, tau)
    if task:
        deltas.read(task - 1, start, stop, before)
    else:
        before[:] = 0
    return tau, before


def importance_of(
    kind: str, tensors: Sequence[Deltas], competing: Sequence[int], tasks: int, work: Workspace
) -> Importance:
    """The importance called `kind`, measured where it must be."""
    return StepImportance.measured(tensors, competing, tasks, work) if kind == "step" else MagnitudeImportance()
