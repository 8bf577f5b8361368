"""The slices of a recipe file, as models that are stacks of layers.

    slices:                                    models
      - sources: [a [0, 8], b [0, 8]]          a[0:8]|a[4:12]      the base
      - sources: [a [4, 12], b [4, 12]]        b[0:8]|b[4:12]      a task

So every slice is merged by the recipe's method, and what is stacked is merged as any model is. A value that a slice or
one of its sources says holds for its layers. A slice with fewer sources than another has its base in their place, with
weight 0. Cost: none. Not here: the tensors of a stack (`stacks`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from prefmerge.checkpoints import split_adapter
from prefmerge.checkpoints.adapter import find_adapter
from prefmerge.checkpoints.paths import PathOfLayers, name_of
from prefmerge.ground.words import joined
from prefmerge.merging.parameters import every
from prefmerge.merging.recipe_models import ListedModel
from prefmerge.merging.recipe_nodes import Nodes
from prefmerge.methods.by_layer import ByLayer
from prefmerge.methods.parameters import BASE_WEIGHT, WEIGHTS
from prefmerge.methods.protocol import Method

NONE = ListedModel("")  # a place in a slice that has no source of its own


@dataclass(frozen=True)
class Slice:
    """One of the slices. `base`: its own base model. `given`: what it says for all of its sources."""

    node: Any
    place: str
    rows: tuple[ListedModel, ...]
    base: str | None
    given: Mapping[str, Any]

    @property
    def layers(self) -> tuple[int, int] | None:
        """The layers of all of its sources, where they are the same of each."""
        ranges = {row.layers for row in self.rows}
        return next(iter(ranges)) if len(ranges) == 1 else None


def is_whole(slices: Sequence[Slice]) -> bool:
    """Whether the slices are one, over all layers of its models: then nothing is stacked."""
    return len(slices) == 1 and all(row.whole for row in slices[0].rows)


def stacked(
    nodes: Nodes, method: Method, slices: Sequence[Slice], base: str | None
) -> tuple[list[ListedModel], dict[str, Any]]:
    """The base and the tasks as stacks, and what the slices say for all; nothing where a slice is wrong, which is kept.
    Raises Fault.
    """
    columns: list[list[ListedModel]] = []
    for slice in slices:
        with nodes.collected():
            _check(nodes, slice)
            columns.append(_in_order(nodes, method, slice, base))
    if nodes.refused:
        return [], {}
    wide = max(map(len, columns))
    for slice, column in zip(slices, columns, strict=True):
        if len(column) < wide and not (method.honours(WEIGHTS) or method.most == 1):
            raise nodes.error(
                slice.node,
                f"{slice.place}: {len(column)} models, and another slice has {wide}. {method.name} needs as many in "
                "each: list the same number of sources.",
            )
        column += [NONE] * (wide - len(column))
    names: list[str] = []
    rows: list[ListedModel] = []
    for i in range(wide):
        parts = [column[i] if column[i] is not NONE else column[0] for column in columns]
        home = [f"{base}[0:0]"] if i == 0 and base is not None and not _same(parts[0].path, base) else []
        path = "|".join([*home, *(str(PathOfLayers(row.path, *(row.layers or (0, 0)))) for row in parts)])
        own = _own(nodes, method, slices, [column[i] for column in columns])
        names.append(_name([column[i] for column in columns], names))
        rows.append(ListedModel(path, slices[0].node, names[-1], own))
    return rows, _by_slice(nodes, slices, [slice.given for slice in slices])


def _check(nodes: Nodes, slice: Slice) -> None:
    """Raise Fault where the sources of a slice cannot be laid over one another."""
    counts = {row.layers[1] - row.layers[0] for row in slice.rows if row.layers}
    if any(row.layers is None for row in slice.rows):
        raise nodes.error(slice.node, f"{slice.place}: 'layer_range' is missing in a source, such as [0, 8].")
    if len(counts) > 1:
        raise nodes.error(
            slice.node,
            f"{slice.place}: its sources are of {joined(map(str, sorted(counts)))} layers; each must be of as many.",
        )
    for row in slice.rows:
        if split_adapter(row.path)[0] is not None or find_adapter(row.path) is not None:
            raise nodes.error(
                row.node,
                f"{slice.place}: {row.path} is an adapter, and slices are of whole models. Make the model first: "
                "prefmerge merge BASE ADAPTER --method last -o model",
            )


def _in_order(nodes: Nodes, method: Method, slice: Slice, stated: str | None) -> list[ListedModel]:
    """The sources of a slice, the base before the others."""
    base, rows = slice.base or stated, list(slice.rows)
    if method.most == 0 and len(rows) > 1:
        raise nodes.error(slice.node, f"{slice.place}: {method.name} takes one source, found {len(rows)}.")
    at = next((i for i, row in enumerate(rows) if base is not None and _same(row.path, base)), None)
    alone = method.most == 0 or (method.honours(BASE_WEIGHT) and method.unlisted(Fraction(1)) != 0)
    if at is None and (base is None or alone):
        at = 0  # the slices' models are all that takes part; the first stands in the base's place, with its own weight
    if at is not None:
        return [rows.pop(at), *rows]
    if slice.layers is None:
        raise nodes.error(
            slice.node,
            f"{slice.place}: its sources are of different layers, and the base is none of them. List it, with the "
            "layers that it takes part with.",
        )
    return [ListedModel(base or "", slice.node, layers=slice.layers), *rows]


def _own(nodes: Nodes, method: Method, slices: Sequence[Slice], column: Sequence[ListedModel]) -> dict[str, Any]:
    """What a model says for itself, in all slices. Where it stands in for no model its weight is 0."""
    lacking = {WEIGHTS.name: Fraction(0)} if method.honours(WEIGHTS) else {}
    return _by_slice(nodes, slices, [lacking if row is NONE else row.own for row in column])


def _by_slice(nodes: Nodes, slices: Sequence[Slice], given: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One value for all slices, or by slice. Raises Fault for a parameter that must have one."""
    values: dict[str, Any] = {}
    for name in dict.fromkeys(name for one in given for name in one):
        each = [one.get(name) for one in given]
        if all(value == each[0] for value in each):
            values[name] = each[0]
        elif every()[name].by_layer:
            values[name] = ByLayer.of_slices(each)
        else:
            other = next(slice for slice, value in zip(slices, each, strict=True) if value != each[0])
            raise nodes.error(
                other.node, f"{other.place}: {every()[name].keys[0]!r} differs from slice to slice; it has one value."
            )
    return values


def _name(column: Sequence[ListedModel], taken: Sequence[str]) -> str:
    """What a stack is called: after its models."""
    own = [row.name or name_of(Path(row.path)) for row in column if row is not NONE]
    name = "-".join(dict.fromkeys(own))
    return name if name not in taken else f"{name}-{len(taken) + 1}"


def _same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
