"""A parameter of a method, declared once: its name, what may be written for it, its default, its help.

    DROP = Parameter("drop", NUMBER, Fraction(0), "so much less of it where the task is absent")

A method lists the parameters that it honours; what several share is declared here. Recipe keys, flags, receipts, search
and help are derived from the declaration, and it is the key to its value: `settings[DROP]` is a Fraction. Cost: none;
nothing heavy is imported, for help texts need it. Not here: the values (`Settings`, `Recipe`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from fractions import Fraction
from typing import Any, Generic, TypeVar

from prefmerge.errors import PreferenceError
from prefmerge.ground import words
from prefmerge.methods.by_layer import ByLayer, is_by_layer
from prefmerge.methods.shares_by_layer import by_layer, one_preference
from prefmerge.preference import Preference, as_text, exact

T = TypeVar("T")

LARGEST = (2 - 2**-23) * 2**127  # float32, in which values are merged
SEEDS = 2**63  # what every JSON reader and the kernels' keys hold without loss


@dataclass(frozen=True)
class Kind(Generic[T]):
    """What may be written for a parameter. `read` makes a value of it, or raises ValueError "expected .., found .."."""

    read: Callable[[Any], T]
    metavar: str
    rules: Callable[[Any], ByLayer | None] | None = None  # by layer, where its own values are lists or mappings too


class Group(IntEnum):
    """The order in which receipts, recipes and help list parameters; inside a group, that of the methods."""

    TARGET = 0
    SCALE = 1
    DRAWS = 2
    RULE = 3
    BUDGET = 4
    MODELS = 5
    SUM = 6
    OTHER = 7
    OUTPUT = 8


@dataclass(frozen=True)
class Range:
    """A search may try the numbers from `low` to `high`, rounded to `digits` after the point. `usual`: it does so
    unless it is asked for other parameters. `first`: the values to begin with.
    """

    low: float
    high: float
    digits: int
    usual: bool = False
    first: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choices:
    """A search may try these values, the default first."""

    values: tuple[str, ...]
    usual: bool = False


@dataclass(frozen=True)
class TaskShares:
    """A search may try a number from 0 to 1 for each task."""

    usual: bool = True


@dataclass(frozen=True)
class Unless:
    """A parameter has no use where `other` is `value`: `reason` says why."""

    other: Parameter[Any]
    value: Any
    reason: str


@dataclass(frozen=True)
class Instead(Generic[T]):
    """Another default: `value`, where every one of `others` has one of the values beside it."""

    value: T
    others: tuple[tuple[Parameter[Any], tuple[Any, ...]], ...]


@dataclass(frozen=True)
class Parameter(Generic[T]):
    """`help` begins in lower case and says nothing of the default, which is put behind it."""

    name: str
    kind: Kind[T]
    default: T
    help: str = ""
    instead: Instead[T] | None = None  # a default that other parameters decide
    varies: bool = False  # its default depends on the method or the merge, so a value that was given is always kept
    per_task: bool = False  # a recipe may give each task its own
    by_layer: bool = False  # a recipe may give each layer its own, or some tensors
    flag: bool = True  # the command line has it
    flag_name: str | None = None  # where it is not --name
    key: str | None = None  # in a recipe file, where it is not the name; "" for what is not written there
    top: bool = False  # the key belongs to the top level, not among the parameters
    mergekit: tuple[str, ...] = ()  # mergekit's keys for it; those that are not `key` are read too
    mergekit_default: T | None = None  # in a recipe file, where it is not `default`
    search: Range | Choices | TaskShares | None = None
    unless: Unless | None = None
    several: bool = False  # the value is a list, and the flag may be repeated
    recorded: bool = True  # False: it decides nothing but defaults, and a receipt has those
    quiet: bool = False  # receipts have it only where the method has it or it was given: older ones lack it
    group: Group = Group.OTHER

    def but(self, default: T, instead: Instead[T] | None = None) -> Parameter[T]:
        """The same parameter with a method's own default."""
        return replace(self, default=default, instead=instead)

    def default_where(self, value_of: Callable[[Parameter[Any]], Any]) -> T:
        """The default of a merge whose other parameters are `value_of`."""
        if self.instead and all(value_of(other) in values for other, values in self.instead.others):
            return self.instead.value
        return self.default

    @property
    def keys(self) -> tuple[str, ...]:
        """How a recipe file may spell it."""
        own = self.name if self.key is None else self.key
        return tuple(dict.fromkeys(key for key in (own, *self.mergekit) if key))

    @property
    def spelled(self) -> str:
        """What messages of the command line call it; a recipe may come from either side."""
        if not self.flag:
            return f"the models' {self.keys[0]}" if self.per_task else self.name
        return self.flag_name or words.flag(self.name)

    def read(self, value: Any) -> T:
        """The value that was written. Raises ValueError."""
        several = self._by_layer(value) if self.by_layer else None
        return self.kind.read(value) if several is None else several  # pyright: ignore[reportReturnType]  # see Settings

    def _by_layer(self, value: Any) -> ByLayer | None:
        """What is written, where that is more than one value."""
        if self.kind.rules is not None:
            return self.kind.rules(value)
        return ByLayer.read(self.kind.read, value) if is_by_layer(value) else None

    def to_json(self, value: Any) -> Any:
        """A value of it for JSON; one for each task is a list."""
        if isinstance(value, ByLayer):
            return value.to_json(self.to_json)
        if isinstance(value, Preference):
            return value.to_json()
        if isinstance(value, tuple):
            return [self.to_json(one) for one in value]
        return as_text(value) if isinstance(value, Fraction) else value

    def text(self, value: Any) -> str:
        """A value of it as one would write it."""
        if isinstance(value, bool):
            return str(value).lower()
        return as_text(exact(value)) if isinstance(value, float) else str(self.to_json(value))


