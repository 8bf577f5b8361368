"""What a similarity between a target and T tasks is, whichever kind: shares s_t = sim_t / sum sim.

    sim_t = exp(-gamma d_t),   s_t = exp(l_t - max l) / sum over u of exp(l_u - max l),   l_t = -gamma d_t

Source: Tunable MAGMAX, section 3.3 and eq. 5, 6. Shapes: (T,) float64; distances have no unit. Cost: O(T). Shares are
formed in log space: exp(-100 d) underflows float32 at d = 1 and float64 at d = 8, these do not. Not here: the distances
themselves, one module per kind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from prefmerge.errors import PreferenceError
from prefmerge.preference import Preference
from prefmerge.target.kinds import SimilarityKind

FORMAT = "prefmerge-similarity/1"
_LARGEST_GAMMA = 1e300  # distances are at most 2, so that gamma times a distance stays finite


@dataclass(frozen=True, eq=False)
class Similarity:
    """How much a target resembles each of T tasks. Arrays are (T,) float64."""

    kind: SimilarityKind
    names: tuple[str, ...]
    similarities: np.ndarray  # may underflow to 0
    log_similarities: np.ndarray  # -inf where the similarity is exactly zero
    distances: np.ndarray  # label: 1 - similarity
    settings: Mapping[str, Any] = field(default_factory=dict)  # gamma and what else led to the distances
    fractions: tuple[Fraction, ...] | None = None  # label: the similarities, exactly

    def shares(self) -> np.ndarray:
        """The share of each task, (T,) float64; they sum to 1 to a rounding, whatever gamma and the distances are."""
        if self.fractions is not None:
            total = sum(self.fractions, Fraction(0))
            return np.array([float(value / total) for value in self.fractions])
        return normalised(self.log_similarities)

    def preference(self) -> Preference:
        """The shares as a preference by task name; exact for labels."""
        if self.fractions is not None:
            return Preference.from_similarities(self.fractions, self.names)
        return Preference.from_log_similarities(self.log_similarities.tolist(), self.names)

    def to_json(self) -> dict[str, Any]:
        """A JSON object. The logarithm of a similarity of zero is null."""
        return {
            "format": FORMAT,
            "kind": self.kind,
            "names": list(self.names),
            "similarities": self.similarities.tolist(),
            "log_similarities": [value if math.isfinite(value) else None for value in self.log_similarities.tolist()],
            "distances": self.distances.tolist(),
            "shares": self.shares().tolist(),
            "settings": dict(self.settings),
        }


def normalised(log_similarities: np.ndarray) -> np.ndarray:
    """Shares along the first axis, (T, ...), of log similarities of which one at least is finite."""
    with np.errstate(under="ignore"):
        shares = np.exp(log_similarities - log_similarities.max(axis=0))
        return shares / shares.sum(axis=0)


def from_distances(
    kind: SimilarityKind, names: tuple[str, ...], distances: Sequence[float], gamma: float, **settings: Any
) -> Similarity:
    """sim_t = exp(-gamma d_t)."""
    exact = np.array(distances, dtype=np.float64)
    logs = -gamma * exact
    with np.errstate(under="ignore"):
        similarities = np.exp(logs)
    return Similarity(kind, names, similarities, logs, exact, {"gamma": gamma, **settings})


def checked_names(names: Sequence[str], tasks: int) -> tuple[str, ...]:
    """One name per task, each once. Raises PreferenceError."""
    known = tuple(names)
    if tasks == 0:
        raise PreferenceError("a similarity needs at least one task; none was given.")
    if len(known) != tasks:
        raise PreferenceError(f"{tasks} tasks were given, but {len(known)} names: {', '.join(known)}. Name each task.")
    twice = [name for i, name in enumerate(known) if name in known[:i]]
    if twice:
        raise PreferenceError(f"two tasks are called {twice[0]!r}. Give each task its own name.")
    return known


def positive(value: float, what: str, largest: float = math.inf) -> float:
    """A finite number above zero. Raises PreferenceError naming the setting."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not (0 < number <= largest and math.isfinite(number)):
        bound = f", at most {largest:g}" if math.isfinite(largest) else ""
        raise PreferenceError(f"{what}: expected a number above zero{bound}, found {value!r}.")
    return number


def checked_gamma(gamma: float) -> float:
    """Raises PreferenceError unless gamma is a number above zero."""
    return positive(gamma, "gamma", _LARGEST_GAMMA)
