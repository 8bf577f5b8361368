"""Which candidate is best at the target, on samples that stand for it.

    score = weighted mean of sigmoid(logit of the truth - best other logit),   2-fold cross-fitted bias and temperature
          + keep * mean over absent tasks of the same

All candidates are scored on the first samples of each task; the best FINALISTS and the best single checkpoint on all.
The best of them is chosen if its score is more than half a paired standard error above the best single checkpoint's;
else that checkpoint, as it is. Rows of the head are then fitted where the same score, `keep` included, says that they
help; the log prior stays that of the target. Soft accuracy needs a quarter of the samples that accuracy needs; log-loss
without a fitted bias misleads. Source: ours.
Shapes: n samples, C classes, E numbers an embedding. Cost: two fits a candidate and stage; nine with rows; none of the
same numbers twice. Not here: merging and encoding (`adapt`), how good the choice is (`estimates`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from xxhash import xxh3_128

from prefmerge.target.fit import L2, Fit, Scores, fit_bias, fit_rows, margins, plain, soft
from prefmerge.target.parameters import Metric
from prefmerge.target.prior import Prior
from prefmerge.target.proxy import Proxy

FINALISTS = 3
DOUBT = 0.5  # paired standard errors by which a merge must be better than a checkpoint that is there


@dataclass(frozen=True, eq=False)
class Answers:
    """What one candidate makes of the samples at `at` (n,), ascending: `units` (n, E), embeddings of unit norm,
    float32, or the logits (n, C) of a model with a classifier of its own, with the identity for rows. `others` (m, E):
    of samples of absent tasks, where they were encoded.
    """

    name: str
    single: bool  # a checkpoint that is there already
    at: np.ndarray
    units: np.ndarray
    others: np.ndarray | None = None

    def of(self, positions: np.ndarray) -> np.ndarray:
        """Embeddings (k, E) float64 of samples that this candidate has seen."""
        return self.units[np.searchsorted(self.at, positions)].astype(np.float64)

    def seen(self, positions: np.ndarray) -> np.ndarray:
        """The part of `positions` that this candidate has seen."""
        return positions[np.isin(positions, self.at)]


@dataclass(frozen=True, eq=False)
class Others:
    """Samples of absent tasks: `labels` and `tasks` (m,); `allowed` as in `Proxy`."""

    labels: np.ndarray
    tasks: np.ndarray
    allowed: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Judge:
    """Everything that scores depend on, beside the candidates. `rows` (C, E): the head's, `scale` its factor."""

    proxy: Proxy
    prior: Prior
    rows: np.ndarray
    scale: float
    use_prior: bool = True  # False: neither prior nor bias nor temperature: the encoder alone is judged
    refit: bool = True  # whether rows of the head may be fitted
    metric: Metric = "accuracy"
    keep: float = 0.0
    others: Others | None = None
    unlearned: np.ndarray | None = None  # (N, C): the log prior without the labels of a pair's fold, less the log prior
    biases: dict[bytes, Fit] = field(default_factory=dict)  # fits that were made, by all that decides them

    @property
    def log_prior(self) -> np.ndarray:
        return self.prior.logits if self.use_prior else np.zeros(len(self.rows))

    def scores(self, units: np.ndarray, positions: np.ndarray) -> Scores:
        """Cosines times the scale of samples at `positions`."""
        allowed = None if self.proxy.allowed is None else self.proxy.allowed[positions]
        return Scores(self.scale * (units @ self.rows.T), allowed)

    def weights(self, positions: np.ndarray) -> np.ndarray:
        return self.proxy.weights(self.prior.joint, positions, self.metric)

    def fitted(self, units: np.ndarray, positions: np.ndarray, l2: float = float("inf")) -> Fit:
        """Bias, temperature and, for a finite `l2`, rows, on samples at `positions` with `units`."""
        if not self.use_prior:
            return plain(len(self.rows))
        scores, labels, weights = self.scores(units, positions), self.proxy.labels[positions], self.weights(positions)
        fit = self._bias(scores, labels, weights)
        if np.isfinite(l2) and weights.sum() > 0:
            fit = fit_rows(scores, units, self.scale, labels, weights, self.log_prior, l2, fit)
        return fit

    def _bias(self, scores: Scores, labels: np.ndarray, weights: np.ndarray) -> Fit:
        """`fit_bias`, once for the same numbers: a choice scores candidates on all samples and for each l2, and where
        there are few samples the first ones are all of them.
        """
        decided = xxh3_128()
        for part in (scores.values, scores.allowed, labels, weights, self.log_prior):
            decided.update(b"" if part is None else part.tobytes())
        key = decided.digest()
        if key not in self.biases:
            self.biases[key] = fit_bias(scores, labels, weights, self.log_prior)
        return self.biases[key]

    def logits(self, units: np.ndarray, positions: np.ndarray, fit: Fit) -> np.ndarray:
        return self.scores(units, positions).logits(fit, self.log_prior, units, self.scale)

    def cross_fitted(self, answers: Answers, positions: np.ndarray, l2: float = float("inf")) -> np.ndarray:
        """Soft accuracy of each sample, (n,), by a fit on the other half."""
        units, labels = answers.of(positions), self.proxy.labels[positions]
        if not self.use_prior:
            return soft(margins(self.logits(units, positions, plain(len(self.rows))), labels))
        half, right = self.proxy.inner(positions), np.empty(len(positions))
        for this in (0, 1):
            mine, other = half == this, half != this
            fit = self.fitted(units[other], positions[other], l2)
            right[mine] = soft(margins(self.logits(units[mine], positions[mine], fit), labels[mine]))
        return right

    def kept(self, answers: Answers, positions: np.ndarray, l2: float = float("inf")) -> float:
        """Soft accuracy over absent tasks, each weighing the same, with the fit on `positions`."""
        if self.others is None or answers.others is None:
            return 0.0
        fit = self.fitted(answers.of(positions), positions, l2)
        right = soft(margins(self.of_others(answers, fit), self.others.labels))
        return float(np.mean([right[self.others.tasks == task].mean() for task in np.unique(self.others.tasks)]))

    def of_others(self, answers: Answers, fit: Fit) -> np.ndarray:
        """Logits of the samples of absent tasks."""
        assert self.others is not None
        assert answers.others is not None
        units = answers.others.astype(np.float64)
        scores = Scores(self.scale * (units @ self.rows.T), self.others.allowed)
        return scores.logits(fit, self.log_prior, units, self.scale)

    def score(self, answers: Answers, positions: np.ndarray, l2: float = float("inf")) -> tuple[float, np.ndarray]:
        """The score of a candidate, and the soft accuracy of each sample that it is the mean of; for a finite `l2` with
        rows fitted so strongly.
        """
        right = self.cross_fitted(answers, positions, l2)
        value = float(self.weights(positions) @ right)
        if self.keep:
            value += self.keep * self.kept(answers, positions, l2)
        return value, right


