"""What a merge would do, before it is done: which tensors are merged, copied or excluded, and for whom.

Every input is opened and compared with the base before anything is written: names, shapes, number formats, ties, names
of tasks, the preference. Values are looked at for what no header says: which tensors are one tensor stored twice, which
tasks are the base itself. Budgets are upper bounds here: a tensor that no task changed will consume none. Cost: one
header per file, a few slices of the tensors, one reading of those that are copies. Not here: NaN and infinity, which
show when values are read.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from prefmerge.checkpoints import (
    Checkpoint,
    TensorInfo,
    base_fingerprint,
    content_fingerprint,
    is_task_vector,
    names_of,
    reading,
    split_key,
)
from prefmerge.checkpoints.dtypes import DTYPES, Dtype, by_name, require_mergeable
from prefmerge.checkpoints.hub import origin
from prefmerge.checkpoints.quantised import signs_of_quantisation
from prefmerge.checkpoints.rearranged import original
from prefmerge.errors import CheckpointMismatch, CheckpointNotFound, RecipeError, UnsupportedDtype
from prefmerge.ground.brief import brief
from prefmerge.ground.words import listed, nearest
from prefmerge.merging.layers import depths, layer_of
from prefmerge.merging.matching import Names, excluder, match, told
from prefmerge.merging.mismatch import explained
from prefmerge.merging.modules import changed_modules
from prefmerge.merging.opening import open_base, open_task
from prefmerge.merging.order import in_order
from prefmerge.merging.recipe import Recipe
from prefmerge.merging.rounding import notes_of_rounding
from prefmerge.merging.rows import OutputVocabulary, arranged, key_of
from prefmerge.merging.sameness import Sameness, equal_everywhere, equal_tasks, equal_to_the_base
from prefmerge.merging.settings import settings_of
from prefmerge.merging.stacks import Stack, home_of
from prefmerge.merging.unmergeable import is_same_everywhere, note_of, unmergeable
from prefmerge.merging.vocabularies import OF_VOCABULARIES
from prefmerge.methods import METHODS, Method, Settings
from prefmerge.methods.parameters import PREFERENCE, SCOPE, STRENGTH
from prefmerge.outputs.tokenizer import tokenizer_among
from prefmerge.preference import as_text
from prefmerge.vectors.adapter import AdapterVector
from prefmerge.vectors.reading import Input

Role = Literal["merge", "copy", "exclude", "tied"]
SHOWN = 5  # names listed in a message about many
SIGNS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor of the base and what becomes of it."""

    info: TensorInfo
    role: Role
    dtype: Dtype  # of the output
    stored_as: tuple[str, ...] = ()  # its name in each task, where it is merged or copied; "" where that lacks it
    tied_to: str | None = None

    @property
    def name(self) -> str:
        return self.info.name


