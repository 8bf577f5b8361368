"""Whether the mix of a target has moved: two estimates of shares, each with draws that show its noise.

    TV(a, b) = 1/2 sum_t |a_t - b_t|,    noise = TV of what draws of a and b differ from their means
    |TV of the estimates - TV of the truths| <= noise

So with q the quantile of the noise at a level, TV is within [TV - q, TV + q] at least so often, and where that leaves 0
the mix has moved. q is also how much two estimates of one mix would differ. By task: intervals that hold for all tasks
together, from the largest difference of any task in units of its spread. Shapes: T tasks, B draws. Cost: PAIRS T
numbers. Source: the triangle inequality; Westfall and Young 1993 (the largest of several). Not here: estimating shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefmerge.target.estimates import Estimate

PAIRS = 4000  # draws of the one mix beside draws of the other
_LEAST = 1e-6  # spread of a task whose share no draw changes


@dataclass(frozen=True, eq=False)
class Moved:
    """Shares `before` and `now` (T,). `change`: now less before of each task, intervals for all tasks together.
    `noise`: the total variation that two estimates of one mix have at most, at the level of the intervals.
    """

    names: tuple[str, ...]
    before: np.ndarray
    now: np.ndarray
    change: tuple[Estimate, ...]
    variation: Estimate
    noise: float
    level: float

    @property
    def clear(self) -> bool:
        """Whether it is more than noise."""
        return self.variation.low > 0

    @property
    def grew(self) -> list[str]:
        """The tasks whose share is clearly larger, the most first."""
        return self._tasks(1)

    @property
    def shrank(self) -> list[str]:
        """The tasks whose share is clearly smaller, the most first."""
        return self._tasks(-1)

    def _tasks(self, sign: int) -> list[str]:
        clear = [t for t, one in enumerate(self.change) if one.clear and sign * one.value > 0]
        return [self.names[t] for t in sorted(clear, key=lambda t: -abs(self.change[t].value))]

    def to_json(self) -> dict[str, Any]:
        shares = zip(self.names, self.before.tolist(), self.now.tolist(), self.change, strict=True)
        return {
            "level": self.level,
            "total_variation": self.variation.to_json(),
            "noise": self.noise,
            "moved": self.clear,
            "tasks": {name: {"before": a, "now": b, "change": one.to_json()} for name, a, b, one in shares},
            "grew": self.grew,
            "shrank": self.shrank,
        }


def moved(
    names: Sequence[str],
    before: np.ndarray,
    before_draws: np.ndarray,
    now: np.ndarray,
    now_draws: np.ndarray,
    *,
    level: float = 0.9,
    seed: int = 0,
) -> Moved:
    """Compare two mixes (T,) with draws (B, T) of each; no draws: a mix that is known."""
    random = np.random.default_rng([seed, 77])
    noise = _deviations(now_draws, len(names), random) - _deviations(before_draws, len(names), random)
    q = float(np.quantile(_variation(noise), level))
    variation = float(_variation(now - before))
    spread = np.maximum(noise.std(axis=0), _LEAST)
    width = float(np.quantile(np.max(np.abs(noise) / spread, axis=1), level)) * spread
    change = tuple(
        Estimate(one, max(one - w, -1.0), min(one + w, 1.0))
        for one, w in zip((now - before).tolist(), width.tolist(), strict=True)
    )
    ends = Estimate(variation, max(variation - q, 0.0), min(variation + q, 1.0))
    return Moved(tuple(names), before, now, change, ends, q, level)


def _deviations(draws: np.ndarray, tasks: int, random: np.random.Generator) -> np.ndarray:
    """(PAIRS, T): draws less their mean, in a random order: two samples' draws of one seed are alike."""
    if not len(draws):
        return np.zeros((PAIRS, tasks))
    return (draws - draws.mean(axis=0))[random.integers(0, len(draws), PAIRS)]


def _variation(difference: np.ndarray) -> np.ndarray:
    return np.abs(difference).sum(axis=-1) / 2
