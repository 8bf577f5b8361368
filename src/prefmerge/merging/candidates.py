"""Many merges of the same checkpoints, in memory, to try parameters out (search, tables).

    models([s_1 .. s_N])[i] = what `merge` with s_i writes, read back in float32: the same bits
    at_scales(tau, scales)  = theta_0 + scale * tau_merged, for one tau_merged and many scales

N plans and N sinks in memory, over one reading (`engine`). Nothing is hashed and nothing is written. Shapes: those of
the base. Memory: N models in float32, plus T + 1 times the largest tensor. Not here: scope `model` in one reading (its
budgets span all tensors, so each such candidate reads for itself), receipts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from prefmerge.checkpoints import Checkpoint, TensorInfo, names_of, reading, to_float32
from prefmerge.errors import CheckpointMismatch, NonFiniteValue, UsageError
from prefmerge.merging.api import recipe_of
from prefmerge.merging.engine import merge_all
from prefmerge.merging.limits import checked_threads
from prefmerge.merging.opening import open_base, open_task
from prefmerge.merging.plan import Plan, plan_over
from prefmerge.merging.recipe import Recipe
from prefmerge.merging.sameness import Sameness
from prefmerge.merging.sinks import rounded
from prefmerge.preference import exact
from prefmerge.vectors.reader import TaskVectors
from prefmerge.vectors.reading import Input, Reading
from prefmerge.vectors.workspace import Workspace, spans

Model = dict[str, np.ndarray]


class Candidates:
    """The merges of one base and its tasks, opened once. Close it (or use `with`) to close the files.

    base, tasks, names: as for `merge`. threads: all cores by default. Raises CheckpointError where one cannot be
    opened.
    """

    def __init__(
        self,
        base: str | Path,
        tasks: Sequence[str | Path],
        names: Sequence[str] | None = None,
        *,
        threads: int | None = None,
    ) -> None:
        if names is not None and len(names) != len(tasks):
            raise UsageError(f"names has {len(names)} entries for {len(tasks)} tasks; give one per task.")
        self._opened: list[Checkpoint] = []
        try:
            self._opened.append(open_base(base))
            for path, name in zip(tasks, names_of(tasks, names or [None] * len(tasks)), strict=True):
                self._opened.append(open_task(path, self._opened[0], name=name))
        except BaseException:
            self._close_files()
            raise
        self._base, *self._tasks = self._opened
        self._paths = [os.fspath(path) for path in (base, *tasks)]
        self.names: tuple[str, ...] = tuple(task.name for task in self._tasks)
        self._sameness = Sameness()
        self._work = Workspace(threads=checked_threads(threads))

    def __enter__(self) -> Candidates:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files and the threads. The models handed out stay."""
        self._work.close()
        self._close_files()

    def _close_files(self) -> None:
        for checkpoint in self._opened:
            checkpoint.close()

    @property
    def nbytes(self) -> int:
        """What one model takes in memory."""
        return 4 * sum(info.size for info in self._floats().values())

    def recipe(self, **settings: Any) -> Recipe:
        """The recipe with these parameters. Raises what `merge` raises for one that makes no sense."""
        return recipe_of(self._paths[0], self._paths[1:], names=self.names, **settings)

    def check(self, **settings: Any) -> None:
        """Raise what merging with these parameters would raise before it reads a value."""
        self._plan(self.recipe(**settings))

    def model(self, **settings: Any) -> Model:
        """`models` of one candidate."""
        return self.models([settings])[0]

    def models(self, settings: Sequence[Mapping[str, Any]]) -> list[Model]:
        """One merged model for each of `settings` (those of `merge`): every float tensor by name, float32, in its
        shape, rounded as `merge` would have written it.

        Raises UsageError, MethodError, PreferenceError and CheckpointMismatch before anything is read; NonFiniteValue
        and DtypeOverflow as `merge` does.
        """
        for one in settings:
            if one.get("as_task_vector"):
                raise UsageError("as_task_vector gives no model. Ask `vector` for the merged task vector.")
        plans = [self._plan(self.recipe(**one)) for one in settings]
        with reading(*self._opened):
            return self._merged(plans)

    def vector(self, **settings: Any) -> Model:
        """The merged task vector, unscaled, float32, of every tensor that is merged: what `at_scales` takes. settings:
        those of `merge` but scale and dtype.
        """
        plan = self._plan(self.recipe(as_task_vector=True, **settings))
        merged = {entry.name for entry in (*plan.of_role("merge"), *plan.of_role("tied"))}
        with reading(*self._opened):
            return {name: tau for name, tau in self._merged([plan])[0].items() if name in merged}

    def at_scales(self, vector: Mapping[str, np.ndarray], scales: Sequence[Fraction | float | str]) -> Iterator[Model]:
        """theta_0 + scale * vector for one scale after the other: the same bits as `model(scale=...)` with the settings
        of the vector. A float tensor that the vector does not name is the base's.

        Raises CheckpointMismatch where the vector does not fit the base, NonFiniteValue, DtypeOverflow.
        """
        floats = self._floats()
        for name, tau in vector.items():
            expected = floats[name].shape if name in floats else "no such tensor"
            if expected != tau.shape:
                raise CheckpointMismatch(
                    f"the vector's {name!r} has shape {tau.shape}; in the base it is {expected}. Take a vector that "
                    "these candidates gave."
                )
            if not np.isfinite(tau).all():
                raise NonFiniteValue(
                    f"the vector's {name!r} holds {tau[~np.isfinite(tau)][0]}; every value must be a finite float32. "
                    "Take a vector that these candidates gave."
                )
        return self._at_scales(vector, [np.float32(exact(scale, "scale")) for scale in scales])

    def _at_scales(self, vector: Mapping[str, np.ndarray], scales: Sequence[np.float32]) -> Iterator[Model]:
        base = Reading.of(Input.of(self._base, "base"), (), hashed=False)
        floats = self._floats()
        tensors = {name: TaskVectors.of(base, info, ()) for name, info in floats.items()}
        flat = {name: np.ascontiguousarray(tau, np.float32).reshape(-1) for name, tau in vector.items()}
        blocks = [(name, *span) for name, info in floats.items() for span in spans(info.size, self._work.block)]
        for scale in scales:
            model = {name: np.empty(info.size, np.float32) for name, info in floats.items()}

            def fill(block: tuple[str, int, int], model: Model = model, scale: np.float32 = scale) -> None:
                name, start, stop = block
                if name not in flat:
                    model[name][start:stop] = tensors[name].base(start, stop)
                    return
                values, dtype = self._work.buffer("finished", stop - start), floats[name].dtype
                finite = tensors[name].finish(start, flat[name][start:stop], scale, values)
                stored = rounded(values, dtype, name, start, finite=finite)
                model[name][start:stop] = to_float32(stored, dtype)

            with reading(self._base):
                self._work.map(fill, blocks)
            yield {name: values.reshape(floats[name].shape) for name, values in model.items()}

    def _floats(self) -> dict[str, TensorInfo]:
        return {name: info for name, info in self._base.tensors.items() if info.dtype.family == "float"}

    def _plan(self, recipe: Recipe) -> Plan:
        """The plan of the float tensors."""
        plan = plan_over(recipe, self._base, self._tasks, self._sameness)
        return replace(plan, entries=tuple(entry for entry in plan.entries if entry.info.dtype.family == "float"))

    def _merged(self, plans: Sequence[Plan]) -> list[Model]:
        sinks = [_Floats(plan) for plan in plans]
        merge_all(list(zip(plans, sinks, strict=True)), self._work, hashed=False)
        return [sink.shaped() for sink in sinks]


class _Floats:
    """A sink that keeps what a reader of the output would get: float32 of the stored elements."""

    def __init__(self, plan: Plan) -> None:
        self.layout = {info.name: info for info in plan.layout}
        self.arrays = {name: np.empty(info.size, np.float32) for name, info in self.layout.items()}

    def write(self, name: str, start: int, stored: np.ndarray) -> None:
        self.arrays[name][start : start + stored.size] = to_float32(stored, self.layout[name].dtype)

    def shaped(self) -> Model:
        return {name: values.reshape(self.layout[name].shape) for name, values in self.arrays.items()}
