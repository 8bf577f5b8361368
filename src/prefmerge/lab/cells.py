"""The pieces of work of an experiment, by key, each in a file.

    key = words - digest(kind, run, spec)        OUT/cells/KEY.json = {format, kind, title, spec, result}

A cell is one model (or one set of similarities) of one run. Its key covers everything that decides its result: the
run's identity, the parameters, the samples. So the next call takes a finished cell again, and not one whose recipe, run
or data changed. Cost: nothing but the file. Not here: what decides each kind of cell and what it gives (`kinds`), and
which cells an experiment has (`plan`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from prefmerge.errors import DataError, PrefmergeError
from prefmerge.ground import jsons
from prefmerge.ground.store import Store, digest
from prefmerge.lab.kinds import R, Result, Spec

FORMAT = "prefmerge-cell/1"
Other = TypeVar("Other", bound=Result)


@dataclass(frozen=True)
class Cell(Generic[R]):
    """One piece of work. Key and result depend on `identity`, the title and the spec."""

    spec: Spec[R] = field(hash=False)
    stage: int  # 2 where it reads what a cell of stage 1 gives
    run: str  # folder
    identity: str  # of the run
    seed: int
    title: str  # for people
    after: str | None = None  # the key of the cell that this one reads

    @cached_property
    def key(self) -> str:
        """The name of its file, without suffix: readable, and a hash of all that decides the result."""
        words = re.sub(r"[^a-z0-9.]+", "-", f"{self.spec.kind}-{self.title}".lower()).strip("-")
        return f"{words[:80]}-{digest([FORMAT, self.spec.kind, self.decided], short=True, sort=True)}"

    @property
    def decided(self) -> dict[str, Any]:
        """All that decides the result, as JSON."""
        return {"run": self.identity, **self.spec.to_json()}

    def load(self, out: Path) -> R | None:
        """The kept result; None where there is none, or its file is damaged."""
        content = _store(out).read(self.key)
        if content is None:
            return None
        try:
            data = jsons.decoded(content, nan=True)
            return self.spec.result(data["result"]) if data["format"] == FORMAT else None
        except (ValueError, KeyError, TypeError, PrefmergeError):  # NotJson is a ValueError
            return None

    def keep(self, out: Path, result: R) -> None:
        """Write the result, whole or not at all."""
        data = {
            "format": FORMAT,
            "kind": self.spec.kind,
            "title": self.title,
            "spec": self.decided,
            "result": result.to_json(),
        }
        _store(out).write(self.key, jsons.encoded(data, indent=None, nan=True))

    def before(self, out: Path, read: Callable[[Any], Other]) -> Other:
        """The result of the cell that this one comes after. Raises DataError where it cannot be read."""
        assert self.after is not None
        file = _store(out).file(self.after)
        try:
            return read(jsons.read(file, nan=True)["result"])
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"{file}: cannot be read ({error}), and {self.title} needs it. Run the same command again."
            ) from error


def _store(out: Path) -> Store:
    return Store(out / "cells", ".json")
