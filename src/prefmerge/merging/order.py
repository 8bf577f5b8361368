"""Whether the tasks were trained one after another, in the order given: what some defaults and methods depend on.

Said by the user (`sequential`), else by the manifest of the run that the checkpoints are from, where all of them are of
one run and in its order. For other checkpoints the order is not known. Cost: a small file or two, read only where
something depends on it. Not here: what depends on it (`Parameter.instead`, `NeedsOrder`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from prefmerge.checkpoints import Checkpoint
from prefmerge.errors import MethodError, RunError
from prefmerge.ground.words import joined
from prefmerge.merging.recipe import Recipe
from prefmerge.methods import METHODS
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
    return _in_sequence([task.path for task in tasks])


def _in_sequence(given: Sequence[Path | str | None]) -> bool:
    paths = [None if path is None else os.path.abspath(path) for path in given]
    run = None if paths[0] is None else run_of(paths[0])
    if run is None or run[0].training not in IN_SEQUENCE:
        return False
    order = [os.path.abspath(run[0].task_path(index)) for index in range(len(run[0].tasks))]
    places = [order.index(path) if path in order else -1 for path in paths]
    return -1 not in places and all(a < b for a, b in pairwise(places))


# In words


def told_of_order(recipe: Recipe, settings: Mapping[str, Any]) -> Iterator[str]:
    """What a merge takes for granted of the order of its tasks and what else suits them, a sentence or two each;
    nothing where it is known. `settings`: the recipe's, decided, as a receipt has them.
    """
    trained = _how_trained(recipe) if len(recipe.tasks) > 1 else "one after another"
    if trained == "one after another":
        return
    waiting, known = recipe.waits_for_order, recipe.with_order(True)
    if any(settings[one.name] != one.to_json(known[one]) for one in waiting):
        if trained == "independently":
            values = joined(f"{one.name} {one.text(recipe[one])}" for one in waiting)
            yield f"Their run says that the tasks were trained independently, so the default is {values}."
        else:
            values = joined(f"{one.name} {one.text(known[one])}" for one in waiting)
            yield (
                "It is not known that each task was trained after the one before it. If it was, add "
                f"{SEQUENTIAL.spelled}: then the default is {values}."
            )
    for one in METHODS[recipe.method].of_order(recipe.__getitem__):
        what = f"{one.what} is for tasks that were trained one after another, in the order given"
        what = what[0].upper() + what[1:]
        if trained == "independently":
            yield f"{what}, and their run says that these were trained independently. {one.instead}"
        else:
            remedy = one.instead[0].lower() + one.instead[1:]
            yield f"{what}, and it is not known that these were. If they were not, {remedy}"


def _how_trained(recipe: Recipe) -> Literal["one after another", "independently"] | None:
    """How the tasks were trained, as the user or their run says it; None where neither does."""
    if recipe[SEQUENTIAL]:
        return "one after another"
    paths = [task.path for task in recipe.tasks]
    try:
        if _in_sequence(paths):
            return "one after another"
        runs = [run_of(path) for path in paths]
    except RunError:  # a damaged manifest says nothing; where a value depends on it, the merge has raised this
        return None
    return "independently" if any(run is not None and run[0].training == "independent" for run in runs) else None
