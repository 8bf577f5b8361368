"""The merge methods, by name."""

from __future__ import annotations

import difflib

from prefmerge.errors import MethodError
from prefmerge.methods.elementwise import AVERAGE, LAST, LINEAR, MAGMAX, MAX_ABS, RANDOM_MIX, TASK_ARITHMETIC
from prefmerge.methods.increments import Increments
from prefmerge.methods.protocol import Deltas, Method, Report, Rule, Settings
from prefmerge.methods.ties import Ties
from prefmerge.methods.tunable import TunableMagmax

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        TunableMagmax(),
        Increments(),
        MAGMAX,
        MAX_ABS,
        AVERAGE,
        TASK_ARITHMETIC,
        LINEAR,
        RANDOM_MIX,
        Ties(),
        LAST,
    )
}


def method_named(name: str) -> Method:
    """The method called `name`; hyphens count as underscores. Raises MethodError with the nearest name."""
    plain = name.strip().lower().replace("-", "_")
    if plain not in METHODS:
        near = difflib.get_close_matches(plain, METHODS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise MethodError(f"method {name!r} is not known; the methods are {', '.join(METHODS)}.{hint}")
    return METHODS[plain]


__all__ = ["METHODS", "Deltas", "Method", "Report", "Rule", "Settings", "method_named"]
