"""A preference for a target with its reasons: what `prefer` prints, and writes as preference.json.

Cost: none. Not here: finding it (`prefer`).
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from prefmerge.errors import OutputError, OutputExists
from prefmerge.ground import jsons
from prefmerge.ground.brief import brief
from prefmerge.ground.disk import make_parents, remove_empty
from prefmerge.ground.refused import remedy
from prefmerge.ground.words import counted
from prefmerge.preference import Preference
from prefmerge.target.checkpoints import Checkpoints
from prefmerge.target.similarity import Similarity

FORMAT = "prefmerge-prefer/1"  # of `about` in preference.json


@dataclass(frozen=True)
class Preferred:
    """A preference with its reasons."""

    __repr__ = brief

    checkpoints: Checkpoints  # the tasks
    preference: Preference  # to give to `merge`
    shares: np.ndarray  # of the tasks, shape (T,); they sum to 1
    samples: int = 0  # of the target
    level: float = 0.9  # confidence of the interval
    # of each task's own interval, shape (T,); None: no interval was asked for, or there is nothing to draw from
    low: np.ndarray | None = None
    high: np.ndarray | None = None  # likewise
    similarity: Similarity | None = None  # where one made the shares: label, OT, cosine, MMD
    settings: Mapping[str, str] = field(default_factory=dict)  # of `merge`, which a search chose with the preference
    beside: Preferred | None = None  # what the labels alone say, where a search went beyond them
    verdict: str | None = None  # of a search, in words
    doubts: tuple[str, ...] = ()  # notes that come before the shares
    notes: tuple[str, ...] = ()  # a sentence each
    about: Mapping[str, Any] = field(default_factory=dict)  # how it was made: data, parameters, distances

    def sure(self) -> str | None:
        """How sure the largest share, or what was searched for, is, in words."""
        if self.verdict is not None:
            return self.verdict
        if self.low is None or self.high is None:
            return None
        top = int(np.argmax(self.shares))
        sure = f"{100 * self.low[top]:.0f} to {100 * self.high[top]:.0f} %"
        return (
            f"{counted(self.samples, 'sample')}: with {100 * self.level:g} % confidence {self.checkpoints.names[top]} "
            f"has {sure}."
        )

    def to_json(self) -> dict[str, Any]:
        """What preference.json holds: the preference, which `Preference.load` reads, and `about`: how it was made."""
        both = None if self.low is None or self.high is None else np.stack([self.low, self.high], axis=1)
        return {
            **self.preference.to_json(),
            "about": {
                "format": FORMAT,
                "tasks": list(self.checkpoints.names),
                "shares": self.shares.tolist(),
                "intervals": None if both is None else both.tolist(),
                "level": self.level,
                "samples": self.samples,
                "similarity": None if self.similarity is None else self.similarity.to_json(),
                "settings": dict(self.settings),
                **self.about,
                "notes": [*self.doubts, *self.notes],
                "versions": _versions(),
            },
        }

    def save(self, path: str | Path, force: bool = False) -> None:
        """Write `to_json` whole or not at all. Raises OutputExists, unless forced, and OutputError."""
        path = Path(path)
        check_output(path, force)
        made: list[Path] = []
        try:
            made = make_parents(path.parent)
            try:
                jsons.write(path, self.to_json(), replace=force)
            except FileExistsError:  # it has appeared since
                check_output(path, force)
                raise
        except OSError as error:
            remove_empty(made)
            way = remedy(error, "Give another -o FILE.")
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}. {way}") from error


def check_output(path: Path, force: bool = False) -> None:
    """Raise OutputExists where a preference could not be saved, before anything is computed."""
    if path.is_dir():
        raise OutputExists(
            f"{path}: is a folder; a preference is a file. Give for instance {path / 'preference.json'}."
        )
    if path.exists() and not force:
        raise OutputExists(f"{path}: exists already. Give another -o FILE, or --force to replace it.")


def _versions() -> dict[str, str]:
    """What decides the last digits."""
    versions = {"python": platform.python_version()}
    for package in ("prefmerge", "numpy", "torch", "POT"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
