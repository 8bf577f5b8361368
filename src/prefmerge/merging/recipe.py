"""A recipe: which checkpoints, which method, which settings. It decides the merged bytes and nothing else does.

Built from arguments (`Recipe(...)`), from a YAML file (`recipe_file.read_recipe`) or from a receipt
(`Recipe.from_settings`). Shares, weights, densities, strength, carry and factors are exact fractions of what was
written. Here every setting is checked by itself; whether it fits the checkpoints is for the plan to say. Cost: none; no
checkpoint is opened. Left out: how the merge is carried out (threads, memory, force).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, InstanceOf, model_validator

from prefmerge.checkpoints.dtypes import FLOATS, by_name
from prefmerge.checkpoints.protocol import name_of
from prefmerge.errors import MethodError, PreferenceError, UnsupportedDtype, UsageError
from prefmerge.ground.words import did_you_mean
from prefmerge.methods import METHODS, method_named
from prefmerge.preference import Preference, as_text, exact

Selection = Literal["paper", "optimal", "printed"]
Importance = Literal["magnitude", "step"]
Scope = Literal["tensor", "model"]

SEEDS = 2**63  # what every JSON reader and the kernels' keys hold without loss


# One converter per setting: what a user may write -> the value kept. Each raises ValueError with "expected .., found
# ..".


def _fraction(value: Any) -> Fraction:
    try:
        return exact(value)
    except PreferenceError as error:
        raise ValueError(f"expected a finite number, found {str(value)!r}") from error


def _unit(value: Any) -> Fraction:
    number = _fraction(value)
    if not 0 <= number <= 1:
        raise ValueError(f"expected a number from 0 to 1, found {value}")
    return number


def _density(value: Any) -> Fraction:
    number = _fraction(value)
    if not 0 < number <= 1:
        raise ValueError(f"expected a number above 0 and at most 1, found {value}")
    return number


def _scale(value: Any) -> float:
    number = float(_fraction(value))
    if not math.isfinite(number):
        raise ValueError(f"expected a finite number, found {value}")
    return number


def _whole(value: Any, least: int, below: int) -> int:
    number = _fraction(value)
    if number.denominator != 1 or not least <= number < below:
        raise ValueError(f"expected a whole number of at least {least}, found {value}")
    return int(number)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, found {str(value)!r}")
    return value


def _choice(*options: str) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if value not in options:
            raise ValueError(f"expected {', '.join(options[:-1])} or {options[-1]}, found {str(value)!r}")
        return str(value)

    return convert


def _dtype(value: Any) -> str:
    try:
        dtype = by_name(str(value))
    except UnsupportedDtype:
        dtype = None
    if dtype is None or dtype.family != "float":
        raise ValueError(f"expected one of {', '.join(FLOATS)}, found {str(value)!r}")
    return dtype.name


def _patterns(value: Any) -> tuple[str, ...]:
    patterns: tuple[Any, ...] = (value,) if isinstance(value, str) or not isinstance(value, Iterable) else tuple(value)
    if not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise ValueError(f"expected a list of patterns such as 'head.*', found {value!r}")
    return patterns


def _method_name(value: Any) -> str:
    return method_named(str(value)).name


def _preference(value: Any) -> Preference:
    if isinstance(value, Preference):
        return value
    if isinstance(value, str):
        return Preference.parse(value)
    if isinstance(value, Mapping):
        return Preference.named(value)
    if isinstance(value, Sequence):
        return Preference.explicit(value)
    raise ValueError(f"expected a preference such as 0.8,0.2 or alpha:2, found {value!r}")


CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "method": _method_name,
    "preference": _preference,
    "scale": _scale,
    "seed": lambda value: _whole(value, 0, SEEDS),
    "selection": _choice("paper", "optimal", "printed"),
    "importance": _choice("magnitude", "step"),
    "strength": _unit,
    "carry": _unit,
    "toward_last": _unit,
    "start": _fraction,
    "boost": _fraction,
    "drop": _fraction,
    "scope": _choice("tensor", "model"),
    "passes": lambda value: _whole(value, 1, 256),
    "density": _density,
    "normalize": _flag,
    "dtype": _dtype,
    "exclude": _patterns,
    "as_task_vector": _flag,
    "base_weight": _fraction,
    "weight": _fraction,
}

# What the command line calls a setting; messages name both, for a recipe may come from either side.
FLAGS = {"preference": "--prefer", "weights": "the models' weight"} | {
    name: "--" + name.replace("_", "-")
    for name in CONVERTERS
    if name not in ("preference", "weight", "normalize", "base_weight")
}

# The settings that only some methods honour, by the names that methods list as their `options`.
OPTIONS = (
    "preference",
    "seed",
    "selection",
    "importance",
    "strength",
    "carry",
    "toward_last",
    "start",
    "boost",
    "drop",
    "scope",
    "passes",
    "weights",
    "density",
    "normalize",
)


def _convert(values: Mapping[str, Any], optional: Iterable[str]) -> dict[str, Any]:
    """`values` with every setting converted, except None where `optional`. Raises MethodError naming the setting."""
    converted = dict(values)
    for name, value in values.items():
        if name in CONVERTERS and not (value is None and name in optional):
            try:
                converted[name] = CONVERTERS[name](value)
            except ValueError as error:
                raise MethodError(f"{name}: {error}.") from error
    return converted


class TaskEntry(BaseModel):
    """One task: where its checkpoint is, what to call it, and its own weight and density where the method has them."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    path: str = ""  # empty for a state dict in memory
    name: str | None = None  # None: the file's stem or the folder's name
    weight: Fraction = Fraction(1)
    density: Fraction | None = None  # None: the recipe's

    @model_validator(mode="before")
    @classmethod
    def _exact(cls, values: Any) -> Any:
        return _convert(values, {"density"}) if isinstance(values, Mapping) else values


