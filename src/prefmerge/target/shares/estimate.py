"""The shares of a target with how sure they are: one value, whatever they were estimated from.

Shapes: T tasks, C classes, B draws. Cost: none. Not here: the estimates (`from_labels`, `from_inputs`), what is to be
said of them (`doubts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from prefmerge.preference import Preference
from prefmerge.target.shares.tasks import Tasks

PRESENT = 0.02  # share from which on a task counts as one of the target's

Origin = Literal["labels", "inputs", "pairs", "stated", "labels and inputs"]


@dataclass(frozen=True)
class Foreign:
    """The part of the inputs that lies further from every class than 5 % of the tasks' own do, less those 5 %."""

    part: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Shares:
    """The shares of a target, with how sure they are: T tasks, C classes, B draws."""

    names: tuple[str, ...]  # the tasks'
    classes: tuple[str, ...]  # the head's
    shares: np.ndarray  # (T,) float64; they sum to 1
    draws: np.ndarray  # (B, T); each sums to 1
    low: np.ndarray  # of each task's own interval, (T,)
    high: np.ndarray  # likewise
    level: float  # confidence of the intervals
    samples: int  # of the target
    label_counts: np.ndarray  # (C,) zeros where only inputs are known
    label_draws: np.ndarray  # (B, C) in the same draws; each sums to the number of labels
    source: Origin  # what they were estimated from
    second: np.ndarray | None = None  # (T,) the black-box estimator's
    foreign: Foreign | None = None  # the part of the inputs that fit no task, where that was looked at
    tells: bool = True  # False: what is known of the target does not tell which tasks it is made of
    notes: tuple[str, ...] = ()  # the most important first

    @property
    def present(self) -> np.ndarray:
        """Which tasks count as the target's (T,): a share of at least `PRESENT`, or the largest where none has it."""
        return self.shares >= min(PRESENT, float(self.shares.max()))

    def describe(self) -> str:
        """A line for each task, the largest share first, and the notes."""
        width = max(map(len, self.names))
        lines = [
            f"{self.names[t]:{width}}  {100 * self.shares[t]:5.1f} %"
            + ("" if self.source == "stated" else f"  ({in_percent(self.low[t], self.high[t])})")
            for t in np.argsort(-self.shares, kind="stable")
        ]
        return "\n".join([*lines, *self.notes])

    def to_json(self) -> dict[str, Any]:
        """All but the draws, by the names of tasks and classes."""
        foreign = self.foreign
        return {
            "source": self.source,
            "samples": self.samples,
            "shares": _by_name(self.names, self.shares),
            "level": self.level,
            "intervals": _by_name(self.names, np.stack([self.low, self.high], axis=1)),
            "draws": len(self.draws),
            "labels": {c: int(n) for c, n in zip(self.classes, self.label_counts, strict=True) if n},
            "black_box": None if self.second is None else _by_name(self.names, self.second),
            "foreign": None if foreign is None else {"part": foreign.part, "interval": [foreign.low, foreign.high]},
            "tells": self.tells,
            "notes": list(self.notes),
        }


def stated(tasks: Tasks, preference: Preference, *, draws: int = 200) -> Shares:
    """Shares that the user states, without any doubt. Raises PreferenceError where they do not fit the tasks."""
    shares_T = normalised(np.array([float(share) for share in preference.shares(tasks.names)]))
    counts_C = np.zeros(len(tasks.classes), np.int64)
    return Shares(
        tasks.names,
        tasks.classes,
        shares_T,
        np.tile(shares_T, (draws, 1)),
        shares_T,
        shares_T,
        1.0,
        0,
        counts_C,
        np.zeros((draws, len(counts_C))),
        "stated",
    )


def ends(lowest_BT: np.ndarray, highest_BT: np.ndarray, shares_T: np.ndarray, level: float) -> tuple[np.ndarray, ...]:
    """Quantiles of both ends over the draws, around the estimate."""
    low_T = np.quantile(lowest_BT, (1 - level) / 2, axis=0)
    high_T = np.quantile(highest_BT, (1 + level) / 2, axis=0)
    if len(shares_T) == 1:
        return shares_T, shares_T
    return np.clip(np.minimum(low_T, shares_T), 0, 1), np.clip(np.maximum(high_T, shares_T), 0, 1)


def normalised(values: np.ndarray) -> np.ndarray:
    """Divided by their sum along the last axis."""
    return values / values.sum(axis=-1, keepdims=True)


def in_percent(low: Any, high: Any) -> str:
    """An interval of shares, for people."""
    return f"{100 * low:.0f} to {100 * high:.0f} %"


def _by_name(names: Sequence[str], values: np.ndarray) -> dict[str, Any]:
    return dict(zip(names, values.tolist(), strict=True))
