"""The models that a recipe file lists: where each is, and what it has of its own.

    model: PATH            relative to the recipe's folder, or else, as in mergekit, to the working directory
    model: PATH+ADAPTER    {path: PATH}    {model: .., lora: ADAPTER}    org/name    PATH[0:8]|PATH[4:12]

Cost: a look at the file system for each; where a recipe says a range of layers, the headers of the model. Not here:
how slices are stacked (`recipe_slices`).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from prefmerge.checkpoints import is_there
from prefmerge.checkpoints.paths import expanded, hub_id, in_stack, split_adapter
from prefmerge.errors import CheckpointNotFound, MissingExtra, PrefmergeError
from prefmerge.merging.layers import stacks
from prefmerge.merging.opening import open_base
from prefmerge.merging.recipe_keys import MODEL, SOURCE
from prefmerge.merging.recipe_nodes import Nodes, kind, line, what
from prefmerge.methods.parameters import Parameter


@dataclass(frozen=True)
class ListedModel:
    """A model as it is listed. `own`: what it says for itself, by the parameter's name. `layers`: which, of a source
    of a slice; `counts`: how many the model has, in each of its stacks, where that is known.
    """

    path: str
    node: Any = None
    name: str | None = None
    own: Mapping[str, Any] = field(default_factory=dict)
    layers: tuple[int, int] | None = None
    counts: frozenset[int] = frozenset()

    @property
    def whole(self) -> bool:
        """Whether it is all layers of its model."""
        return self.layers is None or (self.layers[0] == 0 and self.layers[1] in self.counts)


class Models:
    """Reads them. `outputs`: where the models will be that other documents of the file make, by their names. `own`:
    key -> the parameter that a model may have of its own.
    """

    def __init__(self, nodes: Nodes, outputs: Mapping[str, str]) -> None:
        self._nodes = nodes
        self._outputs = outputs
        self._counts: dict[str, frozenset[int]] = {}
        self.own: dict[str, Parameter[Any]] = {}
        self.stated: dict[str, Any] = {}  # key -> the first node of what models say of their own
        self.used: list[str] = []  # the documents whose outputs are models here
        self.written: dict[str, str] = {}  # hub id -> where it is written; whether it is there shows later

    def row(self, node: Any, place: str) -> ListedModel | None:
        """One of the models; None where what is wrong with it was kept."""
        nodes = self._nodes
        row = nodes.mapping(node, place, SOURCE if place.startswith("slices") else MODEL)
        if "model" not in row:
            said = f"{place}: 'model' is missing; it holds the path of a checkpoint."
            nodes.lacking(node, "model", nodes.error(node, said))
        own: dict[str, Any] = {}
        with nodes.collected():
            own = self._own(row, f"{place}.parameters")
        name = None
        with nodes.collected():
            name = nodes.text(row["name"], f"{place}.name") if "name" in row else None
        path, layers, counts = None, None, frozenset[int]()
        with nodes.collected():
            path = self.locate(row["model"], f"{place}.model") if "model" in row else None
        with nodes.collected():
            layers = self._range(row["layer_range"], f"{place}.layer_range") if "layer_range" in row else None
            if path is not None and layers is not None:
                counts = self._counts_of(path, row["model"], f"{place}.model")
                if counts and layers[1] > max(counts):
                    raise nodes.error(
                        row["layer_range"],
                        f"{place}.layer_range: [{layers[0]}, {layers[1]}] ends behind the model's last layer; it has "
                        f"{max(counts)}, so [0, {max(counts)}] is all of them.",
                    )
        return None if path is None else ListedModel(path, node, name, own, layers, counts)

    def _own(self, row: Mapping[str, Any], place: str) -> dict[str, Any]:
        """What a model says of its own, by the parameter's name."""
        own: dict[str, Any] = {}
        nodes = self._nodes.mapping(row["parameters"], place, tuple(self.own)) if "parameters" in row else {}
        for key, node in nodes.items():
            self.stated.setdefault(key, node)
            with self._nodes.collected():
                own[self.own[key].name] = self._nodes.setting(node, f"{place}.{key}", self.own[key])
        return own

    def locate(self, node: Any, place: str) -> str:
        """The path from here of what a node names."""
        text = self._reference(node, place)
        if not text:
            raise self._nodes.error(node, f"{place}: expected the path of a checkpoint, found an empty text.")
        there = self.place(text)
        if there is not None:
            for one in split_adapter(there):
                if one is not None and hub_id(one):
                    self.written.setdefault(str(one), f"recipe {self._nodes.path}, line {line(node)}: {place}")
            return there
        raise self._nodes.error(
            node,
            f"{place}: {text!r} is neither in the recipe's folder nor in the working directory. "
            "Correct the path; what is on the Hugging Face hub is called org/name or org/name@revision.",
            CheckpointNotFound,
        )

    def _reference(self, node: Any, place: str) -> str:
        """A checkpoint as it is written."""
        if kind(node) == "mapping":
            parts = self._nodes.mapping(node, place, ("model", "path", "lora"))
            key = "path" if "path" in parts else "model"
            if key not in parts:
                raise self._nodes.error(node, f"{place}: 'path' is missing; it holds the path of a checkpoint.")
            model = self._reference(parts[key], f"{place}.{key}")
            return f"{model}+{self._reference(parts['lora'], f'{place}.lora')}" if "lora" in parts else model
        if kind(node) != "scalar":
            raise self._nodes.error(node, f"{place}: expected the path of a checkpoint, found {what(node)}.")
        return self._nodes.text(node, place)

    def place(self, text: str) -> str | None:
        """Where a checkpoint is, or its hub id; None where it is not there and no id."""
        if text in self._outputs:
            self.used.append(text)
            return self._outputs[text]
        return in_stack(text, self._place_of_one)

    def _place_of_one(self, text: str) -> str | None:
        for one in (str(self._nodes.path.parent / expanded(text)), text):
            if text and split_adapter(one)[0] is None and is_there(one):
                return one
        for at in (i for i, letter in enumerate(text) if letter == "+"):
            model, adapter = self.place(text[:at]), self.place(text[at + 1 :])
            if model is not None and adapter is not None:
                return f"{model}+{adapter}"
        return text if hub_id(text) else None

    def _range(self, node: Any, place: str) -> tuple[int, int]:
        """The layers that a source is of: the first, and the one behind the last."""
        numbers = [self._nodes.text(item, place) for item in node.value] if kind(node) == "list" else []
        if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
            raise self._nodes.error(node, f"{place}: expected two numbers, such as [0, 32].")
        first, last = map(int, numbers)
        if first >= last:
            raise self._nodes.error(
                node, f"{place}: [{first}, {last}] has no layer. Give the first, and the one behind the last."
            )
        return first, last

    def _counts_of(self, path: str, node: Any, place: str) -> frozenset[int]:
        """How many layers the stacks of a model have; empty for a model that is to be made."""
        if path not in self._counts:
            own = str(split_adapter(path)[0] or path)
            if own in self._outputs.values() and not is_there(own):
                return frozenset()
            try:
                with closing(open_base(own)) as model:
                    self._counts[path] = frozenset(stacks(model.tensors).values())
            except MissingExtra:
                raise
            except PrefmergeError as error:
                raise self._nodes.error(node, f"{place}: {error}", type(error)) from error
            if not self._counts[path]:
                raise self._nodes.error(node, f"{place}: {own} has no layers that have numbers, so no part of them.")
        return self._counts[path]
