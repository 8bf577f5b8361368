"""One candidate of a search, tried: in memory, and as the study keeps it.

Kept are the settings as JSON and the answers as a row of hexadecimal digits, the first sample first; what is read back
is checked. Shapes: M samples. Cost: M / 4 characters a trial.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prefmerge.errors import PrefmergeError, RunError
from prefmerge.methods.parameters import PREFERENCE
from prefmerge.preference import Preference
from prefmerge.target.search.space import ParameterValues


@dataclass(frozen=True)
class Trial:
    """One candidate. `right` (M,) bool: which samples it names correctly."""

    number: int
    what: str  # "label preference, scale 0.5", "MAGMAX, scale 1", "trial 7"
    settings: ParameterValues  # of `merge`
    right: np.ndarray
    start: bool  # one of those that the search starts with

    def to_json(self) -> dict[str, Any]:
        return {"number": self.number, "what": self.what, "start": self.start, "settings": as_json(self.settings)}

    def kept(self) -> dict[str, Any]:
        """What `read_kept` reads."""
        answers = np.packbits(self.right).tobytes().hex()
        return {"what": self.what, "settings": as_json(self.settings), "start": self.start, "right": answers}


class _Kept(BaseModel):
    model_config = ConfigDict(strict=True)

    what: str
    settings: dict[str, Any]
    start: bool
    right: str = Field(pattern="^([0-9a-f]{2})*$")


def read_kept(number: int, kept: Mapping[str, Any], samples: int, where: str) -> Trial:
    """The trial that a study kept, of so many samples. `where`: what a message calls the study. Raises RunError naming
    the key that is wrong.
    """
    try:
        one = _Kept.model_validate(dict(kept))
        settings = from_json(one.settings)
    except (ValidationError, PrefmergeError) as error:
        wrong = str(error)
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False)[0]
            key = ".".join(map(str, first["loc"]))
            wrong = f"key {key!r}: {first['msg']}, found {first['input']!r}."
        raise RunError(
            f"{where}: trial {number + 1} is damaged: {wrong} Start the search again with --force."
        ) from error
    packed = np.frombuffer(bytes.fromhex(one.right), np.uint8)
    if len(packed) != -(-samples // 8):
        raise RunError(
            f"{where}: trial {number + 1} is damaged: key 'right': expected the answers to {samples} samples, found "
            f"{len(packed)} bytes. Start the search again with --force."
        )
    right = np.unpackbits(packed, count=samples).astype(bool)
    return Trial(number, one.what, settings, right, one.start)


def as_json(settings: ParameterValues) -> dict[str, Any]:
    """Settings as a JSON object, the preference as it is written to files."""
    return {name: value.to_json() if isinstance(value, Preference) else value for name, value in settings.items()}


def from_json(data: Mapping[str, Any]) -> ParameterValues:
    """The inverse of `as_json`."""
    return {name: Preference.from_json(value) if name == PREFERENCE.name else value for name, value in data.items()}
