"""What `adapt` chooses from: checkpoints that are there, and merges of them, as settings of `merge`.

Ordered tasks: the last checkpoint; each one whose task has a share above SINGLE; `tunable_magmax` with the optimal
selection and step importance at two scales, with carry, and half-way to the last checkpoint; `increments` with six
settings. Tasks without an order have no last one, no increments and no steps. A fixed rule that wins on one data set
loses on another, so none is fixed. Source: ours. Cost: none here; two of the merges assign owners, the others are sums.
Not here: merging (`merging.candidates`), encoding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from prefmerge.errors import UsageError
from prefmerge.merging.parameters import AS_TASK_VECTOR, every, per_task
from prefmerge.merging.recipe_file import read_recipe
from prefmerge.methods.by_layer import ByLayer
from prefmerge.methods.parameters import BASE_WEIGHT, PREFERENCE
from prefmerge.preference import Preference, as_text

SINGLE = 0.1  # share from which on a task's own checkpoint is tried as it is
DIGITS = 10_000  # shares are rounded to this before they are merged with, so that what is printed is what was done
INCREMENTS: tuple[Mapping[str, str], ...] = (
    {"boost": "0.5"},
    {"boost": "1"},
    {"drop": "0.5"},
    {"start": "0.75", "boost": "1"},
    {"start": "0.75", "boost": "2"},
    {"start": "0.5", "boost": "2"},
)
PAPER = {"selection": "paper", "importance": "magnitude", "scale": "0.5"}  # the paper's Tunable MAGMAX, in full
IN_ORDER = {"selection": "optimal", "importance": "step", "scale": "1"}  # ours, of tasks trained one after another
WITHOUT_ORDER = {"selection": "optimal", "importance": "magnitude", "scale": "0.5"}
_BEST = {"method": "tunable_magmax", **IN_ORDER}


@dataclass(frozen=True)
class Candidate:
    """One model that can be chosen."""

    name: str  # what it is called
    settings: Mapping[str, Any] = field(default_factory=dict)  # of `merge`, where it is a merge
    task: int | None = None  # the checkpoint that it is, by number; -1: the base; None: no checkpoint
    path: Path | None = None  # where it is, of a model of yours

    @property
    def single(self) -> bool:
        """Whether it is a checkpoint, and no merge."""
        return self.task is not None or self.path is not None


def rounded(shares: np.ndarray) -> Preference:
    """Shares as a preference of short decimals; what is below half a unit is nothing."""
    parts = [max(round(float(share) * DIGITS), 0) for share in shares]
    return Preference.explicit([as_text(Fraction(part, DIGITS)) for part in parts])


def candidates(names: Sequence[str], shares: np.ndarray, ordered: bool, own: Sequence[Path] = ()) -> list[Candidate]:
    """The candidates for a mix, (T,) shares. `own`: recipes of the user. Raises UsageError, RecipeError."""
    preference = {"preference": rounded(shares)}
    wanted = {int(np.argmax(shares)) if not ordered else len(names) - 1, *np.flatnonzero(shares > SINGLE).tolist()}
    pool = [Candidate(_called(names, task, ordered), task=task) for task in sorted(wanted)]
    if ordered:
        pool += [
            Candidate("optimal + step, scale 1", {**_BEST, **preference}),
            Candidate("optimal + step, scale 1.25", {**_BEST, **preference, "scale": "1.25"}),
            Candidate("optimal + step, carry 0.5", {**_BEST, **preference, "carry": "0.5"}),
            Candidate("optimal + step, half-way to the last", {**_BEST, **preference, "toward_last": "0.5"}),
        ]
        for settings in INCREMENTS:
            words = ", ".join(f"{name} {value}" for name, value in settings.items())
            pool.append(Candidate(f"increments, {words}", {"method": "increments", **preference, **settings}))
    else:
        plain = {"method": "tunable_magmax", **WITHOUT_ORDER, **preference}
        pool += [
            Candidate("optimal, scale 0.5", plain),
            Candidate("optimal, scale 1", {**plain, "scale": "1"}),
            Candidate("optimal, strength 0.5, scale 1", {**plain, "scale": "1", "strength": "0.5"}),
            Candidate("average", {"method": "average"}),
            Candidate("max_abs", {"method": "max_abs"}),
            Candidate("mean weighted by shares", {"method": "linear", "weights": _weights(shares)}),
        ]
    return [*pool, *(_from_file(path, names) for path in own)]


def checkpoints(names: Sequence[str], ordered: bool) -> list[Candidate]:
    """The base and every task's checkpoint, as they are."""
    return [Candidate("base", task=-1), *(Candidate(_called(names, t, ordered), task=t) for t in range(len(names)))]


def baselines(shares: np.ndarray, ordered: bool) -> list[Candidate]:
    """What the result is compared with beside the candidates: the base, MAGMAX and the paper's Tunable MAGMAX."""
    preference = rounded(shares)
    method = "magmax" if ordered else "max_abs"
    return [
        Candidate("base", task=-1),
        Candidate("MAGMAX" if ordered else "max_abs", {"method": method, "scale": "0.5"}),
        Candidate(
            "Tunable MAGMAX (paper)",
            {"method": "tunable_magmax", **PAPER, "preference": preference},
        ),
    ]


def _called(names: Sequence[str], task: int, ordered: bool) -> str:
    return "last checkpoint" if ordered and task == len(names) - 1 else f"checkpoint {names[task]}"


def _weights(shares: np.ndarray) -> list[str]:
    return [as_text(Fraction(round(float(share) * DIGITS), DIGITS)) for share in shares]


def _without_names(preference: Preference, names: Sequence[str]) -> Preference:
    """The same by position: a run has its own names."""
    return preference if preference.names is None else Preference.explicit(preference.shares(names))


def _from_file(path: Path, names: Sequence[str]) -> Candidate:
    """The settings of a user's recipe, over the tasks that are adapted."""
    recipe = read_recipe(path)
    if recipe[AS_TASK_VECTOR]:
        raise UsageError(f"--candidate {path}: makes a task vector, not a model. Leave out as_task_vector.")
    if len(recipe.tasks) != len(names):
        raise UsageError(
            f"--candidate {path}: has {len(recipe.tasks)} tasks, and {len(names)} are adapted: {', '.join(names)}. "
            "List the same tasks in the same order."
        )
    if recipe.names != list(names) and sorted(recipe.names) == sorted(names):
        raise UsageError(
            f"--candidate {path}: has the tasks {', '.join(recipe.names)}; they are adapted as {', '.join(names)}. "
            "List them in that order."
        )
    if recipe[BASE_WEIGHT]:
        raise UsageError(
            f"--candidate {path}: gives the base a weight of its own ({as_text(recipe[BASE_WEIGHT])}), which adapt "
            "cannot. Leave the base out, and give each model its own weight."
        )
    kept = {name: value for name, value in recipe.given.items() if not every()[name].per_task}
    preference = recipe[PREFERENCE]
    if isinstance(preference, ByLayer):
        kept[PREFERENCE.name] = preference.map(lambda one: _without_names(one, recipe.names))
    elif preference is not None:
        kept[PREFERENCE.name] = _without_names(preference, recipe.names)
    for one in per_task():
        if recipe.used(one) is not None:
            kept[one.name] = list(recipe.used(one))
    return Candidate(f"{path.stem} (yours)", {"method": recipe.method, **kept})
