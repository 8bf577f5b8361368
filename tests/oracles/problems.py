"""Hypothesis strategies for merge problems: a base, T sequentially trained models, and shares, often zero.

Kinds of numbers: `real` (a heavy-tailed walk: every task vector differs everywhere), `grid` (small multiples of 1/64:
many equal magnitudes, opposite signs and zeros, and all arithmetic exact in float32 at scales 0.5 and 1). Tensors:
0-d, empty, tiny, matrices; some that no task changed; an integer buffer. Sizes are kept where the oracles' loops take
milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from hypothesis import strategies as st

from tests.oracles import methods

Kind = Literal["real", "grid"]
State = dict[str, np.ndarray]

SHAPES: list[tuple[int, ...]] = [(), (1,), (0,), (3, 0), (2,), (5,), (3, 4), (17,), (2, 3, 5), (6, 7)]


@dataclass(frozen=True)
class Problem:
    """Inputs of one merge. `shares` has one entry per task and sums to 1."""

    base: State
    tasks: list[State]
    shares: list[Fraction]

    @property
    def names(self) -> list[str]:
        return [f"task{t}" for t in range(len(self.tasks))]

    def deltas(self, tensor: str) -> np.ndarray:
        """Task vectors of one tensor, float32, shape (T, P)."""
        return methods.deltas(self.base[tensor], [task[tensor] for task in self.tasks])

    def changed(self) -> list[str]:
        """Float tensors that some task changed: those that budgets speak of."""
        floats = [name for name, array in self.base.items() if array.dtype == np.float32]
        return [name for name in floats if np.any(self.deltas(name))]

    def groups(self, scope: str) -> list[list[str]]:
        """The tensors that share one budget."""
        changed = self.changed()
        if scope == "tensor":
            return [[name] for name in changed]
        return [changed] if changed else []

    def joined_deltas(self, tensors: Sequence[str]) -> np.ndarray:
        """Task vectors over several tensors, one after the other, shape (T, sum of P)."""
        return np.concatenate([self.deltas(name) for name in tensors], axis=1)


def walk(rng: np.random.Generator, shape: tuple[int, ...], tasks: int, kind: Kind) -> list[np.ndarray]:
    """A base and `tasks` models, float32."""
    if kind == "grid":
        base = rng.integers(-8, 9, shape) / 8
        return [np.asarray(base, np.float32)] + [
            np.asarray(base + rng.integers(-3, 4, shape) / 64, np.float32) for _ in range(tasks)
        ]
    models = [np.asarray(rng.normal(0, 0.1, shape), np.float32)]
    for _ in range(tasks):
        models.append(np.asarray(models[-1] + 0.01 * rng.standard_t(3, shape), np.float32))
    return models


@st.composite
def shares(draw: st.DrawFn, tasks: int) -> list[Fraction]:
    """Small whole numbers, normalised; often zero for most tasks."""
    weights = draw(st.lists(st.sampled_from([0, 0, 1, 1, 2, 7]), min_size=tasks, max_size=tasks))
    if not any(weights):
        weights[draw(st.integers(0, tasks - 1))] = 1
    return [Fraction(weight, sum(weights)) for weight in weights]


@st.composite
def problems(draw: st.DrawFn, *, kinds: Sequence[Kind] = ("real", "grid"), most_tasks: int = 64) -> Problem:
    """A whole problem. Few tasks mostly, `most_tasks` at most."""
    tasks = draw(st.one_of(st.integers(1, min(6, most_tasks)), st.integers(1, most_tasks)))
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(list(kinds)))
    models: list[State] = [{} for _ in range(tasks + 1)]
    for i, shape in enumerate(shapes):
        for model, array in zip(models, walk(rng, shape, tasks, kind), strict=True):
            model[f"layer.{i}"] = array
    if draw(st.booleans()):
        frozen = rng.normal(size=(4,)).astype(np.float32)
        for model in models:
            model["frozen"] = frozen.copy()
            model["positions"] = np.arange(3)
    return Problem(models[0], models[1:], draw(shares(tasks)))
