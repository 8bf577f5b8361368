"""A method that works on matrices: it sees each tensor's shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from prefmerge import merge_state_dicts
from prefmerge.methods import METHODS, Deltas, Method, Rule, Settings
from prefmerge.methods.parameters import SCALE
from prefmerge.vectors.workspace import Workspace

SHAPES = {"matrix": (300, 257), "wide": (3, 8, 2), "vector": (40,), "scalar": (), "empty": (0, 4)}


@dataclass
class _Rows(Rule):
    whole: dict[int, np.ndarray] = field(default_factory=dict)  # the merged vector of each tensor

    def block(self, tensor: int, start: int, stop: int, out: np.ndarray, work: Workspace) -> None:
        out[:] = self.whole[tensor].reshape(-1)[start:stop]


class LargestRows(Method):
    """Every row of the last axis from the task whose row is the longest."""

    name = "largest_rows"
    summary = "rows of matrices"
    parameters = (SCALE.but(1),)

    def by_tensor(self, settings: Settings) -> bool:
        return True

    def prepare(self, tensors: Sequence[Deltas], settings: Settings, work: Workspace) -> Rule:
        merged = {}
        for i, deltas in enumerate(tensors):
            tau_TP = np.empty((settings.tasks, deltas.size), np.float32)
            for task in range(settings.tasks):
                deltas.read(task, 0, deltas.size, tau_TP[task])
            tau = tau_TP.reshape(settings.tasks, *(deltas.shape or (1,)))
            longest = np.linalg.norm(tau.astype(np.float64), axis=-1, keepdims=True).argmax(axis=0)
            merged[i] = np.take_along_axis(tau, longest[None], axis=0)[0]
        return _Rows(tensors, settings, whole=merged)


@pytest.mark.parametrize(("block", "threads"), [(1 << 16, 1), (100, 2)])
def test_a_method_may_work_on_rows(block: int, threads: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(METHODS, "largest_rows", LargestRows())
    rng = np.random.default_rng(0)
    base, *tasks = (
        {name: np.asarray(rng.standard_normal(shape), np.float32) for name, shape in SHAPES.items()} for _ in range(4)
    )
    merged, _ = merge_state_dicts(base, tasks, method="largest_rows", threads=threads, block=block)
    for name, start in base.items():
        expected = np.array(start)
        for row in np.ndindex(start.shape[:-1]):
            rows = [np.float64(task[name][row] - start[row]) for task in tasks]
            lengths = [float(np.linalg.norm(r)) for r in rows]
            expected[row] = start[row] + np.float32(rows[lengths.index(max(lengths))])
        assert merged[name].tobytes() == expected.tobytes(), name
