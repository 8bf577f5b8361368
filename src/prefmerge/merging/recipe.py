"""A recipe: which checkpoints, which method, which parameters. It decides the merged bytes and nothing else does.

Built from arguments (`Recipe(...)`), from a YAML file (`recipe_file.read_recipe`) or from a receipt
(`Recipe.from_settings`). Which parameters there are is declared by the methods and in `parameters`; a recipe takes them
by name, keeps those that were given, and has every other's default: `recipe[SCALE]`, `recipe.scale`. Some defaults
depend on whether the order of training is known; what the checkpoints' run says of it is put in by the plan (`order`).
Here every value is checked by itself; whether it fits the checkpoints is for the plan to say. Cost: none; no checkpoint
is opened. Not here: how the merge is carried out (threads, memory, force).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from prefmerge.checkpoints.paths import names_of
from prefmerge.errors import MethodError, UsageError
from prefmerge.ground.words import did_you_mean
from prefmerge.merging.parameters import (
    AS_TASK_VECTOR,
    DTYPE,
    METHOD,
    OF_EVERY_MERGE,
    every,
    parameter,
    per_task,
    read,
)
from prefmerge.methods import DEFAULT, METHODS, declared
from prefmerge.methods.by_layer import ByLayer
from prefmerge.methods.parameters import AS_PUBLISHED, PREFERENCE, SCALE, SEQUENTIAL, Parameter
from prefmerge.methods.shares_by_layer import from_json, resolved
from prefmerge.preference import Preference

T = TypeVar("T")


class TaskEntry(BaseModel):
    """One task: where its checkpoint is, what to call it, and its own values of the parameters that allow it."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    path: str = ""  # empty for a state dict in memory
    name: str | None = None  # None: the file's stem or the folder's name
    own: dict[str, Any] = Field(default_factory=dict)  # by the parameter's name; what is not here is the recipe's

    if TYPE_CHECKING:

        def __init__(self, **given: Any) -> None:
            """Its fields, and every parameter that a task may have of its own, by name."""

    @model_validator(mode="before")
    @classmethod
    def _read(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        rest = dict(values)
        own = dict(rest.pop("own", {}))
        for one in per_task():
            key = one.keys[0]
            value = rest.pop(key, own.pop(one.name, None))
            if value is not None:
                own[one.name] = read(one, value, key)
        return {**rest, "own": own}


class Recipe(BaseModel):
    """Every parameter of a merge. `settings()` spells out the defaults.

    Raises MethodError for a value that no method could honour. Whether the chosen method honours a parameter is asked
    where the user stated it: `with_overrides` and `read_recipe`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    base: str | None = None  # path or hub id of the base; None where it is not said yet
    tasks: tuple[TaskEntry, ...] = ()  # in the order of training, T of them
    method: str = DEFAULT.name  # its name
    given: dict[str, Any] = Field(default_factory=dict)  # by name; without those that say no more than the default
    notes: tuple[str, ...] = ()  # what reading the file decided; for the receipt
    written: dict[str, str] = Field(default_factory=dict)  # hub id -> where in which file it is written; for errors

    if TYPE_CHECKING:

        def __init__(self, **given: Any) -> None:
            """Its fields, and every parameter by name."""

    @model_validator(mode="before")
    @classmethod
    def _read(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        rest = dict(values)
        if METHOD.name in rest:
            rest[METHOD.name] = read(METHOD, rest[METHOD.name])
        given = dict(rest.pop("given", {}))
        known = every()
        given.update((name, rest.pop(name)) for name in known if name in rest)
        for name in given:
            if name not in known:
                raise MethodError(f"{name!r} is not a parameter of a recipe.{did_you_mean(name, known)}")
        kept = {name: read(known[name], given[name]) for name in known if given.get(name) is not None}
        rest["given"] = {name: value for name, value in kept.items() if _says_more(known[name], value)}
        return rest

    def __getitem__(self, parameter: Parameter[T]) -> T:
        """The value that holds for all tasks: the one given, else the papers' (`as_published`), else the method's
        default for a merge like this one.
        """
        if parameter.name in self.given:
            return self.given[parameter.name]
        method = METHODS[self.method]
        if parameter.name in method.published and self[AS_PUBLISHED]:
            return method.published[parameter.name]
        return method.own(parameter).default_where(self.__getitem__)

    @property
    def waits_for_order(self) -> list[Parameter[Any]]:
        """What has another default where the tasks are known to be trained one after another; nothing where it is said
        whether they are.
        """
        known = self.with_order(True)
        own = METHODS[self.method].parameters
        return [one for one in own if known[one] != self[one]] if self[SEQUENTIAL] is None else []

    def with_order(self, sequential: bool) -> Recipe:
        """This recipe with it said whether the tasks were trained one after another."""
        return self.model_copy(update={"given": {**self.given, SEQUENTIAL.name: sequential}})

    def __getattr__(self, name: str) -> Any:
        one = parameter(name)
        if one is None:
            return super().__getattr__(name)  # pyright: ignore[reportAttributeAccessIssue]  # pydantic hides it
        return self.value(one)

    def value(self, parameter: Parameter[Any]) -> Any:
        """The value, or a tuple with one for each task."""
        common = self[parameter]
        if isinstance(common, ByLayer):
            default = METHODS[self.method].own(parameter).default_where(self.__getitem__)
            common = common.or_else(Preference.uniform() if parameter is PREFERENCE else default)
        if not parameter.per_task:
            return common
        own = (task.own.get(parameter.name, common) for task in self.tasks)
        return tuple(value.or_else(common) if isinstance(value, ByLayer) else value for value in own)

    def used(self, parameter: Parameter[Any]) -> Any:
        """The value, or None where the method has no use for it."""
        honoured = parameter.name in OF_EVERY_MERGE or METHODS[self.method].honours(parameter)
        return self.value(parameter) if honoured else None

    @property
    def names(self) -> list[str]:
        """What the tasks are called."""
        return names_of([task.path for task in self.tasks], [task.name for task in self.tasks])

    def settings(self, names: Sequence[str] | None = None) -> dict[str, Any]:
        """Every parameter with its default spelled out, ready for JSON: the receipt's `recipe`. No path and no task
        name is in it.

        Parameters that the method ignores are None. `names` are the tasks' names; needed to resolve a preference that
        speaks of tasks by name.
        """
        honours = METHODS[self.method].honours
        recorded = [
            one
            for one in every().values()
            if one.recorded and (not one.quiet or one.name in self.given or honours(one))
        ]
        values = {one.name: one.to_json(self.used(one)) for one in recorded if one is not PREFERENCE}
        preference = None
        if METHODS[self.method].honours(PREFERENCE):
            preference = resolved(self[PREFERENCE] or Preference.uniform(), self.names if names is None else names)
        return {
            METHOD.name: self.method,
            **values,
            PREFERENCE.name: None if preference is None else PREFERENCE.to_json(preference),
        }

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], *, base: str, tasks: Sequence[str], names: Sequence[str] | None = None
    ) -> Recipe:
        """The inverse of `settings`: the recipe of a receipt, over the checkpoints at `base` and `tasks`."""
        stated = {one: settings[one.name] for one in every().values() if settings.get(one.name) is not None}
        own = [{one.name: stated[one][i] for one in stated if one.per_task} for i in range(len(tasks))]
        called = names or [None] * len(tasks)
        given = {one.name: value for one, value in stated.items() if not one.per_task}
        if PREFERENCE.name in given:
            given[PREFERENCE.name] = from_json(given[PREFERENCE.name])
        rows = zip(tasks, called, own, strict=True)
        return cls(
            base=base,
            tasks=tuple(TaskEntry(path=path, name=name, own=values) for path, name, values in rows),
            method=settings[METHOD.name],
            given=given,
        )

    def with_overrides(self, *, strict: bool = False, **flags: Any) -> Recipe:
        """This recipe with every flag that is not None in place of its own value.

        Raises UsageError when a flag says something that the method ignores (`strict`: also when it says no more than
        the default), MethodError for a value that makes no sense. A new method keeps what it can use of the recipe's
        parameters; what it cannot is dropped, with a note.
        """
        known = {METHOD.name: METHOD, **{one.name: one for one in every().values() if one.flag or not one.per_task}}
        for name, value in flags.items():
            if value is not None and name not in known:
                raise UsageError(f"{name!r} is not a parameter of a recipe.{did_you_mean(name, known)}")
        given = {name: read(known[name], value) for name, value in flags.items() if value is not None}
        stated = [name for name in given if strict or _says_more(known[name], given[name])]
        method = given.pop(METHOD.name, self.method)
        tasks, notes, kept = self.tasks, self.notes, dict(self.given)
        for name in given:
            if known[name].per_task:  # a flag speaks for every task
                rows = [(task, {key: value for key, value in task.own.items() if key != name}) for task in tasks]
                tasks = tuple(task.model_copy(update={"own": own}) for task, own in rows)
        if method != self.method:
            unused = [one for one in declared().values() if not METHODS[method].honours(one) and one.name not in given]
            dropped = [one.name for one in unused if one.keys and self._says(one)]
            if self[AS_PUBLISHED] and AS_PUBLISHED.name not in given and not METHODS[method].published:
                dropped.append(AS_PUBLISHED.name)
            kept = {name: value for name, value in kept.items() if name not in dropped}
            if dropped:
                notes = (*notes, f"{method} has no use for the recipe's {', '.join(dropped)}.")
        both = {**kept, **given}
        merged = Recipe(base=self.base, tasks=tasks, method=method, given=both, notes=notes, written=self.written)
        ignored = merged.ignored(stated)
        if ignored:
            raise UsageError(merged.why_ignored(ignored[0], known[ignored[0]].spelled))
        for name in merged.given_twice():
            raise UsageError(merged.why_twice(name, AS_PUBLISHED.spelled, known[name].spelled))
        return merged

    def _says(self, parameter: Parameter[Any]) -> bool:
        """Whether more is said than the default; what mergekit's default fills in says nothing."""
        own = [task.own[parameter.name] for task in self.tasks if parameter.name in task.own]
        common = self.given.get(parameter.name, parameter.mergekit_default)
        return common != parameter.mergekit_default or any(_says_more(parameter, value) for value in own)

    def ignored(self, stated: Iterable[str]) -> list[str]:
        """Those of the parameters `stated` by the user that this merge would ignore."""
        method, names = METHODS[self.method], list(stated)
        several = [declared()[name] for name in names if name in declared()]
        ignored = [one.name for one in several if one.keys and not method.honours(one)]
        ignored += [
            one.name
            for one in several
            if one.unless and method.honours(one) and self[one.unless.other] == one.unless.value
        ]
        if self[AS_TASK_VECTOR]:
            ignored += [one.name for one in (SCALE, DTYPE) if one.name in names]
        if AS_PUBLISHED.name in names and self[AS_PUBLISHED] and not method.published:
            ignored.append(AS_PUBLISHED.name)
        return ignored

    def given_twice(self) -> list[str]:
        """The parameters that were given although `as_published` sets them."""
        return [name for name in METHODS[self.method].published if name in self.given and self[AS_PUBLISHED]]

    def why_twice(self, name: str, published: str, spelled: str) -> str:
        """One message for a parameter that is `given_twice`; `published` and `spelled` are how the user wrote them."""
        value = METHODS[self.method].published[name]
        return f"{published} sets {name} to {value}, and {spelled} gives it too. Leave one of them out."

    def why_ignored(self, name: str, spelled: str) -> str:
        """One message for a parameter that is `ignored`; `spelled` is how the user wrote it."""
        if self[AS_TASK_VECTOR] and name in (SCALE.name, DTYPE.name):
            return f"{spelled} has no effect on a task vector, which is written unscaled and in float32. Leave it out."
        if name == AS_PUBLISHED.name:
            having = [method for method, entry in METHODS.items() if entry.published]
            return (
                f"{spelled} has no use with method {self.method}: the papers agree on parameters for "
                f"{', '.join(having)} only. Leave it out and give the parameters, such as the scale."
            )
        unless = declared()[name].unless
        if unless and METHODS[self.method].honours(declared()[name]):
            other = f"{unless.other.name} {unless.other.text(unless.value)}"
            default = "" if unless.other.name in self.given else " (the default)"
            return f"{spelled} has no use with {other}{default}, {unless.reason}. Leave it out."
        having = [method for method, entry in METHODS.items() if name in entry.options]
        return (
            f"{spelled} has no use with method {self.method}; it is for {', '.join(having)}. Leave it out or "
            f"choose another method."
        )


def _says_more(parameter: Parameter[Any], value: Any) -> bool:
    """Whether a value that was given says more than the default does, whatever the method."""
    return parameter.varies or value != parameter.default
