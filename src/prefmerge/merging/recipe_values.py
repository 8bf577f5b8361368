"""What a recipe file says of parameters: key -> value, as the methods take it.

Every key is read for itself, so that all that is wrong is known at once. Cost: none. Not here: which keys may stand
where (`recipe_keys`), what is said of tokenizers (`vocabularies`), what the method has no use for (`recipe_file`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefmerge.errors import PreferenceError
from prefmerge.merging.recipe_keys import IDLE, by_key
from prefmerge.merging.recipe_nodes import Nodes, kind
from prefmerge.merging.vocabularies import KEYS
from prefmerge.methods.by_layer import ByLayer
from prefmerge.methods.parameters import PREFERENCE
from prefmerge.methods.protocol import Method
from prefmerge.methods.shares_by_layer import by_layer
from prefmerge.preference import Preference


def at_the_top(nodes: Nodes, top: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that stand at the top level, by name."""
    given: dict[str, Any] = {}
    for key, one in by_key(top=True).items():
        if key not in top or key in KEYS:
            continue
        with nodes.collected():
            node = top[key]
            if one.several and kind(node) == "list":
                value: Any = [nodes.text(item, key) for item in node.value]
            else:
                value = nodes.scalar(node, key)
            if value is not None or one.default is not None:  # nothing is what the default says too
                given[one.name] = nodes.value(node, key, one, value)
    return given


def in_parameters(nodes: Nodes, parameters: Mapping[str, Any], method: Method, notes: list[str]) -> dict[str, Any]:
    """The parameters that stand under `parameters`, by name. What has no effect goes to `notes`."""
    given: dict[str, Any] = {}
    known = by_key(top=False)
    for one in dict.fromkeys(known.values()):
        twice = [key for key in one.keys if key in parameters]
        if len(twice) > 1:
            said = f"{twice[0]!r} and {twice[1]!r} are two names of one parameter; give one of them."
            nodes.add(nodes.error(parameters[twice[1]], said))
    for key, node in parameters.items():
        place = f"parameters.{key}"
        with nodes.collected():
            if key in IDLE and not (key in known and method.honours(known[key])):
                _idle(nodes, node, key, notes)
            elif key in method.ignores:
                notes.append(f"{key} has no effect on {method.name}, {method.ignores[key]}.")
            elif known[key] is PREFERENCE:
                given[PREFERENCE.name] = _prefer(nodes, node)
            else:
                given[known[key].name] = nodes.setting(node, place, known[key])
    return given


def over(given: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """`given` with `more` in its place; where that says nothing of a layer or a tensor, what was given holds."""
    both = dict(given)
    for name, value in more.items():
        both[name] = value.or_else(given[name]) if isinstance(value, ByLayer) and name in given else value
    return both


def _idle(nodes: Nodes, node: Any, key: str, notes: list[str]) -> None:
    place = f"parameters.{key}"
    value = nodes.value(node, place, IDLE[key], nodes.scalar(node, place))
    if key == "int8_mask":
        notes.append("int8_mask has no effect: signs are elected in float64 whatever it says.")
    elif value:
        raise nodes.error(
            node,
            f"{key}: true belongs to methods that drop elements at random. Remove the key, or use dare_linear or "
            "dare_ties.",
        )


def _prefer(nodes: Nodes, node: Any) -> Preference | ByLayer:
    place = "parameters.prefer"
    try:
        rules = by_layer(_beside(nodes.path.parent, nodes.plain(node, place)))
        if rules is not None:
            return rules
        if kind(node) == "list":
            return Preference.explicit([nodes.text(item, place) for item in node.value])
        if kind(node) == "mapping":
            return Preference.named(
                {key: nodes.text(value, place) for key, value in nodes.mapping(node, place, None).items()}
            )
        return Preference.parse(_beside(nodes.path.parent, nodes.text(node, place)))
    except PreferenceError as error:
        raise nodes.error(node, f"{place}: {error}", PreferenceError) from error
    except ValueError as error:
        raise nodes.error(node, f"{place}: {error}.", PreferenceError) from error


def _beside(folder: Path, written: Any) -> Any:
    """What is written, with the files that lie beside the recipe in place of their names."""
    if isinstance(written, list):
        return [_beside(folder, one) for one in written]
    if isinstance(written, dict):
        return {key: _beside(folder, one) for key, one in written.items()}
    if isinstance(written, str) and written.startswith("@") and (folder / written[1:]).exists():
        return f"@{folder / written[1:]}"
    return written