@dataclass(frozen=True)
class Plan:
    """Everything known before a value is read. Close it to close the files."""

    __repr__ = brief

    recipe: Recipe  # with what the order of the tasks decides filled in
    method: Method  # the merge method
    settings: Settings  # what the recipe says, resolved for these tasks; of one tensor: `settings_of`
    base: Input  # open
    tasks: tuple[Input, ...]  # open, in the order of the recipe, T of them
    names: tuple[str, ...]  # the tasks' names, T of them
    entries: tuple[PlannedTensor, ...]  # every tensor of the base, and what becomes of it
    notes: tuple[str, ...] = field(default=())  # what to know of this merge, a sentence each
    layers: Mapping[str, tuple[Fraction, int]] = field(default_factory=dict)  # of what is merged: depth, slice
    vocabulary: OutputVocabulary | None = None  # where it is not the base's

    def settings_of(self, tensor: str) -> Settings:
        """The settings for one tensor."""
        return self.settings.at(tensor, *self.layers.get(tensor, (Fraction(0), 0)))

    @property
    def given_base(self) -> Checkpoint:
        """The base as the user gave it, with the rows of its own vocabulary."""
        return original(self.base.checkpoint)

    @property
    def home(self) -> Checkpoint:
        """The model whose folder an output takes its other files from."""
        return home_of(self.given_base)

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """The base's and the tasks'."""
        return [source.checkpoint for source in (self.base, *self.tasks)]

    def close(self) -> None:
        """Close the inputs."""
        for checkpoint in self.checkpoints:
            checkpoint.close()

    def reading(self) -> AbstractContextManager[None]:
        """A block of code that reads the inputs. Raises CheckpointChanged where one changes meanwhile."""
        return reading(*self.checkpoints)

    def __enter__(self) -> Plan:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def of_role(self, role: Role) -> list[PlannedTensor]:
        """The tensors of which this becomes: `merge`, `copy`, `exclude`, `tied`."""
        return [entry for entry in self.entries if entry.role == role]

    @property
    def layout(self) -> list[TensorInfo]:
        """The output's tensors. A task vector has the float ones only."""
        kept = [entry for entry in self.entries if not self.recipe.as_task_vector or entry.info.dtype.family == "float"]
        return [TensorInfo(entry.name, entry.dtype, entry.info.shape) for entry in kept]

    @property
    def output_bytes(self) -> int:
        """Bytes of the output's tensors."""
        return sum(info.nbytes for info in self.layout)

    def most_budgets(self) -> tuple[int, ...] | None:
        """Elements per task if every merged tensor turns out changed; None where there are no budgets or they depend on
        the values (strength).
        """
        if not self.method.honours(PREFERENCE):
            return None
        if self.settings.counts is not None:
            return self.settings.counts
        each = [(self.settings_of(entry.name), entry.info.size) for entry in self.of_role("merge")]
        if any(settings[STRENGTH] < 1 for settings, _ in each) or (not each and self.settings[STRENGTH] != 1):
            return None
        if self.settings[SCOPE] == "model":
            return self.method.most_budgets(self.settings, sum(size for _, size in each))
        total = (
            np.sum([self.method.budgets(settings, size) for settings, size in each], axis=0)
            if each
            else np.zeros(len(self.names), np.int64)
        )
        return tuple(int(n) for n in total)

    def to_json(self) -> dict[str, Any]:
        """The plan for `--json` and for the screen."""
        bounds = self.most_budgets()
        shares = self.settings.shares
        return {
            "format": "prefmerge-plan/1",
            "recipe": self.recipe.settings(self.names),
            "base": {"name": self.base.checkpoint.name, "path": _shown(self.base.checkpoint)},
            "tasks": [
                {
                    "name": name,
                    "path": _shown(source.checkpoint),
                    "task_vector": source.vector,
                    "share": as_text(shares[i]) if isinstance(shares, tuple) else None,
                    "most_elements": None if bounds is None else bounds[i],
                }
                for i, (name, source) in enumerate(zip(self.names, self.tasks, strict=True))
            ],
            "tensors": {role: len(self.of_role(role)) for role in ("merge", "copy", "exclude", "tied")},
            "elements": {
                role: sum(e.info.size for e in self.of_role(role)) for role in ("merge", "copy", "exclude", "tied")
            },
            "output_bytes": self.output_bytes,
            "notes": list(self.notes),
        }


def _shown(checkpoint: Checkpoint) -> str | None:
    return None if checkpoint.path is None else str(checkpoint.path)


def make_plan(recipe: Recipe, sameness: Sameness | None = None, *, tokenizers: bool = False) -> Plan:
    """Open the recipe's checkpoints and plan their merge. `sameness`: as for `plan_over`. `tokenizers`: those of the
    tasks are wanted. Raises CheckpointError, CheckpointMismatch, PreferenceError, MethodError or RecipeError.
    """
    if recipe.base is None:
        raise RecipeError("no base model given. Name the model that the tasks were fine-tuned from.")
    if not recipe.tasks and METHODS[recipe.method].fewest:
        raise RecipeError(
            "no task given: there is nothing to merge into the base. Give at least one fine-tuned checkpoint."
        )
    opened: list[Checkpoint] = []
    tokenizers = tokenizers or any(recipe[one] is not None for one in OF_VOCABULARIES)
    try:
        with _as_written(recipe, recipe.base):
            opened.append(open_base(recipe.base))
        called = names_of([task.path for task in recipe.tasks], [task.name for task in recipe.tasks])
        for task, name in zip(recipe.tasks, called, strict=True):
            beside = tokenizer_among if tokenizers else None
            with _as_written(recipe, task.path):
                opened.append(open_task(task.path, opened[0], name=name, beside=beside))
        _refuse_repeats(recipe, opened)
        return plan_over(recipe, opened[0], opened[1:], sameness)
    except BaseException:
        for checkpoint in opened:
            checkpoint.close()
        raise


