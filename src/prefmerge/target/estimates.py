"""How good the chosen model will be at the target, and how sure that is.

    right_i: whether sample i is named correctly by the procedure (choice, bias, rows) carried out without its fold
    accuracy = sum_i w_i right_i - optimism,   w_i as in `proxy`
    optimism = mean over draws d of the mix of  sum_i (w_i(d) - w_i) right_i(prior of d)

Five folds over stored embeddings: no forward pass more. It is an estimate of the procedure, not of the winner, whose
own score is 2 to 8 points too high. The mix is estimated too, and the prior is made for that estimate: judged under the
same estimate it looks better than under the true mix. What a prior made for a drawn mix loses under the estimated one
shows by how much (Efron 1983). Intervals: a bootstrap that draws the mix (with the shown samples) and the held-out
samples together, with one more sample imagined at each end. Models that are there are judged on the same samples: as
they are, with the log prior, and with a bias fitted without the fold. All of it twice: by what was asked for, and as
balanced accuracy, the mean recall of the classes that occur at the target. Shapes: N samples, C classes, B draws. Cost:
five choices, B N C. Not here: drift of the mix (`check`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from prefmerge.target.choice import Answers, Judge, choose
from prefmerge.target.fit import margins, plain
from prefmerge.target.prior import joint_of, log_prior_of
from prefmerge.target.shares import Shares, Tasks

DRAWS = 400
LEVEL = 0.9
MIXES = 100  # draws of the mix that the optimism is a mean over


@dataclass(frozen=True)
class Estimate:
    """One number with its interval, as fractions of 1."""

    value: float  # the estimate
    low: float  # of its interval
    high: float  # of its interval

    @property
    def clear(self) -> bool:
        """Whether the interval leaves 0."""
        return self.low > 0 or self.high < 0

    @property
    def interval(self) -> str:
        """In percent, for people."""
        return f"[{100 * self.low:.1f}, {100 * self.high:.1f}]"

    def to_json(self) -> dict[str, float]:
        """A JSON object of the three."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Row:
    """One model at the target."""

    name: str  # of the model
    how: str  # "as it is", "with the prior", "with a fitted bias", "with its own head", "chosen"
    accuracy: Estimate  # by the metric that was asked for
    # the chosen model's accuracy less this one's, on the same samples and draws; None of the chosen one
    ahead: Estimate | None = None
    balanced: Estimate | None = None  # accuracy with every class weighing the same
    balanced_ahead: Estimate | None = None  # the same difference of that

    @property
    def title(self) -> str:
        """The model and how it answers, for people."""
        return f"{self.name} (chosen)" if self.how == "chosen" else f"{self.name}, {self.how}"

    @property
    def clear(self) -> bool:
        """Whether the interval of the difference leaves 0."""
        return self.ahead is not None and self.ahead.clear

    def to_json(self) -> dict[str, Any]:
        """A JSON object; `told_apart` is `clear`."""
        data: dict[str, Any] = {"name": self.name, "how": self.how, "accuracy": self.accuracy.to_json()}
        data["ahead"] = None if self.ahead is None else {**self.ahead.to_json(), "told_apart": self.clear}
        if self.balanced is not None:
            ahead = self.balanced_ahead
            data["balanced"] = self.balanced.to_json()
            data["balanced_ahead"] = None if ahead is None else {**ahead.to_json(), "told_apart": ahead.clear}
        return data


@dataclass(frozen=True)
class Recall:
    """One class on the samples that both models have seen."""

    samples: int  # of the class
    value: float  # part that the chosen model names correctly
    before: float  # the same of the model that is `there`
    gained: int  # samples that only the chosen model has right
    lost: int  # samples that only the other has right

    @property
    def fell(self) -> bool:
        """Whether the chosen model is worse by more than one paired standard error."""
        return self.lost - self.gained > (self.lost + self.gained) ** 0.5

    def to_json(self) -> dict[str, Any]:
        """A JSON object without the two counts."""
        return {"samples": self.samples, "recall": self.value, "before": self.before}


