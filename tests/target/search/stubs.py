"""A merge that costs nothing and an accuracy with a known best place, for tests of the search alone.

accuracy = 0.9 - 0.8 * TV(shares, TARGET) - 0.3 |scale - 0.8|,   sample i is right where u_i < accuracy
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prefmerge.preference import Preference
from prefmerge.target.search import SearchResult, tune

NAMES = ("cars", "birds", "digits", "signs", "faces")
TARGET = np.array([0.6, 0.0, 0.3, 0.0, 0.1])
FIRST = Preference.parse("0.4,0.2,0.2,0.1,0.1")
SAMPLES = 120
LABELS = [i % 7 for i in range(SAMPLES)]


class Merges:
    """Merges settings into themselves: a model is its dials. `readings`: how many candidates each reading made."""

    names = NAMES

    def __init__(self) -> None:
        self.readings: list[int] = []

    def models(self, settings: Sequence[Mapping[str, Any]]) -> list[dict[str, np.ndarray]]:
        self.readings.append(len(settings))
        return [
            {
                "shares": np.array([float(share) for share in one["preference"].shares(NAMES)]),
                "scale": np.array(float(one.get("scale", 0.5))),
                "strength": np.array(float(one.get("strength", 1))),
            }
            for one in settings
        ]


class Score:
    """The answers of a model; `asked` counts, `at` (asked -> None) may stop the process."""

    def __init__(self, seed: int = 0, at: Any = None) -> None:
        self.thresholds = (np.random.default_rng(seed).permutation(SAMPLES) + 0.5) / SAMPLES
        self.asked, self.at = 0, at

    def __call__(self, weights: Mapping[str, np.ndarray]) -> np.ndarray:
        if self.at is not None:
            self.at(self.asked)
        self.asked += 1
        return self.thresholds < accuracy(weights)


def accuracy(weights: Mapping[str, np.ndarray]) -> float:
    strength = float(weights["strength"])
    shares = strength * weights["shares"] + (1 - strength) * 0.2
    return 0.9 - 0.8 * np.abs(shares - TARGET).sum() / 2 - 0.3 * abs(float(weights["scale"]) - 0.8)


def searched(score: Any = None, merges: Merges | None = None, **settings: Any) -> SearchResult:
    """A search over the stubs."""
    return tune(merges or Merges(), score or Score(), LABELS, **{"first": FIRST, **settings})
