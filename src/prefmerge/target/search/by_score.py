"""The search that ranks its trials as `adapt` does, starts with `adapt`'s candidates, and is compared with its choice.

    source, evidence (shares), prior            as `adapt`
    -> samples that rank and samples apart      (`field`)
    -> trials: adapt's candidates, then what optuna draws over the space; each one's score on the samples that rank
    -> the best trial against what adapt's rule chooses among its candidates on these samples (`decision`)
    -> the chosen model's settings, and a head that is fitted on all samples

A trial costs a merge and a forward pass for each sample that ranks. Trials are kept in a study, embeddings in the
user's cache: a call that was killed resumes. Source: ours; optuna's TPE as in Tunable MAGMAX, section 3.3. Not here:
the paper's own search, by accuracy on pairs alone (`on_target`); checkpoints without a run.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from prefmerge.data.examples import no_examples
from prefmerge.errors import RunError, require
from prefmerge.ground.progress import Progress
from prefmerge.target.adapt import adapted_head
from prefmerge.target.checkpoints import contents_of
from prefmerge.target.choice import Answers, choose
from prefmerge.target.evidence import EmbedBase, Evidence, read_evidence
from prefmerge.target.fit import one_thread
from prefmerge.target.forwards import Forwards
from prefmerge.target.judging import MOST_UNJUDGED, mostly_foreign
from prefmerge.target.merges import Merges
from prefmerge.target.parameters import Parameters, SearchParameters
from prefmerge.target.pool import IN_ORDER, WITHOUT_ORDER, Candidate, candidates, rounded
from prefmerge.target.prior import make_prior
from prefmerge.target.search.decision import Rival, decide, fit_of
from prefmerge.target.search.field import make_field
from prefmerge.target.search.folder import SearchFolder
from prefmerge.target.search.outcome import SearchOutcome
from prefmerge.target.search.space import Space, Start
from prefmerge.target.search.study import Study
from prefmerge.target.search.trial import ScoredTrial, digest, key_of, read_scored
from prefmerge.target.search.trying import Limits, carry_on
from prefmerge.target.source import Source, open_source

ReadEvidence = Callable[[Parameters, Source, EmbedBase], Evidence]


def search_by_score(
    asked: SearchParameters,
    progress: Progress | None = None,
    merges: Merges | None = None,
    *,
    source: Source | None = None,
    read: ReadEvidence = read_evidence,
    study: Path | None = None,
) -> SearchOutcome:
    """Carry out what the parameters ask for; leave the result in `asked.out`, where one is named. `source`: where it is
    open already. `read`: what gives the evidence, where it is no file. `study`: the file of the trials, where there is
    no `asked.out`; None: they are not kept.

    Raises UsageError, DataError, RunError, OutputExists, OutputError, MissingExtra and what merging and encoding raise.
    """
    require("search", "places", "optuna", "scipy", "threadpoolctl")
    folder = None if asked.out is None else SearchFolder.of(asked.out)
    with contextlib.nullcontext() if folder is None else folder.held(asked.force):
        job = _Job(asked, progress or (lambda *_: None), merges, source, read)
        result = job.result(study if folder is None else folder.journal)
        if folder is not None:
            folder.write(
                {**result.to_json(), "command": result.command()},
                result.preference_json(),
                result.draw,
                head=result.head.to_bytes(),
            )
    return result


class _Job:
    """One search, up to its trials: what is known before the first one is made."""

    def __init__(
        self,
        asked: SearchParameters,
        progress: Progress,
        merges: Merges | None,
        source: Source | None,
        read: ReadEvidence,
    ) -> None:
        self.started = time.perf_counter()
        self.asked, self.progress = asked, progress
        progress(0, asked.trials, "opening the tasks")
        source = source or open_source(asked.of_adapt)
        _require_samples(asked, source)
        self.space = _space(asked.space, source.ordered)
        _check(self.space, source)
        self.forwards = Forwards(source, asked.of_adapt, lambda *_: None, merges)
        progress(0, asked.trials, "looking at the target")
        self.evidence = read(asked.of_adapt, source, self.forwards.embeddings_of_base)
        self.source = self.forwards.source = _that_judges(self.evidence, source)
        self.notes = [*self.evidence.notes, *self.source.notes]
        self.prior = make_prior(self.source.tasks, self.evidence.shares)
        shares = self.evidence.shares.shares
        self.pool = candidates(self.source.tasks.names, shares, self.source.ordered)
        self.preference = rounded(shares)
        self.field = make_field(self.forwards, self.evidence, self.prior, asked.held_out, asked.seed, self.notes)
        self.known: dict[str, Answers] = {}  # to the samples that rank

    def result(self, study: Path | None) -> SearchOutcome:
        """Make the trials, decide, fit the head."""
        trials, stopped = self._trials(study)
        self.progress(len(trials), self.asked.trials, "comparing with adapt's choice")
        best = max(trials, key=lambda one: (one.score, -one.number))
        pool, own = self._ranked(self.pool), self._ranked([_candidate(best)])[0]
        with one_thread():
            choice = choose(self.field.ranking.judge, pool, self.field.ranking.judge.proxy.everything)
        adapts = self.pool[choice.index]
        same = best.key == _key(adapts)
        rivals = [_candidate(best), adapts][int(same) :]
        apart = self.field.apart.answers(self.forwards, rivals, "comparing")
        theirs = Rival(adapts.name, pool[choice.index], apart[-1], choice.fit)
        search = None if same else Rival(best.what, own, apart[0], fit_of(self.field.ranking.judge, own))
        decision = decide(
            self.field,
            search,
            theirs,
            self.source.tasks,
            self.evidence,
            seed=self.asked.seed,
            report=self.field.unjudged <= MOST_UNJUDGED and not mostly_foreign(self.evidence, self.notes),
        )
        chosen, answers = (rivals[0], search) if search is not None and decision.kept else (adapts, theirs)
        fit = fit_of(self.field.whole.judge, self.field.joined(answers.ranking, answers.apart))
        assert self.source.head is not None
        return SearchOutcome(
            asked=self.asked,
            source=self.source,
            evidence=self.evidence,
            prior=self.prior,
            space=self.space,
            pool=tuple(self.pool),
            trials=tuple(trials),
            stopped=stopped,
            ranking=len(self.field.ranking.at),
            best=best,
            adapts=adapts,
            same=same,
            decision=decision,
            chosen=chosen,
            head=adapted_head(self.source.head, self.prior, fit),
            notes=tuple(self.notes),
            cost={**self.forwards.cost, "seconds": round(time.perf_counter() - self.started, 1)},
        )

    def _ranked(self, pool: Sequence[Candidate]) -> list[Answers]:
        """What candidates make of the samples that rank; those that an earlier call tried are made again."""
        missing = [one for one in pool if _key(one) not in self.known]
        made = self.field.ranking.answers(self.forwards, missing, "trying again")
        self.known |= {_key(one): answers for one, answers in zip(missing, made, strict=True)}
        return [replace(self.known[_key(one)], name=one.name) for one in pool]

    def _trials(self, path: Path | None) -> tuple[list[ScoredTrial], str]:
        asked, names, judge = self.asked, self.source.tasks.names, self.field.ranking.judge
        starts = [
            Start(
                one.name,
                dict(one.settings),
                None if one.single else self.space.params_of(dict(one.settings), names, self.preference),
                one.task,
            )
            for one in self.pool
        ]
        study = Study(path, self._identity(), self.space.dimensions(len(names)), asked.seed)
        kept = study.kept[: asked.trials]
        done = [read_scored(number, one, str(path)) for number, one in enumerate(kept)]

        def tried(waiting: Sequence[Start]) -> Iterator[ScoredTrial]:
            scores = {one.key: one.score for one in done}
            new = {_key(one): one for one in map(_candidate, waiting) if _key(one) not in scores}
            answers = self.field.ranking.answers(self.forwards, list(new.values()), "trying")
            for key, own in zip(new, answers, strict=True):
                self.known[key] = own
                with one_thread():
                    scores[key] = judge.score(own, judge.proxy.everything)[0]
            for one in waiting:
                score = scores[key_of(one.settings, one.task)]
                yield ScoredTrial(len(done), one.what, one.settings, one.task, score, len(done) < len(starts))

        def drawn(number: int, params: Any) -> Start:
            return Start(f"trial {number + 1}", self.space.settings(params, names, self.preference), params)

        def seen(trial: ScoredTrial) -> None:
            best = max(one.score for one in done)
            self.progress(len(done), asked.trials, f"trials, best score {100 * best:.1f}")

        limits = Limits(asked.trials, asked.patience, asked.batch)
        return done, carry_on(study, done, starts, limits, drawn=drawn, tried=tried, value=_score, seen=seen)

    def _identity(self) -> dict[str, Any]:
        """What decides the scores of the trials."""
        source, head, asked = self.source, self.source.head, self.asked
        assert head is not None
        encoder, _ = source.encoder()
        examples = self.field.whole.examples
        return {
            "ranked by": "score",
            "tasks": list(source.tasks.names),
            "checkpoints": contents_of(source.base, source.checkpoints),
            "head": digest([head.rows.tolist(), head.scale]),
            "encoder": encoder.preprocessing,
            "samples": digest([list(examples.ids), examples.fingerprint(range(len(examples)))]),
            "shares": self.preference.describe(),
            "labels": digest(np.asarray(self.evidence.shares.label_counts).tolist()),
            "space": self.space.to_json(),
            "held_out": asked.held_out,
            "batch": asked.batch,
            "seed": asked.seed,
        }


def _require_samples(asked: SearchParameters, source: Source) -> None:
    """Raises RunError where neither held-out samples nor pairs can judge."""
    if asked.pairs is None and (source.samples is None or not source.held_out):
        raise RunError(
            f"{asked.run}: kept no held-out samples (held_out: 0), so nothing can rank the trials. Give --pairs PATH, "
            "or a run of `prefmerge finetune` with held_out above 0. --paper searches with pairs alone too, by plain "
            "accuracy."
        )


def _that_judges(evidence: Evidence, source: Source) -> Source:
    """The source with the samples that may judge: held-out ones; without those the pairs alone."""
    if source.tasks.embeddings is None and evidence.source is not source:
        source = evidence.source
    if source.held_out and source.samples is not None:
        return source
    note = "the run kept no held-out samples (held_out: 0): the pairs alone rank the trials."
    return replace(source, samples=(no_examples(),) * len(source.checkpoints), held_out=True, notes=(note,))


def _space(text: str | None, ordered: bool) -> Space:
    """What is searched: where nothing else is said, the usual parameters of the merges that `adapt` tries."""
    return Space.parse(text, IN_ORDER if ordered else WITHOUT_ORDER)


def _check(space: Space, source: Source) -> None:
    """Raise what merging would raise for settings of the space, before anything is tried."""
    from prefmerge.merging.candidates import Candidates

    with Candidates(source.base, source.checkpoints, source.tasks.names, threads=1) as merges:
        for settings in space.refusable(len(source.checkpoints)):
            merges.check(**settings)


def _score(one: ScoredTrial) -> float:
    return one.score


def _candidate(one: Start | ScoredTrial) -> Candidate:
    return Candidate(one.what, one.settings, one.task)


def _key(one: Candidate) -> str:
    return key_of(dict(one.settings), one.task)
