"""The arguments of `prefmerge.adapt`, `check`, `prefer` and `search`, for editors and type checkers.

They repeat the names of the declared parameters (`target.parameters`), which a type checker cannot derive; a test holds
that they are the same. Cost: none. Not here: defaults and checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypedDict

from prefmerge.target.kinds import InputsKind, Solver

Where = str | Path


class AdaptArguments(TypedDict, total=False):
    checkpoints: Sequence[Where]
    run: Where | None
    labels: Where | None
    inputs: Where | None
    pairs: Where | None
    prefer: str | None
    from_: Where | None
    forget: bool
    out: Where | None
    task_samples: Where | Sequence[Where]
    task_labels: Where | None
    head: Where | None
    model: str | None
    unordered: bool
    keep: float
    no_prior: bool
    metric: Literal["accuracy", "balanced"]
    candidate: Where | Sequence[Where]
    compare: Where | Sequence[Where]
    samples: int
    level: float
    seed: int
    batch: int
    dtype: str | None
    no_cache: bool
    report: Where | None
    threads: int | None
    force: bool
    score: str | None
    confirm: str | None
    confirm_repeats: int
    score_key: str | None
    lower_is_better: bool
    budgets: str | None
    jobs: int
    timeout: float | None
    max_memory: str


class CheckArguments(TypedDict, total=False):
    """Those of adapt that a check takes."""

    labels: Where | None
    inputs: Where | None
    pairs: Where | None
    run: Where | None
    checkpoints: Sequence[Where] | None
    task_samples: Where | Sequence[Where] | None
    task_labels: Where | None
    head: Where | None
    model: str | None
    unordered: bool | None
    level: float | None
    seed: int | None
    batch: int | None
    no_cache: bool | None
    threads: int | None


class PreferArguments(TypedDict, total=False):
    checkpoints: Sequence[Where]
    run: Where | None
    labels: Where | None
    inputs: Where | None
    pairs: Where | None
    similarity: InputsKind | None
    solver: Solver | None
    regularization: float | None
    gamma: float | None
    samples: int | None
    task_labels: Where | None
    task_samples: Where | Sequence[Where]
    model: str | None
    level: float
    draws: int | None
    seed: int
    out: Where | None
    force: bool


class SearchArguments(TypedDict, total=False):
    checkpoints: Sequence[Where]
    run: Where | None
    labels: Where | None
    inputs: Where | None
    pairs: Where | None
    prefer: str | None
    out: Where | None
    paper: bool
    trials: int
    patience: int
    space: str | None
    held_out: float
    batch: int
    seed: int
    threads: int | None
    force: bool
    score: str | None
    confirm: str | None
    confirm_repeats: int
    score_key: str | None
    lower_is_better: bool
    budgets: str | None
    jobs: int
    timeout: float | None
    max_memory: str
    model: Where | None
