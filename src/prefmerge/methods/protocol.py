"""What a merge method is: something that reads task vectors and says, block by block, what the merged task vector is.

    tau_merged[start:stop] = rule.block(tensor, start, stop),   theta = theta_0 + scale * tau_merged

A method's `prepare` may read the deltas of its scope as often as it must (thresholds, masks, budgets) and returns a
`Rule`; the rule then fills one block at a time and needs no more than a block of each task. Methods know nothing of
files. Help texts list methods and their parameters, so nothing heavy is imported here, nor at the top of a method's
file: NumPy and kernels come in the functions that use them.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from prefmerge.errors import MethodError
from prefmerge.ground.words import counted
from prefmerge.methods.by_layer import ByLayer
from prefmerge.methods.parameters import Parameter
from prefmerge.preference import budgets

if TYPE_CHECKING:
    import numpy as np

    from prefmerge.vectors.workspace import Workspace

T = TypeVar("T")


class Deltas(Protocol):
    """The task vectors of one tensor: tau_t = theta_t - theta_0, float32, flat."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the tensor, for methods that work on matrices; vectors are flat all the same."""
        ...

    @property
    def size(self) -> int:
        """Elements."""
        ...

    @property
    def changed(self) -> bool:
        """Whether any value read so far was not zero."""
        ...

    def read(self, task: int, start: int, stop: int, out: np.ndarray) -> bool:
        """Fill `out`, shape (stop - start,), with tau_task[start:stop]. True if any is not zero. Raises
        NonFiniteValue.
        """
        ...

    def gather(self, task: int, indices: np.ndarray, out: np.ndarray) -> None:
        """Fill `out` with tau_task at `indices` (ascending). Raises NonFiniteValue."""
        ...

    def base(self, start: int, stop: int) -> np.ndarray:
        """theta_0[start:stop], float32, read-only."""
        ...

    def model(self, task: int | None, start: int, stop: int) -> np.ndarray:
        """theta_task[start:stop], theta_0 for None: float64 where it is stored so, else float32. Raises
        NonFiniteValue.
        """
        ...


def reader(tensors: Sequence[Deltas], task: int) -> Callable[[int, int, int, np.ndarray], object]:
    """What fills an array with a stretch of one task's vectors: (tensor, start, stop, out)."""
    return lambda tensor, start, stop, out: tensors[tensor].read(task, start, stop, out)


@dataclass(frozen=True)
class Settings:
    """Everything that decides the merged bytes besides the tensors. The tuples have one entry per task, in the order of
    training. `values`: of the method's parameters, by name; what is not there has its default.
    """

    tasks: int
    scale: float = 1.0
    shares: tuple[Fraction, ...] | ByLayer | None = None  # after carry
    counts: tuple[int, ...] | None = None  # explicit budgets over the model; only with strength 1
    values: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, parameter: Parameter[T]) -> T:
        return self.values.get(parameter.name, parameter.default)

    def per_task(self, parameter: Parameter[T]) -> tuple[T, ...]:
        """The values of a parameter of which each task has its own."""
        return self.values.get(parameter.name) or (parameter.default,) * self.tasks

    @cached_property
    def varies(self) -> bool:
        """Whether any tensor has settings of its own."""
        return any(map(varies, (self.scale, self.shares, *self.values.values())))

    @property
    def of_all(self) -> tuple[Fraction, ...]:
        """The shares, which are the same in all that these settings are for."""
        assert isinstance(self.shares, tuple), "the caller resolves the preference, for a tensor where it differs"
        return self.shares

    @cached_property
    def asked(self) -> tuple[Fraction, ...]:
        """What was asked for each task, in elements or in shares, as a part of the whole."""
        asked = self.of_all if self.counts is None else self.counts
        total = sum(asked)
        return tuple(Fraction(one) / total for one in asked)

    def at(self, tensor: str, depth: Fraction, slice: int = 0) -> Settings:
        """These settings for one tensor, which lies so deep in its stack of layers, or in a slice of a stack."""
        if not self.varies:
            return self

        def own(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(own(one) for one in value)
            return value.at(tensor, depth, slice) if isinstance(value, ByLayer) else value

        values = {name: own(value) for name, value in self.values.items()}
        return replace(self, scale=own(self.scale), shares=own(self.shares), values=values)


def varies(value: Any) -> bool:
    """Whether it is another one from layer to layer."""
    return isinstance(value, ByLayer) or (isinstance(value, tuple) and any(isinstance(one, ByLayer) for one in value))


@dataclass(frozen=True)
class NeedsOrder:
    """That something is for tasks that were trained one after another. `strict`: it looks at what each task changed
    after the one before it, so others are refused; else it works with others too, for which something else is meant.
    `vectors`: what takes a task vector for a checkpoint of that order.
    """

    what: str
    instead: str  # a sentence: what to do where they were not
    vectors: str | None = None
    strict: bool = True


@dataclass
class Report:
    """How one tensor (scope `tensor`) or the whole model came out: counts of elements per task, in task order."""

    asked: tuple[int, ...] | None = None
    passes: list[tuple[int, ...]] | None = None
    random: tuple[int, ...] | None = None
    gap: float | None = None  # relative duality gap of `optimal`, an upper bound
    prices: tuple[float | None, ...] | None = (
        None  # of `optimal`: the certificate; None for a task that did not compete
    )

    def entries(self) -> dict[str, Any]:
        """The parts that apply, by name: what a receipt has of them."""
        passes = None if self.passes is None else tuple(map(tuple, self.passes))
        parts = {**vars(self), "passes": passes}
        return {name: part for name, part in parts.items() if part is not None}

    @classmethod
    def of(cls, entries: Mapping[str, Any] | None) -> Report | None:
        """The inverse of `entries`, also through JSON, which has lists for tuples."""
        if entries is None:
            return None
        parts: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in entries.items()}
        report = cls(**parts)
        report.passes = None if report.passes is None else [tuple(counts) for counts in report.passes]
        return report


