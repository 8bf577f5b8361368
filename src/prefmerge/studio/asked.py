"""What the page asks for, checked: dials, a method and its parameters; and the recipe that this is.

    {"dials": [0.8, 0.2], "method": "tunable_magmax", "values": {"scale": "0.5"}}

A dial is a number from 0 to 1, exactly as written, and all of them sum to exactly 1. A value is text, as one types it
behind a flag. What is wrong is said with the name of the control that it belongs to. Nothing that the page sends is a
path. Cost: none. Not here: carrying it out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from prefmerge import shown
from prefmerge.errors import MethodError, PreferenceError, PrefmergeError, UsageError
from prefmerge.merging.parameters import read
from prefmerge.merging.recipe import Recipe
from prefmerge.methods import METHODS, method_named
from prefmerge.methods.parameters import PREFERENCE, YES_OR_NO, Parameter
from prefmerge.preference import Preference, as_text, exact

LONGEST_VALUE = 500  # characters of a parameter's text


class Refused(Exception):
    """What the page asked for cannot be. `field`: the control that it belongs to, or "" for all of it."""

    def __init__(self, message: str, field: str = "", status: int = 422) -> None:
        super().__init__(shown.message(message))
        self.field, self.status = field, status


@dataclass(frozen=True)
class Wanted:
    """`values`: by name, read; one for each task is a tuple. Those that were left alone are not here."""

    dials: tuple[Fraction, ...]
    method: str
    values: Mapping[str, Any]

    @property
    def preference(self) -> Preference | None:
        """The dials, where the method has a use for them."""
        texts = [as_text(dial) for dial in self.dials]
        return Preference.explicit(texts) if METHODS[self.method].honours(PREFERENCE) else None

    def settings(self) -> dict[str, Any]:
        """As `merge` takes them from Python."""
        given = {"method": self.method, **self.values}
        return given if self.preference is None else {**given, PREFERENCE.name: self.preference}


def offered(method: str) -> list[Parameter[Any]]:
    """The parameters of a method that the page has a control for: all but the preference, which the dials are."""
    return [one for one in METHODS[method].parameters if one is not PREFERENCE and (one.flag or one.keys)]


def read_asked(body: Any, names: Sequence[str]) -> Wanted:
    """Raises Refused."""
    if not isinstance(body, Mapping):
        raise Refused("expected a JSON object.", status=400)
    try:
        method = method_named(str(body.get("method", "")))
        method.require(len(names))
    except MethodError as error:
        raise Refused(str(error), "method") from error
    return Wanted(
        read_dials(body.get("dials"), names), method.name, _values(body.get("values", {}), method.name, names)
    )


def read_dials(values: Any, names: Sequence[str], field: str = "dial") -> tuple[Fraction, ...]:
    """One share for each task; they sum to 1. Raises Refused."""
    if not isinstance(values, list) or len(values) != len(names):
        count = len(values) if isinstance(values, list) else "none"
        raise Refused(f"expected {len(names)} dials, one for each task, found {count}.", "dials")
    dials = []
    for i, (value, name) in enumerate(zip(values, names, strict=True)):
        try:
            if not isinstance(value, int | float | str) or isinstance(value, bool):
                raise PreferenceError(f"expected a number, found {str(value)[:50]!r}.")
            dial = exact(value, f"the dial of {name!r}")
        except PreferenceError as error:
            raise Refused(str(error), f"{field}-{i}") from error
        if not 0 <= dial <= 1:
            raise Refused(f"the dial of {name!r} is {as_text(dial)}; expected a number from 0 to 1.", f"{field}-{i}")
        dials.append(dial)
    total = sum(dials, Fraction(0))
    if total != 1:
        raise Refused(f"the dials sum to {float(total):g}; expected 1.", "dials")
    return tuple(dials)


def _values(values: Any, method: str, names: Sequence[str]) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise Refused("expected the parameters by name.", status=400)
    known = {one.name: one for one in offered(method)}
    made: dict[str, Any] = {}
    for name, text in values.items():
        if name not in known:
            raise Refused(f"{method} has no parameter {str(name)[:50]!r}; it has {', '.join(known)}.", "method")
        if not isinstance(text, str) or len(text) > LONGEST_VALUE:
            raise Refused(f"{name}: expected a text of at most {LONGEST_VALUE} characters.", name)
        if text.strip():
            try:
                made[name] = _value(known[name], text.strip(), names)
            except MethodError as error:
                raise Refused(str(error), name) from error
    return made


def _value(one: Parameter[Any], text: str, names: Sequence[str]) -> Any:
    """Raises MethodError."""
    if one.kind is YES_OR_NO:
        if text not in ("true", "false"):
            raise MethodError(f"{one.name}: expected true or false, found {text!r}.")
        return read(one, text == "true")
    if one.per_task and not one.flag:
        parts = [part.strip() for part in text.split(",")]
        if len(parts) != len(names):
            raise MethodError(
                f"{one.name}: expected {len(names)} numbers with commas between them, one for each task; found "
                f"{len(parts)}."
            )
        return tuple(read(one, part) for part in parts)
    return read(one, text)


def recipe_of(start: Recipe, asked: Wanted) -> Recipe:
    """The recipe that is asked for: that of the start, with what the page says in place of its own. Raises Refused."""
    of_all = {name: value for name, value in asked.values.items() if not isinstance(value, tuple)}
    own = {name: value for name, value in asked.values.items() if isinstance(value, tuple)}
    if asked.preference is not None:
        of_all[PREFERENCE.name] = asked.preference
    try:
        recipe = start.with_overrides(strict=True, method=asked.method, **of_all)
    except (UsageError, MethodError, PreferenceError) as error:
        spelled = {one.name: one.spelled for one in offered(asked.method)}
        first = str(error).split(" ")[0].rstrip(":")
        raise Refused(str(error), next((name for name in of_all if first in (name, spelled.get(name))), "")) from error
    tasks = tuple(
        task.model_copy(update={"own": {**task.own, **{name: values[i] for name, values in own.items()}}})
        for i, task in enumerate(recipe.tasks)
    )
    return recipe.model_copy(update={"tasks": tasks})


def refused(error: PrefmergeError, secret: str = "") -> Refused:
    """An error of ours, as the page shows it. `secret`: the folder whose name means nothing to the user."""
    text = str(error)
    return Refused(text.replace(f"{secret}/", "").replace(secret, "the files") if secret else text)
