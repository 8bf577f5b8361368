"""How much of the target comes from each task, and how sure that is.

    labels   s_t = sum over classes c of t of n_c / m_c / n,   m_c tasks having class c
    inputs   s by EM over p(x|t), from the base's embeddings (`shift.py`); labels of other samples join its counts
    pairs    labels; where tasks share classes, EM over p(x, label|t)
    stated   a preference, taken at its word

Draws: each sample of the target weighs Exp(1), a class of n_c labels Gamma(n_c), EM again for each draw; and one more
sample is imagined, e ~ Exp(1), because a task that was not seen may be there: of any task in `draws`, of another one in
`low`, of this one in `high`. An input says less of a task than a label, so an imagined input weighs e / `worth`. What
EM misses on held-out training samples in the same mix, drawn likewise, is taken from each draw.
Intervals: each task's own, quantiles over draws, reaching over both estimators where those differ much.

Source: Saerens et al. 2002, Lipton et al. 2018 (inputs); Rubin 1981, Walley 1996 (draws); Newcombe 1998 (foreign
inputs). Shapes: T tasks, C classes, N training samples, M inputs, E width, B draws. Cost: labels, B C numbers; inputs,
what `shift.py` says, B M numbers in memory. Nothing depends on names, nor on the order of samples. Leaves out: reading
and encoding; whether the training samples are representative of their task, which is taken for granted.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from prefmerge.errors import DataError, UsageError
from prefmerge.preference import Preference
from prefmerge.target import shift
from prefmerge.target.given import Matched, matched

PRESENT = 0.02  # share from which on a task counts as one of the target's
ENOUGH = 50  # samples from which on rare tasks are drawn to zero
APART = 0.2  # total variation of two estimators that is worth a word
_CONTRADICTION, _MANY = 0.5, 20  # total variation, and the inputs from which on it is no accident
_WIDE = 0.5  # of an interval
_OUTLIERS = 0.05  # of a task's own samples that lie beyond what is called foreign
_TRACE = 0.5  # inputs; EM leaves less than that of a task that is not there, and it is no sign of it
_SHOWN = 3

Source = Literal["labels", "inputs", "pairs", "stated", "labels and inputs"]


@dataclass(frozen=True, eq=False)
class Tasks:
    """What is known of the tasks. Raises DataError where it does not fit together.

    `embeddings`: the base's, of training samples, up to some hundred a class; `labels` and `tasks` say whose they are.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    of_task: tuple[tuple[int, ...], ...]  # the classes of each task
    counts: np.ndarray  # (T, C) training samples of each class in each task
    embeddings: np.ndarray | None = None  # (N, E)
    labels: np.ndarray | None = None  # (N,) class
    tasks: np.ndarray | None = None  # (N,) task

    def __post_init__(self) -> None:
        if not self.names or not self.classes:
            raise DataError(f"there are {len(self.names)} tasks and {len(self.classes)} classes; give at least one.")
        for what, names in (("tasks", self.names), ("classes", self.classes)):
            twice = next((name for i, name in enumerate(names) if name in names[:i]), None) if _twice(names) else None
            if twice is not None:
                raise DataError(f"two {what} are called {twice!r}. Give them different names.")
        shape = (len(self.names), len(self.classes))
        if len(self.of_task) != shape[0] or np.shape(self.counts) != shape:
            raise DataError(
                f"there are {shape[0]} tasks and {shape[1]} classes, but classes of {len(self.of_task)} tasks and "
                f"counts of shape {np.shape(self.counts)}; expected {shape}."
            )
        for name, classes in zip(self.names, self.of_task, strict=True):
            if not classes or _twice(classes) or not all(0 <= c < shape[1] for c in classes):
                raise DataError(
                    f"task {name!r} has the classes {list(classes)}; expected different numbers from 0 to "
                    f"{shape[1] - 1}, at least one."
                )
        lost = np.flatnonzero(~self.has_TC.any(axis=0))
        if lost.size:
            raise DataError(f"class {self.classes[lost[0]]!r} belongs to no task. Leave it out.")
        counts = np.asarray(self.counts)
        if counts.dtype.kind not in "iu" or (counts < 0).any() or counts[~self.has_TC].any():
            raise DataError("counts of training samples must be whole numbers, and 0 for classes that a task lacks.")
        given = [one is not None for one in (self.embeddings, self.labels, self.tasks)]
        if any(given) and not all(given):
            raise DataError("embeddings of training samples need the label and the task of each: give all or none.")
        if self.embeddings is not None:
            self._check_samples()

    def _check_samples(self) -> None:
        embeddings = _embeddings(self.embeddings, "embeddings of training samples")
        for what, found, most in (("label", self.labels, len(self.classes)), ("task", self.tasks, len(self.names))):
            numbers = np.asarray(found)
            if numbers.shape != (len(embeddings),) or numbers.dtype.kind not in "iu":
                raise DataError(
                    f"there are {len(embeddings)} embeddings of training samples; expected the {what} of each as a "
                    f"whole number, found shape {numbers.shape} of {numbers.dtype}."
                )
            if len(numbers) and not (numbers.min() >= 0 and numbers.max() < most):
                raise DataError(f"a training sample's {what} is not one of the {most} numbers from 0 to {most - 1}.")
        wrong = np.flatnonzero(~self.has_TC[np.asarray(self.tasks), np.asarray(self.labels)])
        if wrong.size:
            t, c = int(np.asarray(self.tasks)[wrong[0]]), int(np.asarray(self.labels)[wrong[0]])
            raise DataError(
                f"training sample {wrong[0]} is of class {self.classes[c]!r}, which task {self.names[t]!r} lacks."
            )

    @cached_property
    def has_TC(self) -> np.ndarray:
        """Whether a task has a class."""
        has = np.zeros((len(self.names), len(self.classes)), bool)
        for t, classes in enumerate(self.of_task):
            has[t, list(classes)] = True
        return has

    @property
    def shared(self) -> bool:
        """Whether a class belongs to several tasks."""
        return bool((self.has_TC.sum(axis=0) > 1).any())

    @property
    def alike(self) -> bool:
        """Whether all tasks have the same classes, so that no label tells one from another."""
        return len(self.names) > 1 and bool((self.has_TC == self.has_TC[0]).all())