@contextlib.contextmanager
def _as_written(recipe: Recipe, path: str) -> Iterator[None]:
    """What cannot be fetched may be a mistyped path, so the error says where it is written."""
    try:
        yield
    except CheckpointNotFound as error:
        where = next((where for on_hub, where in recipe.written.items() if on_hub in path), None)
        if where is None:
            raise
        raise CheckpointNotFound(f"{where}: {error}") from error


def plan_over(recipe: Recipe, base: Checkpoint, tasks: Sequence[Checkpoint], sameness: Sameness | None = None) -> Plan:
    """The plan over open checkpoints. `sameness`: what earlier plans over the same ones have compared."""
    sameness, method = sameness or Sameness(), METHODS[recipe.method]
    if not tasks and method.fewest:
        raise RecipeError(
            "no task given: there is nothing to merge into the base. Give at least one fine-tuned checkpoint."
        )
    method.require(len(tasks))
    names = tuple(task.name for task in tasks)
    for i, name in enumerate(names):
        if name in names[:i]:
            first, second = (str(_shown(t) or t.name) for t in (tasks[names.index(name)], tasks[i]))
            raise RecipeError(
                f"two tasks are called {name!r}: {first} and {second}. Rename one, or give each a `name` in a recipe "
                "file."
            )
    if is_task_vector(base):
        raise CheckpointMismatch(
            f"base ({base.path or base.name}) is a task vector, not a model. Give the model that it belongs to."
        )
    _refuse_quantised(recipe, base, tasks, names)
    _refuse_foreign_vectors(base, tasks, names)
    recipe = in_order(recipe, tasks, names)
    notes = [*recipe.notes, *_notes_of_opening(base, tasks, names)]
    notes += changed_modules(base, tasks, names)
    rows = sameness.once("rows", (base, *tasks), key_of(recipe), lambda: arranged(recipe, base, tasks, names))
    base, tasks = rows.base, rows.tasks
    notes += rows.notes
    entries = _entries(recipe, base, tasks, names, notes, sameness)
    merging = {entry.name: entry.stored_as for entry in entries if entry.role == "merge"}
    notes += notes_of_rounding(base, tasks, names, merging, sameness)
    idle = _idle(base, tasks, names, entries, notes, sameness)
    given = original(base)
    layers = given.layers if isinstance(given, Stack) else {name: (at, 0) for name, at in depths(base.tensors).items()}
    merged = {entry.name: layers.get(entry.name, (Fraction(0), 0)) for entry in entries if entry.role == "merge"}
    settings = settings_of(recipe, method, tasks, names, idle, notes, merged)
    inputs = tuple(Input.of(task, f"task {name!r}") for task, name in zip(tasks, names, strict=True))
    base_input = Input.of(base, "base")
    return Plan(recipe, method, settings, base_input, inputs, names, tuple(entries), tuple(notes), merged, rows.output)


def _refuse_repeats(recipe: Recipe, opened: Sequence[Checkpoint]) -> None:
    seen: dict[Hashable, str] = {}
    given = [recipe.base or "", *(task.path for task in recipe.tasks)]
    for i, (path, checkpoint) in enumerate(zip(given, opened, strict=True)):
        role = f"task {i}" if i else "the base"
        place, key = split_key(checkpoint.path or "")
        over = checkpoint.over if isinstance(checkpoint, AdapterVector) else None
        what = (key, None if over is None else os.path.realpath(over))
        places: list[Hashable] = [(os.path.realpath(place), *what)]
        with contextlib.suppress(OSError):  # it may be gone since it was opened
            status = os.stat(place)
            places.append((status.st_dev, status.st_ino, *what))  # of a hard link too
        for place in places:
            if place in seen:
                raise CheckpointMismatch(
                    f"{role} is {path}, which is {seen[place]} too. Every input must be a checkpoint of its own."
                )
        seen |= dict.fromkeys(places, role)


