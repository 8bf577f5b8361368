"""How the tensors of a plan came out: what the engine says of them, and what of an interrupted merge it takes as done.

Cost: a few numbers for each tensor. Not here: where finished tensors are kept (`pieces`), the receipt made of it
(`recording`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from prefmerge.merging.kept import KeptMagnitude
from prefmerge.merging.plan import PlannedTensor
from prefmerge.methods import Report
from prefmerge.vectors.reading import Reading
from prefmerge.vectors.workspace import Workspace


class Finished(Protocol):
    """What an interrupted merge of the same plan had finished, and where what is finished now is kept."""

    report: Report | None  # of the whole model, in scope `model`

    def take(self, entry: PlannedTensor, outcome: Outcome, work: Workspace) -> bool:
        """Whether a tensor is there; the outcome then has what is known of it. Called from any thread."""
        ...

    def add(self, entry: PlannedTensor, outcome: Outcome) -> None:
        """Keep a tensor that is written. Called from any thread."""
        ...


@dataclass
class Outcome:
    """How the tensors of one plan came out, and what was read for it: what a receipt says."""

    reading: Reading
    owned: dict[str, np.ndarray] = field(default_factory=dict)  # elements per task, where every element has an owner
    reports: dict[str, Report] = field(default_factory=dict)  # of tensors that had a scope to themselves
    report: Report | None = None  # of the whole model, in scope `model`
    changed: dict[str, bool] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    kept: int = 0  # tensors that an interrupted merge had finished
    measured: bool = False  # whether `magnitudes` was asked for
    magnitudes: dict[str, KeptMagnitude] = field(default_factory=dict)  # of the changes, what each tensor keeps