@dataclass(frozen=True)
class Foreign:
    """The part of the inputs that lies further from every class than 5 % of the tasks' own do, less those 5 %."""

    part: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Shares:
    """Shares of the target, with how sure they are. `low` and `high` are each task's own interval at `level`."""

    names: tuple[str, ...]
    classes: tuple[str, ...]
    shares: np.ndarray  # (T,) float64; they sum to 1
    draws: np.ndarray  # (B, T); each sums to 1
    low: np.ndarray  # (T,)
    high: np.ndarray  # (T,)
    level: float
    samples: int  # of the target
    label_counts: np.ndarray  # (C,) zeros where only inputs are known
    label_draws: np.ndarray  # (B, C) in the same draws; each sums to the number of labels
    source: Source
    second: np.ndarray | None = None  # (T,) the black-box estimator's
    foreign: Foreign | None = None
    tells: bool = True  # False: what is known of the target does not tell which tasks it is made of
    notes: tuple[str, ...] = ()  # the most important first

    @property
    def present(self) -> np.ndarray:
        """Which tasks count as the target's (T,): a share of at least `PRESENT`, or the largest where none has it."""
        return self.shares >= min(PRESENT, float(self.shares.max()))

    def describe(self) -> str:
        """A line for each task, the largest share first, and the notes."""
        width = max(map(len, self.names))
        lines = [
            f"{self.names[t]:{width}}  {100 * self.shares[t]:5.1f} %"
            + ("" if self.source == "stated" else f"  ({_range(self.low[t], self.high[t])})")
            for t in np.argsort(-self.shares, kind="stable")
        ]
        return "\n".join([*lines, *self.notes])

    def to_json(self) -> dict[str, Any]:
        """All but the draws, by the names of tasks and classes."""
        foreign = self.foreign
        return {
            "source": self.source,
            "samples": self.samples,
            "shares": _by_name(self.names, self.shares),
            "level": self.level,
            "intervals": _by_name(self.names, np.stack([self.low, self.high], axis=1)),
            "draws": len(self.draws),
            "labels": {c: int(n) for c, n in zip(self.classes, self.label_counts, strict=True) if n},
            "black_box": None if self.second is None else _by_name(self.names, self.second),
            "foreign": None if foreign is None else {"part": foreign.part, "interval": [foreign.low, foreign.high]},
            "tells": self.tells,
            "notes": list(self.notes),
        }