@dataclass(frozen=True, eq=False)
class Choice:
    """The candidate chosen, by number, with what goes on top of it. `first` (K,) and `scores` (K,; NaN for those that
    were no finalists) are soft accuracies, for ranking only: that of the best is too high to be believed.
    """

    index: int
    fit: Fit
    best: int  # of the best score, which may not be the one chosen
    best_single: int | None
    ahead: float  # score of the best less that of the best single checkpoint
    error: float  # paired standard error of that
    first: np.ndarray
    scores: np.ndarray
    of_rows: dict[float, float] = field(default_factory=dict)  # l2 -> cross-fitted score


def finalists(judge: Judge, pool: Sequence[Answers], positions: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Which candidates are scored on all samples, by number, ascending; and the first scores (K,)."""
    first = positions[judge.proxy.first[positions]]
    values = np.array([judge.score(one, one.seen(first))[0] for one in pool])
    ranked = np.argsort(-values, kind="stable").tolist()
    singles = [i for i in ranked if pool[i].single]
    return sorted({*ranked[:FINALISTS], *singles[:1]}), values


def choose(judge: Judge, pool: Sequence[Answers], positions: np.ndarray) -> Choice:
    """The choice among candidates on the samples at `positions`, and nothing else."""
    chosen, first = finalists(judge, pool, positions)
    common = positions
    for i in chosen:
        common = pool[i].seen(common)
    values, softs = np.full(len(pool), np.nan), {}
    for i in chosen:
        values[i], softs[i] = judge.score(pool[i], common)
    best = chosen[int(np.argmax(values[chosen]))]
    singles = [i for i in chosen if pool[i].single]
    index, single, ahead, error = best, None, 0.0, 0.0
    if singles:
        single = singles[int(np.argmax(values[singles]))]
        ahead = float(values[best] - values[single])
        _, error = paired(softs[best] - softs[single], judge.weights(common))
        if ahead <= DOUBT * error:
            index = single
    own = pool[index].seen(positions)
    l2, of_rows = _rows(judge, pool[index], own)
    fit = judge.fitted(pool[index].of(own), own, l2)
    return Choice(index, fit, best, single, ahead, error, first, values, of_rows)


def paired(apart: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """The weighted mean of what parts two models on each sample (n,), and its standard error."""
    mean = float(weights @ apart)
    return mean, float(np.sqrt(np.sum(weights**2 * (apart - mean) ** 2)))


def _rows(judge: Judge, answers: Answers, positions: np.ndarray) -> tuple[float, dict[float, float]]:
    """How strongly rows are held to the head's: the l2 with the best score; infinity where none helps."""
    if not (judge.use_prior and judge.refit):
        return float("inf"), {}
    scores = {l2: judge.score(answers, positions, l2)[0] for l2 in (float("inf"), *sorted(L2)[::-1])}
    return max(scores, key=lambda l2: scores[l2]), scores
