"""The pieces of work of an experiment, by key, each in a file.

    key = words - digest(kind, run, spec)        OUT/cells/KEY.json = {format, kind, title, spec, result}

A cell is one model (or one set of similarities) of one run, at one scale. Its key covers everything that decides its
result: the run's identity, the parameters, the samples. So the next call takes a finished cell again, and not one whose
recipe, run or data changed. Older versions kept all scales of a model in one cell: of such a file each scale is taken.
Cost: nothing but the file. Not here: what decides each kind of cell and what it gives (`kinds`), and
which cells an experiment has (`plan`).
"""

from __future__ import annotations

import re
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
    after: Cell[Any] | None = field(default=None, hash=False)  # what this one reads

    @cached_property
    def key(self) -> str:
        """The name of its file, without suffix: readable, and a hash of all that decides the result."""
        return f"{self._words}-{digest([FORMAT, self.spec.kind, self.decided], short=True, sort=True)}"

    @property
    def _words(self) -> str:
        return re.sub(r"[^a-z0-9.]+", "-", f"{self.spec.kind}-{self.title}".lower()).strip("-")[:80]

    @property
    def called(self) -> str:
        """The title, with the scale."""
        return self.title if self.spec.scale is None else f"{self.title}, scale {self.spec.scale}"

    @property
    def decided(self) -> dict[str, Any]:
        """All that decides the result, as JSON."""
        return {"run": self.identity, **self.spec.to_json()}

    def load(self, out: Path) -> R | None:
        """The kept result; None where there is none, or its file is damaged."""
        data = _kept(out, self.key)
        if data is None:
            return self._of_several(out)
        try:
            return self.spec.result(data["result"])
        except _DAMAGED:
            return None

    def _of_several(self, out: Path) -> R | None:
        """The result out of a cell that has it beside other scales, as older versions kept them."""
        scale, start = self.spec.scale, f"{self._words}-"
        if scale is None:
            return None
        wanted = jsons.decoded(jsons.encoded(self.decided, indent=None))
        for key in _store(out).keys(start):
            data = _kept(out, key)
            try:
                spec = {} if data is None else data["spec"]
                if data is not None and scale in spec.get("scales", ()) and {**spec, "scales": [scale]} == wanted:
                    whole: Any = self.spec.result(data["result"])
                    return whole.only(scale)
            except _DAMAGED:
                continue
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

    def before(self, out: Path, kind: type[Other]) -> Other:
        """The result of the cell that this one comes after, of that kind. Raises DataError where it cannot be read."""
        assert self.after is not None
        result = self.after.load(out)
        if not isinstance(result, kind):
            file = _store(out).file(self.after.key)
            raise DataError(f"{file}: cannot be read, and {self.called} needs it. Run the same command again.")
        return result


_DAMAGED = (ValueError, KeyError, TypeError, PrefmergeError)  # NotJson is a ValueError


def _kept(out: Path, key: str) -> dict[str, Any] | None:
    """What the file of a cell holds; None where there is none, or it is damaged or of another format."""
    content = _store(out).read(key)
    try:
        data = None if content is None else jsons.decoded(content, nan=True)
    except ValueError:
        return None
    return data if isinstance(data, dict) and data.get("format") == FORMAT and "result" in data else None


def _store(out: Path) -> Store:
    return Store(out / "cells", ".json")
