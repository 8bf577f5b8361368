"""What people write in YAML: one mapping in a file, and what its parts have in common.

Cost: one small file. Not here: errors of its keys (`checked`); recipes of a merge, whose messages have line numbers
(`merging.recipe_file`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from prefmerge.errors import ConfigError


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
