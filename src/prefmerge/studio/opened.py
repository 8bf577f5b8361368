"""What the studio works on: a run, or a recipe; and what is known of its tasks.

    a run       base, tasks, head, held-out samples: accuracies can be measured
    a recipe    base and tasks: which task owns how much, and what part of the magnitude is kept

Cost: small files, and the base embeddings that a run kept. No torch. Not here: measuring (`measured`, `layers`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from prefmerge.errors import UsageError
from prefmerge.merging.recipe import Recipe, TaskEntry
from prefmerge.merging.recipe_file import read_recipe
from prefmerge.methods.by_layer import ByLayer
from prefmerge.methods.parameters import PREFERENCE
from prefmerge.runs import read_run, require_finished
from prefmerge.target.parameters import Parameters
from prefmerge.target.source import Source, open_source


@dataclass(frozen=True, eq=False)
class Opened:
    """`start`: the recipe that the page begins with. `run`, `source`: None where there is a recipe alone."""

    path: Path  # as it was typed
    out_dir: Path
    start: Recipe
    run: Path | None = None
    source: Source | None = None
    threads: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What the tasks are called, in the order of training."""
        return tuple(self.start.names)

    @property
    def measurable(self) -> bool:
        """Whether there are samples that training has not seen, and a head to name them."""
        source = self.source
        return source is not None and source.head is not None and source.held_out and source.samples is not None

    def parameters(self) -> Parameters:
        """Those of `adapt` for this run. Its mix is said by the page, so what stands here for it is never looked at."""
        return Parameters(run=self.run, prefer="uniform", no_cache=True, threads=self.threads)


def open_path(path: Path, out_dir: Path, threads: int | None = None) -> Opened:
    """A run's folder, or a recipe's file; `out_dir` is made where it is absent. Raises RunError, RecipeError,
    UsageError.
    """
    opened = _opened(path, out_dir, threads)
    try:
        out_dir.mkdir(exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"-o {out_dir}: {reason}. Give the folder that the models are to be written into.") from error
    return opened


def _opened(path: Path, out_dir: Path, threads: int | None) -> Opened:
    if path.suffix.lower() in (".yaml", ".yml"):
        recipe = read_recipe(path)
        if isinstance(recipe[PREFERENCE], ByLayer):
            raise UsageError(
                f"{path}: its preference differs from layer to layer, and the page has one dial for each task. Merge "
                "it with `prefmerge merge`, or give the page a recipe with one preference."
            )
        base = None if recipe.base is None else _absolute(recipe.base)
        tasks = tuple(task.model_copy(update={"path": _absolute(task.path)}) for task in recipe.tasks)
        return Opened(path, out_dir, recipe.model_copy(update={"base": base, "tasks": tasks}), threads=threads)
    run = read_run(path)
    require_finished(run)
    entries = tuple(
        TaskEntry(path=_absolute(str(run.task_path(i))), name=task.name) for i, task in enumerate(run.tasks)
    )
    opened = Opened(path, out_dir, Recipe(base=_absolute(str(run.base_path)), tasks=entries), path, threads=threads)
    return replace(opened, source=open_source(opened.parameters()))


def _absolute(path: str) -> str:
    """From the root, where something is there: an id on the hub stays what it is."""
    return os.path.abspath(path) if os.path.exists(path) else path