Counts = Mapping[str, int] | np.ndarray | Matched


def known_counts(labels: Matched, tasks: Tasks) -> tuple[np.ndarray, tuple[str, ...]]:
    """How often each class occurs (C,), and a note where some labels are no class. Raises DataError where that is more
    than half of them, naming the nearest class.
    """
    known, unknown = labels.known.total(), labels.unknown.total()
    if known + unknown == 0:
        raise DataError("the target has no labels. Give the label of at least one sample.")
    counts = np.array([labels.known.get(name, 0) for name in tasks.classes], np.int64)
    if not unknown:
        return counts, ()
    often = sorted(labels.unknown, key=lambda name: (-labels.unknown[name], name))
    more = f" and {len(often) - _SHOWN} more" if len(often) > _SHOWN else ""
    near = next(
        (f" Did you mean {labels.nearest[name]!r} by {name!r}?" for name in often if name in labels.nearest), ""
    )
    what = f"{unknown} of the target's {_count(known + unknown, 'label')}"
    said = f"{', '.join(repr(name) for name in often[:_SHOWN])}{more}"
    if unknown > known:
        raise DataError(
            f"{what} {'is' if unknown == 1 else 'are'} no class of any task: {said}. The {len(tasks.classes)} classes "
            f"are {_listed(tasks.classes)}.{near} Write the labels as the tasks' class names."
        )
    return counts, (f"{what} {'is' if unknown == 1 else 'are'} no class of any task and not counted: {said}.{near}",)


def from_labels(tasks: Tasks, counts: Counts, *, draws: int = 200, level: float = 0.9, seed: int = 0) -> Shares:
    """Shares from how often each label occurs at the target.

    A class of several tasks is split evenly between them, and the intervals reach from none of it to all of it. Raises
    DataError where all tasks have the same classes, for no labels, and for labels of which more than half are unknown.
    """
    _check_draws(draws, level)
    counts_C, notes = _counted(tasks, counts)
    if tasks.alike:
        raise DataError(
            f"labels cannot tell the tasks apart: all {len(tasks.names)} have the same classes, "
            f"{_listed(tasks.classes)}. Give inputs of the target, or inputs with labels."
        )
    has_CT = tasks.has_TC.T.astype(np.float64)
    split_CT = has_CT / has_CT.sum(axis=1, keepdims=True)
    sole_CT = np.where(split_CT == 1, 1.0, 0.0)
    shares_T = _normalised(counts_C @ split_CT)
    random = np.random.default_rng(seed)
    weights_BC = random.standard_gamma(counts_C.astype(np.float64), size=(draws, len(counts_C)))
    label_draws_BC = _label_draws(tasks, weights_BC, counts_C, random)
    total_B1, extra_B1 = weights_BC.sum(axis=1, keepdims=True), random.standard_exponential((draws, 1))
    low_T, high_T = _ends(
        weights_BC @ sole_CT / (total_B1 + extra_B1),
        (weights_BC @ has_CT + extra_B1) / (total_B1 + extra_B1),
        shares_T,
        level,
    )
    shared = [name for name, n, m in zip(tasks.classes, counts_C, has_CT.sum(axis=1), strict=True) if n and m > 1]
    if shared:
        notes = (
            f"Labels cannot tell which task {_listed(shared)} {'is' if len(shared) == 1 else 'are'} from: each is "
            "split evenly between the tasks that have it. Inputs would tell more.",
            *notes,
        )
    found = Shares(
        tasks.names,
        tasks.classes,
        shares_T,
        _normalised(label_draws_BC @ split_CT),
        low_T,
        high_T,
        level,
        int(counts_C.sum()),
        counts_C,
        label_draws_BC,
        "labels",
        notes=notes,
    )
    return _with_doubts(found)