@dataclass(frozen=True, eq=False)
class Estimates:
    """All that is said of the chosen model."""

    rows: tuple[Row, ...]  # models with what they are worth at the target
    recall: Mapping[str, Recall]  # by class
    # task -> samples, accuracy of the model that is `there`, accuracy of the chosen one: what the other tasks lose
    others: Mapping[str, tuple[int, float, float]]
    samples: int  # that judged
    # the checkpoint that the chosen model is compared with, by class and on other tasks: the last or else the best
    # single one, as it is
    there: str
    level: float = LEVEL  # confidence of the intervals

    @property
    def chosen(self) -> Row:
        """The row of the chosen model."""
        return self.rows[0]

    @property
    def before(self) -> Row | None:
        """The row of `there`."""
        return next((row for row in self.rows if row.name == self.there and row.how == "as it is"), None)

    @property
    def fell(self) -> list[str]:
        """The classes that the chosen model names worse by more than one standard error, the largest loss first."""
        fell = [name for name, one in self.recall.items() if one.fell]
        return sorted(fell, key=lambda name: self.recall[name].value - self.recall[name].before)

    def to_json(self) -> dict[str, Any]:
        """A JSON object of everything."""
        return {
            "level": self.level,
            "samples": self.samples,
            "rows": [row.to_json() for row in self.rows],
            "there": self.there,
            "recall": {name: one.to_json() for name, one in self.recall.items()},
            "other_tasks": {
                name: {"samples": n, "last": last, "chosen": chosen} for name, (n, last, chosen) in self.others.items()
            },
        }


@dataclass(frozen=True, eq=False)
class Judged:
    """`logits` (N, C): what one model says of each sample, without the log prior; NaN where it has not seen it.
    `prior`: whether the log prior belongs to it.
    """

    name: str
    how: str
    logits: np.ndarray
    prior: bool

    def right(self, labels: np.ndarray, log_prior: np.ndarray) -> np.ndarray:
        """(N,): 1 right, 0 wrong, NaN where the sample was not seen."""
        seen = ~np.isnan(self.logits[:, 0])
        right = np.full(len(labels), np.nan)
        logits = self.logits[seen] + log_prior if self.prior else self.logits[seen]
        right[seen] = margins(logits, labels[seen]) > 0
        return right


def by_procedure(judge: Judge, pool: Sequence[Answers], name: str) -> Judged:
    """The procedure: each sample by the candidate and the fit that are chosen without its fold."""
    proxy = judge.proxy
    everything, logits = proxy.everything, np.full((len(proxy), len(judge.rows)), np.nan)
    outer = proxy.outer(everything)
    for fold in range(5):
        training, judged = everything[outer != fold], everything[outer == fold]
        if not len(judged) or judge.weights(training).sum() <= 0:
            continue
        choice = choose(judge, pool, training)
        seen = pool[choice.index].seen(judged)
        if len(seen):
            logits[seen] = judge.logits(pool[choice.index].of(seen), seen, choice.fit) - judge.log_prior
    return Judged(name, "chosen", _unlearned(judge, logits, judge.use_prior), judge.use_prior)


def _unlearned(judge: Judge, logits: np.ndarray, prior: bool) -> np.ndarray:
    """Logits (N, C) of pairs as if the prior did not know the labels of their fold: it is made of all pairs' labels."""
    return logits + judge.unlearned if prior and judge.unlearned is not None else logits


def as_it_is(judge: Judge, answers: Answers, prior: bool) -> Judged:
    """One model without any fit; `prior`: with the log prior on its logits."""
    logits = np.full((len(judge.proxy), len(judge.rows)), np.nan)
    scores = judge.scores(answers.of(answers.at), answers.at)
    logits[answers.at] = scores.logits(plain(len(judge.rows)), np.zeros(len(judge.rows)))
    how = "with the prior" if prior else "as it is"
    return Judged(answers.name, how, _unlearned(judge, logits, prior), prior)


def with_bias(judge: Judge, answers: Answers) -> Judged:
    """One model with bias and temperature fitted without the sample's fold."""
    proxy, logits = judge.proxy, np.full((len(judge.proxy), len(judge.rows)), np.nan)
    outer = proxy.outer(answers.at)
    for fold in range(5):
        judged, training = answers.at[outer == fold], answers.at[outer != fold]
        if len(judged) and judge.weights(training).sum() > 0:
            fit = judge.fitted(answers.of(training), training)
            logits[judged] = judge.logits(answers.of(judged), judged, fit) - judge.log_prior
    return Judged(answers.name, "with a fitted bias", _unlearned(judge, logits, True), True)


