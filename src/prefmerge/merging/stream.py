"""The merge itself: every tensor of a plan, block by block, from the inputs to a sink.

    theta = theta_0 + scale * tau_merged in float32, then the output's number format
    tau_merged itself, unscaled and in float32, for a task vector

Memory does not grow with the model or with T: a few blocks per thread, plus the owners and masks of the tensors in
flight (tensor by tensor in scope `tensor`), which spill to disk beyond the limit. Large tensors are cut into blocks
over all threads; small ones go to one thread each. Left out: where the blocks end up (the sink) and the receipt.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from prefmerge.checkpoints import same_elements
from prefmerge.checkpoints.dtypes import from_float32, from_float64, to_float32
from prefmerge.errors import DtypeOverflow
from prefmerge.merging.plan import Entry, Plan
from prefmerge.merging.source import TensorDeltas, hash_rest
from prefmerge.methods import Report, Rule, kernels
from prefmerge.vectors.workspace import Workspace, spans

Progress = Callable[[int, int, str], None]  # bytes written so far, bytes in all, what is being done
LARGE = 1 << 20  # elements; below it one thread takes a tensor whole, whatever its share of the model


class Sink(Protocol):
    """Where merged blocks go."""

    def write(self, name: str, start: int, stored: np.ndarray) -> None:
        """Take the stored elements from `start` on. Called from any thread."""
        ...


@dataclass
class Outcome:
    """How the tensors came out, for the receipt."""

    owned: dict[str, np.ndarray] = field(default_factory=dict)  # elements per task, where every element has an owner
    reports: dict[str, Report] = field(default_factory=dict)  # of tensors that had a scope to themselves
    report: Report | None = None  # of the whole model, in scope `model`
    changed: dict[str, bool] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def stream(plan: Plan, sink: Sink, work: Workspace, progress: Progress | None = None) -> Outcome:
    """Merge everything in the plan into the sink. Raises NonFiniteValue or DtypeOverflow naming the tensor."""
    return _Stream(plan, sink, work, progress).run()


class _Stream:
    def __init__(self, plan: Plan, sink: Sink, work: Workspace, progress: Progress | None) -> None:
        self.plan, self.sink, self.work, self.progress = plan, sink, work, progress
        self.outcome = Outcome()
        self.scale = np.float32(plan.settings.scale)
        self.twins: dict[str, list[Entry]] = {}
        for entry in plan.of_role("tied"):
            assert entry.tied_to is not None
            self.twins.setdefault(entry.tied_to, []).append(entry)
        self.bytes_done, self.bytes_all = 0, plan.output_bytes
        self.counting = threading.Lock()

    def run(self) -> Outcome:
        plan = self.plan
        for entry in (*plan.of_role("copy"), *plan.of_role("exclude")):
            self.copy(entry)
        entries = plan.of_role("merge")
        tensors = [
            TensorDeltas(entry.name, entry.info.size, plan.base, plan.tasks, entry.stored_as) for entry in entries
        ]
        self.told("selecting")
        if plan.method.by_tensor(plan.settings):
            self.tensor_by_tensor(entries, tensors)
        else:
            self.all_at_once(entries, tensors)
        for source in (plan.base, *plan.tasks):
            if source.touched:
                hash_rest(source)
        return self.outcome

    def tensor_by_tensor(self, entries: Sequence[Entry], tensors: Sequence[TensorDeltas]) -> None:
        plan, work = self.plan, self.work
        elements = sum(deltas.size for deltas in tensors)
        large = max(LARGE, elements // (4 * work.threads))

        def whole(item: tuple[Entry, TensorDeltas]) -> None:
            entry, deltas = item
            rule = plan.method.prepare([deltas], plan.settings, work)
            self.fill(entry, deltas, rule, 0)
            self.outcome.reports[entry.name] = rule.report

        pairs = sorted(zip(entries, tensors, strict=True), key=lambda pair: -pair[1].size)
        for pair in pairs:
            if pair[1].size >= large:
                whole(pair)  # its blocks are spread over the threads
        work.map(whole, [pair for pair in pairs if pair[1].size < large])

    def all_at_once(self, entries: Sequence[Entry], tensors: Sequence[TensorDeltas]) -> None:
        rule = self.plan.method.prepare(tensors, self.plan.settings, self.work)
        self.outcome.report = rule.report
        for i, (entry, deltas) in enumerate(zip(entries, tensors, strict=True)):
            self.fill(entry, deltas, rule, i)

    def fill(self, entry: Entry, deltas: TensorDeltas, rule: Rule, index: int) -> None:
        """Write one merged tensor and those tied to it."""
        if rule.unchanged(index):
            self.outcome.changed[entry.name] = False
            self.copy(entry)
            return

        if not rule.gives_model:
            self.plan.base.touched = True

        def block(span: tuple[int, int]) -> np.ndarray | None:
            start, stop = span
            if rule.gives_model:
                model = self.work.buffer("model", stop - start, np.float64)
                owned = rule.block(index, start, stop, model, self.work)
                self.put_model(entry, start, model, deltas)
                return owned
            tau = self.work.buffer("merged", stop - start)
            owned = rule.block(index, start, stop, tau, self.work)
            self.put(entry, start, tau, deltas)
            return owned

        counts = self.work.map(block, spans(deltas.size, self.work.block))
        self.outcome.changed[entry.name] = deltas.changed
        known = [count for count in counts if count is not None]
        if len(known) == len(counts):
            owned = np.zeros(len(self.plan.names), np.int64)
            for count in known:
                owned += count
            self.outcome.owned[entry.name] = owned

    def put(self, entry: Entry, start: int, tau: np.ndarray, deltas: TensorDeltas) -> None:
        """Finish one block: scale, add the base, convert, write."""
        plan, stop = self.plan, start + tau.size
        base = deltas.base(start, stop)  # for a task vector too: its receipt names the base
        values = tau
        if not plan.recipe.as_task_vector:
            values = self.work.buffer("finished", tau.size)
            kernels.finish(base, tau, self.scale, values)
        self.store(entry, start, values)

    def put_model(self, entry: Entry, start: int, model: np.ndarray, deltas: TensorDeltas) -> None:
        """Finish one block of a method that gives the model itself, in float64: convert, write."""
        values = model
        if self.plan.recipe.as_task_vector:
            values = model - deltas.model(None, start, start + model.size)
        self.store(entry, start, values)

    def store(self, entry: Entry, start: int, values: np.ndarray) -> None:
        stored = (from_float64 if values.dtype == np.float64 else from_float32)(values, entry.dtype)
        back = to_float32(stored, entry.dtype)
        if not kernels.survey(back)[0]:
            worst = int(np.flatnonzero(~np.isfinite(back))[0])
            raise DtypeOverflow(
                f"tensor {entry.name!r}: the merged value {values[worst]:g} at element {start + worst} does not fit "
                f"{entry.dtype.name}. "
                f"Write a wider format (--dtype {'float32' if entry.dtype.name != 'float32' else 'float64'} or "
                "bfloat16), or use a smaller --scale."
            )
        for target in (entry, *self.twins.get(entry.name, ())):
            self.sink.write(target.name, start, stored)
            self.told(f"merging {entry.name}", stored.nbytes)

    def copy(self, entry: Entry) -> None:
        """Copy a tensor from the base, bit for bit unless another number format was asked for; zeros in a task
        vector.
        """
        plan, info = self.plan, entry.info
        vector = plan.recipe.as_task_vector
        if vector and info.dtype.family != "float":
            return
        plan.base.touched = True
        if entry.role == "copy":
            self.note_differences(entry)
        for start, stop in spans(info.size, self.work.block):
            stored = plan.base.read(entry.name, start, stop, plan.base.blocks, "copied")
            if vector:
                self.store(entry, start, np.zeros(stop - start, np.float32))
            elif entry.dtype == info.dtype:
                for target in (entry, *self.twins.get(entry.name, ())):
                    self.sink.write(target.name, start, stored)
                    self.told(f"copying {entry.name}", stored.nbytes)
            else:
                self.store(entry, start, to_float32(stored, info.dtype))

    def note_differences(self, entry: Entry) -> None:
        base, differing = self.plan.base.checkpoint, []
        for name, source in zip(self.plan.names, self.plan.tasks, strict=True):
            # A look at a buffer does not make a task's file one that was read: its weights may be no part of it.
            own = source.checkpoint
            if entry.name in own.tensors and not same_elements(own, entry.name, base, entry.name):
                differing.append(name)
        if differing:
            self.outcome.notes.append(
                f"{entry.name!r} holds {entry.info.dtype.name} and differs in {', '.join(differing)}; such buffers "
                "are not merged: the base's is kept."
            )

    def told(self, what: str, nbytes: int = 0) -> None:
        if self.progress is not None:
            with self.counting:
                self.bytes_done += nbytes
                self.progress(self.bytes_done, self.bytes_all, what)


class MemorySink:
    """Collects the output as flat stored arrays."""

    def __init__(self, layout: Mapping[str, Any]) -> None:
        self.arrays = {name: np.empty(info.size, info.dtype.storage) for name, info in layout.items()}

    def write(self, name: str, start: int, stored: np.ndarray) -> None:
        self.arrays[name][start : start + stored.size] = stored