def from_inputs(
    tasks: Tasks,
    embeddings: np.ndarray,
    *,
    label_counts: Counts | None = None,
    draws: int = 200,
    level: float = 0.9,
    seed: int = 0,
) -> Shares:
    """Shares from unlabelled inputs (M, E), embedded by the base, and labels of other samples of the target.

    Where the base's embeddings do not tell the tasks' own training samples apart, the shares are those of the labels,
    or even and entirely open, and `tells` is False. Raises DataError for inputs that cannot be used, for a task without
    training samples, and for labels like `from_labels`; MissingExtra.
    """
    return _from_inputs(tasks, embeddings, None, label_counts, draws, level, seed)


def from_pairs(
    tasks: Tasks, embeddings: np.ndarray, labels: np.ndarray, *, draws: int = 200, level: float = 0.9, seed: int = 0
) -> Shares:
    """Shares from inputs (M, E) with the class of each (M,): its label's, and where tasks share classes its looks too.

    Raises what `from_inputs` raises.
    """
    inputs = _embeddings(embeddings, "inputs of the target")
    given = np.asarray(labels)
    if given.shape != (len(inputs),) or given.dtype.kind not in "iu":
        raise DataError(
            f"there are {_count(len(inputs), 'input')} of the target; expected the class of each as a whole number, "
            f"found shape {given.shape} of {given.dtype}."
        )
    if len(given) and not (given.min() >= 0 and given.max() < len(tasks.classes)):
        raise DataError(f"an input's class is not one of the {len(tasks.classes)} from 0 on.")
    if tasks.shared:
        return _from_inputs(tasks, inputs, given, None, draws, level, seed)
    counts_C = np.bincount(given, minlength=len(tasks.classes))
    return replace(from_labels(tasks, counts_C, draws=draws, level=level, seed=seed), source="pairs")


def stated(tasks: Tasks, preference: Preference, *, draws: int = 200) -> Shares:
    """Shares that the user states, without any doubt. Raises PreferenceError where they do not fit the tasks."""
    shares_T = _normalised(np.array([float(share) for share in preference.shares(tasks.names)]))
    counts_C = np.zeros(len(tasks.classes), np.int64)
    return Shares(
        tasks.names,
        tasks.classes,
        shares_T,
        np.tile(shares_T, (draws, 1)),
        shares_T,
        shares_T,
        1.0,
        0,
        counts_C,
        np.zeros((draws, len(counts_C))),
        "stated",
    )


