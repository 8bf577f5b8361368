"""The samples that stand for the target, in two parts: one ranks the trials, the other shows what that is worth.

    ranking   about 70 % of the samples of every task and class, and of the pairs: scores, fits and choices
    apart     the rest: compares the best trial with what `adapt` chooses, and is what is reported
    whole     both, for the fit of the head that is written at the end

Who is where is drawn by a keyed hash, class by class. Weights and score are those of `adapt` (`proxy`, `choice`); each
part has a proxy of its own, so nothing of one part can weigh in the other. Shapes: N samples. Cost: none here; a
forward pass for each sample and candidate that is asked for. Not here: which candidates (`by_score`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prefmerge.data.examples import Examples
from prefmerge.errors import DataError
from prefmerge.ground.draws import split
from prefmerge.ground.words import counted
from prefmerge.target.choice import Answers, Judge
from prefmerge.target.evidence import Evidence
from prefmerge.target.forwards import Forwards
from prefmerge.target.judging import FIRST, stand_ins, unjudged, unlearned
from prefmerge.target.pool import Candidate
from prefmerge.target.prior import Prior
from prefmerge.target.proxy import Proxy, make_proxy
from prefmerge.target.search.tuning import LEAST

LEAST_OF_PART = 3  # samples: one alone has no standard error; LEAST samples give as many by the default --held-out


@dataclass(frozen=True, eq=False)
class Part:
    """Some samples, and the judge over them and no others. `at` (n,): their positions in the whole."""

    examples: Examples
    judge: Judge
    at: np.ndarray

    def answers(self, forwards: Forwards, pool: Sequence[Candidate], what: str) -> list[Answers]:
        """What each candidate makes of these samples."""
        units = forwards.units(pool, [self.examples], what)
        everything = self.judge.proxy.everything
        return [Answers(one.name, one.single, everything, own) for one, (own,) in zip(pool, units, strict=True)]


@dataclass(frozen=True, eq=False)
class Field:
    """`unjudged`: the part of the target that no sample of `apart` stands for."""

    ranking: Part
    apart: Part
    whole: Part
    unjudged: float

    def joined(self, ranking: Answers, apart: Answers) -> Answers:
        """One candidate's answers to all samples."""
        at = np.concatenate([self.ranking.at, self.apart.at])
        units = np.concatenate([ranking.units, apart.units])[np.argsort(at)]
        return Answers(ranking.name, ranking.single, self.whole.at, units)


def make_field(
    forwards: Forwards, evidence: Evidence, prior: Prior, held_out: float, seed: int, notes: list[str]
) -> Field:
    """Part the held-out samples of the tasks that are present, and the pairs. Raises DataError for too few of them."""
    source, asked = forwards.source, forwards.asked
    assert source.head is not None
    examples, proxy = stand_ins(source, evidence, prior, evidence.shares.present, asked)
    _require(len(proxy), evidence, forwards)
    rows, scale = source.head.rows.astype(np.float64), source.head.scale
    groups = proxy.tasks * len(source.tasks.classes) + proxy.labels  # of a task and class, or of pairs of a class
    held = split(groups, proxy.ids, held_out, seed)

    def part(at: np.ndarray, own: Proxy, change: np.ndarray | None = None) -> Part:
        return Part(examples.take(at), Judge(own, prior, rows, scale, unlearned=change), at)

    ranking, apart = np.flatnonzero(~held), np.flatnonzero(held)
    if min(len(ranking), len(apart)) < LEAST_OF_PART:
        raise DataError(
            f"--held-out {held_out:g} of {len(proxy)} samples leaves {len(ranking)} that rank and {len(apart)} that "
            f"compare. Both need at least {LEAST_OF_PART}: give another part, or more samples."
        )
    of_apart = _some(proxy, apart, seed)
    return Field(
        part(ranking, _some(proxy, ranking, seed)),
        part(apart, of_apart, unlearned(source, evidence, prior, of_apart, asked)),
        part(proxy.everything, proxy),
        unjudged(source, evidence, prior, of_apart, notes),
    )


def _require(samples: int, evidence: Evidence, forwards: Forwards) -> None:
    """Raises DataError where there are too few samples in all."""
    if samples >= LEAST:
        return
    asked = forwards.asked
    if evidence.pairs is not None and len(evidence.pairs) == samples:
        raise DataError(f"{asked.pairs}: {samples} samples are too few to search with. Give at least {LEAST}.")
    raise DataError(
        f"{asked.run}: kept {counted(samples, 'held-out sample')} of the tasks that the target has, pairs included, "
        f"and a search needs {LEAST}. Give --pairs PATH with more, or a run with a larger held_out."
    )


def _some(proxy: Proxy, at: np.ndarray, seed: int) -> Proxy:
    """A proxy of the samples at some positions."""
    ids = [proxy.ids[i] for i in at.tolist()]
    allowed = None if proxy.allowed is None else proxy.allowed[at]
    return make_proxy(ids, proxy.labels[at], proxy.tasks[at], first=FIRST, seed=seed, allowed=allowed)
