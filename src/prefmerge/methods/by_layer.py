"""A value that is another one in every layer, or for some tensors: mergekit's gradients and filters.

    ByLayer((("self_attn", (0, 1)), (None, (1/2,))))      from 0 to 1 over the layers where a name holds "self_attn",
                                                          a half in all other tensors

The first rule whose text is a part of the tensor's name holds (None: of every name). Several numbers are spread evenly
from the first layer to the last, straight lines between; of words and yes or no the one before holds. Cost: none. Not
here: which tensor belongs to which layer (`merging.layers`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

KEYS = {"filter", "value"}
EVERY = "*"  # as a filter: every tensor
SHAPE = "expected a value, a list of values over the layers, or a list of {filter, value}"


@dataclass(frozen=True)
class ByLayer:
    """Rules, tried in order: (part of a name, values)."""

    rules: tuple[tuple[str | None, tuple[Any, ...]], ...]

    @classmethod
    def read(cls, read: Callable[[Any], Any], written: Any) -> ByLayer:
        """What may be written for one: a list of values, a rule {filter, value}, or a list of rules. `read` makes a
        value of what is written for one. Raises ValueError.
        """
        if isinstance(written, ByLayer):
            return written
        rows = written if _of_rules(written) else [written if isinstance(written, Mapping) else {"value": written}]
        rules: list[tuple[str | None, tuple[Any, ...]]] = []
        for row in rows:
            if not isinstance(row, Mapping) or not {"value"} <= row.keys() <= KEYS:
                raise ValueError(f"{SHAPE}, found {str(row)[:200]!r}")
            part, values = row.get("filter"), row["value"]
            if part is not None and (not isinstance(part, str) or not part):
                raise ValueError(f"expected a part of tensor names as the filter, found {str(part)[:200]!r}")
            values = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else [values]
            if not values:
                raise ValueError(f"{SHAPE}, found an empty list")
            rules.append((None if part == EVERY else part, tuple(read(value) for value in values)))
        return cls(tuple(rules))

    def or_else(self, value: Any) -> ByLayer:
        """The same, and `value` (one for all, or by layer) where no rule holds."""
        if any(part is None for part, _ in self.rules):
            return self
        return ByLayer((*self.rules, *(value.rules if isinstance(value, ByLayer) else ((None, (value,)),))))

    def at(self, name: str, depth: Fraction) -> Any:
        """The value for a tensor: `depth` is 0 in the first layer and 1 in the last. Raises KeyError without a rule."""
        for part, values in self.rules:
            if part is None or part in name:
                return _between(values, depth)
        raise KeyError(name)

    def values(self) -> list[Any]:
        """Every value that is written."""
        return [value for _, values in self.rules for value in values]

    def to_json(self, one: Callable[[Any], Any]) -> list[dict[str, Any]]:
        """A list of rules; `one` writes a value."""
        return [
            {**({} if part is None else {"filter": part}), "value": [one(value) for value in values]}
            for part, values in self.rules
        ]


def is_by_layer(written: Any) -> bool:
    """Whether what is written for a parameter is more than one value."""
    return isinstance(written, (ByLayer, list, tuple, Mapping))


def _of_rules(written: Any) -> bool:
    several = isinstance(written, Sequence) and not isinstance(written, str)
    return several and any(isinstance(row, Mapping) for row in written)


def _between(values: Sequence[Any], depth: Fraction) -> Any:
    place = depth * (len(values) - 1)
    first = int(place)
    if not all(isinstance(value, (Fraction, float)) for value in values):
        return values[first]
    rest = place - first
    if not rest:
        return values[first]
    low, high = values[first], values[first + 1]
    if isinstance(low, float):
        return float((1 - rest) * Fraction(low) + rest * Fraction(high))
    return (1 - rest) * low + rest * high
