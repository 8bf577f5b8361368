"""How much the labels of a target are those of each task: the inner product of two label distributions.

    sim_t = sum over c of r_c(D_t) r_c(D_target),   r_c(D) = the fraction of D's samples with label c

Source: Tunable MAGMAX, eq. 7. The released code counts, per task, the target's labels among the task's classes: the
same up to a factor where tasks are balanced. Input: label -> number of samples, T tasks and the target. Cost: O(T
classes) integers; nothing is rounded. A label of the target that no task knows weighs nothing and cancels in the
shares; who calls says so. Not here: reading files of labels.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from prefmerge.errors import PreferenceError
from prefmerge.ground.words import nearest, quoted
from prefmerge.target.similarity.similarity import Similarity, checked_names

_SHOWN = 5  # labels that a message lists


def label(tasks: Sequence[Mapping[str, int]], target: Mapping[str, int], names: Sequence[str]) -> Similarity:
    """Label similarity (eq. 7) of a target to T tasks, from samples per label. Distances are 1 - similarity.

    Raises PreferenceError for counts that are not whole numbers above zero, and where no label of the target occurs in
    any task.
    """
    known = checked_names(names, len(tasks))
    counted = [checked_counts(task, f"task {name!r}") for task, name in zip(tasks, known, strict=True)]
    seen = checked_counts(target, "the target")
    _check_overlap(counted, seen)
    size = sum(seen.values())
    fractions = tuple(
        Fraction(sum(n * seen.get(name, 0) for name, n in task.items()), sum(task.values()) * size) for task in counted
    )
    logs = [math.log(f.numerator) - math.log(f.denominator) if f else -math.inf for f in fractions]
    return Similarity(
        "label",
        known,
        np.array([float(f) for f in fractions]),
        np.array(logs),
        np.array([float(1 - f) for f in fractions]),
        {"samples": size},
        fractions,
    )


def checked_counts(counts: Mapping[str, int], what: str) -> dict[str, int]:
    """Samples per label as Python's integers. Raises PreferenceError naming what and the label."""
    if not counts:
        raise PreferenceError(f"{what} has no labels. Give at least one label and its number of samples.")
    checked: dict[str, int] = {}
    for name, count in counts.items():
        try:
            number = 0 if isinstance(count, bool) else operator.index(count)
        except TypeError:
            number = 0
        if number < 1:
            raise PreferenceError(
                f"{what} counts {count!r} samples of {name!r}; expected a whole number of at least 1. Leave out labels "
                "without samples."
            )
        checked[name] = number
    return checked


def _check_overlap(tasks: Sequence[Mapping[str, int]], target: Mapping[str, int]) -> None:
    known = list(dict.fromkeys(name for task in tasks for name in task))
    if not set(known).isdisjoint(target):
        return
    unknown = list(target)
    meant = {name: nearest(str(name), map(str, known), fold=True) for name in unknown}
    hint = "".join(
        [f" Did you mean {near!r} by {name!r}?" for name, near in meant.items() if near is not None][:_SHOWN]
    )
    raise PreferenceError(
        f"no label of the target occurs in any task. The target has {quoted(unknown, _SHOWN)}; the tasks "
        f"have {quoted(known, _SHOWN)}.{hint} Write the target's labels as the tasks' class names."
    )