def _from_inputs(
    tasks: Tasks,
    embeddings: np.ndarray,
    labels: np.ndarray | None,
    label_counts: Counts | None,
    draws: int,
    level: float,
    seed: int,
) -> Shares:
    _check_draws(draws, level)
    x_ME = _embeddings(embeddings, "inputs of the target")
    if not len(x_ME):
        raise DataError("there are no inputs of the target. Give at least one.")
    counts_C, notes = np.zeros(len(tasks.classes), np.int64), ()
    if label_counts is not None:
        counts_C, notes = _counted(tasks, label_counts)
    source: Source = "inputs" if label_counts is None else "labels and inputs"
    if labels is not None:
        source, label_counts = "pairs", np.bincount(labels, minlength=len(tasks.classes))
    count = len(tasks.names)
    recogniser, bare = _recogniser(tasks, x_ME)

    # Sorted by content, so that neither a draw nor a rounding depends on the order in which inputs come.
    at_M = shift.order(x_ME if labels is None else np.column_stack([x_ME, labels]))
    x_ME = x_ME[at_M]
    random = np.random.default_rng(seed)
    weights_BN = np.concatenate(
        [
            random.standard_exponential((draws, len(x_ME))),
            random.standard_gamma(counts_C.astype(np.float64), size=(draws, len(counts_C))),
        ],
        axis=1,
    )
    weight_N = np.concatenate([np.ones(len(x_ME)), counts_C])
    size = int(weight_N.sum())
    if labels is None:
        input_likely_MT = recogniser.likelihoods(x_ME)
        label_weights_BC = weights_BN[:, len(x_ME) :]
    else:
        labels = labels[at_M]
        input_likely_MT = _pair_likelihoods(tasks, recogniser, x_ME, labels)
        counts_C = np.bincount(labels, minlength=len(tasks.classes))
        label_weights_BC = weights_BN[:, : len(x_ME)] @ np.eye(len(tasks.classes))[labels]
    worth_MT = np.tile(recogniser.worth_T, (len(x_ME), 1))
    if labels is not None:
        bare_M = ~np.isin(labels, recogniser.class_of_P)
        worth_MT[bare_M] = _label_worth(tasks)[labels[bare_M]]
    used_N = weight_N > 0
    likely_NT = np.concatenate([input_likely_MT, _label_likelihoods(tasks)])[used_N]
    worth_NT = np.concatenate([worth_MT, _label_worth(tasks)])[used_N]
    weights_BN, weight_N = weights_BN[:, used_N], weight_N[used_N]
    label_draws_BC = _label_draws(tasks, label_weights_BC, counts_C, random)

    if count > 1 and not recogniser.above_chance:
        found = _told_by_nothing(tasks, label_counts, counts_C, label_draws_BC, len(x_ME), source, draws, level, seed)
        foreign = _foreign(recogniser, x_ME, found.shares, level)
        return replace(found, foreign=foreign, notes=(*found.notes, *_said_of(foreign, len(x_ME)), *notes, *bare))

    alpha = 1.0 if size < ENOUGH else 0.5
    shares_T = shift.mix(likely_NT, weight_N, alpha)
    near_BT = shift.mixes(likely_NT, weights_BN, alpha, shares_T)
    said_T, by_inputs_T = weight_N @ worth_NT, worth_MT.sum(axis=0)
    if count > 1:  # less what EM makes wrong of inputs, as far as it is inputs that say it
        missed_BT = shift.misses(recogniser, shares_T, draws, random) * by_inputs_T / np.maximum(said_T, 1e-12)
        near_BT = _normalised(np.maximum(near_BT - missed_BT, 1e-12))
    # An imagined sample weighs as much as those that say as much of a task as one label that is its alone.
    told_T = np.maximum(said_T / size, shift.LEAST_WORTH)
    total_B1, extra_B1 = weights_BN.sum(axis=1, keepdims=True), random.standard_exponential((draws, 1))
    own_BT, extra_BT = total_B1 * near_BT, extra_B1 / told_T
    low_T, high_T = _ends(own_BT / (total_B1 + extra_BT), (own_BT + extra_BT) / (total_B1 + extra_BT), shares_T, level)
    low_T = np.where(low_T * size < _TRACE, 0, low_T)
    spread_BT = random.standard_gamma(1 / count, size=(draws, count)) / told_T
    second_T = _second(tasks, recogniser, input_likely_MT, counts_C) if labels is None else None
    if second_T is not None and _apart(shares_T, second_T) > APART:
        low_T, high_T = np.minimum(low_T, second_T), np.maximum(high_T, second_T)
    if count == 1:
        low_T = high_T = np.ones(1)
    foreign = _foreign(recogniser, x_ME, shares_T, level)
    found = Shares(
        tasks.names,
        tasks.classes,
        shares_T,
        _normalised(own_BT + spread_BT),
        low_T,
        high_T,
        level,
        size,
        counts_C,
        label_draws_BC,
        source,
        second_T,
        foreign,
        notes=(*_said_of(foreign, len(x_ME)), *notes, *bare),
    )
    return _with_doubts(found)


def _recogniser(tasks: Tasks, x_ME: np.ndarray) -> tuple[shift.Recogniser, tuple[str, ...]]:
    """What tells the tasks apart, and a note on classes that it has no samples of."""
    if tasks.embeddings is None or tasks.labels is None or tasks.tasks is None:
        raise DataError(
            "inputs of the target are compared with training samples of the tasks, and there are no embeddings of "
            "those. Give samples of each task, or labels of the target."
        )
    if tasks.embeddings.shape[1] != x_ME.shape[1]:
        raise DataError(
            f"inputs of the target are {x_ME.shape[1]} wide, the training samples {tasks.embeddings.shape[1]}. Embed "
            "both with the base."
        )
    seen_TC = np.zeros(tasks.has_TC.shape, bool)
    seen_TC[tasks.tasks, tasks.labels] = True
    empty = np.flatnonzero(~seen_TC.any(axis=1))
    if empty.size:
        raise DataError(
            f"task {tasks.names[empty[0]]!r} has no training samples among the embeddings, so no input could be taken "
            "for one of its own. Give some of each task, or labels of the target."
        )
    lacking = [tasks.classes[c] for c in np.flatnonzero((tasks.has_TC & ~seen_TC).any(axis=0))]
    bare = (
        (f"There are no training samples of {_listed(lacking)}: inputs of it are not recognised.",) if lacking else ()
    )
    return shift.fit(tasks.embeddings, tasks.labels, tasks.tasks, len(tasks.names)), bare


