"""Shares out of labels of the target.

    s_t = sum over classes c of t of n_c / m_c / n,   m_c tasks having class c

Draws: a class of n_c labels weighs Gamma(n_c), and one more sample is imagined, because a task that was not seen may be
there. Source: Rubin 1981, Walley 1996. Shapes: T tasks, C classes, B draws. Cost: B C numbers. Not here: reading labels
(`given`).
"""

from __future__ import annotations

import operator
from collections.abc import Mapping

import numpy as np

from prefmerge.errors import DataError
from prefmerge.ground.words import quoted
from prefmerge.target.draws import check_draws
from prefmerge.target.given import Matched, matched
from prefmerge.target.shares.doubts import with_doubts
from prefmerge.target.shares.estimate import Shares, ends, normalised
from prefmerge.target.shares.tasks import Tasks, label_rates

_SHOWN = 3  # labels or classes that a message lists

LabelCounts = Mapping[str, int] | np.ndarray | Matched


def known_counts(labels: Matched, tasks: Tasks) -> tuple[np.ndarray, tuple[str, ...]]:
    """How often each class occurs (C,), and a note where some labels are no class. Raises DataError where that is more
    than half of them, naming the nearest class.
    """
    if not labels.known.total() + labels.unknown.total():
        raise DataError("the target has no labels. Give the label of at least one sample.")
    labels.require_half(tasks.classes)
    return np.array([labels.known.get(name, 0) for name in tasks.classes], np.int64), labels.note()


def from_labels(tasks: Tasks, counts: LabelCounts, *, draws: int = 200, level: float = 0.9, seed: int = 0) -> Shares:
    """Shares from how often each label occurs at the target.

    A class of several tasks is split evenly between them, and the intervals reach from none of it to all of it. Raises
    DataError where all tasks have the same classes, for no labels, and for labels of which more than half are unknown.
    """
    check_draws(draws, level)
    counts_C, notes = counted_labels(tasks, counts)
    if tasks.alike:
        raise DataError(
            f"labels cannot tell the tasks apart: all {len(tasks.names)} have the same classes, "
            f"{quoted(tasks.classes, _SHOWN)}. Give inputs of the target, or inputs with labels."
        )
    has_CT = tasks.has_TC.T.astype(np.float64)
    split_CT = has_CT / has_CT.sum(axis=1, keepdims=True)
    sole_CT = np.where(split_CT == 1, 1.0, 0.0)
    shares_T = normalised(counts_C @ split_CT)
    random = np.random.default_rng(seed)
    weights_BC = random.standard_gamma(counts_C.astype(np.float64), size=(draws, len(counts_C)))
    label_draws_BC = label_draws(tasks, weights_BC, counts_C, random)
    total_B1, extra_B1 = weights_BC.sum(axis=1, keepdims=True), random.standard_exponential((draws, 1))
    low_T, high_T = ends(
        weights_BC @ sole_CT / (total_B1 + extra_B1),
        (weights_BC @ has_CT + extra_B1) / (total_B1 + extra_B1),
        shares_T,
        level,
    )
    shared = [name for name, n, m in zip(tasks.classes, counts_C, has_CT.sum(axis=1), strict=True) if n and m > 1]
    if shared:
        notes = (
            f"Labels cannot tell which task {quoted(shared, _SHOWN)} {'is' if len(shared) == 1 else 'are'} from: each "
            "is split evenly between the tasks that have it. Inputs would tell more.",
            *notes,
        )
    shares = Shares(
        tasks.names,
        tasks.classes,
        shares_T,
        normalised(label_draws_BC @ split_CT),
        low_T,
        high_T,
        level,
        int(counts_C.sum()),
        counts_C,
        label_draws_BC,
        "labels",
        notes=notes,
    )
    return with_doubts(shares)


def counted_labels(tasks: Tasks, counts: LabelCounts) -> tuple[np.ndarray, tuple[str, ...]]:
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
    numbers = np.asarray(counts)
    if numbers.shape != (len(tasks.classes),) or numbers.dtype.kind not in "iu":
        raise DataError(
            f"counts of the target's labels: expected a whole number for each of the {len(tasks.classes)} classes, "
            f"found shape {numbers.shape} of {numbers.dtype}."
        )
    if (numbers < 0).any():
        c = int(np.flatnonzero(numbers < 0)[0])
        raise DataError(f"the target has {numbers[c]} labels {tasks.classes[c]!r}; expected a whole number, 0 or more.")
    if not numbers.sum():
        raise DataError("the target has no labels. Give the label of at least one sample.")
    return numbers.astype(np.int64), ()


def label_draws(tasks: Tasks, weights_BC: np.ndarray, counts_C: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Counts of labels (B, C) as they could have been, one sample imagined: of any task, of any class of it."""
    if not counts_C.sum():
        return np.zeros_like(weights_BC)
    imagined_C = label_rates(tasks).mean(axis=1)
    drawn_BC = weights_BC + random.standard_gamma(imagined_C, size=weights_BC.shape)
    return counts_C.sum() * normalised(drawn_BC)
