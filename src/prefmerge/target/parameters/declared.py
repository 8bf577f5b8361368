"""How a parameter of a command is declared: once, with its type, default, range, help and flag.

The command line, the checks and what a result holds are derived from the fields of a class that inherits `Declaring`; a
parameter more is one field more. What several commands take is declared here. Cost: none; nothing heavy is imported.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args, get_origin, get_type_hints

from prefmerge.errors import UsageError
from prefmerge.ground.words import did_you_mean, flag


@dataclass(frozen=True)
class Declared:
    """What is said of a parameter beside its type and default. `least` and `most` hold the ends."""

    help: str
    metavar: str | None = None
    flags: tuple[str, ...] = ()  # other spellings than --name
    least: float | None = None
    most: float | None = None
    argument: bool = False  # given without a flag
    local: bool = False  # says how the work is done or where it goes: no result depends on it


CHECKPOINTS = Declared(
    "The base and the tasks in the order of training, where there is no run.", metavar="BASE TASK...", argument=True
)
RUN = Declared("The run of `finetune` that has the checkpoints.", metavar="RUN")
LABELS = Declared("Labels seen at the target: a CSV with a column label, a .txt, or JSON counts.", metavar="FILE")
INPUTS = Declared(
    "Inputs seen at the target, without labels: a folder of images or .txt files, a .txt, or a CSV.",
    metavar="PATH",
    flags=("--features",),
)
PAIRS = Declared("Inputs of the target with labels: a CSV, or a folder of images per class.", metavar="PATH")
TASK_SAMPLES = Declared(
    "Samples of each task, without a run: once for each task, or one folder of all.", metavar="PATH"
)
TASK_LABELS = Declared(
    "How many samples of each class each task had, without a run: JSON {task: {class: number}}, or a CSV.",
    metavar="FILE",
)
MODEL = Declared("The encoder that the checkpoints are of, without a run. Default: BASE.", metavar="ID|FOLDER")
LEVEL = Declared("Confidence of every interval.", metavar="0..1", least=0.5, most=0.999)
SEED = Declared("Decides every random draw.", metavar="N", least=0)
THREADS = Declared("Threads of a merge. Default: one per core.", metavar="N", least=1, local=True)
FORCE = Declared("Replace an existing output.", local=True)


@dataclass(frozen=True, kw_only=True)
class Declaring:
    """A class whose fields are `Annotated[type, Declared(...)]`. Raises UsageError for a value that is none."""

    command: ClassVar[str] = ""  # which takes them

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for name, declared, value in self.declared():
            _check(name, declared, value, hints[name])

    @classmethod
    def of(cls, **given: Any) -> Self:
        """The parameters by name, paths as text or Path. Raises UsageError for a name that is none."""
        kinds = {name: kind for name, (kind, _) in declarations(cls).items()}
        made: dict[str, Any] = {}
        for name, value in given.items():
            if name not in kinds:
                raise UsageError(f"{name!r} is not a parameter of {cls.command}.{did_you_mean(name, kinds)}")
            several = get_origin(kinds[name]) is tuple
            if several and isinstance(value, str | Path):
                value = (value,)
            if several and isinstance(value, list | tuple):
                value = tuple(Path(one) if isinstance(one, str) else one for one in value)
            elif Path in get_args(kinds[name]) and isinstance(value, str):
                value = Path(value)
            made[name] = value
        return cls(**made)

    def declared(self) -> Iterator[tuple[str, Declared, Any]]:
        """(name, what is declared of it, its value) of every parameter."""
        for name, (_, declared) in declarations(type(self)).items():
            yield name, declared, getattr(self, name)


def declarations(of: type[Declaring]) -> dict[str, tuple[Any, Declared]]:
    """Name -> (type, what is declared) of every parameter, in order: for whoever derives something from them."""
    hints = get_type_hints(of, include_extras=True)
    return {one.name: get_args(hints[one.name]) for one in fields(of)}


def _check(name: str, declared: Declared, value: Any, kind: Any) -> None:
    words = _words(kind)
    if words and isinstance(value, str) and value not in words:
        raise UsageError(f"{flag(name)} {value}: expected {', '.join(words[:-1])} or {words[-1]}.")
    no_such = UsageError(f"{flag(name)}: expected {_in_words(kind)}, found {value!r}. {declared.help}")
    of_kind, number = _is_of(value, kind), isinstance(value, int | float)
    if not of_kind and not number:
        raise no_such
    if isinstance(value, float) and not math.isfinite(value):  # NaN is below and above nothing
        raise UsageError(f"{flag(name)} {value:g}: expected a finite number.")
    if isinstance(value, int | float):
        if declared.least is not None and value < declared.least:
            raise UsageError(f"{flag(name)} {value:g}: expected at least {declared.least:g}.")
        if declared.most is not None and value > declared.most:
            raise UsageError(f"{flag(name)} {value:g}: expected at most {declared.most:g}.")
    if not of_kind:
        raise no_such


def _in_words(kind: Any) -> str:
    """What a parameter can be, for people."""
    if get_origin(kind) is tuple:
        return "paths"
    named = {bool: "true or false", int: "a whole number", float: "a number", Path: "a path", str: "a text"}
    return next((named[one] for one in (kind, *get_args(kind)) if one in named), "one of " + ", ".join(_words(kind)))


def _words(kind: Any) -> tuple[str, ...]:
    """The words that a parameter can be, where it is one of several."""
    return next((get_args(one) for one in (kind, *get_args(kind)) if get_origin(one) is Literal), ())


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of a declared type: a plain one, one or None, one of several words, or many paths."""
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(isinstance(one, Path) for one in value)
    if _words(kind):
        return value in _words(kind) or (value is None and type(None) in get_args(kind))
    kinds = get_args(kind) or (kind,)
    if isinstance(value, bool):
        return bool in kinds
    return any(isinstance(value, (int, float) if one is float else one) for one in kinds)