def _pair_likelihoods(tasks: Tasks, recogniser: shift.Recogniser, x_ME: np.ndarray, labels_M: np.ndarray) -> np.ndarray:
    """p(x, label|t) (M, T); of a class without training samples p(label|t) alone."""
    known_M = np.isin(labels_M, recogniser.class_of_P)
    found_MT = _label_likelihoods(tasks)[labels_M]
    found_MT[known_M] = recogniser.labelled_likelihoods(x_ME[known_M], labels_M[known_M])
    return found_MT


def _label_rates(tasks: Tasks) -> np.ndarray:
    """p(label|t) (C, T), the classes of a task weighing the same."""
    return (tasks.has_TC / tasks.has_TC.sum(axis=1, keepdims=True)).T


def _label_likelihoods(tasks: Tasks) -> np.ndarray:
    """`_label_rates`, as likelihoods are: the largest of each row 1, none 0."""
    found_CT = _label_rates(tasks)
    return np.maximum(found_CT / found_CT.max(axis=1, keepdims=True), shift.LEAST_LIKELIHOOD)


def _label_worth(tasks: Tasks) -> np.ndarray:
    """Whether a label says if a sample is of a task (C, T): of the only one that has it, and of those that lack it."""
    has_CT = tasks.has_TC.T
    return np.where(has_CT & (has_CT.sum(axis=1, keepdims=True) > 1), 0.0, 1.0)


def _second(
    tasks: Tasks, recogniser: shift.Recogniser, likely_MT: np.ndarray, counts_C: np.ndarray
) -> np.ndarray | None:
    """The black-box estimate; labels join it, those of several tasks in its own proportions."""
    if recogniser.confusion_TT is None:
        return None
    count = len(tasks.names)
    taken_T = np.bincount(np.argmax(likely_MT, axis=1), minlength=count) / len(likely_MT)
    found_T = shift.black_box(taken_T, recogniser.confusion_TT)
    of_CT = _normalised((found_T + 1e-12) * _label_rates(tasks))  # a label's task is there, whatever the inputs say
    return _normalised(len(likely_MT) * found_T + counts_C @ of_CT)


def _told_by_nothing(
    tasks: Tasks,
    label_counts: Counts | None,
    counts_C: np.ndarray,
    label_draws_BC: np.ndarray,
    inputs: int,
    source: Source,
    draws: int,
    level: float,
    seed: int,
) -> Shares:
    """What is left where the embeddings do not tell the tasks apart: the labels, or nothing at all."""
    reason = (
        "These inputs do not tell which task they come from: by the base's embeddings, the tasks' own training samples "
        "are recognised no better than by chance, or there are too few to see."
    )
    if label_counts is not None and not tasks.alike:
        found = from_labels(tasks, counts_C, draws=draws, level=level, seed=seed)
        note = f"{reason} The shares are those of the {_count(found.samples, 'label')}."
        return replace(found, source=source, tells=False, notes=(note, *found.notes))
    count = len(tasks.names)
    even_T = np.full(count, 1 / count)
    helps = "more training samples of each task" if tasks.alike else "labels of the target"
    return Shares(
        tasks.names,
        tasks.classes,
        even_T,
        np.random.default_rng(seed).dirichlet(np.ones(count), size=draws),
        np.zeros(count),
        np.ones(count),
        level,
        inputs + (int(counts_C.sum()) if source == "labels and inputs" else 0),
        counts_C,
        label_draws_BC,
        source,
        tells=False,
        notes=(f"{reason} The shares are even and could be anything. What would help: {helps}.",),
    )


