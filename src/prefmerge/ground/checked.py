"""What files hold, checked once by pydantic: its errors in our words.

    checked(Run, value, file, RunError)    a Run, or RunError "run.json: 'base' is missing."

Errors name the key, the value and, for an unknown key, the nearest known one. Not here: reading files (`jsons`,
`yaml_file`).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from prefmerge.errors import PrefmergeError
from prefmerge.ground.words import did_you_mean
from prefmerge.shown import bounded, value

T = TypeVar("T")
MOST = 8  # errors that one message lists


def checked(kind: type[T], given: Any, where: object, refusal: type[PrefmergeError], advice: str = "") -> T:
    """`given` as pydantic reads it into `kind`, a model or a dataclass. Raises `refusal`: a line for each error, with
    `where` before it, and `advice` after the last.
    """
    try:
        return _reader(kind).validate_python(given)
    except ValidationError as error:
        lines = list(_complaints(error, kind))
        more = [f"and {len(lines) - MOST} more errors."] if len(lines) > MOST else []
        raise refusal("\n".join(f"{where}: {line}" for line in lines[:MOST] + more) + advice) from error


def _complaints(error: ValidationError, root: type[Any]) -> Iterator[str]:
    errors = error.errors(include_url=False)
    for one in errors:
        if one["type"] == "too_short" and any(len(other["loc"]) > len(one["loc"]) for other in errors):
            continue  # what is inside it is wrong, and counts as absent
        at = bounded(".".join(str(part) for part in one["loc"]), 200) or "the top level"
        if one["type"] == "extra_forbidden":
            keys = _keys(root, one["loc"][:-1])
            hint = did_you_mean(str(one["loc"][-1]), keys) or f" Known: {', '.join(keys)}."
            yield f"unknown key {at!r}.{hint}"
        elif one["type"] == "missing":
            yield f"{at!r} is missing."
        elif one["type"] in ("model_type", "dataclass_type"):
            yield f"{at}: expected keys with values, found {value(one['input'])}."
        else:
            message = str(one["msg"]).removeprefix("Value error, ")
            shown = "" if isinstance(one["input"], dict) else f", found {value(one['input'])}"
            yield f"{at}: {message[0].lower() + message[1:]}{shown}."


@cache
def _reader(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _keys(root: type[Any], path: tuple[int | str, ...]) -> list[str]:
    """The keys that are known at a place of the value."""
    part: Any = root
    for step in path:
        if isinstance(step, str) and step in part.model_fields:
            kind = part.model_fields[step].annotation
            part = next((k for k in (kind, *getattr(kind, "__args__", ())) if hasattr(k, "model_fields")), part)
    return list(part.model_fields)
