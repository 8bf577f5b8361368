"""What the page has controls for, from what the methods declare: nothing about a parameter is written here.

Cost: none. Not here: what is done with the values (`asked`).
"""

from __future__ import annotations

from typing import Any

from prefmerge.merging.recipe import Recipe
from prefmerge.methods import METHODS
from prefmerge.methods.parameters import PREFERENCE, YES_OR_NO, Parameter, Range
from prefmerge.studio.asked import offered


def methods(tasks: int) -> list[dict[str, Any]]:
    """Every method that merges so many tasks, with its parameters."""
    return [
        {
            "name": name,
            "summary": method.summary,
            "dials": method.honours(PREFERENCE),
            "parameters": [_control(one) for one in offered(name)],
        }
        for name, method in METHODS.items()
        if method.fewest <= tasks and (method.most is None or tasks <= method.most)
    ]


def used(recipe: Recipe) -> dict[str, str]:
    """What each parameter of a recipe is, defaults too, as one would write it."""
    values = {one.name: (one, recipe.used(one)) for one in offered(recipe.method)}
    return {name: _text(one, value) for name, (one, value) in values.items() if value is not None}


def _text(one: Parameter[Any], value: Any) -> str:
    if isinstance(value, tuple):
        texts = [one.text(each) for each in value]
        return texts[0] if one.flag and len(set(texts)) == 1 else ", ".join(texts)
    return one.text(value)


def _control(one: Parameter[Any]) -> dict[str, Any]:
    control: dict[str, Any] = {"name": one.name, "help": f"{one.help[:1].upper()}{one.help[1:]}.", "kind": "text"}
    control["usual"] = one.search is not None or not one.flag  # what is tried first; the rest is folded away
    if one.kind is YES_OR_NO:
        return {**control, "kind": "choice", "choices": ["true", "false"]}
    if "|" in one.kind.metavar:
        return {**control, "kind": "choice", "choices": one.kind.metavar.split("|")}
    if one.per_task and not one.flag:
        return {**control, "kind": "list"}
    if isinstance(one.search, Range):
        return {**control, "kind": "range", "low": one.search.low, "high": one.search.high, "digits": one.search.digits}
    return control
