"""Who owns how much of each layer, and what part of the magnitude is kept, without a sample.

    kept[layer] = sum over its elements p of |tau_merged[p]| / sum over p of max_t |tau_t[p]|

Where every element has one owner this is at most 1; 1 is what `max_abs` keeps. Source: ours. Cost: one merge that is
written nowhere, a block at a time, so a model may be larger than memory; the denominator once. Not here: accuracy.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Any

import numpy as np

from prefmerge.errors import UsageError
from prefmerge.ground.progress import Progress
from prefmerge.merging.api import checked_threads
from prefmerge.merging.engine import merge_all
from prefmerge.merging.layer_names import layers, natural
from prefmerge.merging.outcome import Outcome
from prefmerge.merging.parameters import AS_TASK_VECTOR, DTYPE
from prefmerge.merging.plan import make_plan
from prefmerge.merging.recipe import Recipe
from prefmerge.merging.vocabularies import OF_VOCABULARIES
from prefmerge.methods import MAX_ABS
from prefmerge.methods.parameters import SCALE
from prefmerge.vectors.workspace import Workspace


class Magnitudes:
    """A sink that adds up what passes: sum |tau| of each tensor."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = defaultdict(float)
        self._adding = threading.Lock()

    def write(self, name: str, start: int, stored: np.ndarray) -> None:
        total = float(np.abs(stored).sum(dtype=np.float64))
        with self._adding:
            self.sums[name] += total


class Layers:
    """The layers of the merges of one base and its tasks. Used from one thread."""

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads
        self._most: dict[str, float] | None = None

    def of(self, recipe: Recipe, progress: Progress) -> dict[str, Any]:
        """A row for each layer, in the order of the network; owners only where every element has one."""
        if any(recipe[one] is not None for one in OF_VOCABULARIES):
            raise UsageError("this recipe moves rows of the embeddings, so what is kept by layer cannot be shown.")
        if self._most is None:
            largest = Recipe(base=recipe.base, tasks=[{"path": task.path, "name": task.name} for task in recipe.tasks])
            same = {name: recipe.given[name] for name in ("exclude", "rename") if name in recipe.given}
            _, _, self._most = self._merged(largest.with_overrides(method=MAX_ABS.name, **same), progress)
        outcome, sizes, kept = self._merged(recipe, progress)
        names = sorted(kept, key=natural)
        layer_of = layers(names)
        members: dict[str, list[str]] = defaultdict(list)
        for name in names:
            members[layer_of[name]].append(name)
        rows = [
            _row(layer, inside, outcome, sizes, kept, self._most)
            for layer, inside in members.items()
            if sum(self._most.get(name, 0.0) for name in inside)
        ]
        return {"layers": rows, "total": _row("all", names, outcome, sizes, kept, self._most)}

    def _merged(self, recipe: Recipe, progress: Progress) -> tuple[Outcome, dict[str, int], dict[str, float]]:
        given = {name: value for name, value in recipe.given.items() if name not in (SCALE.name, DTYPE.name)}
        vector = recipe.model_copy(update={"given": {**given, AS_TASK_VECTOR.name: True}})
        sink = Magnitudes()
        with make_plan(vector) as planned, Workspace(threads=checked_threads(self.threads)) as work, planned.reading():
            (outcome,) = merge_all([(planned, sink)], work, progress, hashed=False)
            return outcome, {entry.name: entry.info.size for entry in planned.of_role("merge")}, sink.sums


def _row(
    layer: str,
    inside: list[str],
    outcome: Outcome,
    sizes: dict[str, int],
    kept: dict[str, float],
    most: dict[str, float],
) -> dict[str, Any]:
    owned = [outcome.owned[name] for name in inside if name in outcome.owned]
    largest = sum(most.get(name, 0.0) for name in inside)
    return {
        "name": layer,
        "elements": sum(sizes.get(name, 0) for name in inside),
        "owned": np.sum(owned, axis=0).tolist() if owned else None,
        "kept": sum(kept[name] for name in inside) / largest if largest else None,
    }
