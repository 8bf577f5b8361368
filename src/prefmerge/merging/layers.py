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

_LAYER = re.compile(r"(?P<stack>(?:.*?\.)?(?:layers?|h|blocks?|resblocks|stages))\.(?P<number>\d{1,6})\.")


def depths(names: Iterable[str]) -> dict[str, Fraction]:
    """How deep in its stack each tensor lies, from 0 to 1; without those outside of all stacks."""
    places = {name: (own["stack"], int(own["number"])) for name in names if (own := _LAYER.match(name))}
    last: dict[str, int] = {}
    for stack, number in places.values():
        last[stack] = max(number, last.get(stack, 0))
    return {
        name: Fraction(number, last[stack]) if last[stack] else Fraction(1) for name, (stack, number) in places.items()
    }


def counts(names: Iterable[str]) -> set[int]:
    """How many layers the stacks have."""
    last: dict[str, int] = {}
    for name in names:
        if place := _LAYER.match(name):
            last[place["stack"]] = max(int(place["number"]), last.get(place["stack"], 0))
    return {number + 1 for number in last.values()}
