"""Many merges of the same checkpoints, in memory, for who tries settings out (search, sweeps, tables).

    models([s_1 .. s_N])[i] = what `merge` with s_i writes, read back in float32: the same bits
    at_scales(tau, scales)  = theta_0 + scale * tau_merged, for one tau_merged and many scales

One reading for all N: tensor by tensor, the T task vectors are decoded once into float32 memory, and every candidate's
method works on these before the next tensor is read. Nothing is hashed and nothing is written. Shapes: those of the
base. Memory: N models in float32, plus T + 1 times the largest tensor. Left out: scope `model` in one reading (its
budgets span all tensors, so each such candidate streams for itself), receipts, task vectors as outputs.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np

from prefmerge.checkpoints import (
    DTYPES,
    Checkpoint,
    Fingerprint,
    TensorInfo,
    from_state_dict,
    open_checkpoint,
    reading,
    to_float32,
)
from prefmerge.checkpoints.input_file import InputFile
from prefmerge.errors import CheckpointMismatch, UsageError
from prefmerge.merging.api import available_cores, recipe_of
from prefmerge.merging.plan import Entry, Plan, plan_over
from prefmerge.merging.recipe import Recipe
from prefmerge.merging.sameness import Sameness
from prefmerge.merging.source import Input, TensorDeltas
from prefmerge.merging.stream import LARGE, stream
from prefmerge.methods import METHODS, Settings
from prefmerge.preference import exact
from prefmerge.vectors.workspace import Workspace, spans

Model = dict[str, np.ndarray]


class Candidates:
    """The merges of one base and its tasks, opened once. Close it (or use `with`) to let go of the files.

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
            self._opened.append(open_checkpoint(base))
            for i, path in enumerate(tasks):
                self._opened.append(open_checkpoint(path, name=None if names is None else names[i]))
        except BaseException:
            self._close_files()
            raise
        self._base, *self._tasks = self._opened
        self._paths = [os.fspath(path) for path in (base, *tasks)]
        self.names: tuple[str, ...] = tuple(task.name for task in self._tasks)
        self._sameness = Sameness()
        self._work = Workspace(threads=threads or available_cores())

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

    def recipe(self, **settings: Any) -> Recipe:
        """The recipe that these settings are. Raises what `merge` raises for a setting that makes no sense."""
        return recipe_of(self._paths[0], self._paths[1:], names=self.names, **settings)

    def check(self, **settings: Any) -> None:
        """Raise what merging with these settings would raise before it reads a value."""
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

        Raises CheckpointMismatch where the vector does not fit the base, DtypeOverflow.
        """
        floats = self._floats()
        for name, tau in vector.items():
            expected = floats[name].shape if name in floats else "no such tensor"
            if expected != tau.shape:
                raise CheckpointMismatch(
                    f"the vector's {name!r} has shape {tau.shape}; in the base it is {expected}. Take a vector that "
                    "these candidates gave."
                )
        return self._at_scales(vector, [float(exact(scale, "scale")) for scale in scales])

    def _at_scales(self, vector: Mapping[str, np.ndarray], scales: Sequence[float]) -> Iterator[Model]:
        """The merge of one task, which is the vector, by `last`."""
        task = _unhashed(from_state_dict(vector, name="vector"), "vector", vector=True)
        entries = tuple(
            Entry(info, "merge" if name in vector else "exclude", info.dtype, (name,) if name in vector else ())
            for name, info in self._floats().items()
        )
        for scale in scales:
            settings = Settings(tasks=1, scale=scale)
            base = _unhashed(self._base, "base")
            plan = Plan(Recipe(method="last"), METHODS["last"], settings, base, (task,), ("vector",), entries)
            sink = _Floats(plan)
            with reading(self._base):
                stream(plan, sink, self._work)
            yield sink.shaped()

    def _floats(self) -> dict[str, TensorInfo]:
        return {name: info for name, info in self._base.tensors.items() if info.dtype.family == "float"}

    def _plan(self, recipe: Recipe) -> Plan:
        """The plan of the float tensors, over inputs that are not hashed."""
        plan = plan_over(recipe, self._base, self._tasks, self._sameness)
        return replace(
            plan,
            base=_unhashed(self._base, "base"),
            tasks=tuple(_unhashed(source.checkpoint, source.role, source.vector) for source in plan.tasks),
            entries=tuple(entry for entry in plan.entries if entry.info.dtype.family == "float"),
        )

    def _merged(self, plans: Sequence[Plan]) -> list[Model]:
        sinks = [_Floats(plan) for plan in plans]
        shared: dict[str, list[tuple[Plan, _Floats]]] = {}
        for plan, sink in zip(plans, sinks, strict=True):
            if not plan.method.by_tensor(plan.settings):
                stream(plan, sink, self._work)
                continue
            stream(replace(plan, entries=tuple(plan.of_role("exclude"))), sink, self._work)
            for entry in plan.of_role("merge"):
                shared.setdefault(entry.name, []).append((plan, sink))
        sizes = {name: self._base.tensors[name].size for name in shared}
        large = max(LARGE, sum(sizes.values()) // (4 * self._work.threads))
        ordered = sorted(shared, key=lambda name: -sizes[name])
        for name in ordered:
            if sizes[name] >= large:
                self._tensor(name, shared[name])  # its blocks are spread over the threads
        self._work.map(lambda name: self._tensor(name, shared[name]), [n for n in ordered if sizes[n] < large])
        return [sink.shaped() for sink in sinks]

    def _tensor(self, name: str, candidates: Sequence[tuple[Plan, _Floats]]) -> None:
        """Merge one tensor for every candidate, over deltas that are decoded once."""
        first = candidates[0][0]
        entry = _entry(first, name)
        origin = first.base.checkpoint
        held = _Held(origin, entry.info, lambda: origin.raw(name))
        base = _unhashed(held, "base")
        deltas = TensorDeltas(name, entry.info.size, base, first.tasks, entry.stored_as)
        info = TensorInfo(name, DTYPES["F32"], entry.info.shape)

        def decoded(task: int) -> np.ndarray:
            tau = np.empty(deltas.size, np.float32)
            self._work.map(lambda span: deltas.read(task, *span, tau[slice(*span)]), spans(tau.size, self._work.block))
            return tau

        tasks = tuple(
            replace(
                _unhashed(_Held(source.checkpoint, info, partial(decoded, task)), source.role, vector=True),
                stands_for=(source, entry.stored_as[task]),  # for methods that take models, not differences
            )
            for task, source in enumerate(first.tasks)
        )
        for plan, sink in candidates:
            own = replace(_entry(plan, name), stored_as=(name,) * len(tasks))
            twins = [twin for twin in plan.of_role("tied") if twin.tied_to == name]
            stream(replace(plan, base=base, tasks=tasks, entries=(own, *twins)), sink, self._work)


def _entry(plan: Plan, name: str) -> Entry:
    return next(entry for entry in plan.entries if entry.name == name)


class _Floats:
    """A sink that keeps what a reader of the output would get: float32 of the stored elements."""

    def __init__(self, plan: Plan) -> None:
        self.layout = {info.name: info for info in plan.layout}
        self.arrays = {name: np.empty(info.size, np.float32) for name, info in self.layout.items()}

    def write(self, name: str, start: int, stored: np.ndarray) -> None:
        self.arrays[name][start : start + stored.size] = to_float32(stored, self.layout[name].dtype)

    def shaped(self) -> Model:
        return {name: values.reshape(self.layout[name].shape) for name, values in self.arrays.items()}


class _Unhashed(Fingerprint):
    """Hashes nothing: a candidate has no receipt."""

    def reach(self, tensor: str, start: int, stop: int) -> int:
        return stop

    def add(self, tensor: str, stored: np.ndarray, start: int) -> None:
        pass

    def add_missing(self, tensor: str, checkpoint: Checkpoint) -> None:
        pass


def _unhashed(checkpoint: Checkpoint, role: str, vector: bool = False) -> Input:
    return Input(checkpoint, role, _Unhashed(()), vector)


@final
class _Held:
    """One tensor of a checkpoint, in memory, as a `Checkpoint` of its own. It is fetched when it is first asked for: a
    task that no candidate wants anything of is never read.
    """

    def __init__(self, source: Checkpoint, info: TensorInfo, fetch: Callable[[], np.ndarray]) -> None:
        self.name, self.path = source.name, source.path
        self.tensors: Mapping[str, TensorInfo] = {info.name: info}
        self.aliases: Mapping[str, str] = {}
        self.metadata: Mapping[str, str] = {}
        self.files: tuple[Path, ...] = ()
        self.inputs: tuple[InputFile, ...] = source.inputs  # for who asks whether they changed
        self._source, self._fetch = source, fetch
        self._values: np.ndarray | None = None
        self._lock = threading.Lock()

    def file_of(self, tensor: str) -> str:
        return self._source.file_of(tensor)

    def read(self, tensor: str, start: int, stop: int, buffer: np.ndarray | None = None) -> np.ndarray:
        return self.raw(tensor)[start:stop]

    def raw(self, tensor: str) -> np.ndarray:
        with self._lock:
            if self._values is None:
                self._values = self._fetch()
            return self._values

    def close(self) -> None:
        self._values = None
