"""Shares out of inputs of the target, by the base's embeddings.

    inputs   s by EM over p(x|t) (`shift`); labels of other samples join its counts
    pairs    their labels; where tasks share classes, EM over p(x, label|t)

Draws: each input weighs Exp(1), a class of n_c labels Gamma(n_c), EM again for each draw; and one more sample is
imagined, e ~ Exp(1), because a task that was not seen may be there: of any task in `draws`, of another one in `low`, of
this one in `high`. An input says less of a task than a label, so an imagined input weighs e / `worth`. What EM misses
on held-out training samples in the same mix, drawn likewise, is taken from each draw. Intervals: each task's own,
quantiles over draws, reaching over both estimators where those differ much.

Source: Saerens et al. 2002, Lipton et al. 2018; Rubin 1981, Walley 1996 (draws); Newcombe 1998 (foreign inputs).
Shapes: T tasks, C classes, N training samples, M inputs, E width, B draws. Cost: what `shift` says, B M numbers in
memory. Nothing depends on names, nor on the order of samples. Not here: reading and encoding; whether the training
samples are representative of their task, which is taken for granted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from prefmerge.errors import DataError
from prefmerge.ground.stats import wilson_of
from prefmerge.ground.words import counted, quoted
from prefmerge.target.draws import check_draws
from prefmerge.target.shares import shift
from prefmerge.target.shares.doubts import APART, apart_by, said_of, with_doubts
from prefmerge.target.shares.estimate import Foreign, Origin, Shares, ends, normalised
from prefmerge.target.shares.labels import LabelCounts, counted_labels, from_labels, label_draws
from prefmerge.target.shares.tasks import Tasks, checked_embeddings, label_rates

ENOUGH = 50  # samples from which on rare tasks are drawn to zero
_OUTLIERS = 0.05  # of a task's own samples that lie beyond what is called foreign
_TRACE = 0.5  # inputs; EM leaves less than that of a task that is not there, and it is no sign of it
_SHOWN = 3  # classes that a message lists


def from_inputs(
    tasks: Tasks,
    embeddings: np.ndarray,
    *,
    label_counts: LabelCounts | None = None,
    draws: int = 200,
    level: float = 0.9,
    seed: int = 0,
) -> Shares:
    """Shares from unlabelled inputs (M, E), embedded by the base, and labels of other samples of the target.

    Where the base's embeddings do not separate the tasks' own training samples, the shares are those of the labels,
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
    inputs = checked_embeddings(embeddings, "inputs of the target")
    given = np.asarray(labels)
    if given.shape != (len(inputs),) or given.dtype.kind not in "iu":
        raise DataError(
            f"there are {counted(len(inputs), 'input')} of the target; expected the class of each as a whole number, "
            f"found shape {given.shape} of {given.dtype}."
        )
    if len(given) and not (given.min() >= 0 and given.max() < len(tasks.classes)):
        raise DataError(f"an input's class is not one of the {len(tasks.classes)} from 0 on.")
    if tasks.shared:
        return _from_inputs(tasks, inputs, given, None, draws, level, seed)
    counts_C = np.bincount(given, minlength=len(tasks.classes))
    return replace(from_labels(tasks, counts_C, draws=draws, level=level, seed=seed), source="pairs")


@dataclass(frozen=True, eq=False)
class _Seen:
    """What is known of the target: N samples, which are M inputs and a row for each class that labels count. `counts_C`
    are labels that others bring, or those of the inputs themselves; `likely` and `worth` are of a sample for each task.
    """

    x_ME: np.ndarray
    counts_C: np.ndarray
    weight_N: np.ndarray
    weights_BN: np.ndarray
    likely_NT: np.ndarray
    worth_NT: np.ndarray
    label_draws_BC: np.ndarray

    @property
    def inputs(self) -> int:
        return len(self.x_ME)

    @property
    def size(self) -> int:
        """Inputs and labels of other samples."""
        return int(self.weight_N.sum())


