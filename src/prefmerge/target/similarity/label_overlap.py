"""How much the labels of a place are those of each task: the inner product of two label distributions.

    sim_t = sum over c of r_c(D_t) r_c(D_meta),   r_c(D) = the fraction of D's samples with label c

Source: Tunable MAGMAX, eq. 7. The released code counts, per task, the place's labels among the task's classes: the same
up to a factor where tasks are balanced. Input: label -> number of samples, T tasks and the place. Cost: O(T classes)
integers; nothing is rounded. A label of the place that no task knows weighs nothing and cancels in the shares; who
calls says so (`unknown_labels`). Left out: reading files of labels.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

import numpy as np

from prefmerge.errors import PreferenceError
from prefmerge.ground.words import nearest, quoted
from prefmerge.target.similarity.similarity import Similarity, checked_names

_SHOWN = 5  # labels that a message lists


def label(tasks: Sequence[Mapping[str, int]], meta: Mapping[str, int], names: Sequence[str]) -> Similarity:
    """Label similarity (eq. 7) of a place to T tasks, from samples per label. Distances are 1 - similarity.

    Raises PreferenceError for counts that are not whole numbers above zero, and where no label of the place occurs in
    any task.
    """
    found = checked_names(names, len(tasks))
    counted = [checked_counts(task, f"task {name!r}") for task, name in zip(tasks, found, strict=True)]
    place = checked_counts(meta, "the place")
    _check_overlap(counted, place)
    size = sum(place.values())
    fractions = tuple(
        Fraction(sum(n * place.get(name, 0) for name, n in task.items()), sum(task.values()) * size) for task in counted
    )
    logs = [math.log(f.numerator) - math.log(f.denominator) if f else -math.inf for f in fractions]
    return Similarity(
        "label",
        found,
        np.array([float(f) for f in fractions]),
        np.array(logs),
        np.array([float(1 - f) for f in fractions]),
        {"samples": size},
        fractions,
    )


def unknown_labels(tasks: Iterable[Mapping[str, int]], meta: Mapping[str, int]) -> tuple[str, ...]:
    """The labels of the place that no task knows, in the place's order."""
    known = {name for task in tasks for name in task}
    return tuple(name for name in meta if name not in known)


def nearest_labels(labels: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """For each of `labels` that is nearly one of `known` (case aside), that one."""
    known = [str(name) for name in known]
    near = {name: nearest(str(name), known, fold=True) for name in labels}
    return {name: match for name, match in near.items() if match is not None}


def checked_counts(counts: Mapping[str, int], what: str) -> dict[str, int]:
    """Samples per label as Python's integers. Raises PreferenceError naming what and the label."""
    if not counts:
        raise PreferenceError(f"{what} has no labels. Give at least one label and its number of samples.")
    found: dict[str, int] = {}
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
        found[name] = number
    return found


def _check_overlap(tasks: Sequence[Mapping[str, int]], place: Mapping[str, int]) -> None:
    unknown = unknown_labels(tasks, place)
    if len(unknown) < len(place):
        return
    known = list(dict.fromkeys(name for task in tasks for name in task))
    near = nearest_labels(unknown, known)
    hint = "".join(f" Did you mean {near[name]!r} by {name!r}?" for name in list(near)[:_SHOWN])
    raise PreferenceError(
        f"no label of the place occurs in any task. The place has {quoted(unknown, _SHOWN)}; the tasks "
        f"have {quoted(known, _SHOWN)}.{hint} Write the place's labels as the tasks' class names."
    )
