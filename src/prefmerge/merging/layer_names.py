"""What people call the layer of a tensor, and the order of the network as far as names show it.

    layers(["visual.blocks.3.ln.weight", "visual.conv1.weight"])      {...: "block 3", ...: "visual.conv1"}

Cost: a look at every name. Not here: how deep a layer lies, which recipes ask for (`layers`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sorts block 10 after block 9."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def layers(names: Iterable[str]) -> dict[str, str]:
    """Tensor name -> the layer that it belongs to.

    A name with a number between dots (`visual.transformer.resblocks.3.ln_1.weight`) belongs to a block of a stack:
    `block 3`, preceded by the name of the stack where there are several (`visual block 3`). Any other
    belongs to its module (`visual.conv1`).
    """
    blocks: dict[str, tuple[str, str] | None] = {}
    modules: dict[str, str] = {}
    for name in names:
        parts = name.split(".")
        at = next((i for i, part in enumerate(parts) if part.isdigit()), None)
        blocks[name] = None if at is None else (".".join(parts[:at]), parts[at])
        modules[name] = ".".join(parts[:-1]) or name
    stacks = _stack_names(sorted({block[0] for block in blocks.values() if block is not None}))
    labels = {}
    for name, block in blocks.items():
        labels[name] = (
            modules[name] if block is None else " ".join(part for part in (stacks[block[0]], "block", block[1]) if part)
        )
    return labels


def _stack_names(stacks: Sequence[str]) -> dict[str, str]:
    """Each dotted prefix without the components that all of them begin or end with."""
    split = [stack.split(".") if stack else [] for stack in stacks]
    if len(split) < 2:
        return dict.fromkeys(stacks, "")
    shortest = min(len(parts) for parts in split)
    head = next((i for i in range(shortest) if len({parts[i] for parts in split}) > 1), shortest)
    tail = next((i for i in range(shortest - head) if len({parts[-1 - i] for parts in split}) > 1), shortest - head)
    return {stack: ".".join(parts[head : len(parts) - tail]) for stack, parts in zip(stacks, split, strict=True)}
