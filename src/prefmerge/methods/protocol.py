"""What a merge method is: something that reads task vectors and says, block by block, what the merged task vector is.

    tau_merged[start:stop] = rule.block(tensor, start, stop),   theta = theta_0 + scale * tau_merged

A method's `prepare` may read the deltas of its scope as often as it must (thresholds, masks, budgets) and returns a
`Rule`; the rule then fills one block at a time and needs no more than a block of each task. Methods know nothing of
files.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, Protocol

import numpy as np

from prefmerge.vectors.workspace import Workspace

Scope = Literal["tensor", "model"]


class Deltas(Protocol):
    """The task vectors of one tensor: tau_t = theta_t - theta_0, float32, flat."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the tensor, for methods that work on matrices; vectors are flat all the same."""
        ...

    @property
    def size(self) -> int:
        """Elements."""
        ...

    @property
    def changed(self) -> bool:
        """Whether any value read so far was not zero."""
        ...

    def read(self, task: int, start: int, stop: int, out: np.ndarray) -> bool:
        """Fill `out`, shape (stop - start,), with tau_task[start:stop]. True if any is not zero. Raises
        NonFiniteValue.
        """
        ...

    def gather(self, task: int, indices: np.ndarray, out: np.ndarray) -> None:
        """Fill `out` with tau_task at `indices` (ascending). Raises NonFiniteValue."""
        ...

    def base(self, start: int, stop: int) -> np.ndarray:
        """theta_0[start:stop], float32, read-only."""
        ...

    def model(self, task: int | None, start: int, stop: int) -> np.ndarray:
        """theta_task[start:stop], theta_0 for None: float64 where it is stored so, else float32. Raises
        NonFiniteValue.
        """
        ...


@dataclass(frozen=True)
class Settings:
    """Everything that decides the merged bytes besides the tensors. One entry per task in the tuples, in the order of
    training.
    """

    tasks: int
    seed: int = 0
    scale: float = 1.0
    shares: tuple[Fraction, ...] | None = None  # after carry
    counts: tuple[int, ...] | None = None  # explicit budgets over the model; only with strength 1
    selection: Literal["paper", "optimal", "printed"] = "paper"
    importance: Literal["magnitude", "step"] = "magnitude"
    strength: Fraction = Fraction(1)
    scope: Scope = "tensor"
    passes: int = 2
    weights: tuple[float, ...] | None = None
    densities: tuple[float, ...] | None = None
    normalize: bool = True
    base_weight: float = 0.0  # linear: the weight of theta_0 itself among the models
    toward_last: Fraction = Fraction(0)  # tunable_magmax: how far from the owner's value to the last task's
    start: Fraction = Fraction(1)  # increments: what is kept of every increment,
    boost: Fraction = Fraction(0)  # more of it by the task's share,
    drop: Fraction = Fraction(0)  # and less of it where the task is absent


@dataclass
class Report:
    """How one tensor (scope `tensor`) or the whole model came out: counts of elements per task, in task order."""

    asked: tuple[int, ...] | None = None
    passes: list[tuple[int, ...]] | None = None
    random: tuple[int, ...] | None = None
    gap: float | None = None  # relative duality gap of `optimal`, an upper bound
    prices: tuple[float | None, ...] | None = (
        None  # of `optimal`: the certificate; None for a task that did not compete
    )

    def entries(self) -> dict[str, Any]:
        """The parts that apply, ready for the receipt."""
        data: dict[str, Any] = {}
        if self.asked is not None:
            data["asked"] = list(self.asked)
        if self.passes is not None:
            data["passes"] = [list(p) for p in self.passes]
        if self.random is not None:
            data["random"] = list(self.random)
        if self.gap is not None:
            data["gap"] = self.gap
        if self.prices is not None:
            data["prices"] = list(self.prices)
        return data


@dataclass
class Rule(abc.ABC):
    """The prepared merge of the tensors of one scope. Subclasses fill `block`."""

    tensors: Sequence[Deltas]
    settings: Settings
    report: Report = field(default_factory=Report)
    base_weight: float = 0.0  # merged vector += base_weight * theta_0 (linear without normalisation)
    gives_model: bool = False  # `block` fills a float64 `out` with the merged model itself, scale included

    def unchanged(self, tensor: int) -> bool:
        """Whether `prepare` has found that no task changed this tensor: its bytes are the base's."""
        return False

    @abc.abstractmethod
    def block(self, tensor: int, start: int, stop: int, out: np.ndarray, work: Workspace) -> np.ndarray | None:
        """Fill `out` with the merged, unscaled task vector, or with the model (`gives_model`). Returns owners per task,
        shape (T,), where every element has one. Thread-safe.
        """


class Method(Protocol):
    """One entry of the registry."""

    name: str
    summary: str  # one line for the help text
    default_scale: float
    options: frozenset[str]  # the settings it honours beyond scale: preference, seed, selection, weights, density, ...

    def by_tensor(self, settings: Settings) -> bool:
        """True: `prepare` is called for each tensor alone. False: once, with all of them."""
        ...

    def prepare(self, tensors: Sequence[Deltas], settings: Settings, work: Workspace) -> Rule:
        """Read what must be known before the first block can be merged."""
        ...