def _foreign(recogniser: shift.Recogniser, x_ME: np.ndarray, shares_T: np.ndarray, level: float) -> Foreign | None:
    """How many inputs look like no task; None where no training sample was held out to compare with.

    Tasks are more or less scattered, so their own samples weigh as the tasks do at the target. Newcombe's interval of a
    difference: of the inputs beyond the limit, and of the 5 %, which is known from so many training samples alone.
    """
    distance_N, weight_N = recogniser.held_distance_N, recogniser.in_mix(shares_T)
    if not weight_N.any():
        return None
    at_N = np.argsort(distance_N, kind="stable")
    reached_N = np.cumsum(weight_N[at_N])
    limit = distance_N[at_N][np.searchsorted(reached_N, 1 - _OUTLIERS - 1e-12)]
    own = 1 / (weight_N**2).sum()
    beyond = float((recogniser.distances(x_ME) > limit).mean())
    low, high = _wilson(beyond, len(x_ME), level)
    least, most = _wilson(_OUTLIERS, own, level)
    part = beyond - _OUTLIERS
    return Foreign(
        max(part, 0.0),
        max(part - math.hypot(beyond - low, most - _OUTLIERS), 0.0),
        min(max(part + math.hypot(high - beyond, _OUTLIERS - least), 0.0), 1.0),
    )


def _said_of(foreign: Foreign | None, inputs: int) -> tuple[str, ...]:
    if foreign is None or foreign.low <= 0:
        return ()
    return (
        f"Of the {_count(inputs, 'input')}, {_range(foreign.low, foreign.high)} look like no task at all. The shares "
        "speak of the others; no merge of these tasks knows those.",
    )


def _with_doubts(found: Shares) -> Shares:
    """With notes on what is open, said first."""
    count = len(found.names)
    if count == 1:
        return found
    wide = int(np.argmax(found.high - found.low))
    width = float(found.high[wide] - found.low[wide])
    even = 1 / count
    open_ = width > _WIDE and bool(((found.low <= even) & (even <= found.high)).all())
    notes: list[str] = []
    apart = 0.0 if found.second is None else _apart(found.shares, found.second)
    contradiction = apart > _CONTRADICTION and found.samples >= _MANY
    what = {"labels": "label", "inputs": "input", "pairs": "pair"}.get(found.source, "sample")
    more = (
        "labels of the target, or more of them" if found.source == "labels" else "labels of the target, or more inputs"
    )
    if contradiction:
        notes.append(
            f"These inputs do not tell which task they come from: two ways to estimate the shares contradict each "
            f"other (they differ by {100 * apart:.0f} % of the target). What would help: labels of the target."
        )
    elif open_:
        notes.append(
            f"{_count(found.samples, what)} {'does' if found.samples == 1 else 'do'} not tell which tasks the target "
            f"is made of: every task could have its even share, and {found.names[wide]} has "
            f"{_range(found.low[wide], found.high[wide])}. What would help: {more}."
        )
    elif width > _WIDE:
        notes.append(
            f"The shares are wide open: from {_count(found.samples, what)}, {found.names[wide]} has "
            f"{_range(found.low[wide], found.high[wide])}. What would help: {more}."
        )
    if found.second is not None and apart > APART and not contradiction:
        far = int(np.argmax(np.abs(found.shares - found.second)))
        notes.append(
            f"Two ways to estimate the shares differ by {100 * apart:.0f} % of the target: {found.names[far]} has "
            f"{100 * found.shares[far]:.0f} % by the first, which is taken, and {100 * found.second[far]:.0f} % by the "
            "second. The intervals reach over both."
        )
    return replace(found, tells=not (contradiction or open_), notes=(*notes, *found.notes))