def _from_inputs(
    tasks: Tasks,
    embeddings: np.ndarray,
    labels: np.ndarray | None,
    label_counts: LabelCounts | None,
    draws: int,
    level: float,
    seed: int,
) -> Shares:
    check_draws(draws, level)
    x_ME = checked_embeddings(embeddings, "inputs of the target")
    if not len(x_ME):
        raise DataError("there are no inputs of the target. Give at least one.")
    counts_C, notes = np.zeros(len(tasks.classes), np.int64), ()
    if label_counts is not None:
        counts_C, notes = counted_labels(tasks, label_counts)
    origin: Origin = "pairs" if labels is not None else "inputs" if label_counts is None else "labels and inputs"
    recogniser, bare = _recogniser(tasks, x_ME)
    random = np.random.default_rng(seed)
    seen = _seen(tasks, recogniser, x_ME, labels, counts_C, draws, random)
    if len(tasks.names) > 1 and not recogniser.above_chance:
        shares = _by_labels_alone(tasks, seen, origin, draws, level, seed)
        foreign = _foreign(recogniser, x_ME, shares.shares, level)
        return replace(shares, foreign=foreign, notes=(*shares.notes, *said_of(foreign, len(x_ME)), *notes, *bare))
    shares = _estimated(tasks, recogniser, seen, origin, level, random)
    foreign = _foreign(recogniser, seen.x_ME, shares.shares, level)
    return with_doubts(replace(shares, foreign=foreign, notes=(*said_of(foreign, len(x_ME)), *notes, *bare)))


def _seen(
    tasks: Tasks,
    recogniser: shift.Recogniser,
    x_ME: np.ndarray,
    labels: np.ndarray | None,
    counts_C: np.ndarray,
    draws: int,
    random: np.random.Generator,
) -> _Seen:
    """The samples as EM takes them, sorted by content, so that neither a draw nor a rounding depends on the order in
    which inputs come.
    """
    at_M = shift.order(x_ME if labels is None else np.column_stack([x_ME, labels]))
    x_ME, classes = x_ME[at_M], len(tasks.classes)
    weights_BN = np.concatenate(
        [
            random.standard_exponential((draws, len(x_ME))),
            random.standard_gamma(counts_C.astype(np.float64), size=(draws, classes)),
        ],
        axis=1,
    )
    weight_N = np.concatenate([np.ones(len(x_ME)), counts_C])
    worth_MT = np.tile(recogniser.worth_T, (len(x_ME), 1))
    if labels is None:
        input_likely_MT = recogniser.likelihoods(x_ME)
        label_weights_BC = weights_BN[:, len(x_ME) :]
    else:
        labels = labels[at_M]
        input_likely_MT = _pair_likelihoods(tasks, recogniser, x_ME, labels)
        counts_C = np.bincount(labels, minlength=classes)
        label_weights_BC = weights_BN[:, : len(x_ME)] @ np.eye(classes)[labels]
        bare_M = ~np.isin(labels, recogniser.class_of_P)
        worth_MT[bare_M] = _label_worth(tasks)[labels[bare_M]]
    used_N = weight_N > 0
    return _Seen(
        x_ME,
        counts_C,
        weight_N[used_N],
        weights_BN[:, used_N],
        np.concatenate([input_likely_MT, _label_likelihoods(tasks)])[used_N],
        np.concatenate([worth_MT, _label_worth(tasks)])[used_N],
        label_draws(tasks, label_weights_BC, counts_C, random),
    )


def _estimated(
    tasks: Tasks,
    recogniser: shift.Recogniser,
    seen: _Seen,
    origin: Origin,
    level: float,
    random: np.random.Generator,
) -> Shares:
    """The shares by EM, their draws and intervals, with the second estimator beside them where labels are no part of
    the inputs.
    """
    count, draws, size = len(tasks.names), len(seen.weights_BN), seen.size
    alpha = 1.0 if size < ENOUGH else 0.5
    shares_T = shift.mix(seen.likely_NT, seen.weight_N, alpha)
    near_BT = shift.mixes(seen.likely_NT, seen.weights_BN, alpha, shares_T)
    said_T, by_inputs_T = seen.weight_N @ seen.worth_NT, seen.worth_NT[: seen.inputs].sum(axis=0)
    if count > 1:  # less what EM makes wrong of inputs, as far as it is inputs that say it
        missed_BT = shift.misses(recogniser, shares_T, draws, random) * by_inputs_T / np.maximum(said_T, 1e-12)
        near_BT = normalised(np.maximum(near_BT - missed_BT, 1e-12))
    # An imagined sample weighs as much as those that say as much of a task as one label that is its alone.
    told_T = np.maximum(said_T / size, shift.LEAST_WORTH)
    total_B1, extra_B1 = seen.weights_BN.sum(axis=1, keepdims=True), random.standard_exponential((draws, 1))
    own_BT, extra_BT = total_B1 * near_BT, extra_B1 / told_T
    low_T, high_T = ends(own_BT / (total_B1 + extra_BT), (own_BT + extra_BT) / (total_B1 + extra_BT), shares_T, level)
    low_T = np.where(low_T * size < _TRACE, 0, low_T)
    spread_BT = random.standard_gamma(1 / count, size=(draws, count)) / told_T
    second_T = None
    if origin != "pairs":
        second_T = _second(tasks, recogniser, seen.likely_NT[: seen.inputs], seen.counts_C)
    if second_T is not None and apart_by(shares_T, second_T) > APART:
        low_T, high_T = np.minimum(low_T, second_T), np.maximum(high_T, second_T)
    if count == 1:
        low_T = high_T = np.ones(1)
    return Shares(
        tasks.names,
        tasks.classes,
        shares_T,
        normalised(own_BT + spread_BT),
        low_T,
        high_T,
        level,
        size,
        seen.counts_C,
        seen.label_draws_BC,
        origin,
        second_T,
    )


