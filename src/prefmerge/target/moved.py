"""Whether the mix of a target has moved: two estimates of its shares, and how much two estimates of one mix differ.

    TV(a, b) = 1/2 sum_t |a_t - b_t|
    alike: the samples of both put together and dealt out again at random, into as many as there were
    q = the TV that `alike` stays within at a level, or that draws of a and b have around their means, if that is more

The mix has moved where TV > q. Where the samples are labels this is Fisher's exact test: two samples of one mix are
called a change at most as often as the level says, however few they are. Inputs, and labels with inputs, count as the
labels that would say as much of the shares (`TargetMix.size`), so there it is about as often. The interval of TV is
[TV - q, TV + q], by the triangle inequality. By task: the same with |a_t - b_t|, at a level of 1 - (1 - level) / T, so
that the intervals hold for all tasks together (Bonferroni). Shapes: T tasks, B draws. Cost: PAIRS T numbers. Source:
Fisher 1935. Not here: estimating shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefmerge.target.estimates import Estimate

PAIRS = 4000  # draws of the one mix beside draws of the other
_DIGITS = 9  # of a difference; beyond them two orders of summing differ, and a tie would be taken for more


@dataclass(frozen=True, eq=False)
class TargetMix:
    """`shares` (T,) of a target, with `draws` (B, T) of them; none where they are known. `samples`: of the target.
    `counted`: whether the shares are counts of labels, and not estimated from what inputs look like.
    """

    shares: np.ndarray
    draws: np.ndarray
    samples: int
    counted: bool = True

    @property
    def size(self) -> int:
        """How many labels say as much of the shares: n with sum_t variance of s_t = (1 - sum_t s_t^2) / (n + 2), as of
        counts to which one label was added; from 1 to `samples`. 0 for a mix that is known.
        """
        if not len(self.draws):
            return 0
        if self.counted:
            return self.samples
        within, spread = 1 - float(np.sum(self.draws.mean(axis=0) ** 2)), float(self.draws.var(axis=0).sum())
        return max(1, min(self.samples, round(within / max(spread, 1e-12) - 2)))

    @property
    def counts(self) -> np.ndarray:
        """(T,): so many labels by task, in whole numbers that sum to `size`."""
        exact = self.size * self.shares
        counts = np.floor(exact + 1e-6).astype(np.int64)
        counts[np.argsort(counts - exact, kind="stable")[: self.size - int(counts.sum())]] += 1
        return counts


@dataclass(frozen=True, eq=False)
class Moved:
    """Whether a mix of T tasks has moved."""

    names: tuple[str, ...]  # the tasks'
    before: np.ndarray  # shares then, shape (T,)
    now: np.ndarray  # shares now, shape (T,)
    change: tuple[Estimate, ...]  # now less before of each task, with intervals for all tasks together, (T,)
    variation: Estimate  # total variation between the two, 0 to 1
    noise: float  # total variation that two estimates of one mix have at most, at the level of the intervals
    level: float  # confidence of the intervals

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
        """A JSON object, by the names of the tasks."""
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


def moved(names: Sequence[str], before: TargetMix, now: TargetMix, *, level: float = 0.9, seed: int = 0) -> Moved:
    """Compare two mixes of the tasks `names`."""
    random = np.random.default_rng([seed, 77])
    by_draws = _deviations(now, len(names), random) - _deviations(before, len(names), random)
    noises = (by_draws, _alike(before, now, random))
    difference = now.shares - before.shares
    variation = float(_variation(difference))
    q = max(float(_quantile(_variation(noise), level)) for noise in noises)
    of_task = 1 - (1 - level) / len(names)
    width = np.maximum(*(_quantile(np.abs(noise), of_task) for noise in noises))
    change = tuple(
        Estimate(one, max(round(one - w, _DIGITS), -1.0), min(round(one + w, _DIGITS), 1.0))
        for one, w in zip(difference.tolist(), width.tolist(), strict=True)
    )
    ends = Estimate(variation, max(round(variation - q, _DIGITS), 0.0), min(variation + q, 1.0))
    return Moved(tuple(names), before.shares, now.shares, change, ends, q, level)


def _deviations(mix: TargetMix, tasks: int, random: np.random.Generator) -> np.ndarray:
    """(PAIRS, T): draws less their mean, in a random order: two samples' draws of one seed are alike."""
    if not len(mix.draws):
        return np.zeros((PAIRS, tasks))
    return (mix.draws - mix.draws.mean(axis=0))[random.integers(0, len(mix.draws), PAIRS)]


def _alike(before: TargetMix, now: TargetMix, random: np.random.Generator) -> np.ndarray:
    """(PAIRS, T): differences of the shares of two samples of one mix, of the sizes that these have. A mix that is
    known is that one mix; else both samples are put together and dealt out again.
    """
    old, new = before.size, now.size
    if not old or not new:
        known, size = (before.shares, new) if not old else (now.shares, old)
        dealt = random.multinomial(size, known, PAIRS) / size - known if size else np.zeros((PAIRS, len(known)))
        return dealt if not old else -dealt
    together = before.counts + now.counts
    dealt = random.multivariate_hypergeometric(together, new, PAIRS, method="marginals")
    return dealt / new - (together - dealt) / old


def _quantile(values: np.ndarray, level: float) -> np.ndarray:
    """The least of the values, along the first axis, that a part `level` of them stays within."""
    return np.quantile(values, level, axis=0, method="higher")


def _variation(difference: np.ndarray) -> np.ndarray:
    return np.abs(difference).sum(axis=-1) / 2
