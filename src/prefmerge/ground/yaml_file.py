"""What people write in YAML, read and checked: one mapping in a file, and pydantic's errors in our words.

Errors name file, key, the value found and the nearest known key. Cost: one small file. Not here: recipes of a merge,
whose messages have line numbers (`merging.recipe_file`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from prefmerge.errors import ConfigError
from prefmerge.ground.words import did_you_mean


class Section(BaseModel):
    """A part of a configuration: no unknown key, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def read_mapping(file: Path, which: str, keys: str) -> dict[str, Any]:
    """The mapping in a YAML file. `which` says what file to give, `keys` what it holds at least. Raises ConfigError."""
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file. {which}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: cannot be read as YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: expected a mapping with at least {keys}, found {type(content).__name__}.")
    return content


def complaints(error: ValidationError, root: type[BaseModel]) -> Iterator[str]:
    """One line for each error in a configuration of the kind `root`, with the nearest known key."""
    errors = error.errors(include_url=False)
    for one in errors:
        if one["type"] == "too_short" and any(len(other["loc"]) > len(one["loc"]) for other in errors):
            continue  # what is inside it is wrong, and counts as absent
        at = ".".join(str(part) for part in one["loc"]) or "the top level"
        if one["type"] == "extra_forbidden":
            keys = _keys(root, one["loc"][:-1])
            hint = did_you_mean(str(one["loc"][-1]), keys) or f" Known: {', '.join(keys)}."
            yield f"unknown key {at!r}.{hint}"
        elif one["type"] == "missing":
            yield f"{at!r} is missing."
        else:
            message = str(one["msg"]).removeprefix("Value error, ")
            shown = "" if isinstance(one["input"], dict) else f", found {one['input']!r}"
            yield f"{at}: {message[0].lower() + message[1:]}{shown}."


def _keys(root: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The keys that are known at a place of the configuration."""
    part: Any = root
    for step in path:
        if isinstance(step, str) and step in part.model_fields:
            kind = part.model_fields[step].annotation
            part = next((k for k in (kind, *getattr(kind, "__args__", ())) if hasattr(k, "model_fields")), part)
    return list(part.model_fields)
