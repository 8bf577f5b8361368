"""Which samples stand for the target, which candidate does best on them, and how good that is.

Held-out samples of the present tasks and the pairs of the target judge; a few samples of the absent tasks show what is
lost there. All candidates are tried on the first samples of each task, the best of them on all. Cost: the forward
passes, and seconds of fits. Not here: the score (`choice`), the estimates (`estimates`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from prefmerge.data.examples import Examples, concatenated
from prefmerge.target.choice import Answers, Choice, Judge, Others, choose, finalists
from prefmerge.target.compared import NOT_COMPARED, embedded, note, open_compared
from prefmerge.target.compared import models as of_compared
from prefmerge.target.estimates import (
    Estimates,
    Judged,
    Recall,
    Row,
    as_it_is,
    by_procedure,
    classes_unjudged,
    estimate,
    recall_of,
    with_balanced,
    with_bias,
)
from prefmerge.target.evidence import Evidence
from prefmerge.target.fit import margins, one_thread, plain
from prefmerge.target.forwards import Forwards
from prefmerge.target.parameters import Parameters
from prefmerge.target.pool import Candidate, baselines
from prefmerge.target.prior import Prior, joint_of, log_prior_of
from prefmerge.target.proxy import Proxy, make_proxy
from prefmerge.target.shares import PRESENT, from_labels
from prefmerge.target.source import Source

FIRST = 50  # samples of each task on which every candidate is tried
MOST_UNJUDGED = 0.5  # part of the target that no sample stands for, beyond which no accuracy is given
OTHERS = 100  # samples of absent tasks, together, that show what is lost there


def judged(
    forwards: Forwards, evidence: Evidence, prior: Prior, pool: list[Candidate], notes: list[str]
) -> tuple[Choice, Estimates | None, list[Candidate]]:
    """Choose among the pool, and say how good the choice is."""
    source, asked = forwards.source, forwards.asked
    assert source.samples is not None
    assert source.head is not None
    present = evidence.shares.present
    compared = open_compared(asked.compare, source)
    examples, proxy = stand_ins(source, evidence, prior, present, asked)
    without = unjudged(source, evidence, prior, proxy, notes)
    others_of, others = _others(source, present, asked)
    judge = Judge(
        proxy,
        prior,
        source.head.rows.astype(np.float64),
        source.head.scale,
        use_prior=not asked.no_prior,
        refit=source.classifier is None,
        metric=asked.metric,
        keep=asked.keep,
        others=others,
        unlearned=None if asked.no_prior else unlearned(source, evidence, prior, proxy, asked),
    )
    yours = embedded(compared, forwards, examples)
    everything = proxy.everything
    first, rest = everything[proxy.first], everything[~proxy.first]
    nothing = examples.take([])
    parts = [examples.take(first), others_of if asked.keep else nothing]
    answers = [
        Answers(one.name, one.single, first, units, kept if asked.keep else None)
        for one, (units, kept) in zip(pool, forwards.units(pool, parts, "trying candidates"), strict=True)
    ]
    forwards.cost["candidates"] = len(pool)
    with one_thread():
        again, _ = finalists(judge, answers, everything)
    last = next((i for i, one in enumerate(pool) if source.ordered and one.task == len(source.checkpoints) - 1), None)
    again = sorted(set(again) | ({last} if last is not None else set[int]()))
    if len(rest):
        more = forwards.units([pool[i] for i in again], [examples.take(rest)], "comparing the best")
        for i, (units,) in zip(again, more, strict=True):
            answers[i] = _joined(answers[i], rest, units)
    forwards.progress(0, 0, "choosing")
    with one_thread():
        choice = choose(judge, answers, everything)
    if not source.held_out or without > MOST_UNJUDGED or mostly_foreign(evidence, notes):
        notes += [NOT_COMPARED] if compared else []
        return choice, None, pool
    notes += note(compared)
    tried = _Tried(judge, pool, answers, choice, _before(pool, choice, last))
    shown = zip(compared, yours, strict=True)
    with one_thread():
        own = [model for one, by in shown for model in of_compared(one, by, judge)]
    rows, recall = _estimated(forwards, evidence, tried, own, examples, without)
    lost = {} if others is None or not len(others.labels) else _lost(forwards, tried, others_of, others)
    return choice, Estimates(rows, recall, lost, len(proxy), pool[tried.before].name, asked.level), pool


@dataclass(frozen=True, eq=False)
class _Tried:
    """What came of trying the pool. `before`: the candidate that the chosen one is compared with."""

    judge: Judge
    pool: Sequence[Candidate]
    answers: Sequence[Answers]
    choice: Choice
    before: int


def _before(pool: Sequence[Candidate], choice: Choice, last: int | None) -> int:
    """The last checkpoint, else the best single one."""
    if last is not None:
        return last
    return next(i for i, one in enumerate(pool) if one.single) if choice.best_single is None else choice.best_single


def _estimated(
    forwards: Forwards,
    evidence: Evidence,
    tried: _Tried,
    own: Sequence[Judged],
    examples: Examples,
    without: float,
) -> tuple[tuple[Row, ...], dict[str, Recall]]:
    """A row for the procedure and for each model that is there, `own` ones of the user too; and recall by class."""
    judge, answers, pool = tried.judge, tried.answers, tried.pool
    source, asked, first = forwards.source, forwards.asked, np.flatnonzero(judge.proxy.first)
    there = baselines(evidence.shares.shares, source.ordered)
    units = forwards.units(there, [examples.take(first)], "looking at what is there")
    shown = [Answers(one.name, one.single, first, part) for one, (part,) in zip(there, units, strict=True)]
    forwards.progress(0, 0, "estimating")
    singles = [answers[i] for i, one in enumerate(pool) if one.single]
    how: dict[str, Any] = {"level": asked.level, "seed": asked.seed}
    with one_thread():
        models = [by_procedure(judge, answers, pool[tried.choice.index].name)]
        for one in (shown[0], *singles, *shown[1:]):
            models.append(as_it_is(judge, one, prior=False))
            if not asked.no_prior:
                models.append(as_it_is(judge, one, prior=True))
                if one in singles:
                    models.append(with_bias(judge, one))
        models += own
        if asked.metric == "balanced":
            without = classes_unjudged(judge, evidence.shares)
        rows = estimate(judge, source.tasks, evidence.shares, models, unjudged=without, **how)
        rows = with_balanced(rows, judge, source.tasks, evidence.shares, models, **how)
    labels, prior = judge.proxy.labels, judge.log_prior
    as_before = as_it_is(judge, answers[tried.before], prior=False)
    recall = recall_of(judge, models[0].right(labels, prior), as_before.right(labels, prior), source.tasks.classes)
    return rows, recall


def _joined(answers: Answers, positions: np.ndarray, units: np.ndarray) -> Answers:
    at = np.concatenate([answers.at, positions])
    order = np.argsort(at)
    return replace(answers, at=at[order], units=np.concatenate([answers.units, units])[order])


def stand_ins(
    source: Source, evidence: Evidence, prior: Prior, present: np.ndarray, asked: Parameters
) -> tuple[Examples, Proxy]:
    """The held-out samples of the tasks that are present, and the pairs, as one list."""
    assert source.samples is not None
    parts, tasks = [], []
    for t in np.flatnonzero(present).tolist():
        own = source.samples[t]
        own = replace(own, ids=tuple(f"{source.tasks.names[t]}/{one}" for one in own.ids), domains=None)
        parts.append(own.take(_some(own, asked.samples, asked.seed)))
        tasks += [t] * len(parts[-1])
    if evidence.pairs is not None:
        parts.append(replace(evidence.pairs, ids=tuple(f"pair/{one}" for one in evidence.pairs.ids), domains=None))
        tasks += [-1] * len(evidence.pairs)
    examples = concatenated(parts)
    allowed = allowed_classes(source, np.asarray(tasks), examples.labels)
    proxy = make_proxy(examples.ids, examples.labels, np.asarray(tasks), first=FIRST, seed=asked.seed, allowed=allowed)
    return examples, proxy


def unjudged(source: Source, evidence: Evidence, prior: Prior, proxy: Proxy, notes: list[str]) -> float:
    """The part of the target whose tasks or classes have no sample to judge by; a note where it is worth a word. Pairs
    are of the target itself and leave nothing out.
    """
    if evidence.pairs is not None:
        return 0.0
    cells = np.zeros(prior.joint.shape, bool)
    cells[proxy.tasks, proxy.labels] = True
    without = np.where(cells, 0.0, prior.joint)
    without[~evidence.shares.present] = 0.0
    part = float(without.sum())
    if part < PRESENT:
        return 0.0
    t, c = np.unravel_index(int(without.argmax()), without.shape)
    more = np.count_nonzero(without) - 1
    notes.insert(
        0,
        f"no sample judges {100 * part:.0f} % of the target: there is none of class {source.tasks.classes[c]!r} of "
        f"task {source.tasks.names[t]!r}{f', nor of {more} more classes' if more else ''}. "
        + ("The intervals allow for it." if part <= MOST_UNJUDGED else "So no accuracy is promised."),
    )
    return part


def mostly_foreign(evidence: Evidence, notes: list[str]) -> bool:
    """Whether most inputs of the target are of no task, so that no sample says how good a model is; with a note."""
    foreign = evidence.shares.foreign
    mostly = foreign is not None and foreign.low > MOST_UNJUDGED
    if mostly:
        notes.insert(0, "most inputs are of no task, so nothing is said of how good the model is there.")
    return mostly


def unlearned(source: Source, evidence: Evidence, prior: Prior, proxy: Proxy, asked: Parameters) -> np.ndarray | None:
    """(N, C): for each pair, the log prior without the labels of its fold, less the log prior; 0 for other samples.
    None where no label of a pair is in the prior.
    """
    counts, tasks = evidence.shares.label_counts, source.tasks
    if evidence.pairs is None or asked.labels is not None or asked.prefer is not None or not counts.sum():
        return None
    change = np.zeros((len(proxy), len(tasks.classes)))
    outer = proxy.outer(proxy.everything)
    for fold in range(5):
        own = proxy.pair & (outer == fold)
        left = np.maximum(counts - np.bincount(proxy.labels[own], minlength=len(counts)), 0)
        shares = evidence.shares.shares
        if asked.inputs is None and not tasks.alike:
            even = np.full(len(shares), 1 / len(shares))
            shares = from_labels(tasks, left, draws=20).shares if left.sum() else even
        change[own] = log_prior_of(tasks, joint_of(tasks, shares, left), shares) - prior.logits
    return change


def _some(examples: Examples, count: int, seed: int) -> np.ndarray:
    """Positions of at most `count` samples, class by class in turn, by a keyed hash of their ids."""
    one = make_proxy(examples.ids, examples.labels, np.zeros(len(examples), np.int64), first=count, seed=seed)
    return np.flatnonzero(one.first)


def allowed_classes(source: Source, tasks: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
    """(N, C): the classes among which each sample is named; None where that is all of them, always."""
    classes = len(source.tasks.classes)
    if all(len(own) == classes for own in source.among):
        return None
    allowed = np.zeros((len(tasks), classes), bool)
    for i, (task, label) in enumerate(zip(tasks.tolist(), labels.tolist(), strict=True)):
        if task < 0:
            task = next(t for t, own in enumerate(source.tasks.of_task) if label in own)
        allowed[i, list(source.among[task])] = True
    return allowed


def _others(source: Source, present: np.ndarray, asked: Parameters) -> tuple[Examples, Others | None]:
    """A few samples of the absent tasks."""
    assert source.samples is not None
    absent = [t for t in np.flatnonzero(~present).tolist() if len(source.samples[t])]
    each = max(1, (FIRST if asked.keep else max(1, OTHERS // max(1, len(absent)))))
    parts, tasks = [], []
    for t in absent:
        own = source.samples[t].take(_some(source.samples[t], each, asked.seed))
        parts.append(replace(own, domains=None))
        tasks += [t] * len(own)
    if not parts:
        return source.samples[0].take([]), None
    examples, at = concatenated(parts), np.asarray(tasks)
    return examples, Others(examples.labels, at, allowed_classes(source, at, examples.labels))


def _lost(forwards: Forwards, tried: _Tried, examples: Examples, others: Others) -> dict[str, tuple[int, float, float]]:
    """Per absent task: samples, accuracy of the last (or best single) checkpoint as it is, of the chosen model."""
    judge, pool, answers = tried.judge, tried.pool, tried.answers
    before, choice = tried.before, tried.choice
    wanted = sorted({before, choice.index})
    missing = [i for i in wanted if answers[i].others is None]
    units = {i: answers[i].others for i in wanted if answers[i].others is not None}
    for i, (own,) in zip(
        missing, forwards.units([pool[i] for i in missing], [examples], "looking at other tasks"), strict=True
    ):
        units[i] = own
    right = {}
    for i, fit, prior in ((before, plain(len(judge.rows)), False), (choice.index, choice.fit, True)):
        one = replace(answers[i], others=units[i])
        judge_of = judge if prior else replace(judge, use_prior=False)
        right[prior] = margins(judge_of.of_others(one, fit), others.labels) > 0
    names = forwards.source.tasks.names
    return {
        names[t]: (
            int(np.sum(others.tasks == t)),
            float(right[False][others.tasks == t].mean()),
            float(right[True][others.tasks == t].mean()),
        )
        for t in np.unique(others.tasks).tolist()
    }
