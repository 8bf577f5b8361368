"""Whether the tasks were trained one after another, in the order given: what some defaults and methods depend on.

Said by the user (`sequential`), else by the manifest of the run that the checkpoints are from, where all of them are of
one run and in its order. For other checkpoints the order is not known. Cost: a small file or two, read only where
something depends on it. Not here: what depends on it (`Parameter.instead`, `NeedsOrder`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise

from prefmerge.checkpoints import Checkpoint
from prefmerge.errors import MethodError
from prefmerge.merging.recipe import Recipe
from prefmerge.methods.parameters import SEQUENTIAL
from prefmerge.runs import IN_SEQUENCE, run_of


def in_order(recipe: Recipe, tasks: Sequence[Checkpoint], names: Sequence[str]) -> Recipe:
    """The recipe with `sequential` decided where a default depends on it. Raises MethodError where the user says that
    the tasks are sequential and their run says that they are not.
    """
    if recipe[SEQUENTIAL]:
        what = f"{SEQUENTIAL.spelled} says that each task was trained after the one before it"
        refuse_independent(tasks, names, what, "Leave it out.")
    return recipe.with_order(_one_after_another(tasks)) if recipe.waits_for_order else recipe


def refuse_independent(tasks: Sequence[Checkpoint], names: Sequence[str], what: str, instead: str) -> None:
    """Raise MethodError where a run's manifest says that a task was trained without the others. `what`: what is against
    that; `instead`: a sentence, what to do.
    """
    for task, name in zip(tasks, names, strict=True):
        if training_of(task) == "independent":
            raise MethodError(
                f"{what}, but the run manifest of task {name!r} ({task.path}) says that the tasks were fine-tuned "
                f"independently. {instead}"
            )


def training_of(checkpoint: Checkpoint) -> str | None:
    """How it was trained ("sequential", ...) where a run's manifest lists it; None where there is none."""
    run = None if checkpoint.path is None else run_of(checkpoint.path)
    return run[0].training if run else None


def _one_after_another(tasks: Sequence[Checkpoint]) -> bool:
    """Whether one run, trained in sequence, has all of them in this order."""
    paths = [None if task.path is None else os.path.abspath(task.path) for task in tasks]
    run = None if paths[0] is None else run_of(paths[0])
    if run is None or run[0].training not in IN_SEQUENCE:
        return False
    order = [os.path.abspath(run[0].task_path(index)) for index in range(len(run[0].tasks))]
    places = [order.index(path) if path in order else -1 for path in paths]
    return -1 not in places and all(a < b for a, b in pairwise(places))