@dataclass
class Rule(abc.ABC):
    """The prepared merge of the tensors of one scope. Subclasses fill `block`."""

    tensors: Sequence[Deltas]
    settings: Settings
    report: Report = field(default_factory=Report)
    base_weight: float = 0.0  # merged vector += base_weight * theta_0 (linear without normalisation)

    def unchanged(self, tensor: int) -> bool:
        """Whether `prepare` has found that no task changed this tensor: its bytes are the base's."""
        return False

    @abc.abstractmethod
    def block(self, tensor: int, start: int, stop: int, out: np.ndarray, work: Workspace) -> np.ndarray | None:
        """Fill `out` with the merged, unscaled task vector; of a method that gives the model, with that. Returns
        owners per task, shape (T,), where every element has one. Thread-safe.
        """

    def owner_of(self, tensor: int, start: int, stop: int, work: Workspace) -> np.ndarray | None:
        """The owner of each element, where every element has one. Asked for right after `block`, in the same thread."""
        return None


class Method(abc.ABC):
    """One entry of the registry: what it is called, the parameters that it honours, and how it merges."""

    name: str
    summary: str  # one line for the help text
    parameters: tuple[Parameter[Any], ...]  # `SCALE` with its own default among them

    # What else the rest of the program must know of it.
    mergekit: bool = False  # mergekit has it too, so its recipes are read as mergekit reads them
    ignores: Mapping[str, str] = {}  # mergekit's keys that it ignores, and what to say of that
    gives_model: bool = False  # its rules fill a float64 `out` with the merged model itself, scale included
    of_models: bool = False  # it speaks of whole models: the base may be one of them
    fewest: int = 1  # tasks that it merges
    most: int | None = None
    searched: int = 0  # its place among the methods that a search may try; 0: none
    starts: tuple[tuple[str, Mapping[str, str]], ...] = ()  # (title, parameters) that a search begins with
    published: Mapping[str, Any] = {}  # what the papers set, by name; empty where they agree on nothing

    def honours(self, parameter: Parameter[Any]) -> bool:
        """Whether it has a use for a parameter."""
        return parameter.name in self.options

    @property
    def options(self) -> frozenset[str]:
        """The names of its parameters."""
        return frozenset(parameter.name for parameter in self.parameters)

    def own(self, parameter: Parameter[T]) -> Parameter[T]:
        """Its own declaration of a parameter, which may have another default; as given where it has none."""
        return next((one for one in self.parameters if one.name == parameter.name), parameter)

    def require(self, tasks: int) -> None:
        """Raise MethodError where it does not merge so many tasks."""
        if self.most == 0 and tasks:
            raise MethodError(
                f"{self.name} takes one model alone, found {counted(tasks, 'task')} beside it. Give that model only, "
                "or use another method."
            )
        if tasks < self.fewest or (self.most is not None and tasks > self.most):
            exactly = "exactly" if self.fewest == self.most else "at least" if tasks < self.fewest else "at most"
            wanted = self.fewest if tasks < self.fewest else self.most
            raise MethodError(
                f"{self.name} merges {exactly} {counted(wanted or 0, 'task')} with the base, found {tasks}. Give "
                "as many, or use another method."
            )

    def unlisted(self, weight: Fraction | None) -> Fraction:
        """The base's weight in a sum of models where a recipe file names it, but not among the models. `weight`: the
        one given for all models.
        """
        return weight or Fraction(0)

    def of_order(self, value: Callable[[Parameter[Any]], Any]) -> Sequence[NeedsOrder]:
        """What of it is for tasks that were trained one after another. `value`: of each parameter."""
        return ()

    def check(self, settings: Settings) -> Sequence[NeedsOrder]:
        """What it asks of the tasks. Raises MethodError for what it cannot merge, whatever the values are."""
        return [one for one in self.of_order(settings.__getitem__) if one.strict] if settings.tasks > 1 else []

    def budgets(self, settings: Settings, elements: int) -> tuple[int, ...]:
        """Elements per task, out of so many that share a budget (paper eq. 5, 6). For methods with a preference."""
        return budgets(settings.of_all, elements)

    def most_budgets(self, settings: Settings, elements: int) -> tuple[int, ...]:
        """The most that each task may get where at most so many elements share a budget."""
        return self.budgets(settings, elements)

    def scratch(self, settings: Settings) -> int:
        """Bytes for each element of a scope that it keeps, on the disk where memory is short."""
        return 0

    def needed(self, tasks: int) -> Mapping[str, str]:
        """The parameters without which it cannot merge so many tasks."""
        return {}

    def prepared_from(self, settings: Settings) -> Hashable:
        """What `prepare` depends on beside the tensors: merges in which this is equal share one rule, each with its own
        settings. None: nothing is shared.
        """
        return None

    @abc.abstractmethod
    def by_tensor(self, settings: Settings) -> bool:
        """True: `prepare` is called for each tensor alone. False: once, with all of them."""

    @abc.abstractmethod
    def prepare(self, tensors: Sequence[Deltas], settings: Settings, work: Workspace) -> Rule:
        """Read what must be known before the first block can be merged."""
