"""Which layer a tensor belongs to, from its name.

    depths({"embed.weight", "layers.0.w", "layers.1.w", "layers.2.w"})      {"layers.0.w": 0, "layers.1.w": 1/2, ...}

A layer is what stands behind `layers`, `layer`, `h`, `block`, `blocks`, `resblocks` or `stages` as a number, for the
first time in a name. What is before that is one stack (the encoder, the decoder), whose first layer has depth 0 and
whose last has 1, a lone one 1. Tensors outside of all stacks have 0, as in mergekit. Cost: a look at every name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

_LAYER = re.compile(r"(?P<stack>(?:.*?\.)?(?:layers?|h|blocks?|resblocks|stages))\.(?P<number>\d{1,6})\.")


class Layer(NamedTuple):
    """Where in a model a tensor lies: `stack`.`number`.`rest` is its name."""

    stack: str
    number: int
    rest: str

    def renumbered(self, number: int) -> str:
        """The name that it has in another layer."""
        return f"{self.stack}.{number}.{self.rest}"


def layer_of(name: str) -> Layer | None:
    """The layer of a tensor; None where it lies outside of all."""
    match = _LAYER.match(name)
    return Layer(match["stack"], int(match["number"]), name[match.end() :]) if match else None


def depths(names: Iterable[str]) -> dict[str, Fraction]:
    """How deep in its stack each tensor lies, from 0 to 1; without those outside of all stacks."""
    layers = {name: layer for name in names if (layer := layer_of(name))}
    last = {stack: count - 1 for stack, count in stacks(layers).items()}
    return {
        name: Fraction(layer.number, last[layer.stack]) if last[layer.stack] else Fraction(1)
        for name, layer in layers.items()
    }


def stacks(names: Iterable[str]) -> dict[str, int]:
    """How many layers each stack has, by what its tensors' names begin with."""
    counts: dict[str, int] = {}
    for name in names:
        if layer := layer_of(name):
            counts[layer.stack] = max(layer.number + 1, counts.get(layer.stack, 0))
    return counts