def _counted(tasks: Tasks, counts: Counts) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels (C,), at least one, and notes."""
    if isinstance(counts, Matched):
        return known_counts(counts, tasks)
    if isinstance(counts, Mapping):
        checked: dict[str, int] = {}
        for name, number in counts.items():
            try:
                checked[str(name)] = -1 if isinstance(number, bool) else operator.index(number)
            except TypeError:
                checked[str(name)] = -1
            if checked[str(name)] < 0:
                raise DataError(f"the target has {number!r} labels {name!r}; expected a whole number, 0 or more.")
        return known_counts(matched(checked, tasks.classes), tasks)
    found = np.asarray(counts)
    if found.shape != (len(tasks.classes),) or found.dtype.kind not in "iu":
        raise DataError(
            f"counts of the target's labels: expected a whole number for each of the {len(tasks.classes)} classes, "
            f"found shape {found.shape} of {found.dtype}."
        )
    if (found < 0).any():
        c = int(np.flatnonzero(found < 0)[0])
        raise DataError(f"the target has {found[c]} labels {tasks.classes[c]!r}; expected a whole number, 0 or more.")
    if not found.sum():
        raise DataError("the target has no labels. Give the label of at least one sample.")
    return found.astype(np.int64), ()


def _embeddings(values: np.ndarray | None, what: str) -> np.ndarray:
    found = np.asarray(values)
    if found.ndim != 2 or found.dtype.kind not in "fiu" or (len(found) and not found.shape[1]):
        raise DataError(
            f"{what}: expected a table of numbers, a row for each, found shape {found.shape} of {found.dtype}."
        )
    wide = found.astype(np.float64)
    wrong = np.flatnonzero(~np.isfinite(wide).all(axis=1))
    if wrong.size:
        raise DataError(
            f"{what}: {wrong.size} of {len(wide)} hold NaN or infinity, the first is number {wrong[0]}. Check the "
            "encoder and its input."
        )
    return wide


def _check_draws(draws: int, level: float) -> None:
    if isinstance(level, bool) or not 0 < level < 1:
        raise UsageError(f"level: expected a number between 0 and 1, such as 0.9, found {level!r}.")
    least = math.ceil(round(2 / (1 - level), 6))
    if isinstance(draws, bool) or not isinstance(draws, (int, np.integer)) or draws < least:
        raise UsageError(f"draws: expected a whole number of at least {least} at level {level}, found {draws!r}.")


def _label_draws(tasks: Tasks, weights_BC: np.ndarray, counts_C: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Counts of labels (B, C) as they could have been, one sample imagined: of any task, of any class of it."""
    if not counts_C.sum():
        return np.zeros_like(weights_BC)
    imagined_C = _label_rates(tasks).mean(axis=1)
    drawn_BC = weights_BC + random.standard_gamma(imagined_C, size=weights_BC.shape)
    return counts_C.sum() * _normalised(drawn_BC)


def _ends(lowest_BT: np.ndarray, highest_BT: np.ndarray, shares_T: np.ndarray, level: float) -> tuple[np.ndarray, ...]:
    """Quantiles of both ends over the draws, around the estimate."""
    low_T = np.quantile(lowest_BT, (1 - level) / 2, axis=0)
    high_T = np.quantile(highest_BT, (1 + level) / 2, axis=0)
    if len(shares_T) == 1:
        return shares_T, shares_T
    return np.clip(np.minimum(low_T, shares_T), 0, 1), np.clip(np.maximum(high_T, shares_T), 0, 1)


def _wilson(part: float, count: float, level: float) -> tuple[float, float]:
    """Wilson's interval of a proportion seen in `count`."""
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2 / count
    middle, half = part + z2 / 2, math.sqrt(z2 * part * (1 - part) + z2**2 / 4)
    return (middle - half) / (1 + z2), (middle + half) / (1 + z2)


def _apart(a_T: np.ndarray, b_T: np.ndarray) -> float:
    """Total variation."""
    return float(np.abs(a_T - b_T).sum() / 2)


def _normalised(values: np.ndarray) -> np.ndarray:
    return values / values.sum(axis=-1, keepdims=True)


def _twice(names: Sequence[Any]) -> bool:
    return len(set(names)) != len(names)


def _by_name(names: Sequence[str], values: np.ndarray) -> dict[str, Any]:
    return dict(zip(names, values.tolist(), strict=True))


def _range(low: Any, high: Any) -> str:
    return f"{100 * low:.0f} to {100 * high:.0f} %"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(repr(name) for name in names[:_SHOWN]) + more
