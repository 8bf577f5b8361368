"""Whether what a search chose is better than what `adapt` chooses, on samples that ranked no trial.

    apart_i = soft accuracy of the search's best on sample i - that of adapt's choice
    kept    = mean of apart > DOUBT * its paired standard error

Bias, temperature and rows of both are fitted on the samples that rank, so each one's accuracy here is that of a model
made without these samples. Only the choice between the two is made on them; `decided` is the accuracy of that choice,
made anew for each of five folds without it. Source: ours. Shapes: n samples apart, C classes. Cost: none beside the
fits. Not here: which trial is the best (`by_score`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prefmerge.target.choice import DOUBT, Answers, Judge, choose, paired
from prefmerge.target.estimates import LEVEL, Estimate, Judged, Row, estimate
from prefmerge.target.evidence import Evidence
from prefmerge.target.fit import Fit, margins, one_thread, soft
from prefmerge.target.search.field import Field
from prefmerge.target.shares import Tasks


@dataclass(frozen=True, eq=False)
class Rival:
    """One of the two: what it makes of both parts of the samples."""

    name: str
    ranking: Answers
    apart: Answers
    fit: Fit  # on the samples that rank


@dataclass(frozen=True, eq=False)
class Decision:
    """`rows`: the search's best, with how far it is ahead of the second, adapt's choice; adapt's choice alone where the
    two are one. None where too little of the target is judged. `ahead`, `error`: in soft accuracy, which decides.
    """

    kept: bool  # the search's best, where it is not adapt's choice
    ahead: float
    error: float
    samples: int
    rows: tuple[Row, ...] = ()
    decided: Estimate | None = None


def fit_of(judge: Judge, answers: Answers) -> Fit:
    """Bias, temperature and rows on all samples of the judge, as `adapt` fits them on its choice."""
    with one_thread():
        return choose(judge, [answers], judge.proxy.everything).fit


def decide(
    field: Field, own: Rival | None, theirs: Rival, tasks: Tasks, evidence: Evidence, *, seed: int, report: bool
) -> Decision:
    """Compare the search's best (None: it is adapt's choice) with adapt's choice."""
    judge = field.apart.judge
    samples, two = len(judge.proxy), [one for one in (own, theirs) if one is not None]
    with one_thread():
        logits = [judge.logits(one.apart.of(one.apart.at), one.apart.at, one.fit) for one in two]
        kept, ahead, error = False, 0.0, 0.0
        if own is not None:
            ahead, error = _ahead(judge, logits, judge.proxy.everything)
            kept = ahead > DOUBT * error
        if not report:
            return Decision(kept, ahead, error, samples)

        def rows(models: Sequence[Judged]) -> tuple[Row, ...]:
            return estimate(judge, tasks, evidence.shares, models, level=LEVEL, seed=seed, unjudged=field.unjudged)

        made = rows([_judged(judge, one.name, said) for one, said in zip(two, logits, strict=True)])
        decided = None
        if own is not None:
            decided = next((row.accuracy for row in rows([_judged(judge, "decided", _by_folds(judge, logits))])), None)
    return Decision(kept, ahead, error, samples, made, decided)


def _ahead(judge: Judge, logits: Sequence[np.ndarray], at: np.ndarray) -> tuple[float, float]:
    own, theirs = (soft(margins(one[at], judge.proxy.labels[at])) for one in logits)
    return paired(own - theirs, judge.weights(at))


def _by_folds(judge: Judge, logits: Sequence[np.ndarray]) -> np.ndarray:
    """Each sample by the model that is chosen without its fold."""
    everything, chosen = judge.proxy.everything, logits[1].copy()
    outer = judge.proxy.outer(everything)
    for fold in range(5):
        others = everything[outer != fold]
        if len(others) and judge.weights(others).sum() > 0:
            ahead, error = _ahead(judge, logits, others)
            if ahead > DOUBT * error:
                chosen[outer == fold] = logits[0][outer == fold]
    return chosen


def _judged(judge: Judge, name: str, logits: np.ndarray) -> Judged:
    """A model for `estimate`: logits without the log prior, those of pairs as if it did not know their own labels."""
    bare = logits - judge.log_prior
    return Judged(name, "apart", bare if judge.unlearned is None else bare + judge.unlearned, True)
