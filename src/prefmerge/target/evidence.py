"""What the user has of the target, read: labels, inputs, pairs, a stated mix; and the shares that follow.

    labels            counts of classes -> shares
    inputs            embeddings under theta_0 -> shares, by label shift
    pairs             their labels; their inputs too where tasks share classes. They judge the candidates as well
    together          counts and inputs of other samples join in one estimate
    prefer            shares as stated; pairs then only judge
    from_             labels of an earlier result are added to those that are given; inputs and pairs are given again

Cost: labels: milliseconds, no torch. Inputs: a forward pass each under theta_0. Not here: the estimates (`shares`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from prefmerge.data.examples import Examples, concatenated
from prefmerge.errors import UsageError
from prefmerge.ground.words import did_you_mean, flag
from prefmerge.preference import Preference
from prefmerge.target import given
from prefmerge.target.parameters import Parameters
from prefmerge.target.parameters.again import Earlier, read_earlier
from prefmerge.target.shares import Shares, Tasks, from_inputs, from_labels, from_pairs, known_counts, stated
from prefmerge.target.source import Source

EACH = 100  # samples of a class whose base embeddings the target's inputs are compared with
EmbedBase = Callable[[Examples, str], np.ndarray]


@dataclass(frozen=True, eq=False)
class Evidence:
    """`pairs`: labelled inputs of the target, or None. `source`: the one given, with base embeddings where needed."""

    shares: Shares
    pairs: Examples | None
    source: Source
    notes: tuple[str, ...]
    shown: Amounts


@dataclass(frozen=True)
class Amounts:
    """How much was shown of the target: `labels` by class, without those of pairs; numbers of inputs and pairs."""

    labels: Mapping[str, int]
    inputs: int
    pairs: int

    def to_json(self) -> dict[str, Any]:
        return {"labels": dict(self.labels), "inputs": self.inputs, "pairs": self.pairs}


def read_evidence(asked: Parameters, source: Source, embed_base: EmbedBase) -> Evidence:
    """Read what is at hand of the target. Raises DataError, UsageError, PreferenceError."""
    notes: list[str] = []
    tasks = source.tasks
    earlier = None if asked.from_ is None or asked.forget else read_earlier(asked.from_)
    if earlier is not None:
        earlier.require_tasks(tasks.names)
    pairs = None
    if asked.pairs is not None:
        pairs, said = given.read_pairs(asked.pairs, tasks.classes, source.kind)
        notes += said
    if asked.prefer is not None:
        shares = stated(tasks, Preference.parse(asked.prefer))
        return Evidence(shares, pairs, source, (*shares.notes, *notes), _shown(tasks, None, None, pairs))
    labels, said = _labels(asked, earlier, tasks)
    notes += said
    inputs = None if asked.inputs is None else given.read_inputs(asked.inputs, source.kind)
    shown = _shown(tasks, labels, inputs, pairs)
    if earlier is not None:
        _require_all(earlier, shown)
    if inputs is not None:
        at, said = given.within_most(inputs.ids, asked.seed)
        inputs = inputs.take(at) if said else inputs
        notes += said
    made = weigh(asked, source, embed_base, counts=labels, inputs=inputs, pairs=pairs)
    return replace(made, notes=(*made.notes, *notes), shown=shown)


def weigh(
    asked: Parameters,
    source: Source,
    embed_base: EmbedBase,
    *,
    counts: np.ndarray | None = None,
    inputs: Examples | None = None,
    pairs: Examples | None = None,
) -> Evidence:
    """The shares that follow from label counts (C,), inputs and pairs, at least one of them. Raises DataError."""
    tasks, shown = source.tasks, _shown(source.tasks, counts, inputs, pairs)
    how: dict[str, Any] = {"level": asked.level, "seed": asked.seed}
    seen = "looking at the target's inputs"
    if counts is None and pairs is not None:
        counts = np.bincount(pairs.labels, minlength=len(tasks.classes))
    if inputs is None and pairs is not None and tasks.shared:
        # Labels say nothing where tasks have the same classes: the inputs of the pairs do.
        source = _with_embeddings(source, asked, embed_base)
        shares = from_pairs(source.tasks, embed_base(pairs, seen), pairs.labels, **how)
    elif inputs is None:
        assert counts is not None
        shares = from_labels(tasks, counts, **how)
        shares = replace(shares, source="labels" if pairs is None else "pairs")
    else:
        source = _with_embeddings(source, asked, embed_base)
        if tasks.alike and pairs is not None:
            inputs, counts = concatenated([replace(pairs, domains=None), replace(inputs, domains=None)]), None
        shares = from_inputs(source.tasks, embed_base(inputs, seen), label_counts=counts, **how)
    return Evidence(shares, pairs, source, shares.notes, shown)


def _labels(asked: Parameters, earlier: Earlier | None, tasks: Tasks) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """How often each class occurs (C,) among the labels given and those of an earlier result; and notes."""
    counts, notes = np.zeros(len(tasks.classes), np.int64), ()
    if asked.labels is not None:
        counts, notes = known_counts(given.matched(given.read_labels(asked.labels), tasks.classes), tasks)
    if earlier is not None and earlier.labels:
        other = next((name for name in earlier.labels if name not in tasks.classes), None)
        if other is not None:
            raise UsageError(
                f"{earlier.file} counts labels {other!r}, which is no class of these tasks."
                f"{did_you_mean(str(other), tasks.classes)}"
            )
        old = np.array([earlier.labels.get(name, 0) for name in tasks.classes], np.int64)
        if asked.labels is not None and (counts >= old).all():
            notes = (
                f"the earlier result counts {old.sum()} labels, and {asked.labels.name} has at least as many of each "
                "class. They are added up. If the earlier labels are in this file too, give --forget, or they count "
                "twice.",
                *notes,
            )
        counts = counts + old
    return (counts if counts.any() else None), notes


def _shown(tasks: Tasks, labels: np.ndarray | None, inputs: Examples | None, pairs: Examples | None) -> Amounts:
    by_class = {} if labels is None else {c: int(n) for c, n in zip(tasks.classes, labels, strict=True) if n}
    return Amounts(by_class, 0 if inputs is None else len(inputs), 0 if pairs is None else len(pairs))


def _require_all(earlier: Earlier, shown: Amounts) -> None:
    """Raise UsageError where there are fewer inputs or pairs than before: the new ones alone, it seems."""
    for name, before, now in (("inputs", earlier.inputs, shown.inputs), ("pairs", earlier.pairs, shown.pairs)):
        if now < before:
            raise UsageError(
                f"{flag(name)}: there are {now}, and {before} were shown before. {earlier.file} does not hold those: "
                f"give them again, together with the new ones. Give --forget to do without them."
            )


def _with_embeddings(source: Source, asked: Parameters, embed_base: EmbedBase) -> Source:
    """The source with base embeddings of samples of its tasks: the run's own, or made now."""
    tasks = source.tasks
    if tasks.embeddings is not None:
        return source
    if source.samples is None or not any(len(one) for one in source.samples):
        why, remedy = "there are none", "Give --task-samples PATH, or --labels FILE"
        if asked.run is not None:
            why = "there are none: the run kept no base embeddings and its data cannot be opened"
            remedy = "Give --labels, or a run made by this version of `prefmerge finetune`"
        raise UsageError(f"--inputs are compared with samples of the tasks, and {why}. {remedy}.")
    parts, of_task = [], []
    for t, examples in enumerate(source.samples):
        kept: Counter[int] = Counter()
        chosen = []
        for i in given.chosen_at(examples.ids, len(examples), asked.seed):
            label = int(examples.labels[i])
            if kept[label] < EACH:
                kept[label] += 1
                chosen.append(i)
        parts.append(replace(examples.take(chosen), domains=None))
        of_task += [t] * len(chosen)
    together = concatenated(parts)
    embedded = embed_base(together, "looking at the tasks' samples")
    made = Tasks(
        tasks.names, tasks.classes, tasks.of_task, tasks.counts, embedded, together.labels, np.asarray(of_task)
    )
    return replace(source, tasks=made)


def shares_of_inputs(
    asked: Parameters, source: Source, embed_base: EmbedBase, draws: int
) -> tuple[Shares, Examples, tuple[str, ...]]:
    """The shares out of `asked.inputs` alone; the inputs that were used, and notes. Raises DataError, UsageError."""
    assert asked.inputs is not None
    inputs = given.read_inputs(asked.inputs, source.kind)
    at, notes = given.within_most(inputs.ids, asked.seed)
    inputs = inputs.take(at) if notes else inputs
    source = _with_embeddings(source, asked, embed_base)
    embedded = embed_base(inputs, "looking at the target's inputs")
    shares = from_inputs(source.tasks, embedded, draws=draws, level=asked.level, seed=asked.seed)
    return shares, inputs, (*shares.notes, *notes)