class Recipe(BaseModel):
    """Every setting of a merge. `None` means the method's default; `settings()` spells it out.

    Raises MethodError for a value that no method could honour. Whether the chosen method honours a setting is asked
    where the user stated it: `with_overrides` and `read_recipe`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    base: str | None = None
    tasks: tuple[TaskEntry, ...] = ()
    method: str = "tunable_magmax"
    preference: InstanceOf[Preference] | None = None
    scale: float | None = None
    seed: int = 0
    selection: Selection = "paper"
    importance: Importance = "magnitude"
    strength: Fraction = Fraction(1)
    carry: Fraction = Fraction(0)
    toward_last: Fraction = Fraction(0)
    start: Fraction = Fraction(1)
    boost: Fraction = Fraction(0)
    drop: Fraction = Fraction(0)
    scope: Scope = "tensor"
    passes: int = 2
    density: Fraction | None = None
    normalize: bool | None = None
    dtype: str | None = None
    exclude: tuple[str, ...] = ()
    as_task_vector: bool = False
    base_weight: Fraction = Fraction(
        0
    )  # `linear`: the base's own weight among the models; 0 when it is only where deltas start
    notes: tuple[str, ...] = ()  # what reading the file decided; for the receipt

    @model_validator(mode="before")
    @classmethod
    def _exact(cls, values: Any) -> Any:
        return (
            _convert(values, {"preference", "scale", "density", "normalize", "dtype"})
            if isinstance(values, Mapping)
            else values
        )

    # What the method will use, with defaults resolved. None where the method has no use for it.

    @property
    def options(self) -> frozenset[str]:
        """The settings that the method honours, of OPTIONS."""
        return METHODS[self.method].options

    @property
    def names(self) -> list[str]:
        """What the tasks are called."""
        return [task.name or name_of(Path(task.path)) for task in self.tasks]

    @property
    def resolved_scale(self) -> float:
        """The merge coefficient: the one asked for, else the method's default."""
        return METHODS[self.method].default_scale if self.scale is None else self.scale

    @property
    def weights(self) -> tuple[Fraction, ...] | None:
        """One weight per task."""
        return tuple(task.weight for task in self.tasks) if "weights" in self.options else None

    @property
    def densities(self) -> tuple[Fraction, ...] | None:
        """One density per task; 1/5 where none was given (the paper's top 20 %)."""
        if "density" not in self.options:
            return None
        default = Fraction(1, 5) if self.density is None else self.density
        return tuple(default if task.density is None else task.density for task in self.tasks)

    @property
    def normalized(self) -> bool | None:
        """Whether sums are divided by the sum of the weights: as in mergekit, yes but for task_arithmetic."""
        if "normalize" not in self.options:
            return None
        return self.method != "task_arithmetic" if self.normalize is None else self.normalize

    def settings(self, names: Sequence[str] | None = None) -> dict[str, Any]:
        """Every setting with its default spelled out, ready for JSON: the receipt's `recipe`. No path and no task name
        is in it.

        Settings that the method ignores are None. `names` are the tasks' names; needed to resolve a preference that
        speaks of tasks by name.
        """
        options = self.options

        def used(option: str, value: Any) -> Any:
            return value if option in options else None

        preference = None
        if "preference" in options:
            preference = self.preference or Preference.uniform()
            if preference.names is not None:
                called = self.names if names is None else list(names)
                preference = Preference.explicit(preference.shares(called))
        weights, densities = self.weights, self.densities
        return {
            "method": self.method,
            "scale": self.resolved_scale,
            "seed": used("seed", self.seed),
            "selection": used("selection", self.selection),
            "importance": used("importance", self.importance),
            "strength": used("strength", as_text(self.strength)),
            "carry": used("carry", as_text(self.carry)),
            "toward_last": used("toward_last", as_text(self.toward_last)),
            "start": used("start", as_text(self.start)),
            "boost": used("boost", as_text(self.boost)),
            "drop": used("drop", as_text(self.drop)),
            "scope": used("scope", self.scope),
            "passes": used("passes", self.passes),
            "weights": None if weights is None else [as_text(w) for w in weights],
            "base_weight": as_text(self.base_weight) if self.method == "linear" else None,
            "density": None if densities is None else [as_text(d) for d in densities],
            "normalize": self.normalized,
            "dtype": self.dtype,
            "exclude": list(self.exclude),
            "as_task_vector": self.as_task_vector,
            "preference": None if preference is None else preference.to_json(),
        }

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], *, base: str, tasks: Sequence[str], names: Sequence[str] | None = None
    ) -> Recipe:
        """The inverse of `settings`: the recipe that a receipt tells, over the checkpoints at `base` and `tasks`."""
        weights = settings.get("weights") or [Fraction(1)] * len(tasks)
        densities = settings.get("density") or [None] * len(tasks)
        called = names or [None] * len(tasks)
        rows = zip(tasks, called, weights, densities, strict=True)
        kept = {
            name: settings[name]
            for name in cls.model_fields
            if name not in ("preference", "density") and settings.get(name) is not None and name in CONVERTERS
        }
        preference = settings.get("preference")
        return cls(
            base=base,
            tasks=tuple(TaskEntry(path=p, name=n, weight=w, density=d) for p, n, w, d in rows),
            preference=None if preference is None else Preference.from_json(preference),
            **kept,
        )

    def with_overrides(self, *, strict: bool = False, **flags: Any) -> Recipe:
        """This recipe with every flag that is not None in place of its own setting.

        Raises UsageError when a flag says something that the method ignores (`strict`: also when it says no more than
        the default), MethodError for a value that makes no sense. A new method keeps what it can use of the recipe's
        settings; what it cannot is dropped, with a note.
        """
        given = {name: value for name, value in flags.items() if value is not None}
        for name in given:
            if name not in CONVERTERS or name == "weight":
                raise UsageError(f"{name!r} is not a setting of a recipe.{did_you_mean(name, CONVERTERS)}")
        given = _convert(given, ())
        if "density" in given:  # a flag speaks for every task
            given["tasks"] = tuple(task.model_copy(update={"density": None}) for task in self.tasks)
        notes = self.notes
        if given.get("method", self.method) != self.method:
            options = METHODS[given["method"]].options
            dropped = [name for name in OPTIONS if name not in options and name not in given and self._says(name)]
            defaults = {name: Recipe.model_fields[name].default for name in dropped if name != "weights"}
            given = {**defaults, **given}
            if dropped:
                notes = (*notes, f"{given['method']} has no use for the recipe's {', '.join(dropped)}.")
        merged = Recipe.model_validate(
            {**{name: getattr(self, name) for name in Recipe.model_fields}, **given, "notes": notes}
        )
        stated = [
            name for name in flags if name in given and (strict or given[name] != Recipe.model_fields[name].default)
        ]
        ignored = merged.ignored(stated)
        if ignored:
            raise UsageError(merged.why_ignored(ignored[0], FLAGS.get(ignored[0], ignored[0])))
        return merged

    def _says(self, option: str) -> bool:
        if option == "weights":
            return any(task.weight != 1 for task in self.tasks)
        if option == "density":  # 1 is what reading a file for `ties` fills in
            return any(task.density is not None for task in self.tasks) or self.density not in (None, 1)
        return getattr(self, option) != Recipe.model_fields[option].default

    def ignored(self, stated: Iterable[str]) -> list[str]:
        """Those of the settings `stated` by the user that this merge would ignore."""
        options = self.options
        found = [name for name in stated if name in OPTIONS and name not in options]
        if "passes" in stated and "passes" in options and self.selection == "optimal":
            found.append("passes")
        if self.as_task_vector:
            found += [name for name in ("scale", "dtype") if name in stated]
        return found

    def why_ignored(self, name: str, spelled: str) -> str:
        """One message for a setting that `ignored` found; `spelled` is how the user wrote it."""
        if self.as_task_vector and name in ("scale", "dtype"):
            return f"{spelled} has no effect on a task vector, which is written unscaled and in float32. Leave it out."
        if name in self.options:
            return f"{spelled} has no use with selection {self.selection}, which has no passes. Leave it out."
        having = [method for method, entry in METHODS.items() if name in entry.options]
        return (
            f"{spelled} has no use with method {self.method}; it is for {', '.join(having)}. Leave it out or "
            f"choose another method."
        )
