"""The best model for a target out of a run, and what to expect of it there.

    parameters -> source (tasks, samples, head) -> evidence (shares of the target) -> prior
               -> pool (candidates) -> embeddings of samples that stand for the target -> choice -> estimates
               -> a folder: weights with their receipt, head (or the classifier's bias), adapt.json, report.html

Source: ours. Never worse than what is there, by its own measure: the best single checkpoint is among the candidates,
and is kept unless a merge is better by more than half a standard error. Cost: the merges of one reading, a forward pass
a candidate and sample (about 2,500 for five tasks of which two are present), seconds of fits. An interrupted call
resumes from the cache of embeddings. Leaves out: fine-tuning, which does more where there are pairs enough
(docs/adapt.md).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefmerge.data.examples import Examples, concatenated
from prefmerge.errors import OutputError, OutputExists, UsageError, require
from prefmerge.models.head_file import FrozenHead
from prefmerge.outputs.write import find_receipt
from prefmerge.target.choice import Answers, Choice, Judge, Others, choose, finalists
from prefmerge.target.estimates import Estimates, as_it_is, by_procedure, estimate, recall_of, with_bias
from prefmerge.target.evidence import Evidence, read_evidence
from prefmerge.target.fit import Fit, margins, one_thread, plain
from prefmerge.target.merges import Merges
from prefmerge.target.output import write
from prefmerge.target.own import addition, require_bias
from prefmerge.target.parameters import Parameters
from prefmerge.target.pool import Candidate, baselines, candidates
from prefmerge.target.prior import Prior, joint_of, log_prior_of, make_prior
from prefmerge.target.proxy import Proxy, make_proxy
from prefmerge.target.result import Adapted
from prefmerge.target.shares import PRESENT, from_labels
from prefmerge.target.source import Source, open_source

if TYPE_CHECKING:
    from prefmerge.models.encoders.protocol import Encoder

FIRST = 50  # samples of each task on which every candidate is tried
MOST_UNJUDGED = 0.5  # part of the target that no sample stands for, beyond which no accuracy is told
OTHERS = 100  # samples of absent tasks, together, that show what is lost there

Told = Callable[[str, int, int], None]  # what is being done, how much of it is done, how much there is


def adapt(asked: Parameters, told: Told | None = None, merges: Merges | None = None) -> Adapted:
    """Carry out what the parameters ask for; write the folder `asked.out`, where one is named. `merges`: those of an
    earlier call over the same checkpoints, which are not made again.

    Raises UsageError, DataError, RunError, EncoderError, OutputExists, MissingExtra and what merging raises; then
    nothing has appeared at `asked.out`.
    """
    started = time.perf_counter()
    told = told or (lambda *_: None)
    if asked.out is not None:
        _check_output(asked.out, asked.force)
    told("opening the tasks", 0, 0)
    source = open_source(asked)
    bias = None if source.classifier is None or asked.no_prior else _bias(source)
    work = _Work(source, asked, told, merges)
    evidence = read_evidence(asked, source, work.embeddings_of_base)
    if source.tasks.embeddings is None and evidence.source is not source:
        source = work.source = evidence.source
    prior = make_prior(source.tasks, evidence.shares)
    notes = [*evidence.notes, *source.notes]
    shares = evidence.shares.shares
    pool = candidates(source.tasks.names, shares, source.ordered, asked.candidate)
    choice, estimates, chosen = None, None, next(one for one in pool if not one.single)
    head = source.head
    if source.samples is not None and head is not None:
        choice, estimates, pool = _judged(work, evidence, prior, pool, notes)
        chosen = pool[choice.index]
    added = None
    if source.classifier is not None:
        head = None  # the model answers by itself
        added = None if bias is None else addition(bias, prior, _fit(choice, len(source.tasks.classes)))
    elif head is not None and not asked.no_prior:
        head = _adapted_head(head, prior, choice)
    cost = {**work.cost, "seconds": round(time.perf_counter() - started, 1)}
    made = Adapted(
        source, evidence, prior, tuple(pool), choice, chosen, estimates, head, tuple(notes), cost, asked, added=added
    )
    if asked.out is None:
        return made
    told("writing the model", 0, 0)
    return replace(made, receipt=write(made, asked.out))


def require_extras() -> None:
    """Raise MissingExtra where the libraries of every call are absent."""
    require("adapt", "places", "scipy", "threadpoolctl")


def _check_output(out: Path, force: bool) -> None:
    if out.suffix == ".safetensors":
        raise UsageError(
            f"-o {out}: the model comes with its head and a report, so it is a folder. Give for instance "
            f"{out.with_suffix('')}."
        )
    if out.is_file():
        raise OutputExists(f"{out}: is a file; the model is a folder. Give another -o OUT.")
    if out.is_dir() and any(out.iterdir()):
        if find_receipt(out) is None:
            raise OutputExists(f"{out}: exists already, and prefmerge did not make it. Give another -o OUT.")
        if not force:
            raise OutputExists(f"{out}: exists already. Give another -o OUT, or --force to replace it.")
    there = next(one for one in (out, *out.absolute().parents) if one.exists())
    if not os.access(there, os.W_OK):
        raise OutputError(f"{out}: cannot be written: {there} is read-only. Give another -o OUT.")


def _bias(source: Source) -> str:
    """The tensor that takes the prior, of checkpoints with a classifier of their own. Raises UsageError."""
    from prefmerge.models.encoders.classifier import ClassifierEncoder

    encoder, _ = source.encoder()
    assert isinstance(encoder, ClassifierEncoder)
    return require_bias(encoder.bias, source.base)


def _fit(choice: Choice | None, classes: int) -> Fit:
    return plain(classes) if choice is None else choice.fit


def _adapted_head(head: FrozenHead, prior: Prior, choice: Choice | None) -> FrozenHead:
    """The head for the target: log prior and fitted bias as its bias, temperature in its scale, rows where refitted."""
    fit = _fit(choice, len(head.rows))
    rows = head.rows if fit.rows is None else (head.rows + fit.rows).astype(np.float32)
    bias = (prior.logits + fit.bias).astype(np.float32)
    return replace(head, rows=rows, scale=head.scale * fit.beta, bias=bias)


class _Work:
    """The forward passes: which model, which samples; counted."""

    def __init__(self, source: Source, asked: Parameters, told: Told, merges: Merges | None = None) -> None:
        from prefmerge.models.features import cache_folder

        self.source, self.asked, self.told = source, asked, told
        self.merges = merges or Merges(source.base, source.checkpoints, source.tasks.names, asked.threads)
        self.cost: dict[str, float] = {"forwards": 0, "merges": 0, "candidates": 0}
        self.cache = None if asked.no_cache else cache_folder()

    def embed(self, encoder: Encoder, device: Any, examples: Examples, what: str) -> np.ndarray:
        """Embeddings (N, E) of what the encoder holds now."""
        from prefmerge.models.features import embed

        self.cost["forwards"] += len(examples)
        return embed(
            encoder,
            examples,
            batch=self.asked.batch,
            device=device,
            cache=self.cache,
            progress=lambda done, of: self.told(what, done, of),
        )

    def embeddings_of_base(self, examples: Examples, what: str) -> np.ndarray:
        """Embeddings (N, E) under theta_0; of a classifier, what its last layer takes."""
        from prefmerge.models.encoders.classifier import ClassifierEncoder

        encoder, device = self.source.encoder()
        encoder.load(self.source.base)
        if isinstance(encoder, ClassifierEncoder):
            encoder = encoder.features()
        return self.embed(encoder, device, examples, what)

    def units(self, pool: Sequence[Candidate], examples: Sequence[Examples], what: str) -> list[list[np.ndarray]]:
        """[candidate][part]: unit embeddings (n, E), float32, of each part of samples under each candidate; the logits
        (n, C) where the checkpoints have a classifier of their own.
        """
        from prefmerge.models.encoders.weights import put_arrays

        encoder, device = self.source.encoder()
        of_classifier = self.source.classifier is not None
        found: list[list[np.ndarray]] = [[] for _ in pool]
        done = 0

        def seen(i: int) -> None:
            nonlocal done
            done += 1
            told = f"{what}: {pool[i].name} ({done} of {len(pool)})"
            nothing = np.zeros((0, encoder.width), np.float32)
            parts = [self.embed(encoder, device, part, told) if len(part) else nothing for part in examples]
            found[i] = parts if of_classifier else [_units(part) for part in parts]

        for i, one in enumerate(pool):
            if one.task is not None:
                encoder.load(self.source.base if one.task < 0 else self.source.checkpoints[one.task])
                seen(i)
        merged = [i for i, one in enumerate(pool) if not one.single]
        before = self.merges.made
        for at, model in self.merges.each(
            [pool[i].settings for i in merged], lambda n, _: self.told(f"{what}: merging {n} candidates", 0, 0)
        ):
            encoder.load(self.source.base)  # for the tensors that no merge touches
            put_arrays(encoder, model)
            seen(merged[at])
        self.cost["merges"] += self.merges.made - before
        return found


def _units(embeddings: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    return (embeddings / np.maximum(norms, 1e-12)).astype(np.float32)


def _judged(
    work: _Work, evidence: Evidence, prior: Prior, pool: list[Candidate], notes: list[str]
) -> tuple[Choice, Estimates | None, list[Candidate]]:
    """Choose among the pool, and say how good the choice is."""
    source, asked = work.source, work.asked
    assert source.samples is not None
    assert source.head is not None
    present = evidence.shares.present
    examples, proxy = _proxy(source, evidence, prior, present, asked)
    unjudged = _unjudged(source, evidence, prior, proxy, notes)
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
        unlearned=None if asked.no_prior else _unlearned(source, evidence, prior, proxy, asked),
    )
    everything = proxy.everything
    first, rest = everything[proxy.first], everything[~proxy.first]
    nothing = examples.take([])
    parts = [examples.take(first), others_of if asked.keep else nothing]
    answers = [
        Answers(one.name, one.single, first, units, kept if asked.keep else None)
        for one, (units, kept) in zip(pool, work.units(pool, parts, "trying candidates"), strict=True)
    ]
    work.cost["candidates"] = len(pool)
    with one_thread():
        again, _ = finalists(judge, answers, everything)
    last = next((i for i, one in enumerate(pool) if source.ordered and one.task == len(source.checkpoints) - 1), None)
    again = sorted(set(again) | ({last} if last is not None else set[int]()))
    if len(rest):
        more = work.units([pool[i] for i in again], [examples.take(rest)], "comparing the best")
        for i, (units,) in zip(again, more, strict=True):
            answers[i] = _joined(answers[i], rest, units)
    told = work.told
    told("choosing", 0, 0)
    with one_thread():
        choice = choose(judge, answers, everything)
    if not source.held_out or unjudged > MOST_UNJUDGED:
        return choice, None, pool
    if evidence.shares.foreign is not None and evidence.shares.foreign.low > MOST_UNJUDGED:
        notes.insert(0, "most inputs are of no task, so nothing is said of how good the model is there.")
        return choice, None, pool
    there = baselines(evidence.shares.shares, source.ordered)
    shown = [
        Answers(one.name, one.single, first, units)
        for one, (units,) in zip(
            there, work.units(there, [examples.take(first)], "looking at what is there"), strict=True
        )
    ]
    told("estimating", 0, 0)
    singles = [answers[i] for i, one in enumerate(pool) if one.single]
    with one_thread():
        models = [by_procedure(judge, answers, pool[choice.index].name)]
        for one in (shown[0], *singles, *shown[1:]):
            models.append(as_it_is(judge, one, prior=False))
            if not asked.no_prior:
                models.append(as_it_is(judge, one, prior=True))
                if one in singles:
                    models.append(with_bias(judge, one))
        rows = estimate(
            judge, source.tasks, evidence.shares, models, level=asked.level, seed=asked.seed, unjudged=unjudged
        )
    recall = recall_of(judge, models[0].right(judge.proxy.labels, judge.log_prior), source.tasks.classes)
    lost = {}
    if others is not None and len(others.labels):
        lost = _lost(work, judge, choice, pool, others_of, others, answers)
    return choice, Estimates(rows, recall, lost, len(proxy), asked.level), pool


def _joined(answers: Answers, positions: np.ndarray, units: np.ndarray) -> Answers:
    at = np.concatenate([answers.at, positions])
    order = np.argsort(at)
    return replace(answers, at=at[order], units=np.concatenate([answers.units, units])[order])


def _proxy(
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
    allowed = _allowed(source, np.asarray(tasks), examples.labels)
    proxy = make_proxy(examples.ids, examples.labels, np.asarray(tasks), first=FIRST, seed=asked.seed, allowed=allowed)
    return examples, proxy


def _unjudged(source: Source, evidence: Evidence, prior: Prior, proxy: Proxy, notes: list[str]) -> float:
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


def _unlearned(source: Source, evidence: Evidence, prior: Prior, proxy: Proxy, asked: Parameters) -> np.ndarray | None:
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


def _allowed(source: Source, tasks: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
    """(N, C): the classes that each sample is told apart from; None where that is all of them, always."""
    classes = len(source.tasks.classes)
    if all(len(own) == classes for own in source.among):
        return None
    found = np.zeros((len(tasks), classes), bool)
    for i, (task, label) in enumerate(zip(tasks.tolist(), labels.tolist(), strict=True)):
        if task < 0:
            task = next(t for t, own in enumerate(source.tasks.of_task) if label in own)
        found[i, list(source.among[task])] = True
    return found


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
    return examples, Others(examples.labels, at, _allowed(source, at, examples.labels))


def _lost(
    work: _Work,
    judge: Judge,
    choice: Choice,
    pool: Sequence[Candidate],
    examples: Examples,
    others: Others,
    answers: Sequence[Answers],
) -> dict[str, tuple[int, float, float]]:
    """Per absent task: samples, accuracy of the last (or best single) checkpoint as it is, of the chosen model."""
    last = next((i for i, one in reversed(list(enumerate(pool))) if one.single), choice.index)
    wanted = sorted({last, choice.index})
    missing = [i for i in wanted if answers[i].others is None]
    units = {i: answers[i].others for i in wanted if answers[i].others is not None}
    for i, (found,) in zip(
        missing, work.units([pool[i] for i in missing], [examples], "looking at other tasks"), strict=True
    ):
        units[i] = found
    right = {}
    for i, fit, prior in ((last, plain(len(judge.rows)), False), (choice.index, choice.fit, True)):
        one = replace(answers[i], others=units[i])
        told = judge if prior else replace(judge, use_prior=False)
        right[prior] = margins(told.of_others(one, fit), others.labels) > 0
    names = work.source.tasks.names
    return {
        names[t]: (
            int(np.sum(others.tasks == t)),
            float(right[False][others.tasks == t].mean()),
            float(right[True][others.tasks == t].mean()),
        )
        for t in np.unique(others.tasks).tolist()
    }
