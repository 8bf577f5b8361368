"""A value that is another one in every layer, or for some tensors: mergekit's gradients and filters.

    ByLayer((("self_attn", (0, 1)), (None, (1/2,))))      from 0 to 1 over the layers where a name holds "self_attn",
                                                          a half in all other tensors

The first rule whose text is a part of the tensor's name holds (None: of every name). Several numbers are spread evenly
from the first layer to the last, straight lines between; of words and yes or no the one before holds. In a model that
is stacked of slices, a rule may hold for one slice alone, and its numbers are spread over the layers of that slice.
Cost: none. Not here: which tensor belongs to which layer (`merging.layers`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

KEYS = {"filter", "value", "slice"}
EVERY = "*"  # as a filter: every tensor
SHAPE = "expected a value, a list of values over the layers, or a list of {filter, value}"


@dataclass(frozen=True)
class ByLayer:
    """Rules, tried in order: (part of a name, values), and the slice of each where they are for one slice alone."""

    rules: tuple[tuple[str | None, tuple[Any, ...]], ...]
    slices: tuple[int | None, ...] = ()  # one for each rule, or none at all

    @classmethod
    def read(cls, read: Callable[[Any], Any], written: Any) -> ByLayer:
        """What may be written for one: a list of values, a rule {filter, value}, or a list of rules. `read` makes a
        value of what is written for one. Raises ValueError.
        """
        if isinstance(written, ByLayer):
            return written
        rows = written if _of_rules(written) else [written if isinstance(written, Mapping) else {"value": written}]
        rules: list[tuple[str | None, tuple[Any, ...]]] = []
        slices: list[int | None] = []
        for row in rows:
            if not isinstance(row, Mapping) or not {"value"} <= row.keys() <= KEYS:
                raise ValueError(f"{SHAPE}, found {str(row)[:200]!r}")
            part, values, slice = row.get("filter"), row["value"], row.get("slice")
            if slice is not None and type(slice) is not int:
                raise ValueError(f"expected the number of a slice, found {str(slice)[:200]!r}")
            if part is not None and (not isinstance(part, str) or not part):
                raise ValueError(f"expected a part of tensor names as the filter, found {str(part)[:200]!r}")
            values = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else [values]
            if not values:
                raise ValueError(f"{SHAPE}, found an empty list")
            rules.append((None if part == EVERY else part, tuple(read(value) for value in values)))
            slices.append(slice)
        return cls._of(rules, slices)

    @classmethod
    def of_slices(cls, values: Sequence[Any]) -> ByLayer:
        """One value for each slice, or by its layers; None where a slice says nothing."""
        several = [(slice, value) for slice, value in enumerate(values) if value is not None]
        rows = [(rule, slice) for slice, value in several for rule in _rules(value)]
        return cls._of([rule for rule, _ in rows], [slice for _, slice in rows])

    @classmethod
    def _of(cls, rules: Sequence[tuple[str | None, tuple[Any, ...]]], slices: Sequence[int | None]) -> ByLayer:
        return cls(tuple(rules), () if all(slice is None for slice in slices) else tuple(slices))

    def _rows(self) -> list[tuple[str | None, tuple[Any, ...], int | None]]:
        slices = self.slices or (None,) * len(self.rules)
        return [(*rule, slice) for rule, slice in zip(self.rules, slices, strict=True)]

    def or_else(self, value: Any) -> ByLayer:
        """The same, and `value` (one for all, or by layer) where no rule holds."""
        rows = self._rows()
        if any(part is None and slice is None for part, _, slice in rows):
            return self
        others = value._rows() if isinstance(value, ByLayer) else [(None, (value,), None)]
        both = [*rows, *others]
        return ByLayer._of([(part, values) for part, values, _ in both], [slice for _, _, slice in both])

    def at(self, name: str, depth: Fraction, slice: int = 0) -> Any:
        """The value for a tensor: `depth` is 0 in the first layer (of its slice) and 1 in the last. Raises KeyError
        without a rule.
        """
        for part, values, only in self._rows():
            if only in (None, slice) and (part is None or part in name):
                return _between(values, depth)
        raise KeyError(name)

    def map(self, change: Callable[[Any], Any]) -> ByLayer:
        """The same rules with `change` made to every value."""
        rules = tuple((part, tuple(map(change, values))) for part, values in self.rules)
        return ByLayer(rules, self.slices)

    def values(self) -> list[Any]:
        """Every value that is written."""
        return [value for _, values in self.rules for value in values]

    def to_json(self, one: Callable[[Any], Any]) -> list[dict[str, Any]]:
        """A list of rules; `one` writes a value."""
        return [
            {
                **({} if slice is None else {"slice": slice}),
                **({} if part is None else {"filter": part}),
                "value": [one(value) for value in values],
            }
            for part, values, slice in self._rows()
        ]


def is_by_layer(written: Any) -> bool:
    """Whether what is written for a parameter is more than one value."""
    return isinstance(written, (ByLayer, list, tuple, Mapping))


def _rules(value: Any) -> tuple[tuple[str | None, tuple[Any, ...]], ...]:
    return value.rules if isinstance(value, ByLayer) else ((None, (value,)),)


def _of_rules(written: Any) -> bool:
    several = isinstance(written, Sequence) and not isinstance(written, str)
    return several and any(isinstance(row, Mapping) for row in written)


def _between(values: Sequence[Any], depth: Fraction) -> Any:
    place = depth * (len(values) - 1)
    first = int(place)
    if all(isinstance(value, tuple) for value in values):  # of each task
        return tuple(_between(each, depth) for each in zip(*values, strict=True))
    if not all(isinstance(value, (Fraction, float)) for value in values):
        return values[first]
    rest = place - first
    if not rest:
        return values[first]
    low, high = values[first], values[first + 1]
    if isinstance(low, float):
        return float((1 - rest) * Fraction(low) + rest * Fraction(high))
    return (1 - rest) * low + rest * high