# What may be written


def _fraction(value: Any) -> Fraction:
    try:
        number = exact(value)
        float(number)  # kernels compute with floats
    except (PreferenceError, OverflowError) as error:
        raise ValueError(f"expected a finite number, found {str(value)[:200]!r}") from error
    return number


def _unit(value: Any) -> Fraction:
    number = _fraction(value)
    if not 0 <= number <= 1:
        raise ValueError(f"expected a number from 0 to 1, found {value}")
    return number


def _part(value: Any) -> Fraction:
    number = _fraction(value)
    if not 0 < number <= 1:
        raise ValueError(f"expected a number above 0 and at most 1, found {value}")
    return number


def _float(value: Any) -> float:
    number = _fraction(value)
    if abs(number) > LARGEST:
        raise ValueError(f"expected a number that float32 holds, found {str(value)[:200]!r}")
    return float(number)


def _yes_or_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, found {str(value)!r}")
    return value


NUMBER = Kind(_fraction, "X")
UNIT = Kind(_unit, "0..1")
PART = Kind(_part, "0..1")  # without the 0
FLOAT = Kind(_float, "S")
YES_OR_NO = Kind(_yes_or_no, "")


def whole(least: int, below: int, metavar: str = "N") -> Kind[int]:
    """A whole number from `least` on, less than `below`."""

    def read(value: Any) -> int:
        number = _fraction(value)
        if number.denominator != 1 or not least <= number < below:
            raise ValueError(f"expected a whole number of at least {least}, found {value}")
        return int(number)

    return Kind(read, metavar)


def choice(*options: str) -> Kind[str]:
    """One of these words."""

    def read(value: Any) -> str:
        if value not in options:
            raise ValueError(f"expected {', '.join(options[:-1])} or {options[-1]}, found {str(value)!r}")
        return str(value)

    return Kind(read, "|".join(options))


# What several methods share

PREFERENCE: Parameter[Preference | ByLayer | None] = Parameter(
    "preference",
    Kind(one_preference, "SPEC", by_layer),
    None,
    "how much each task matters: uniform (default), alpha:2, 0.8,0.2,0 or 80%,20%,0, cars=0.8,birds=0.2 or "
    "@preference.json",
    flag_name="--prefer",
    by_layer=True,
    key="prefer",
    search=TaskShares(),
    group=Group.TARGET,
)
SCALE = Parameter(
    "scale",
    FLOAT,
    1.0,
    "merge coefficient",
    varies=True,
    by_layer=True,
    mergekit=("lambda",),
    search=Range(0.1, 1.5, 3, usual=True, first=("0.5", "1")),  # the paper's two
    group=Group.SCALE,
)
# Of mergekit's methods that have no lambda: a recipe's is ignored, with this note.
NO_LAMBDA = {SCALE.mergekit[0]: "as in mergekit; write 'scale' to scale the merged task vector"}
SEED = Parameter("seed", whole(0, SEEDS), 0, "decides every random choice", top=True, group=Group.DRAWS)
STRENGTH = Parameter(
    "strength",
    UNIT,
    Fraction(1),
    "from MAGMAX's own shares (0) to the full preference (1)",
    by_layer=True,
    search=Range(0.0, 1.0, 2, usual=True),
    group=Group.RULE,
)
CARRY = Parameter(
    "carry",
    UNIT,
    Fraction(0),
    "how much of a task's share may go to the tasks after it",
    search=Range(0.0, 1.0, 2, usual=True),
    group=Group.RULE,
)
SCOPE = Parameter(
    "scope",
    choice("tensor", "model"),
    "tensor",
    "where budgets hold: in every tensor (tensor) or over the whole model (model)",
    group=Group.BUDGET,
)
WEIGHTS = Parameter(
    "weights",
    NUMBER,
    Fraction(1),
    "how much each task weighs in a sum",
    per_task=True,
    by_layer=True,
    flag=False,
    key="weight",
    mergekit=("weight",),
    group=Group.MODELS,
)
BASE_WEIGHT = Parameter(  # of methods of whole models
    "base_weight",
    NUMBER,
    Fraction(0),  # the base is only where deltas start
    "the base's own weight among the models",
    by_layer=True,
    flag=False,
    key="",  # a recipe file lists the base among the models
    group=Group.MODELS,
)
NORMALIZE = Parameter(
    "normalize",
    YES_OR_NO,
    True,
    "whether a sum is divided by the sum of the weights",
    varies=True,
    flag=False,
    mergekit=("normalize",),
    group=Group.SUM,
)
DENSITY = Parameter(
    "density",
    PART,
    Fraction(1, 5),
    "what part of each task vector is kept",
    varies=True,
    per_task=True,
    by_layer=True,
    mergekit=("density",),
    mergekit_default=Fraction(1),
    group=Group.MODELS,
)
RESCALE = Parameter(
    "rescale",
    YES_OR_NO,
    True,
    "whether what is kept is enlarged, so that a sum stays what it was",
    varies=True,
    flag=False,
    mergekit=("rescale",),
    quiet=True,
    group=Group.SUM,
)
SEQUENTIAL: Parameter[Any] = Parameter(
    "sequential",
    YES_OR_NO,
    None,
    "the tasks were trained one after another, in this order; of the checkpoints of a finetune run this is known",
    top=True,
    recorded=False,
)
AS_PUBLISHED = Parameter(
    "as_published",
    YES_OR_NO,
    False,
    "take what the papers set",  # each method says what that is
    top=True,
    recorded=False,
)
