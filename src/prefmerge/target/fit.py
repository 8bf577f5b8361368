"""What stands on top of an encoder: a temperature and a bias per class, or rows of the head fitted again.

    logits = beta scale <e / |e|, w_c> + a_c + b_c
    bias:   minimise  sum_i w_i NLL_i(beta, b) + RIDGE |b|^2
    rows:   the same over w_c + dw_c, with + l2 |dw|^2

beta = 1 / temperature; a: the log prior (`prior`); w_i sum to 1. b and dw are 0 for classes without samples: they are
as good as fitted ones there, and no riskier when the mix drifts. The first problem is convex; the second is not quite
(beta multiplies dw), and starts from the solution of the first. Source: ours; bias and temperature as in Alexandari,
Kundaje and Shrikumar 2020. Shapes: N samples, C classes, E numbers an embedding. Cost: N C (bias) or N C E (rows) an
iteration of L-BFGS, some dozens of them. No torch. Not here: who the samples are (`proxy`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

RIDGE = 0.01  # on b^2, in nats
BETA = (0.02, 50.0)  # no head is miscalibrated beyond
L2 = (1.0, 3.0, 10.0, 30.0)  # of the rows; beside them, infinity: the bias alone
_FORBIDDEN = -1e30  # a logit that no softmax sees


@dataclass(frozen=True, eq=False)
class Fit:
    """beta, b (C,) and dw (C, E), or None where the rows stay. `l2` is infinity then."""

    beta: float
    bias: np.ndarray
    rows: np.ndarray | None = None
    l2: float = float("inf")


@dataclass(frozen=True, eq=False)
class Scores:
    """What a candidate says of N samples: cosines times the head's scale, (N, C) float64. `allowed` (N, C): the classes
    among which each sample is named; None: all.
    """

    values: np.ndarray
    allowed: np.ndarray | None = None

    def take(self, at: np.ndarray) -> Scores:
        """The samples at positions `at`."""
        return Scores(self.values[at], None if self.allowed is None else self.allowed[at])

    def logits(self, fit: Fit, prior: np.ndarray, units: np.ndarray | None = None, scale: float = 1.0) -> np.ndarray:
        """(N, C) with the fit and the log prior. `units` (N, E): needed where rows were fitted."""
        values = self.values
        if fit.rows is not None:
            assert units is not None
            values = values + scale * (units @ fit.rows.T)
        return self.masked(fit.beta * values + prior + fit.bias)

    def masked(self, logits: np.ndarray) -> np.ndarray:
        return logits if self.allowed is None else np.where(self.allowed, logits, _FORBIDDEN)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Inside, matrices are multiplied by one thread: ours are so small that threads only wait for each other."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):
        yield


def plain(classes: int) -> Fit:
    """The fit that changes nothing."""
    return Fit(1.0, np.zeros(classes))


def margins(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Logit of the truth less the best other one, (N,); positive where the answer is right."""
    rows = np.arange(len(labels))
    truth = logits[rows, labels]
    others = logits.copy()
    others[rows, labels] = -np.inf
    return truth - others.max(axis=1) if logits.shape[1] > 1 else np.full(len(labels), 1.0)


def soft(margin: np.ndarray) -> np.ndarray:
    """Soft accuracy of each sample: sigmoid of its margin, stable at both ends."""
    return 0.5 * (1 + np.tanh(0.5 * np.clip(margin, -60, 60)))


def fit_bias(scores: Scores, labels: np.ndarray, weights: np.ndarray, prior: np.ndarray) -> Fit:
    """beta and b for the classes that `labels` hold; `weights` (N,) sum to what they may, and are made to sum to 1."""
    classes = scores.values.shape[1]
    free = np.unique(labels)
    if not len(labels) or weights.sum() <= 0:
        return plain(classes)
    problem = _Problem(scores, labels, weights / weights.sum(), prior, free)
    start = np.concatenate([[1.0], np.zeros(len(free))])
    best = _minimised(problem.bias, start)
    return Fit(float(best[0]), _spread(best[1:], free, classes))


def fit_rows(
    scores: Scores,
    units: np.ndarray,
    scale: float,
    labels: np.ndarray,
    weights: np.ndarray,
    prior: np.ndarray,
    l2: float,
    start: Fit,
) -> Fit:
    """beta, b and dw for the classes that `labels` hold; `units` (N, E) are embeddings of unit norm. `start`: the fit
    of the bias alone.
    """
    free = np.unique(labels)
    problem = _Problem(scores, labels, weights / weights.sum(), prior, free)
    first = np.concatenate([[start.beta], start.bias[free], np.zeros(len(free) * units.shape[1])])
    best = _minimised(lambda x: problem.rows(x, units, scale, l2), first)
    rows = np.zeros((scores.values.shape[1], units.shape[1]))
    rows[free] = best[1 + len(free) :].reshape(len(free), -1)
    return Fit(float(best[0]), _spread(best[1 : 1 + len(free)], free, scores.values.shape[1]), rows, l2)


class _Problem:
    """Weighted NLL and its gradient."""

    def __init__(
        self, scores: Scores, labels: np.ndarray, weights: np.ndarray, prior: np.ndarray, free: np.ndarray
    ) -> None:
        self.scores, self.labels, self.weights, self.prior, self.free = scores, labels, weights, prior, free
        self.at = np.arange(len(labels))

    def bias(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        value, wrong = self._loss(self.scores.values, x[0], x[1 : 1 + len(self.free)])
        gradient = np.concatenate([[np.sum(wrong * self.scores.values)], self._of_bias(wrong, x[1:])])
        return value + RIDGE * float(x[1:] @ x[1:]), gradient

    def rows(self, x: np.ndarray, units: np.ndarray, scale: float, l2: float) -> tuple[float, np.ndarray]:
        count = len(self.free)
        b, moved = x[1 : 1 + count], x[1 + count :].reshape(count, -1)
        values = self.scores.values.copy()
        values[:, self.free] += scale * (units @ moved.T)
        value, wrong = self._loss(values, x[0], b)
        of_rows = x[0] * scale * (wrong[:, self.free].T @ units) + 2 * l2 * moved
        gradient = np.concatenate([[np.sum(wrong * values)], self._of_bias(wrong, b), of_rows.ravel()])
        return value + RIDGE * float(b @ b) + l2 * float(np.sum(moved * moved)), gradient

    def _loss(self, values: np.ndarray, beta: float, b: np.ndarray) -> tuple[float, np.ndarray]:
        """Weighted NLL, and its derivative by the logits (N, C)."""
        logits = beta * values + self.prior
        logits[:, self.free] += b
        logits = self.scores.masked(logits)
        logits -= logits.max(axis=1, keepdims=True)
        chances = np.exp(logits)
        total = chances.sum(axis=1, keepdims=True)
        value = -float(self.weights @ (logits[self.at, self.labels] - np.log(total[:, 0])))
        chances /= total
        chances[self.at, self.labels] -= 1
        return value, self.weights[:, None] * chances

    def _of_bias(self, wrong: np.ndarray, b: np.ndarray) -> np.ndarray:
        return wrong[:, self.free].sum(axis=0) + 2 * RIDGE * b


def _spread(values: np.ndarray, free: np.ndarray, classes: int) -> np.ndarray:
    spread = np.zeros(classes)
    spread[free] = values
    return spread


def _minimised(function: Any, start: np.ndarray) -> np.ndarray:
    """By SciPy's L-BFGS-B, beta within its bounds."""
    from scipy.optimize import minimize

    bounds = [BETA] + [(None, None)] * (len(start) - 1)
    return minimize(function, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 200}).x
