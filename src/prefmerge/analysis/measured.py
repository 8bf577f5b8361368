"""What was measured of a base's task vectors, as plain numbers: counts and sums, and what follows from them.

    conflicts   elements on which both signs occur, of those that at least two tasks keep, or of all
    magnitude   sum |tau| / elements;  deviation  sqrt(sum tau^2 / elements - mean^2)
    cosine      <a, b> / (|a| |b|), of task vectors and of steps d_t = tau_t - tau_{t-1} (tau_0 = 0)
                <d_s, d_t> = <tau_s, tau_t> - <tau_{s-1}, tau_t> - <tau_s, tau_{t-1}> + <tau_{s-1}, tau_{t-1}>

Tasks are in the order of training; index t of a tuple is the state after t + 1 of them. NaN where nothing could be
measured (None in JSON). Quantiles come from 16 bins an octave: never more than 6 % off. A step's norm is zero below
1e-6 of its vectors' norms: the difference of products is only rounding there. Not here: reading and drawing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from prefmerge.analysis.layer_types import LAYER_TYPES
from prefmerge.errors import CheckpointMismatch, UsageError
from prefmerge.ground.brief import brief

FORMAT = "prefmerge-analysis/1"
DENSITIES = (1.0, 0.2)  # of each task vector, per tensor: all that is not zero, and what TIES keeps by default
BIAS = "bias"  # a type of its own: the analysis by layer type and block leaves it out, as the paper does
OCTAVES = (-64, 16)  # of |tau|; kernels.py counts in these bins
PER_OCTAVE = 16
_SMALLEST_STEP = 1e-12  # of the squared norms: rounding of float64 products over many elements

Grouping = Literal["layer", "type", "block", "tensor"]


@dataclass(frozen=True)
class MeasuredPart:
    """A tensor, or several of one layer, type or block."""

    name: str  # of the tensor, layer, type or block
    layer: str  # the layer that it belongs to
    kind: str  # one of LAYER_TYPES, or "bias"
    tensors: int  # how many
    elements: int  # of all of them
    several: tuple[int, ...]  # elements that two tasks or more keep, by density
    conflicts: tuple[int, ...]  # of these, those with both signs, by density
    magnitudes: tuple[float, ...]  # sum of |tau_t|, shape (T,)
    merged: tuple[float, ...]  # sum of |tau_MAGMAX_t| after each task, shape (T,)
    owned: tuple[int, ...]  # elements of each task in the MAGMAX merge, shape (T,)
    contributed: tuple[int, ...]  # elements of which the task alone holds the largest magnitude, shape (T,)

    def conflict_share(self, density: int = 0) -> float:
        """Conflicts as a fraction of the elements that several tasks keep."""
        return _ratio(self.conflicts[density], self.several[density])

    def mean_magnitudes(self) -> np.ndarray:
        """Mean |tau_t|, shape (T,)."""
        return np.array([_ratio(total, self.elements) for total in self.magnitudes])

    def mean_merged(self) -> np.ndarray:
        """Mean |tau_MAGMAX_t| after each task, shape (T,)."""
        return np.array([_ratio(total, self.elements) for total in self.merged])


@dataclass(frozen=True)
class Signs:
    """Sign conflicts among the values that `density` keeps."""

    density: float  # part of each task vector that is kept, its largest values
    kept: tuple[int, ...]  # elements that task t keeps, shape (T,)
    reached: tuple[int, ...]  # elements that any of the first t + 1 tasks keeps, shape (T,)
    several: tuple[int, ...]  # elements that several of them keep, shape (T,)
    conflicts: tuple[int, ...]  # of these, those with both signs, shape (T,)
    pair_kept: tuple[tuple[int, ...], ...]  # elements that both tasks of a pair keep, shape (T, T)
    pair_differ: tuple[tuple[int, ...], ...]  # of these, those of different signs, shape (T, T)

    @classmethod
    def of(cls, density: float, prefixes_4T: np.ndarray, pairs_2TT: np.ndarray) -> Signs:
        """From the counts of one reading, shapes (4, T) and (2, T, T)."""
        kept, reached, several, conflicts = (tuple(row) for row in prefixes_4T.tolist())
        both, differ = (tuple(map(tuple, rows)) for rows in pairs_2TT.tolist())
        return cls(density, kept, reached, several, conflicts, both, differ)

    def share(self) -> np.ndarray:
        """Conflicts after each task as a fraction of the elements that several tasks keep, shape (T,)."""
        return np.array([_ratio(n, whole) for n, whole in zip(self.conflicts, self.several, strict=True)])

    def pairs(self) -> np.ndarray:
        """Per pair of tasks the fraction of what both keep on which their signs differ, shape (T, T)."""
        return _ratios(np.array(self.pair_differ), np.array(self.pair_kept))


@dataclass(frozen=True)
class Spread:
    """How many values a task vector has of each size: bins `first`, first + 1, ... of |tau|, by sign. No zeros."""

    first: int
    negative: tuple[int, ...]
    positive: tuple[int, ...]

    @classmethod
    def of(cls, counts_2B: np.ndarray) -> Spread:
        used = np.flatnonzero(counts_2B.sum(axis=0))
        first, stop = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 0)
        positive, negative = counts_2B[:, first:stop].tolist()  # the sign bit: 0, 1
        return cls(first, tuple(negative), tuple(positive))

    @property
    def total(self) -> int:
        return sum(self.negative) + sum(self.positive)

    def edges(self) -> np.ndarray:
        """The bounds of the bins, one more than there are."""
        at = np.arange(self.first, self.first + len(self.positive) + 1)
        octave, step = np.divmod(at, PER_OCTAVE)
        return np.ldexp(1 + step / PER_OCTAVE, octave + OCTAVES[0])

    def quantile(self, share: float, zeros: int = 0) -> float:
        """The magnitude below which this share of the values lies, `zeros` included; linear within a bin."""
        counts = np.add(self.negative, self.positive)
        wanted = share * (self.total + zeros) - zeros
        if self.total + zeros == 0:
            return math.nan
        if wanted <= 0 or not counts.size:
            return 0.0
        cumulative = np.concatenate([[0], np.cumsum(counts)])
        return float(np.interp(wanted, cumulative, self.edges()))


@dataclass(frozen=True)
class Measured:
    """Everything that `measure` measures of T task vectors over one base. Magnitudes are in units of the weights."""

    __repr__ = brief

    label: str  # what the set is called in a figure
    training: str | None  # how the tasks were trained, as their run says; None where no run says it
    base: str  # content fingerprint
    tasks: tuple[str, ...]  # their names, T of them
    elements: int  # of one task vector
    signs: tuple[Signs, ...]  # one per density
    values: tuple[Spread, ...]  # of every task vector
    contributed: tuple[Spread, ...]  # of what it contributes to the MAGMAX merge
    sums: tuple[float, ...]  # of the elements of each tau_t, shape (T,)
    products: tuple[tuple[float, ...], ...]  # <tau_s, tau_t>, shape (T, T)
    parts: tuple[MeasuredPart, ...]  # tensors, in the order of the network as far as names show it

    def by(self, grouping: Grouping) -> tuple[MeasuredPart, ...]:
        """The tensors, summed by layer, layer type or block. Types and blocks leave biases out, as the paper does."""
        if grouping == "tensor":
            return self.parts
        members: dict[str, list[MeasuredPart]] = {}
        if grouping == "type":
            members = {kind: [] for kind in LAYER_TYPES}
        for part in self.parts:
            if grouping == "layer" or (part.kind != BIAS and (grouping == "type" or _is_block(part.layer))):
                members.setdefault(part.kind if grouping == "type" else part.layer, []).append(part)
        return tuple(_summed(name, inside) for name, inside in members.items() if inside)

    def zeros(self) -> tuple[int, ...]:
        """Elements that each task did not change."""
        return tuple(self.elements - spread.total for spread in self.values)

    def mean_magnitudes(self) -> np.ndarray:
        """Mean |tau_t| over all elements, shape (T,)."""
        return self._means([part.magnitudes for part in self.parts])

    def mean_merged(self) -> np.ndarray:
        """Mean |tau_MAGMAX_t| over all elements after each task, shape (T,)."""
        return self._means([part.merged for part in self.parts])

    def _means(self, rows: Sequence[Sequence[float]]) -> np.ndarray:
        columns = zip(*rows, strict=True) if rows else [()] * len(self.tasks)
        return np.array([_ratio(math.fsum(column), self.elements) for column in columns])

    def deviations(self) -> np.ndarray:
        """Standard deviation of each task vector's elements, zeros included, shape (T,)."""
        squares = np.diagonal(self._gram())
        means = np.array(self.sums) / max(1, self.elements)
        variances = _ratios(squares, np.full(len(self.tasks), self.elements)) - means**2
        return np.sqrt(np.maximum(variances, 0))

    def quantiles(self, share: float) -> np.ndarray:
        """Per task the magnitude below which this share of its elements lies, zeros included, shape (T,)."""
        return np.array(
            [spread.quantile(share, zeros) for spread, zeros in zip(self.values, self.zeros(), strict=True)]
        )

    def owned(self) -> tuple[int, ...]:
        """Elements that each task owns in the MAGMAX merge, as a receipt counts them: ties, zeros too, are the later
        task's."""
        return tuple(sum(part.owned[t] for part in self.parts) for t in range(len(self.tasks)))

    def contributions(self) -> np.ndarray:
        """Of the elements that any task changed, the share of which each task alone holds the largest magnitude, shape
        (T,). What is missing from 1 is `tied`.
        """
        counts = np.array([sum(part.contributed[t] for part in self.parts) for t in range(len(self.tasks))])
        return _ratios(counts, np.full(counts.shape, self.signs[0].reached[-1]))

    def tied(self) -> float:
        """Of the elements that any task changed, the share of which several tasks hold the largest magnitude."""
        return 1 - float(np.sum(self.contributions()))

    def norms(self) -> np.ndarray:
        """|tau_t|, shape (T,)."""
        return np.sqrt(np.diagonal(self._gram()))

    def cosines(self) -> np.ndarray:
        """Between task vectors, shape (T, T)."""
        return _cosines(self._gram())

    def step_norms(self) -> np.ndarray:
        """|tau_t - tau_{t-1}|, shape (T,)."""
        return np.sqrt(np.diagonal(self._steps()))

    def step_cosines(self) -> np.ndarray:
        """Between steps, shape (T, T)."""
        return _cosines(self._steps())

    def _gram(self) -> np.ndarray:
        return np.array(self.products, np.float64).reshape(len(self.tasks), len(self.tasks))

    def _steps(self) -> np.ndarray:
        before = np.pad(self._gram(), ((1, 0), (1, 0)))
        steps = np.diff(np.diff(before, axis=0), axis=1)
        squares = np.diagonal(before)
        nothing = np.diagonal(steps) <= _SMALLEST_STEP * np.maximum(squares[1:], squares[:-1])
        steps[nothing, :] = 0
        steps[:, nothing] = 0
        return steps

    def to_json(self) -> dict[str, Any]:
        """A JSON object with everything, and under `summary` what follows from it; `from_json` takes it back."""
        data = asdict(self)
        for part in data["parts"]:
            part["type"] = part.pop("kind")
        return {"format": FORMAT, **data, "summary": self._summary()}

    def _summary(self) -> dict[str, Any]:
        return {
            "sign_conflicts": {f"density {signs.density:g}": _plain(signs.share()) for signs in self.signs},
            "sign_conflicts_of_all": {
                f"density {signs.density:g}": [_none(_ratio(n, self.elements)) for n in signs.conflicts]
                for signs in self.signs
            },
            "contributions": _plain(self.contributions()),
            "tied": _none(self.tied()),
            "owned": list(self.owned()),
            "zeros": [_none(_ratio(n, self.elements)) for n in self.zeros()],
            "mean_magnitudes": _plain(self.mean_magnitudes()),
            "mean_merged_magnitudes": _plain(self.mean_merged()),
            "mean_merged_magnitudes_by_type": {part.name: _plain(part.mean_merged()) for part in self.by("type")},
            "mean_merged_magnitudes_by_block": {part.name: _plain(part.mean_merged()) for part in self.by("block")},
            "standard_deviations": _plain(self.deviations()),
            "medians": _plain(self.quantiles(0.5)),
            "quantiles_99": _plain(self.quantiles(0.99)),
            "norms": _plain(self.norms()),
            "cosines": _plain(self.cosines()),
            "step_norms": _plain(self.step_norms()),
            "step_cosines": _plain(self.step_cosines()),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Measured:
        """What `to_json` gave. Raises UsageError where it is something else."""
        if data.get("format") != FORMAT:
            raise UsageError(f"an analysis has format {FORMAT!r}, found {data.get('format')!r}. Measure again.")
        fields = {key: _tuples(value) for key, value in data.items() if key not in ("format", "summary")}
        fields["signs"] = tuple(Signs(**_each(signs)) for signs in data["signs"])
        for key in ("values", "contributed"):
            fields[key] = tuple(Spread(**_each(spread)) for spread in data[key])
        parts = ({**_each(part)} for part in data["parts"])
        fields["parts"] = tuple(MeasuredPart(kind=part.pop("type"), **part) for part in parts)
        return cls(**fields)


def require_one_base(sets: Sequence[Measured]) -> None:
    """Raise CheckpointMismatch unless all are changes of one base, which alone can be compared."""
    for other in sets[1:]:
        if other.base != sets[0].base:
            raise CheckpointMismatch(
                f"{sets[0].label!r} and {other.label!r} are task vectors over different bases ({sets[0].base} and "
                f"{other.base}). Compare tasks that were fine-tuned from one base."
            )


def _each(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _tuples(value) for key, value in data.items()}


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


def _is_block(layer: str) -> bool:
    return " block " in f" {layer}"


def _summed(name: str, parts: Sequence[MeasuredPart]) -> MeasuredPart:
    def column(key: str) -> tuple[Any, ...]:
        rows = [getattr(part, key) for part in parts]
        return tuple((math.fsum if isinstance(values[0], float) else sum)(values) for values in zip(*rows, strict=True))

    kinds, layers = ({getattr(part, key) for part in parts} for key in ("kind", "layer"))
    return MeasuredPart(
        name=name,
        layer=layers.pop() if len(layers) == 1 else "",
        kind=kinds.pop() if len(kinds) == 1 else "",
        tensors=sum(part.tensors for part in parts),
        elements=sum(part.elements for part in parts),
        several=column("several"),
        conflicts=column("conflicts"),
        magnitudes=column("magnitudes"),
        merged=column("merged"),
        owned=column("owned"),
        contributed=column("contributed"),
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _ratios(parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    return np.divide(parts, wholes, out=np.full(np.shape(parts), math.nan), where=np.asarray(wholes) != 0)


def _cosines(products_TT: np.ndarray) -> np.ndarray:
    norms = np.sqrt(np.diagonal(products_TT))
    return np.clip(_ratios(products_TT, np.outer(norms, norms)), -1, 1)


def _plain(values: np.ndarray) -> list[Any]:
    return [_plain(value) if isinstance(value, np.ndarray) else _none(float(value)) for value in values]


def _none(value: float) -> float | None:
    return None if math.isnan(value) else value
