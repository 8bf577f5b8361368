"""The merged models of candidates, made in as few readings as memory allows and kept while it does.

Cost: one merge for each different setting; `MEMORY` bytes of float32 models, the oldest dropped first. Not here: which
settings (`pool`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prefmerge.preference import Preference

MEMORY = 2 << 30  # bytes
MergedModel = Mapping[str, np.ndarray]


class Merges:
    """The merges of one base and its tasks. `made` counts them."""

    def __init__(self, base: Path, tasks: Sequence[Path], names: Sequence[str], threads: int | None = None) -> None:
        self._inputs: tuple[Any, ...] = (base, tasks, names)
        self._threads = threads
        self._kept: dict[str, MergedModel] = {}
        self.made = 0

    def each(
        self, settings: Sequence[Mapping[str, Any]], progress: Callable[[int, int], None] | None = None
    ) -> Iterator[tuple[int, MergedModel]]:
        """(position, model) of every one of `settings`, in the order in which they are at hand."""
        positions: dict[str, list[int]] = {}
        for i, one in enumerate(settings):
            positions.setdefault(_key(one), []).append(i)
        waiting = []
        for key, own in positions.items():
            if key in self._kept:
                model = self._kept[key]
                yield from ((i, model) for i in own)
            else:
                waiting.append(key)
        if not waiting:
            return
        from prefmerge.merging.candidates import Candidates

        with Candidates(*self._inputs, threads=self._threads) as merges:
            several = max(1, MEMORY // max(1, merges.nbytes))
            while waiting:
                some, waiting = waiting[:several], waiting[several:]
                if progress is not None:
                    progress(len(some), len(waiting))
                models = merges.models([settings[positions[key][0]] for key in some])
                self.made += len(some)
                for key, model in zip(some, models, strict=True):
                    self._keep(key, model)
                    yield from ((i, model) for i in positions[key])

    def _keep(self, key: str, model: MergedModel) -> None:
        size = _size(model)
        while self._kept and size * (len(self._kept) + 1) > MEMORY:
            self._kept.pop(next(iter(self._kept)))
        if size <= MEMORY:
            self._kept[key] = model


def _size(model: MergedModel) -> int:
    return sum(values.nbytes for values in model.values())


def _key(settings: Mapping[str, Any]) -> str:
    written = {name: value.describe() if isinstance(value, Preference) else value for name, value in settings.items()}
    return repr(sorted(written.items()))