def estimate(
    judge: Judge,
    tasks: Tasks,
    shares: Shares,
    models: Sequence[Judged],
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
    unjudged: float = 0.0,
) -> tuple[Row, ...]:
    """A row for each of `models`, the first being the chosen one. `unjudged`: the part of the target that no sample
    stands for; every interval reaches from none of it to all of it.

    A row is the mean over the samples that its model has seen; differences are over those that both have seen.
    """
    proxy, everything = judge.proxy, judge.proxy.everything
    generator = np.random.default_rng([seed, 20_230])
    joints = [joint_of(tasks, s, n) for s, n in zip(shares.draws, shares.label_draws, strict=True)]
    drawn_shares = list(shares.draws) if joints else [shares.shares]
    joints = joints or [judge.prior.joint]
    weights = np.empty((draws + 1, len(proxy)))
    weights[0] = judge.weights(everything)
    for b in range(draws):
        drawn = generator.exponential(size=len(proxy))  # the Bayesian bootstrap
        weights[b + 1] = proxy.weights(joints[b % len(joints)], everything, judge.metric, drawn)
    tail = (1 - level) / 2
    imagined = generator.exponential(size=draws)
    mixes = [(joint, proxy.weights(joint, everything, judge.metric)) for joint in joints[:MIXES]]
    priors = [log_prior_of(tasks, joint, s) for (joint, _), s in zip(mixes, drawn_shares, strict=False)]

    def interval(values: np.ndarray, known: np.ndarray, ends: tuple[float, float], less: float) -> Estimate | None:
        part = weights[:, known]
        total = part @ np.ones(part.shape[1])  # summed as the values are, so that no accuracy rounds to more than 1
        if total[0] <= 0:
            return None
        means = (part @ values[known]) / np.where(total > 0, total, 1)
        drawn, value = means[1:][total[1:] > 0], float(means[0])
        if not len(drawn):
            return Estimate(value, *ends)
        # Samples that are all right do not show that nothing can go wrong: each end has one more sample, imagined, that
        # moves it furthest.
        share = imagined[total[1:] > 0] * np.sum(part[0] ** 2) / total[0] ** 2
        low = np.quantile((drawn + share * ends[0]) / (1 + share), tail)
        high = np.quantile((drawn + share * ends[1]) / (1 + share), 1 - tail)
        low, value, high = (min(max(one - less, ends[0]), ends[1]) for one in (float(low), value, float(high)))
        low, high = ((1 - unjudged) * one + unjudged * end for one, end in zip((low, high), ends, strict=True))
        return Estimate(value, min(low, value), max(high, value))

    def optimism(model: Judged) -> float:
        if not model.prior:
            return 0.0
        gained = []
        for (_, under), log_prior in zip(mixes, priors, strict=True):
            right = model.right(proxy.labels, log_prior)
            known = ~np.isnan(right)
            there = [weight[known].sum() for weight in (under, weights[0])]
            if min(there) > 0:
                gained.append(under[known] @ right[known] / there[0] - weights[0][known] @ right[known] / there[1])
        return float(np.mean(gained)) if gained else 0.0

    rows: list[Row] = []
    first: tuple[np.ndarray, float] | None = None
    for model in models:
        right, less = model.right(proxy.labels, judge.prior.logits), optimism(model)
        known = ~np.isnan(right)
        accuracy = interval(right, known, (0.0, 1.0), less)
        if accuracy is None:
            continue
        if first is None:
            first = right, less
            rows.append(Row(model.name, model.how, accuracy))
            continue
        both = known & ~np.isnan(first[0])
        rows.append(
            Row(model.name, model.how, accuracy, interval(first[0] - right, both, (-1.0, 1.0), first[1] - less))
        )
    return tuple(rows)


def with_balanced(
    rows: Sequence[Row],
    judge: Judge,
    tasks: Tasks,
    shares: Shares,
    models: Sequence[Judged],
    *,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[Row, ...]:
    """The rows of `estimate` with balanced accuracy beside what was asked for. Classes that occur at the target and of
    which there is no sample count from none to all.
    """
    if judge.metric == "balanced":
        return tuple(replace(row, balanced=row.accuracy, balanced_ahead=row.ahead) for row in rows)
    judge = replace(judge, metric="balanced")
    without = classes_unjudged(judge, shares)
    balanced = estimate(judge, tasks, shares, models, level=level, seed=seed, unjudged=without)
    by_model = {(row.name, row.how): row for row in balanced}
    return tuple(
        replace(row, balanced=by_model[row.name, row.how].accuracy, balanced_ahead=by_model[row.name, row.how].ahead)
        for row in rows
    )


def classes_unjudged(judge: Judge, shares: Shares) -> float:
    """The part of the classes that occur at the target of which no sample judges. Pairs are of the target itself."""
    occur = np.flatnonzero(judge.prior.joint[shares.present].sum(axis=0) > 0)
    if judge.proxy.pair.any() or not len(occur):
        return 0.0
    return 1 - float(np.isin(occur, judge.proxy.labels).mean())


def recall_of(judge: Judge, chosen: np.ndarray, before: np.ndarray, classes: Sequence[str]) -> dict[str, Recall]:
    """Per class that occurs among the samples that both models have seen. `chosen`, `before` (N,): 1 right, 0 wrong,
    NaN not seen.
    """
    known, recall = ~np.isnan(chosen) & ~np.isnan(before), {}
    for c in np.unique(judge.proxy.labels[known]).tolist():
        own = known & (judge.proxy.labels == c)
        a, b = chosen[own], before[own]
        recall[classes[c]] = Recall(len(a), float(a.mean()), float(b.mean()), int(np.sum(a > b)), int(np.sum(a < b)))
    return recall
