"""Accuracy per task of models in memory, on the samples that a run held out.

    right_t = samples i of task t with argmax over c in among_t of <e_i / |e_i|, h_c> = y_i

The head is the run's: no prior and no bias of a target, which `adapt` adds. Intervals: Wilson's. Cost: a merge in
memory and a forward pass a sample for each model; base, last checkpoint and MAGMAX once. Shapes: T tasks, N samples, C
classes. Not here: which models (`front`), what the target weighs (the page).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prefmerge.ground.progress import Progress
from prefmerge.ground.stats import wilson
from prefmerge.studio.opened import Opened
from prefmerge.target.forwards import Forwards
from prefmerge.target.merges import Merges
from prefmerge.target.pool import Candidate, baselines

SMALL = 16 << 20  # bytes of a model


class Meter:
    """Measures models of one run. Used from one thread: the encoder holds one model at a time."""

    def __init__(self, opened: Opened) -> None:
        assert opened.source is not None
        self.opened, self.source = opened, opened.source
        self.merges = Merges(self.source.base, self.source.checkpoints, opened.names, opened.threads)
        self._beside: list[dict[str, Any]] | None = None

    def models(self, settings: Sequence[Mapping[str, Any]], progress: Progress) -> list[list[dict[str, Any]]]:
        """[model][task]: samples, how many are named rightly, the accuracy with its interval."""
        return self._rows([Candidate("merge", one) for one in settings], progress)

    def beside(self, progress: Progress) -> list[dict[str, Any]]:
        """Base, last checkpoint and MAGMAX (or `max_abs`, of tasks without an order)."""
        if self._beside is None:
            count = len(self.opened.names)
            base, magmax, _ = baselines(np.full(count, 1 / count), self.source.ordered)
            last = [Candidate("last checkpoint", task=count - 1)] if self.source.ordered else []
            pool = [base, *last, magmax]
            rows = self._rows(pool, progress)
            self._beside = [{"name": one.name, "tasks": row} for one, row in zip(pool, rows, strict=True)]
        return self._beside

    def forwards(self, progress: Progress) -> Forwards:
        """What encodes."""
        return Forwards(self.source, self.opened.parameters(), progress, self.merges)

    def _rows(self, pool: Sequence[Candidate], progress: Progress) -> list[list[dict[str, Any]]]:
        assert self.source.samples is not None
        forwards = self.forwards(progress)
        with _few_threads(self.source.base):
            each = forwards.units(pool, self.source.samples, "measuring")
        return [[self._row(t, units) for t, units in enumerate(parts)] for parts in each]

    def _row(self, task: int, units: np.ndarray) -> dict[str, Any]:
        head, samples = self.source.head, self.source.samples
        assert head is not None
        assert samples is not None
        if not len(units):
            return {"n": 0, "right": 0, "accuracy": None, "low": None, "high": None}
        among = np.asarray(self.source.among[task])
        answers = among[head.logits(units)[:, among].argmax(axis=1)]
        n, right = len(units), int((answers == samples[task].labels).sum())
        low, high = wilson(right, n)
        return {"n": n, "right": right, "accuracy": right / n, "low": low, "high": high}


@contextlib.contextmanager
def _few_threads(base: Path) -> Iterator[None]:
    """Inside, a small model uses one thread: where the cores have other work, more threads wait for each other,
    and the demo's takes seconds in place of 0.3.
    """
    import torch

    threads = torch.get_num_threads()
    small = sum(file.stat().st_size for file in ([base] if base.is_file() else base.iterdir())) < SMALL
    torch.set_num_threads(1 if small else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
