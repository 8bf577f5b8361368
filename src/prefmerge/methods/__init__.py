"""The merge methods, by name, and the parameters that they declare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefmerge.errors import MethodError
from prefmerge.ground.words import did_you_mean
from prefmerge.methods.arcee_fusion import ArceeFusion
from prefmerge.methods.breadcrumbs import BREADCRUMBS, BREADCRUMBS_TIES
from prefmerge.methods.dare import DARE_LINEAR, DARE_TIES
from prefmerge.methods.della import DELLA, DELLA_LINEAR
from prefmerge.methods.elementwise import AVERAGE, LAST, LINEAR, MAGMAX, MAX_ABS, RANDOM_MIX, TASK_ARITHMETIC
from prefmerge.methods.increments import Increments
from prefmerge.methods.karcher import Karcher
from prefmerge.methods.model_stock import ModelStock
from prefmerge.methods.nuslerp import Nuslerp
from prefmerge.methods.opcm import Opcm
from prefmerge.methods.parameters import SCALE, Parameter
from prefmerge.methods.passthrough import Passthrough
from prefmerge.methods.protocol import Deltas, Method, NeedsOrder, Report, Rule, Settings
from prefmerge.methods.sce import Sce
from prefmerge.methods.slerp import Slerp
from prefmerge.methods.ties import Ties
from prefmerge.methods.tunable import TunableMagmax

METHODS: dict[str, Method] = {}
_DECLARED: dict[str, Parameter[Any]] = {}


def register(method: Method) -> None:
    """Make a method known everywhere. Raises MethodError where it declares what others declare otherwise."""
    if not method.honours(SCALE):
        raise MethodError(f"method {method.name!r} declares no scale. Put SCALE among its parameters.")
    for one in method.parameters:
        first = _DECLARED.get(one.name, one)
        if one.but(first.default, first.instead) != first or (one != first and not first.varies):
            raise MethodError(
                f"method {method.name!r} declares the parameter {one.name!r} in its own way, but another method has "
                "one of that name. Take the other's declaration, or another name."
            )
    METHODS[method.name] = method
    for one in method.parameters:
        _DECLARED.setdefault(one.name, one)
    ordered = sorted(_DECLARED.items(), key=lambda item: item[1].group)
    _DECLARED.clear()
    _DECLARED.update(ordered)


def declared() -> Mapping[str, Parameter[Any]]:
    """Every parameter of every method by name, in the order in which they are listed."""
    return _DECLARED


def method_named(name: str) -> Method:
    """The method called `name`; hyphens count as underscores. Raises MethodError with the nearest name."""
    plain = name.strip().lower().replace("-", "_")
    if plain not in METHODS:
        raise MethodError(
            f"method {name!r} is not known; the methods are {', '.join(METHODS)}.{did_you_mean(plain, METHODS)}"
        )
    return METHODS[plain]


for _method in (
    TunableMagmax(),
    Increments(),
    MAGMAX,
    MAX_ABS,
    AVERAGE,
    TASK_ARITHMETIC,
    LINEAR,
    RANDOM_MIX,
    Ties(),
    DARE_LINEAR,
    DARE_TIES,
    BREADCRUMBS,
    BREADCRUMBS_TIES,
    DELLA_LINEAR,
    DELLA,
    Slerp(),
    Nuslerp(),
    Karcher(),
    ModelStock(),
    Sce(),
    Opcm(),
    ArceeFusion(),
    Passthrough(),
    LAST,
):
    register(_method)

DEFAULT = next(iter(METHODS.values()))

__all__ = [
    "DEFAULT",
    "METHODS",
    "Deltas",
    "Method",
    "NeedsOrder",
    "Report",
    "Rule",
    "Settings",
    "declared",
    "method_named",
    "register",
]