def _notes_of_opening(base: Checkpoint, tasks: Sequence[Checkpoint], names: Sequence[str]) -> list[str]:
    """What opening them decided, once for all of which it is said."""
    said: dict[str, list[str]] = {}
    for role, one in (("base", base), *((f"task {name!r}", task) for name, task in zip(names, tasks, strict=True))):
        for note in (*_origins(one), *one.notes):
            said.setdefault(note, []).append(role)
    return [f"{listed(roles, SHOWN)}: {note}." for note, roles in said.items()]


def _origins(checkpoint: Checkpoint) -> list[str]:
    """What was read of the hub: the repositories and their commits."""
    return list(dict.fromkeys(of for path in checkpoint.files if (of := origin(path)) is not None))


def _refuse_quantised(recipe: Recipe, base: Checkpoint, tasks: Sequence[Checkpoint], names: Sequence[str]) -> None:
    """Codes are integers, which are copied, and scales are floats, which are merged: the two would no longer belong
    together.
    """
    for checkpoint, role in ((base, "base"), *((task, f"task {n!r}") for task, n in zip(tasks, names, strict=True))):
        signs = signs_of_quantisation(checkpoint, excluder(recipe.exclude))
        if signs:
            raise UnsupportedDtype(
                f"{role} ({checkpoint.path or checkpoint.name}) is quantised: it has "
                f"{listed(signs, SIGNS_SHOWN)}. Quantised weights cannot be merged: merge the float "
                "originals and quantise the result."
            )


def _refuse_foreign_vectors(base: Checkpoint, tasks: Sequence[Checkpoint], names: Sequence[str]) -> None:
    vectors = [(task, name) for task, name in zip(tasks, names, strict=True) if names_its_base(task)]
    if not vectors:
        return
    given = content_fingerprint(base)
    for task, name in vectors:
        expected = base_fingerprint(task)
        if expected != given:
            raise CheckpointMismatch(
                f"task {name!r} ({task.path or task.name}) is a task vector over another base: it belongs to "
                f"{expected}, "
                f"the base given ({base.path or base.name}) is {given}. Give the base it was made with."
            )


def names_its_base(task: Checkpoint) -> bool:
    """Whether it is a task vector that names its base; an adapter was matched with it when it was opened."""
    return is_task_vector(task) and not isinstance(original(task), AdapterVector)


def _entries(
    recipe: Recipe,
    base: Checkpoint,
    tasks: Sequence[Checkpoint],
    names: Sequence[str],
    notes: list[str],
    sameness: Sameness,
) -> list[PlannedTensor]:
    left_out = excluder(recipe.exclude)
    excluded = {name for name in base.tensors if left_out(name)}
    _refuse_idle_patterns(recipe, base, tasks)
    matched = _matched(recipe, base, tasks, names, sameness)
    lacking = {name for one in matched for name in one.kept}
    merged = {
        name
        for name, info in base.tensors.items()
        if name not in excluded and name not in lacking and info.dtype.family == "float"
    }
    stored = {name: tuple(one.own[name] for one in matched) for name in sorted(merged)}
    notes += told(matched)
    kept = unmergeable(base, tasks, stored, sameness)
    stored = {name: own for name, own in stored.items() if name not in kept}
    tied = _tied(base, tasks, stored, notes, sameness)
    out = None if recipe.dtype is None else by_name(recipe.dtype)
    entries: list[PlannedTensor] = []
    for name, info in base.tensors.items():
        dtype = out if out is not None and info.dtype.family == "float" else info.dtype
        if recipe.as_task_vector and info.dtype.family == "float":
            dtype = DTYPES["F32"]
        if name in excluded:
            entries.append(PlannedTensor(info, "exclude", dtype))
        elif name in tied:
            entries.append(PlannedTensor(info, "tied", dtype, tied_to=tied[name]))
        elif name in stored:
            entries.append(PlannedTensor(info, "merge", dtype, stored[name]))
        else:
            called = tuple(one.own.get(name, "") for one in matched)
            if info.dtype.family == "other" and is_same_everywhere(base, tasks, name, called):
                kept[name] = info.dtype.name
            elif name not in kept:
                require_mergeable(info.dtype, file=base.file_of(name), tensor=name)
            entries.append(PlannedTensor(info, "copy", dtype, called))
    notes += note_of(kept)
    return entries


