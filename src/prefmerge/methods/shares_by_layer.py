"""Preferences that differ from layer to layer, or by a part of the tensors' names: how they are written.

    prefer: [{cars: 0.9, birds: 0.1}, {cars: 0.2, birds: 0.8}]       from the first layer to the last
    prefer: [{filter: attn, value: alpha:2}, {value: uniform}]       by a part of the names

Each entry is a preference as it may stand alone; a list of numbers is still one preference, with a share for each task.
Between two layers that are given, shares go along straight lines, as exact fractions, so they sum to 1 in every layer.
Where no rule holds, all tasks have the same. Cost: none. Not here: one preference (`prefmerge.preference`), rules of
numbers (`by_layer`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from prefmerge.errors import PreferenceError
from prefmerge.methods.by_layer import KEYS, ByLayer
from prefmerge.preference import FORMAT, Preference, as_text


def one_preference(value: Any) -> Preference | None:
    """What is written for one preference. Raises ValueError, PreferenceError."""
    if value is None or isinstance(value, Preference):
        return value
    if isinstance(value, str):
        return Preference.parse(value)
    if isinstance(value, Mapping):
        return Preference.from_json(value) if value.get("format") == FORMAT else Preference.named(value)
    if isinstance(value, Sequence):
        return Preference.explicit(value)
    raise ValueError(f"expected a preference such as 0.8,0.2 or alpha:2, found {value!r}")


def by_layer(written: Any) -> ByLayer | None:
    """The preferences of the layers; None where one preference is written. Raises ValueError, PreferenceError."""
    if isinstance(written, str) and written.startswith("@"):
        rules = _rules_in(written[1:])
        try:
            return by_layer(rules)
        except (ValueError, PreferenceError) as error:
            raise PreferenceError(f"preference file {written[1:]!r}: {error}") from error
    if isinstance(written, ByLayer):
        return written
    if _is_rule(written):
        written = [written]
    if not _several(written):
        return None
    rules = any(map(_is_rule, written))
    rows = [{**row, "value": _each(row["value"])} if _is_rule(row) else row for row in written]
    return ByLayer.read(_is_one, rows if rules else _each(written))


def from_json(data: Any) -> Preference | ByLayer:
    """What a receipt says. Raises PreferenceError, ValueError."""
    rules = by_layer(data) if isinstance(data, list) else None
    return Preference.from_json(data) if rules is None else rules


def resolved(preference: Preference | ByLayer, names: Sequence[str]) -> Preference | ByLayer:
    """Without names of tasks: shares in the order of `names`, and everywhere one that holds."""

    def own(one: Preference) -> Preference:
        return one if one.names is None else Preference.explicit(one.shares(names))

    if isinstance(preference, Preference):
        return own(preference)
    return preference.or_else(Preference.uniform()).map(own)


def describe(preference: Preference | ByLayer, one: Callable[[Preference], str] = Preference.describe) -> str:
    """In words: a preference as one would type it, from the first layer to the last, and where."""
    if isinstance(preference, Preference):
        return one(preference)
    rows = [(row.get("filter"), " to ".join(row["value"])) for row in preference.to_json(one)]
    return "; ".join(value if part is None else f"{value} in {part}" for part, value in rows)


def plain(preference: Preference, names: Sequence[str], number: Callable[[str], Any] = str) -> Any:
    """As a recipe file has it: a word, or a share for each name. `number`: how it writes one."""
    if preference.kind in ("uniform", "geometric"):
        return preference.describe()
    return {name: number(as_text(share)) for name, share in zip(names, preference.values, strict=True)}


def _is_one(value: Any) -> Preference:
    assert isinstance(value, Preference), "made by `_each`"
    if value.kind == "counts":
        raise ValueError("expected shares, found counts, which are a budget over the whole model")
    return value


def _each(value: Any) -> list[Preference]:
    """The preferences from the first layer to the last, or one for all of them."""
    several = [one_preference(one) for one in value] if _several(value) else [one_preference(value)]
    return [one for one in several if one is not None]


def _several(value: Any) -> TypeGuard[Sequence[Any]]:
    """Whether it is a list of preferences, or of rules. Raises ValueError for one that may be meant either way."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return False
    if value and all(isinstance(one, str) and one.count("=") == 1 and "," not in one for one in value):
        raise ValueError(f"expected shares by name as one text, {','.join(value)!r}, found a list of texts")
    return any(isinstance(one, (Preference, Mapping)) or _is_list(one) or _is_spec(one) for one in value)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_spec(value: Any) -> bool:
    return isinstance(value, str) and (value == "uniform" or value.startswith(("alpha:", "@")) or "," in value)


def _is_rule(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """{filter, value}, and not two tasks that are called so."""
    if not isinstance(value, Mapping) or not {"value"} <= value.keys() <= KEYS:
        return False
    return isinstance(value["value"], (Preference, Mapping)) or _is_list(value["value"]) or _is_spec(value["value"])


def _rules_in(path: str) -> Any:
    """The rules in a JSON file; None where it holds something else, which `Preference.load` reads or refuses."""
    from prefmerge.ground import jsons  # where files are: help texts need the rest

    try:
        data = jsons.read(Path(path))
        return data if _is_rule(data) or _several(data) else None
    except (OSError, ValueError, PreferenceError):
        return None
