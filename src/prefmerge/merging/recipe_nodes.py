"""The YAML of a recipe: its nodes, which know their line, and everything that is wrong with them at once.

    nodes = Nodes(path, loader)
    with nodes.collected():          what is wrong in here is kept, and the reading continues behind it
        value = nodes.value(node, "dtype", DTYPE, nodes.scalar(node, "dtype"))
    nodes.finish()                   raises what was kept: one error as it is, several as one that lists them by line

Walks nodes and not loaded values: they keep a number's text. Cost: none. Not here: which keys there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefmerge.errors import CheckpointNotFound, MethodError, PrefmergeError, RecipeError
from prefmerge.ground.words import counted, nearest
from prefmerge.ground.yaml_file import NotYaml, merged_keys
from prefmerge.merging.parameters import read
from prefmerge.merging.recipe_keys import unknown
from prefmerge.methods.parameters import Parameter

MOST = 12  # faults that one message lists
OWN = "x-"  # how keys begin that say nothing: they hold what an alias repeats


class Fault(Exception):
    """What is wrong with a node: the error to raise, its line (None: of the whole file) and its words."""

    def __init__(self, line: int | None, message: str, kind: type[PrefmergeError] = RecipeError) -> None:
        super().__init__(message)
        self.line, self.message, self.kind = line, message, kind


class Nodes:
    """The nodes of one document of one file. `loader`: what composed them."""

    def __init__(self, path: Path, loader: Any) -> None:
        self.path = path
        self._loader = loader
        self._refused: list[Fault] = []
        self._meant: set[tuple[int, str | None]] = set()  # mapping, and the key that a wrong one of it is like

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Keep what is wrong in this block, which ends there."""
        try:
            yield
        except Fault as refused:
            self._refused.append(refused)

    @property
    def kept(self) -> list[Fault]:
        """What was kept as wrong."""
        return list(self._refused)

    @property
    def refused(self) -> bool:
        """Whether anything was kept as wrong."""
        return bool(self._refused)

    def add(self, refused: Fault) -> None:
        """Keep what is wrong."""
        self._refused.append(refused)

    def finish(self) -> None:
        """Raise what was kept, if anything was."""
        if self._refused:
            raise as_error(self.path, self._refused)

    # Nodes

    def error(self, node: Any, message: str, kind: type[PrefmergeError] = RecipeError) -> Fault:
        return Fault(line(node), message, kind)

    def mapping(self, node: Any, place: str, known: tuple[str, ...] | None) -> dict[str, Any]:
        """Key -> value node. `known` None allows any key. Keys that are not known or there twice are kept as wrong, and
        the others are given. A key of the recipe itself that begins with `x-` is the user's own, and left alone.
        """
        if kind(node) == "nothing":
            return {}
        if kind(node) != "mapping":
            raise self.error(node, f"{place or 'the recipe'}: expected 'key: value' lines, found {what(node)}.")
        try:
            merged_keys(self._loader, node)
        except NotYaml as error:
            raise self.error(node, f"{place or 'the recipe'}: {error}.") from error
        nodes: dict[str, Any] = {}
        where = f" in {place}" if place else ""
        for key_node, value in node.value:
            key = key_node.value if kind(key_node) == "scalar" else kind(key_node)
            if known is not None and not place and key.startswith(OWN):
                continue
            if known is not None and key not in known:
                self.add(self.error(key_node, unknown(key, where, known)))
                self._meant.add((id(node), nearest(key, known)))
            elif key in nodes:
                self.add(self.error(key_node, f"{key!r} appears twice{where}."))
            else:
                nodes[key] = value
        return nodes

    def lacking(self, node: Any, key: str, refused: Fault) -> None:
        """Keep that a mapping lacks a key, unless it has the key mistyped, which was kept."""
        if (id(node), key) not in self._meant:
            self.add(refused)

    def scalar(self, node: Any, place: str) -> Any:
        """A bool or None as such, everything else as its text."""
        if kind(node) == "list":
            raise self.error(
                node,
                f"{place} is a list (a gradient over layers in mergekit); it has one value for all layers. Give one.",
            )
        if kind(node) == "mapping":
            raise self.error(
                node,
                f"{place} has conditions (filter and value in mergekit); it has one value for all tensors. Give one.",
            )
        if kind(node) == "nothing":
            return None
        import yaml

        try:
            return self._loader.construct_object(node) if node.tag.endswith((":bool", ":int")) else node.value
        except (ValueError, KeyError):  # what a tag calls a number and is none
            return node.value
        except yaml.MarkedYAMLError as error:  # a number of two readings
            raise self.error(node, f"{place}: {error.problem}.") from error

    def text(self, node: Any, place: str) -> str:
        if kind(node) not in ("scalar", "nothing"):
            raise self.error(node, f"{place}: expected one value, found {what(node)}.")
        return str(node.value)

    def value(self, node: Any, place: str, parameter: Parameter[Any], value: Any) -> Any:
        """What `value` says for a parameter."""
        try:
            return read(parameter, value, place)
        except MethodError as error:
            raise self.error(node, str(error)) from error

    def setting(self, node: Any, place: str, parameter: Parameter[Any]) -> Any:
        """The value of a parameter, or what it is by layer."""
        if not parameter.by_layer or kind(node) not in ("list", "mapping"):
            return self.value(node, place, parameter, self.scalar(node, place))
        return self.value(node, place, parameter, self.plain(node, place))

    def plain(self, node: Any, place: str) -> Any:
        """Lists and rules of scalars as Python has them."""
        if kind(node) == "list":
            return [self.plain(item, place) for item in node.value]
        if kind(node) == "mapping":
            rows = self.mapping(node, place, None).items()
            return {key: self.plain(value, f"{place}.{key}") for key, value in rows}
        return self.scalar(node, place)


def as_error(path: Path, refused: list[Fault]) -> PrefmergeError:
    """One error for all that is wrong with a file, by line."""
    several = {(one.line or 0, one.message): one for one in sorted(refused, key=lambda one: one.line or 0)}
    if len(several) == 1:
        (one,) = several.values()
        return one.kind(f"recipe {path}{_at(one)}: {one.message}")
    kinds = {one.kind for one in several.values()}
    rows = [f"  {_at(one).removeprefix(', ') or 'the file'}: {_shortly(one.message)}" for one in several.values()]
    rows[MOST:] = [f"  and {len(rows) - MOST} more"] if len(rows) > MOST else []
    error = CheckpointNotFound if kinds == {CheckpointNotFound} else RecipeError
    return error("\n".join([f"recipe {path}: {counted(len(several), 'fault')}.", *rows]))


def _shortly(message: str) -> str:
    """What is said of one fault among several: without all known keys where one of them is likely meant."""
    return message.partition(" Known keys: ")[0] if "Did you mean" in message else message


def _at(refused: Fault) -> str:
    return "" if refused.line is None else f", line {refused.line}"


def line(node: Any) -> int:
    return node.start_mark.line + 1


def kind(node: Any) -> str:
    """mapping, list, nothing (an empty value) or scalar."""
    if node.id == "scalar":
        return "nothing" if node.tag.endswith(":null") else "scalar"
    return "mapping" if node.id == "mapping" else "list"


def what(node: Any) -> str:
    """What a node is, in words."""
    return {"scalar": "one value", "nothing": "nothing"}.get(kind(node), f"a {kind(node)}")