def _refuse_idle_patterns(recipe: Recipe, base: Checkpoint, tasks: Sequence[Checkpoint]) -> None:
    everywhere = {*base.tensors, *(name for task in tasks for name in task.tensors)}
    for pattern in recipe.exclude:
        if not any(map(excluder([pattern]), everywhere)):
            near = nearest(pattern, everywhere, cutoff=0.3)
            hint = "" if near is None else f" The nearest name is {near!r}."
            raise RecipeError(
                f"--exclude {pattern!r} matches no tensor. Patterns are matched against whole names, * stands for "
                f"anything.{hint}"
            )


def _matched(
    recipe: Recipe, base: Checkpoint, tasks: Sequence[Checkpoint], names: Sequence[str], sameness: Sameness
) -> list[Names]:
    """What each task calls the base's tensors."""
    matched = match(recipe, base, tasks, names, sameness)
    if any(one.wrong for one in matched):
        raise CheckpointMismatch(
            explained(recipe, base, tasks, matched, lambda other: match(other, base, tasks, names, sameness))
        )
    return matched


def _tied(
    base: Checkpoint,
    tasks: Sequence[Checkpoint],
    stored: dict[str, tuple[str, ...]],
    notes: list[str],
    sameness: Sameness,
) -> dict[str, str]:
    """The tensors to merge once for another's sake: equal to it in the base and in every task, whether they share their
    elements or were stored twice. The first in order of name keys the random choices, as for shared elements.
    """
    if isinstance(original(base), Stack):  # a layer that is in it twice is two layers, each with values of its own
        stored = {name: own for name, own in stored.items() if layer_of(name) is None}
    tied: dict[str, str] = {}
    copies: list[str] = []  # those that no file declares
    for first, *others in equal_everywhere(base, tasks, stored, sameness):
        for name in others:
            tied[name] = first
            if not all(
                _shared(checkpoint, a, b)
                for checkpoint, a, b in zip((base, *tasks), (name, *stored[name]), (first, *stored[first]), strict=True)
            ):
                copies.append(name)
    for name, first in base.aliases.items():
        if name in stored and first in stored and tied.get(name, name) != tied.get(first, first):
            pairs = zip(tasks, stored[name], stored[first], strict=True)
            other = next(task.name for task, a, b in pairs if not _shared(task, a, b) and not sameness.same(task, a, b))
            notes.append(
                f"{name!r} shares its elements with {first!r} in the base, but not in task {other!r}: they are merged "
                "apart."
            )
    if copies:
        pairs = [f"{name!r} equals {tied[name]!r}" for name in sorted(copies)]
        more = f", and {len(pairs) - SHOWN} more such pairs" if len(pairs) > SHOWN else ""
        notes.append(
            f"{', '.join(pairs[:SHOWN])}{more} in the base and in every task: they are one tensor, merged once and "
            "written under each name."
        )
    return tied


def _shared(checkpoint: Checkpoint, a: str, b: str) -> bool:
    """Whether two names stand for the same stored elements."""
    return checkpoint.aliases.get(a, a) == checkpoint.aliases.get(b, b)


def _idle(
    base: Checkpoint,
    tasks: Sequence[Checkpoint],
    names: Sequence[str],
    entries: Sequence[PlannedTensor],
    notes: list[str],
    sameness: Sameness,
) -> list[str]:
    """The tasks that hold what the base holds: a copy of it, under whatever path. Tasks that are copies of one another
    are noted only: each may be meant.
    """
    stored = {entry.name: entry.stored_as for entry in entries if entry.role == "merge"}
    idle = equal_to_the_base(base, tasks, stored, sameness)
    for group in equal_tasks(tasks, stored, sameness):
        if group[0] not in idle:
            first, *others = (f"task {names[i]!r}" for i in group)
            notes.append(f"{first} does not differ from {', '.join(others)}.")
    return [names[i] for i in idle]
