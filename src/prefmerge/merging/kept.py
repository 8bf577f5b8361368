"""How much of what the tasks changed a merge keeps, tensor by tensor, measured while it is made.

    by_task[t] = sum over the elements p that task t owns of |tau_merged[p]|
    most       = sum over p of max_t |tau_t[p]|                      over all tasks

tau_merged is what is merged, before the scale; `kept` is its sum, by task where every element has an owner. kept / most
is 1 for MAGMAX; a sum of task vectors may have more. Source: ours. Cost: another look at each
block of every task while it is in the cache, 1 to 2 ns an element and task; several merges of one reading share it.
What is looked at here counts as read for no receipt. Not here: what is shown of it (`page`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefmerge.errors import NonFiniteValue
from prefmerge.merging.plan import Plan, PlannedTensor
from prefmerge.vectors.reader import TaskVectors
from prefmerge.vectors.reading import Reading
from prefmerge.vectors.workspace import Workspace


@dataclass(frozen=True)
class KeptMagnitude:
    """How much of the changes is kept, of one tensor or of several, in units of the weights."""

    kept: float  # sum of |merged change| before the scale
    # sum of the largest |change| that any task makes; None where a task that was not asked for anything holds no
    # finite number
    most: float | None
    # `kept`, cut among the owners, shape (T,); None where elements have no owner
    by_task: tuple[float, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """`from_json` takes it back."""
        return {"kept": self.kept, "most": self.most, "by_task": None if self.by_task is None else list(self.by_task)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> KeptMagnitude:
        """What `to_json` gave."""
        return cls(data["kept"], data["most"], None if data["by_task"] is None else tuple(data["by_task"]))

    @property
    def share(self) -> float | None:
        """`kept` as a part of `most`; None where nothing was changed."""
        return self.kept / self.most if self.most else None

    @property
    def shares(self) -> tuple[float, ...] | None:
        """The same by task."""
        if self.by_task is None or not self.most:
            return None
        return tuple(one / self.most for one in self.by_task)


NOTHING = KeptMagnitude(0.0, 0.0)


def added(parts: Sequence[KeptMagnitude]) -> KeptMagnitude:
    """Several tensors as one."""
    by_task = [one.by_task for one in parts if one.by_task is not None]
    known = [one.most for one in parts if one.most is not None]
    return KeptMagnitude(
        sum(one.kept for one in parts),
        sum(known) if len(known) == len(parts) else None,
        tuple(map(sum, zip(*by_task, strict=True))) if len(by_task) == len(parts) > 0 else None,
    )


class Keeping:
    """Measures the merges of one reading. Called from any thread."""

    def __init__(self, plan: Plan, work: Workspace) -> None:
        # A reading of its own: what is read for a report is no part of what the receipt says was read.
        self._reading = Reading.of(plan.base, plan.tasks, hashed=False)
        self._work = work
        self._most: dict[tuple[str, tuple[str, ...], int], float | None] = {}

    def vector(self, entry: PlannedTensor, start: int, tau: np.ndarray, owner: np.ndarray | None) -> KeptMagnitude:
        """What a block keeps. `tau`: what is merged, before the scale. `owner`: of each element."""
        magnitudes = self._work.buffer("kept", tau.size, tau.dtype)
        np.abs(tau, out=magnitudes)
        kept, by_task = float(magnitudes.sum(dtype=np.float64)), None
        if owner is not None:
            by_task = tuple(np.bincount(owner, weights=magnitudes, minlength=len(entry.stored_as)).tolist())
        key = (entry.name, entry.stored_as, start)
        if key not in self._most:
            self._most[key] = self._largest(entry, start, start + tau.size)
        return KeptMagnitude(kept, self._most[key], by_task)

    def model(self, entry: PlannedTensor, start: int, model: np.ndarray, scale: np.float32) -> KeptMagnitude:
        """The same of a method that gives the model itself, the scale included."""
        base = self._vectors(entry).model(None, start, start + model.size)
        return self.vector(entry, start, (model - base) / (float(scale) or 1.0), None)

    def _vectors(self, entry: PlannedTensor) -> TaskVectors:
        return TaskVectors.of(self._reading, entry.info, entry.stored_as)

    def _largest(self, entry: PlannedTensor, start: int, stop: int) -> float | None:
        """sum over [start, stop) of max_t |tau_t|."""
        tau, largest = (self._work.buffer(name, stop - start) for name in ("kept of a task", "kept at most"))
        largest[:] = 0
        vectors = self._vectors(entry)
        try:
            for task in range(len(vectors.readers)):
                vectors.read(task, start, stop, tau)
                np.maximum(largest, np.abs(tau, out=tau), out=largest)
        except NonFiniteValue:
            return None
        return float(largest.sum(dtype=np.float64))


def grouped(kept: Mapping[str, KeptMagnitude], groups: Mapping[str, str]) -> dict[str, KeptMagnitude]:
    """The sums by group: `groups` says which one a tensor belongs to. In the order of the tensors."""
    members: dict[str, list[KeptMagnitude]] = {}
    for name, one in kept.items():
        members.setdefault(groups[name], []).append(one)
    return {group: added(inside) for group, inside in members.items()}
