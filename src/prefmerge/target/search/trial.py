"""One candidate of a search, tried: in memory, and as the study keeps it.

Kept are the settings as JSON, and the score; or the answers as a row of hexadecimal digits, the first sample first.
What is read back is checked. Shapes: M samples. Cost: M / 4 characters a trial.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prefmerge.errors import PrefmergeError, RunError
from prefmerge.methods.parameters import PREFERENCE
from prefmerge.preference import Preference
from prefmerge.target.search.space import ParameterValues


@dataclass(frozen=True)
class Trial:
    """One model that was tried."""

    number: int  # from 0 on, in the order of trying
    what: str  # "label preference, scale 0.5", "MAGMAX, scale 1", "trial 7"
    settings: ParameterValues  # of `merge`
    right: np.ndarray  # which samples it names correctly, shape (M,) bool
    start: bool  # one of those that the search starts with

    def to_json(self) -> dict[str, Any]:
        """A JSON object without `right`."""
        return {"number": self.number, "what": self.what, "start": self.start, "settings": as_json(self.settings)}

    def kept(self) -> dict[str, Any]:
        """What `read_kept` reads."""
        answers = np.packbits(self.right).tobytes().hex()
        return {"what": self.what, "settings": as_json(self.settings), "start": self.start, "right": answers}


@dataclass(frozen=True)
class ScoredTrial:
    """One model that was tried."""

    number: int  # from 0 on, in the order of trying
    what: str  # it is, in words
    settings: ParameterValues  # of `merge`
    task: int | None  # the checkpoint that it is, as it stands, by number; None: a merge
    score: float  # for ranking only
    start: bool  # whether the search started with it

    @property
    def key(self) -> str:
        """The same for models that are made in the same way."""
        return key_of(self.settings, self.task)

    def to_json(self) -> dict[str, Any]:
        """A JSON object of everything."""
        return {"number": self.number, **self.kept()}

    def kept(self) -> dict[str, Any]:
        """What `read_scored` reads."""
        return {
            "what": self.what,
            "settings": as_json(self.settings),
            "task": self.task,
            "score": self.score,
            "start": self.start,
        }


class _Kept(BaseModel):
    """What every trial keeps."""

    model_config = ConfigDict(strict=True)

    what: str
    settings: dict[str, Any]
    start: bool


class _KeptAnswers(_Kept):
    right: str = Field(pattern="^([0-9a-f]{2})*$")


class _KeptScore(_Kept):
    task: int | None
    score: float


K = TypeVar("K", bound=_Kept)


def read_kept(number: int, kept: Mapping[str, Any], samples: int, where: str) -> Trial:
    """The trial that a study kept, of so many samples. `where`: what a message calls the study. Raises RunError naming
    the key that is wrong.
    """
    one, settings = _read(_KeptAnswers, number, kept, where)
    packed = np.frombuffer(bytes.fromhex(one.right), np.uint8)
    if len(packed) != -(-samples // 8):
        raise RunError(
            f"{where}: trial {number + 1} is damaged: key 'right': expected the answers to {samples} samples, found "
            f"{len(packed)} bytes. Start the search again with --force."
        )
    right = np.unpackbits(packed, count=samples).astype(bool)
    return Trial(number, one.what, settings, right, one.start)


def read_scored(number: int, kept: Mapping[str, Any], where: str) -> ScoredTrial:
    """The same for a trial that was scored."""
    one, settings = _read(_KeptScore, number, kept, where)
    return ScoredTrial(number, one.what, settings, one.task, one.score, one.start)


def _read(kind: type[K], number: int, kept: Mapping[str, Any], where: str) -> tuple[K, ParameterValues]:
    try:
        one = kind.model_validate(dict(kept))
        return one, from_json(one.settings)
    except (ValidationError, PrefmergeError) as error:
        wrong = str(error)
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False)[0]
            key = ".".join(map(str, first["loc"]))
            wrong = f"key {key!r}: {first['msg']}, found {first['input']!r}."
        raise RunError(
            f"{where}: trial {number + 1} is damaged: {wrong} Start the search again with --force."
        ) from error


def as_json(settings: ParameterValues) -> dict[str, Any]:
    """Settings as a JSON object, the preference as it is written to files."""
    return {name: value.to_json() if isinstance(value, Preference) else value for name, value in settings.items()}


def from_json(data: Mapping[str, Any]) -> ParameterValues:
    """The inverse of `as_json`."""
    return {
        name: Preference.from_json(value) if name == PREFERENCE.name and not isinstance(value, list) else value
        for name, value in data.items()
    }


def key_of(settings: ParameterValues, task: int | None = None) -> str:
    """The same for models that are made in the same way, and for no others."""
    return json.dumps([as_json(settings), task], sort_keys=True)


def digest(value: Any) -> str:
    """Of what JSON can hold."""
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=16).hexdigest()
