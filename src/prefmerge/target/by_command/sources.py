"""What is merged: the base, the tasks, and what a recipe says of both.

    Sources.of(asked)               from BASE TASK..., a recipe, or a run
    sources.recipe(start)           the recipe of what is to be tried; of an input, the one that gives it back
    sources.input(task).place       where the command may find an input as it is: no copy is made

`fingerprints` are of all that decides a candidate's bytes: weights, and the files beside them. Cost: one reading of
every input. Not here: which parameters are tried (`space`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from prefmerge.checkpoints import Checkpoint, content_fingerprint, is_task_vector
from prefmerge.checkpoints.folder import Folder
from prefmerge.errors import RecipeError, UsageError
from prefmerge.ground.progress import phase
from prefmerge.ground.store import digest, digest_of_file
from prefmerge.merging.api import recipe_of
from prefmerge.merging.opening import open_base, open_task
from prefmerge.merging.parameters import AS_TASK_VECTOR, OF_EVERY_MERGE, every, per_task
from prefmerge.merging.recipe import Recipe
from prefmerge.merging.recipe_file import read_recipe
from prefmerge.merging.stacks import home_of
from prefmerge.methods.parameters import PREFERENCE
from prefmerge.methods.shares_by_layer import resolved
from prefmerge.outputs.companions import find_companions
from prefmerge.preference import Preference
from prefmerge.runs import read_run, require_finished
from prefmerge.target.parameters import Parameters, SearchParameters
from prefmerge.target.search.space import Start
from prefmerge.vectors.adapter import AdapterVector

BASE = -1  # the number of the base among the inputs


@dataclass(frozen=True)
class MergeInput:
    """One input. `place`: where it is, if it is a whole model of the kind that candidates are; None: to be written."""

    path: str
    fingerprint: str
    place: Path | None


@dataclass(frozen=True)
class Sources:
    """The base and T tasks. `given`: the method and the parameters of a recipe, as JSON; None without one."""

    base: MergeInput
    tasks: tuple[MergeInput, ...]
    names: tuple[str, ...]
    kind: Literal["file", "folder"]
    given: Mapping[str, Any] | None = field(default=None)

    @classmethod
    def of(cls, asked: Parameters | SearchParameters) -> Sources:
        """Raises UsageError, RecipeError, RunError and CheckpointError."""
        recipe = _recipe(asked)
        assert recipe.base is not None
        with ExitStack() as stack, phase("reading the checkpoints"):
            base = stack.enter_context(closing(open_base(recipe.base)))
            pairs = zip(recipe.tasks, recipe.names, strict=True)
            tasks = [stack.enter_context(closing(open_task(one.path, base, name=name))) for one, name in pairs]
            folder = isinstance(home_of(base), Folder)
            paths = [task.path for task in recipe.tasks]
            return cls(
                _source(recipe.base, base, folder, base),
                tuple(_source(path, task, folder, base) for path, task in zip(paths, tasks, strict=True)),
                tuple(task.name for task in tasks),
                "folder" if folder else "file",
                settings_of(recipe) if _is_recipe(asked.checkpoints) else None,
            )

    @property
    def inputs(self) -> list[int]:
        """The base and the tasks, by number."""
        return [BASE, *range(len(self.tasks))]

    def input(self, number: int) -> MergeInput:
        return self.base if number == BASE else self.tasks[number]

    def called(self, number: int) -> str:
        """An input in words."""
        return "base" if number == BASE else f"task {self.names[number]}"

    @property
    def common(self) -> dict[str, Any]:
        """What a recipe says that holds whatever the method: the output's format, excluded tensors."""
        given = self.given or {}
        return {name: value for name, value in given.items() if name in OF_EVERY_MERGE}

    @property
    def fingerprints(self) -> list[str]:
        return [self.input(number).fingerprint for number in self.inputs]

    def recipe(self, start: Start) -> Recipe:
        """Raises what `merge` raises for parameters that make no sense."""
        if start.task is None:
            paths = [task.path for task in self.tasks]
            return recipe_of(self.base.path, paths, names=self.names, **start.settings)
        source = self.input(start.task)
        if start.task == BASE or source.place is not None:
            return recipe_of(source.path, [], method="passthrough")
        # What changes a model is no model: an adapter, a task vector, weights without what lies beside the base's.
        return recipe_of(self.base.path, [source.path], names=[self.names[start.task]], method="last", scale="1")


def _recipe(asked: Parameters | SearchParameters) -> Recipe:
    """What names the checkpoints."""
    if asked.run is not None:
        run = read_run(asked.run)
        require_finished(run)
        paths = [run.task_path(i) for i in range(len(run.tasks))]
        return recipe_of(run.base_path, paths, names=[task.name for task in run.tasks])
    first, *others = asked.checkpoints
    if not _is_recipe(asked.checkpoints):
        return recipe_of(first, others)
    if others:
        raise UsageError(f"{first} is a recipe and names its own checkpoints. Leave {others[0]} out.")
    recipe = read_recipe(first)
    if recipe.base is None or not recipe.tasks:
        raise RecipeError(f"recipe {first}: a search needs a base and at least one task.")
    if recipe[AS_TASK_VECTOR]:
        raise RecipeError(f"recipe {first}: makes a task vector, not a model. Leave out as_task_vector.")
    return recipe


def _is_recipe(paths: Sequence[Path]) -> bool:
    return bool(paths) and paths[0].suffix.lower() in (".yaml", ".yml")


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """The method and the parameters of a recipe, as what `recipe_of` takes, in JSON."""
    known, given = every(), dict[str, Any]()
    for name, value in recipe.given.items():
        if not known[name].per_task:
            given[name] = value if name == PREFERENCE.name else known[name].to_json(value)
    if (preference := recipe[PREFERENCE]) is not None and PREFERENCE.name in given:
        own = resolved(preference, recipe.names)
        given[PREFERENCE.name] = own if isinstance(own, Preference) else PREFERENCE.to_json(own)
    for one in per_task():
        if (values := recipe.used(one)) is not None:
            given[one.name] = [one.to_json(value) for value in values]
    return {"method": recipe.method, **given}


def _source(path: str, checkpoint: Checkpoint, folder: bool, base: Checkpoint) -> MergeInput:
    if isinstance(checkpoint, AdapterVector):
        return MergeInput(path, checkpoint.content(), None)
    beside = {name: digest_of_file(file) for name, file in sorted(find_companions(checkpoint).files.items())}
    fingerprint = digest([content_fingerprint(checkpoint), beside])
    alike = checkpoint.path is not None and not is_task_vector(checkpoint)
    if alike and checkpoint.path is not None:
        alike = checkpoint.path.is_dir() if folder else checkpoint.path.suffix.lower() == ".safetensors"
    # A folder of weights alone: a command would lack what the base's folder has.
    whole = "config.json" in beside or "config.json" not in find_companions(base).files
    return MergeInput(path, fingerprint, Path(os.path.abspath(checkpoint.path or "")) if alike and whole else None)
