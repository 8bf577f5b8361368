"""How much an element matters to a task: what selections rank by.

    magnitude   I_t = |tau_t|                                                (the paper)
    step        I_t = |tau_t - tau_{t-1}| / rms_t,  tau_0 = 0                  (ours, for sequentially trained tasks)

rms_t is the root mean square of the step over the tensor, from float64 sums over fixed stretches of 65,536 elements, so
no block size changes it; I_t is 0 where rms_t is 0. t-1 is the task before t in the full order, even one that the user
asked nothing of. Cost: `step` also reads the task before each that competes, where that does not compete, and all once
more for their rms, unless who reads all for something else adds up the squares (`of_sums`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from prefmerge.methods import kernels
from prefmerge.methods.protocol import Deltas
from prefmerge.vectors.workspace import BLOCK, Workspace, spans

Fill = Callable[[int, np.ndarray], object]  # fills an array with a stretch of one task's vector


Vectors = tuple[list[int], np.ndarray, np.ndarray]


class MagnitudeImportance:
    """I_t = |tau_t|. The sign may be left on: rankings take the magnitude themselves."""

    def each(
        self, read: Fill, tensor: int, tasks: Sequence[int], rows: Sequence[np.ndarray], work: Workspace
    ) -> Iterator[np.ndarray]:
        """One of `rows`, float32, for each of `tasks`, ascending, when it is filled. All may be the same memory."""
        for task, out in zip(tasks, rows, strict=True):
            read(task, out)
            yield out

    def vectors(self, tasks: Sequence[int]) -> Vectors:
        """Whose vectors the importances of `tasks` come from, ascending; for each of `tasks`, which of these is its
        own, and which is the one before it: -1 for none. I = |own - before| / rms.
        """
        return list(tasks), np.arange(len(tasks)), np.full(len(tasks), -1)

    def rms(self, tensor: int, tasks: Sequence[int]) -> np.ndarray:
        """What the differences of `vectors` are divided by, float32."""
        return np.ones(len(tasks), np.float32)


class StepImportance:
    """I_t = |tau_t - tau_{t-1}| / rms_t. `rms_ST` has one row per tensor, one entry per task; None: not measured."""

    def __init__(self, rms_ST: np.ndarray | None = None) -> None:
        self._rms_ST = rms_ST

    @property
    def is_measured(self) -> bool:
        return self._rms_ST is not None

    @classmethod
    def measured(cls, tensors: Sequence[Deltas], tasks: Sequence[int], count: int, work: Workspace) -> StepImportance:
        """Read the steps of `tasks` once for their root mean squares. `count`: T."""
        stretches = [(i, start, stop) for i, deltas in enumerate(tensors) for start, stop in spans(deltas.size, BLOCK)]

        def squares(stretch: tuple[int, int, int]) -> list[float]:
            i, start, stop = stretch
            steps = _steps(reader(tensors[i], start, stop), tasks, stop - start, work)
            return [float(kernels.step_squares(tau, before)) for tau, before in steps]

        sums = work.map(squares, stretches)
        return cls.of_sums(zip([i for i, _, _ in stretches], sums, strict=True), tensors, tasks, count)

    @classmethod
    def of_sums(
        cls,
        sums: Iterable[tuple[int, Sequence[float] | np.ndarray]],
        tensors: Sequence[Deltas],
        tasks: Sequence[int],
        count: int,
    ) -> StepImportance:
        """From the sums of the squared steps of `tasks` in every stretch of `BLOCK` elements, each with its tensor, in
        order.
        """
        totals = np.zeros((len(tensors), count))
        for i, values in sums:
            totals[i, list(tasks)] += values
        rms = np.zeros((len(tensors), count), np.float32)
        for i, deltas in enumerate(tensors):
            for task in tasks:
                rms[i, task] = math.sqrt(totals[i, task] / deltas.size) if deltas.size else 0.0
        return cls(rms)

    def each(
        self, read: Fill, tensor: int, tasks: Sequence[int], rows: Sequence[np.ndarray], work: Workspace
    ) -> Iterator[np.ndarray]:
        """As `MagnitudeImportance.each`."""
        rms = self.rms(tensor, tasks)
        steps = _steps(read, tasks, len(rows[0]) if rows else 0, work)
        for own, (tau, before), out in zip(rms, steps, rows, strict=True):
            kernels.step_importance(tau, before, own, out)
            yield out

    def vectors(self, tasks: Sequence[int]) -> Vectors:
        """As `MagnitudeImportance.vectors`."""
        read = sorted({*tasks, *(task - 1 for task in tasks if task)})
        place = {task: i for i, task in enumerate(read)}
        return (
            read,
            np.array([place[task] for task in tasks], np.int64),
            np.array([place.get(task - 1, -1) for task in tasks], np.int64),
        )

    def rms(self, tensor: int, tasks: Sequence[int]) -> np.ndarray:
        """As `MagnitudeImportance.rms`."""
        assert self._rms_ST is not None, "the steps are not measured"
        return self._rms_ST[tensor, list(tasks)]


Importance = MagnitudeImportance | StepImportance


def reader(deltas: Deltas, start: int, stop: int) -> Fill:
    """Reads [start, stop) of a task's vector."""
    return lambda task, out: deltas.read(task, start, stop, out)


def _steps(read: Fill, tasks: Sequence[int], length: int, work: Workspace) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """tau_t and tau_{t-1} for each of `tasks`, ascending. What one task was read for serves the next one."""
    tau, before = work.buffer("step", length), work.buffer("step-before", length)
    at = -1  # whose vector `tau` holds
    for task in tasks:
        if task and at == task - 1:
            tau, before = before, tau
        elif task:
            read(task - 1, before)
        else:
            before[:] = 0
        read(task, tau)
        at = task
        yield tau, before


def importance_of(
    kind: str, tensors: Sequence[Deltas], competing: Sequence[int], tasks: int, work: Workspace
) -> Importance:
    """The importance called `kind`, measured where it must be."""
    return StepImportance.measured(tensors, competing, tasks, work) if kind == "step" else MagnitudeImportance()