def _recogniser(tasks: Tasks, x_ME: np.ndarray) -> tuple[shift.Recogniser, tuple[str, ...]]:
    """What says which task an input comes from, and a note on classes that it has no samples of."""
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
    bare = f"There are no training samples of {quoted(lacking, _SHOWN)}: inputs of it are not recognised."
    return shift.fit(tasks.embeddings, tasks.labels, tasks.tasks, len(tasks.names)), (bare,) if lacking else ()


def _pair_likelihoods(tasks: Tasks, recogniser: shift.Recogniser, x_ME: np.ndarray, labels_M: np.ndarray) -> np.ndarray:
    """p(x, label|t) (M, T); of a class without training samples p(label|t) alone."""
    known_M = np.isin(labels_M, recogniser.class_of_P)
    likely_MT = _label_likelihoods(tasks)[labels_M]
    likely_MT[known_M] = recogniser.labelled_likelihoods(x_ME[known_M], labels_M[known_M])
    return likely_MT


def _label_likelihoods(tasks: Tasks) -> np.ndarray:
    """`label_rates`, as likelihoods are: the largest of each row 1, none 0."""
    rates_CT = label_rates(tasks)
    return np.maximum(rates_CT / rates_CT.max(axis=1, keepdims=True), shift.LEAST_LIKELIHOOD)


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
    black_T = shift.black_box(taken_T, recogniser.confusion_TT)
    of_CT = normalised((black_T + 1e-12) * label_rates(tasks))  # a label's task is there, whatever the inputs say
    return normalised(len(likely_MT) * black_T + counts_C @ of_CT)


def _by_labels_alone(tasks: Tasks, seen: _Seen, origin: Origin, draws: int, level: float, seed: int) -> Shares:
    """What is left where the embeddings do not separate the tasks: the labels, or nothing at all."""
    reason = (
        "These inputs do not tell which task they come from: by the base's embeddings, the tasks' own training samples "
        "are recognised no better than by chance, or there are too few to see."
    )
    if origin != "inputs" and not tasks.alike:
        shares = from_labels(tasks, seen.counts_C, draws=draws, level=level, seed=seed)
        note = f"{reason} The shares are those of the {counted(shares.samples, 'label')}."
        return replace(shares, source=origin, tells=False, notes=(note, *shares.notes))
    count = len(tasks.names)
    helps = "more training samples of each task" if tasks.alike else "labels of the target"
    return Shares(
        tasks.names,
        tasks.classes,
        np.full(count, 1 / count),
        np.random.default_rng(seed).dirichlet(np.ones(count), size=draws),
        np.zeros(count),
        np.ones(count),
        level,
        seen.inputs + (int(seen.counts_C.sum()) if origin == "labels and inputs" else 0),
        seen.counts_C,
        seen.label_draws_BC,
        origin,
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
    z = NormalDist().inv_cdf((1 + level) / 2)
    low, high = wilson_of(beyond, len(x_ME), z)
    least, most = wilson_of(_OUTLIERS, own, z)
    part = beyond - _OUTLIERS
    return Foreign(
        max(part, 0.0),
        max(part - math.hypot(beyond - low, most - _OUTLIERS), 0.0),
        min(max(part + math.hypot(high - beyond, _OUTLIERS - least), 0.0), 1.0),
    )
