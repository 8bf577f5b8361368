"""The parameters of a recipe: those that its method declares, and those that every merge has.

Cost: none; nothing heavy is imported, for flags and help texts are made from these. Not here: the values (`recipe`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from prefmerge.errors import MethodError, UnsupportedDtype
from prefmerge.merging.vocabularies import OF_VOCABULARIES
from prefmerge.methods import DEFAULT, METHODS, declared, method_named
from prefmerge.methods.parameters import (
    AS_PUBLISHED,
    SEQUENTIAL,
    YES_OR_NO,
    Choices,
    Group,
    Kind,
    Parameter,
    Range,
    TaskShares,
)


def _method(value: Any) -> str:
    return method_named(str(value)).name


def _dtype(value: Any) -> str | None:
    from prefmerge.checkpoints.dtypes import FLOATS, by_name

    try:
        dtype = by_name(str(value))
    except UnsupportedDtype:
        dtype = None
    if dtype is None or dtype.family != "float":
        raise ValueError(f"expected one of {', '.join(FLOATS)}, found {str(value)!r}")
    return dtype.name


def _patterns(value: Any) -> tuple[str, ...]:
    patterns: tuple[Any, ...] = (value,) if isinstance(value, str) or not isinstance(value, Iterable) else tuple(value)
    if not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise ValueError(f"expected a list of patterns such as 'head.*', found {value!r}")
    return patterns


def rename_rule(text: str) -> tuple[re.Pattern[str], str]:
    """What `OLD=NEW` says: an expression, and what stands in the place of what it matches. Names have no `=`, an
    expression may. Raises ValueError.
    """
    old, equals, new = text.rpartition("=")
    if not equals or not old:
        raise ValueError(f"expected OLD=NEW, such as '^net\\.=', found {text!r}")
    try:
        expression = re.compile(old)
        expression.sub(new, "")  # a group that is not there
    except (re.error, IndexError) as error:
        raise ValueError(
            f"expected a regular expression before the = and its replacement after it, {error}: {text!r}"
        ) from error
    return expression, new


def _renames(value: Any) -> tuple[str, ...]:
    rules: tuple[Any, ...] = (value,) if isinstance(value, str) or not isinstance(value, Iterable) else tuple(value)
    for rule in rules:
        if not isinstance(rule, str):
            raise ValueError(f"expected OLD=NEW, such as '^net\\.=', found {rule!r}")
        rename_rule(rule)
    return rules


METHOD = Parameter("method", Kind(_method, "METHOD"), DEFAULT.name, key="merge_method", top=True)
DTYPE: Parameter[str | None] = Parameter(
    "dtype",
    Kind(_dtype, "DTYPE"),
    None,
    "format of the merged tensors: float32, float16, bfloat16 or float64. Default: the base's",
    top=True,
    # mergekit computes in the first and stores in the second; prefmerge computes in float32, so both say how to store.
    mergekit=("dtype", "out_dtype"),
    group=Group.OUTPUT,
)
EXCLUDE: Parameter[tuple[str, ...]] = Parameter(
    "exclude",
    Kind(_patterns, "PATTERN"),
    (),
    "copy these tensors from the base (head.*), and do not merge them. Repeatable",
    top=True,
    several=True,
    group=Group.OUTPUT,
)
RENAME: Parameter[tuple[str, ...]] = Parameter(
    "rename",
    Kind(_renames, "OLD=NEW"),
    (),
    "rename the tasks' tensors to the base's names: NEW for what the regular expression OLD matches. Repeatable",
    top=True,
    several=True,
    quiet=True,
    group=Group.OUTPUT,
)
AS_TASK_VECTOR = Parameter(
    "as_task_vector",
    YES_OR_NO,
    False,
    "write the merged task vector, unscaled, so that later tasks can be merged with it",
    top=True,
    group=Group.OUTPUT,
)
OF_EVERY_MERGE = {
    one.name: one for one in (SEQUENTIAL, AS_PUBLISHED, DTYPE, EXCLUDE, RENAME, AS_TASK_VECTOR, *OF_VOCABULARIES)
}


def every() -> dict[str, Parameter[Any]]:
    """Every parameter but the method itself, by name, in the order in which they are listed."""
    return {**declared(), **OF_EVERY_MERGE}


def parameter(name: str) -> Parameter[Any] | None:
    """The one of that name."""
    return declared().get(name) or OF_EVERY_MERGE.get(name) or (METHOD if name == METHOD.name else None)


def per_task() -> list[Parameter[Any]]:
    """Those of which each task may have its own."""
    return [one for one in every().values() if one.per_task]


def searchable() -> dict[str, Range | Choices | TaskShares]:
    """What a search may vary, and over what: first what it varies unless it is asked for something else."""
    known = {one.name: one.search for one in every().values() if one.search is not None}
    methods = sorted((one for one in METHODS.values() if one.searched), key=lambda one: one.searched)
    return {
        **{name: over for name, over in known.items() if over.usual},
        **{name: over for name, over in known.items() if not over.usual},
        METHOD.name: Choices(tuple(one.name for one in methods)),
    }


def read(parameter: Parameter[Any], value: Any, called: str | None = None) -> Any:
    """The value that was written. Raises MethodError that names the parameter, or `called`."""
    try:
        return parameter.read(value)
    except ValueError as error:
        raise MethodError(f"{called or parameter.name}: {error}.") from error
