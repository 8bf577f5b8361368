"""The arguments of `prefmerge.adapt` and `prefmerge.prefer`, for editors and type checkers.

They repeat the names of the declared parameters (`target.parameters`), which a type checker cannot derive; a test holds
that they are the same. Cost: none. Not here: defaults and checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypedDict

Place = str | Path


class AdaptArguments(TypedDict, total=False):
    checkpoints: Sequence[Place]
    run: Place | None
    labels: Place | None
    inputs: Place | None
    pairs: Place | None
    prefer: str | None
    out: Place | None
    task_samples: Place | Sequence[Place]
    task_labels: Place | None
    head: Place | None
    model: str | None
    unordered: bool
    keep: float
    no_prior: bool
    metric: Literal["accuracy", "balanced"]
    candidate: Place | Sequence[Place]
    samples: int
    level: float
    seed: int
    batch: int
    dtype: str | None
    no_cache: bool
    threads: int | None
    force: bool


class PreferArguments(TypedDict, total=False):
    checkpoints: Sequence[Place]
    run: Place | None
    labels: Place | None
    inputs: Place | None
    pairs: Place | None
    similarity: Literal["ot", "cosine", "mmd"] | None
    solver: Literal["sinkhorn", "exact", "debiased"] | None
    regularization: float | None
    gamma: float | None
    samples: int | None
    task_labels: Place | None
    task_samples: Place | Sequence[Place]
    model: str | None
    level: float
    draws: int | None
    seed: int
    out: Place | None
    force: bool
