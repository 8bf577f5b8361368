"""The merge itself: every tensor of N plans, block by block, from one reading of the inputs to N sinks.

    theta = theta_0 + scale * tau_merged in float32, then the output's number format
    tau_merged itself, unscaled and in float32, for a task vector

`merge` is N = 1. Where several plans want a tensor, its task vectors are decoded once into memory and every plan's
method works on these before the next tensor is read; a plan whose budgets span all tensors (scope `model`) reads for
itself. What a method prepares is shared by the plans that would prepare the same. Whether the inputs are hashed, for
receipts, is the caller's to say. Memory does not grow with the model or with T: a few blocks per thread, plus the
owners and masks of the tensors in flight, which spill to disk beyond the limit; for N > 1, T + 1 times the largest
tensor in float32, or as much of that as it may take. Large tensors are cut into blocks over all threads; small ones go
to one thread each. Not here: where the blocks end up (the sink) and the receipt.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from prefmerge.checkpoints import Dtype, Fingerprint, TensorInfo, same_elements
from prefmerge.checkpoints.dtypes import FLOATS, by_name, from_float32, from_float64, to_float32
from prefmerge.errors import DtypeOverflow
from prefmerge.ground.progress import Progress
from prefmerge.ground.words import quoted
from prefmerge.merging.kept import Keeping, KeptMagnitude, added
from prefmerge.merging.parameters import AS_TASK_VECTOR
from prefmerge.merging.plan import Plan, PlannedTensor
from prefmerge.methods import Report, Rule, Settings
from prefmerge.vectors import kernels
from prefmerge.vectors.reader import TaskVectors
from prefmerge.vectors.reading import Reading
from prefmerge.vectors.workspace import Workspace, spans

SHOWN = 5  # names listed in a note about many


class Sink(Protocol):
    """Where merged blocks go."""

    def write(self, name: str, start: int, stored: np.ndarray) -> None:
        """Take the stored elements from `start` on. Called from any thread."""
        ...


@dataclass
class Outcome:
    """How the tensors of one plan came out, and what was read for it: what a receipt says."""

    reading: Reading
    owned: dict[str, np.ndarray] = field(default_factory=dict)  # elements per task, where every element has an owner
    reports: dict[str, Report] = field(default_factory=dict)  # of tensors that had a scope to themselves
    report: Report | None = None  # of the whole model, in scope `model`
    changed: dict[str, bool] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    kept: dict[str, KeptMagnitude] = field(default_factory=dict)  # of merged tensors, where it was asked for


def merge_into(plan: Plan, sink: Sink, work: Workspace, progress: Progress | None = None) -> Outcome:
    """Merge everything in the plan into the sink, and hash the inputs. Raises NonFiniteValue or DtypeOverflow naming
    the tensor.
    """
    (outcome,) = merge_all([(plan, sink)], work, progress, hashed=True)
    return outcome


def merge_all(
    jobs: Sequence[tuple[Plan, Sink]],
    work: Workspace,
    progress: Progress | None = None,
    *,
    hashed: bool,
    hold: int = 1 << 62,
    measured: bool = False,
) -> list[Outcome]:
    """Merge each plan into its sink, from one reading. The plans are over the same open checkpoints. `hashed`: receipts
    will say what was read. `hold`: bytes that decoded task vectors may take; a tensor of which they take more is
    decoded again for each plan. `measured`: the outcomes say what of the changes is kept.

    Raises NonFiniteValue or DtypeOverflow naming the tensor.
    """
    if not jobs:
        return []
    first = jobs[0][0]
    if any(plan.checkpoints != first.checkpoints for plan, _ in jobs):
        raise ValueError("plans of one reading must be over the same open checkpoints")
    reading = Reading.of(first.base, first.tasks, hashed=hashed)
    reporter = _Reporter(progress, sum(plan.output_bytes for plan, _ in jobs))
    keeping = Keeping(first, work) if measured else None
    merges = [_Merge(plan, sink, reading, work, reporter, keeping) for plan, sink in jobs]
    for merge in merges:
        merge.copy_rest()
    reporter("selecting")
    prepared: RulesOfScope = {}
    for merge in merges:
        if not merge.by_tensor:
            merge.all_at_once(prepared)
    _tensor_by_tensor([merge for merge in merges if merge.by_tensor], reading, work, hold)
    reading.hash_rest()
    return [merge.outcome for merge in merges]


Shared = tuple[TensorInfo, tuple[str, ...]]  # a tensor of the base, and what each task calls it
RulesOfScope = dict[Hashable, Rule]  # by what they were prepared from


def _tensor_by_tensor(merges: Sequence[_Merge], reading: Reading, work: Workspace, hold: int) -> None:
    """Every tensor once, the largest first, for all merges that want it."""
    wanted: dict[Shared, list[tuple[_Merge, PlannedTensor]]] = {}
    for merge in merges:
        for entry in merge.plan.of_role("merge"):
            wanted.setdefault((entry.info, entry.stored_as), []).append((merge, entry))

    def whole(shared: Shared) -> None:
        # Small tensors go one to a thread, so each thread has its part.
        fits = 4 * (1 + len(shared[1])) * shared[0].size <= hold // work.threads
        vectors = TaskVectors.of(reading, *shared, held=fits and len(wanted[shared]) > 1)
        prepared: RulesOfScope | None = {} if len(wanted[shared]) > 1 else None
        for merge, entry in wanted[shared]:
            merge.tensor(entry, vectors.again(), prepared)

    work.walk(sorted(wanted, key=lambda shared: -shared[0].size), lambda shared: shared[0].size, whole)


class _Reporter:
    """Reports progress: the bytes of all merges. Called from any thread."""

    def __init__(self, progress: Progress | None, everything: int) -> None:
        self._progress, self._everything, self._done = progress, everything, 0
        self._counting = threading.Lock()

    def __call__(self, what: str, nbytes: int = 0) -> None:
        if self._progress is not None:
            with self._counting:
                self._done += nbytes
                self._progress(self._done, self._everything, what)


class _Merge:
    """One plan and its sink."""

    def __init__(
        self,
        plan: Plan,
        sink: Sink,
        reading: Reading,
        work: Workspace,
        reporter: _Reporter,
        keeping: Keeping | None = None,
    ) -> None:
        self.plan, self.sink, self.reading, self.work, self.reporter = plan, sink, reading, work, reporter
        self.keeping = keeping
        self.outcome = Outcome(reading)
        self.vector = plan.recipe[AS_TASK_VECTOR]  # asked for every block
        self.by_tensor = plan.method.by_tensor(plan.settings)
        self.differing: dict[tuple[str, str], list[str]] = {}  # number format, tasks -> the buffers that differ there
        self.twins: dict[str, list[PlannedTensor]] = {}
        for entry in plan.of_role("tied"):
            assert entry.tied_to is not None
            self.twins.setdefault(entry.tied_to, []).append(entry)

    def copy_rest(self) -> None:
        """Write what is the base's."""
        for entry in (*self.plan.of_role("copy"), *self.plan.of_role("exclude")):
            self.copy(entry)
        self.outcome.notes += _notes_of(self.differing)

    def all_at_once(self, prepared: RulesOfScope) -> None:
        """Merge all tensors, as one scope."""
        entries = self.plan.of_role("merge")
        tensors = [TaskVectors.of(self.reading, entry.info, entry.stored_as) for entry in entries]
        rule = self.prepare(tensors, self.plan.settings, prepared)
        self.outcome.report = rule.report
        for i, (entry, vectors) in enumerate(zip(entries, tensors, strict=True)):
            self.fill(entry, vectors, rule, i)

    def tensor(self, entry: PlannedTensor, vectors: TaskVectors, prepared: RulesOfScope | None) -> None:
        """Merge one tensor, as a scope of its own."""
        rule = self.prepare([vectors], self.plan.settings_of(entry.name), prepared)
        self.fill(entry, vectors, rule, 0)
        self.outcome.reports[entry.name] = rule.report

    def prepare(self, tensors: Sequence[TaskVectors], settings: Settings, prepared: RulesOfScope | None) -> Rule:
        """The rule of a scope; of an earlier merge with this one's settings where they make no other. `prepared`: None
        where there is no other merge.
        """
        method = self.plan.method
        key = None if prepared is None else method.prepared_from(settings)
        if prepared is None or key is None:
            return method.prepare(tensors, settings, self.work)
        key = (method.name, key, *(vectors.name for vectors in tensors))
        if key not in prepared:
            prepared[key] = method.prepare(tensors, settings, self.work)
            return prepared[key]
        for mine, earlier in zip(tensors, prepared[key].tensors, strict=True):
            mine.changed = earlier.changed  # what was read then is not read again
        return replace(prepared[key], tensors=tensors, settings=settings)

    def fill(self, entry: PlannedTensor, vectors: TaskVectors, rule: Rule, index: int) -> None:
        """Write one merged tensor and those tied to it."""
        if rule.unchanged(index):
            self.outcome.changed[entry.name] = False
            self.copy(entry)
            return

        if not rule.gives_model:
            self.reading.base.touched = True
        scale = np.float32(self.plan.settings_of(entry.name).scale)
        again = None if self.keeping is None else self.keeping.vectors(entry.info, entry.stored_as)
        kept: dict[int, KeptMagnitude] = {}

        def keep(start: int, tau: np.ndarray) -> None:
            if self.keeping is not None and again is not None:
                owner = rule.owner_of(index, start, start + tau.size, self.work)
                kept[start] = self.keeping.block(again, entry.stored_as, start, tau, owner)

        def block(span: tuple[int, int]) -> np.ndarray | None:
            start, stop = span
            if rule.gives_model:
                model = self.work.buffer("model", stop - start, np.float64)
                owned = rule.block(index, start, stop, model, self.work)
                if again is not None:
                    keep(start, (model - again.model(None, start, stop)) / (float(scale) or 1.0))
                self.put_model(entry, start, model, vectors)
                return owned
            tau = self.work.buffer("merged", stop - start)
            owned = rule.block(index, start, stop, tau, self.work)
            keep(start, tau)
            self.put(entry, start, tau, vectors, scale)
            return owned

        counts = self.work.map(block, spans(vectors.size, self.work.block))
        # A model may be made another without any task.
        self.outcome.changed[entry.name] = vectors.changed or (rule.gives_model and bool(rule.base_weight))
        if kept and self.outcome.changed[entry.name]:
            self.outcome.kept[entry.name] = added([kept[start] for start in sorted(kept)])
        known = [count for count in counts if count is not None]
        if len(known) == len(counts):
            owned = np.zeros(len(self.plan.names), np.int64)
            for count in known:
                owned += count
            self.outcome.owned[entry.name] = owned

    def put(self, entry: PlannedTensor, start: int, tau: np.ndarray, vectors: TaskVectors, scale: np.float32) -> None:
        """Finish one block: scale, add the base, convert, write."""
        if self.vector:
            vectors.origin.operand(start, start + tau.size)  # is hashed by that: its receipt names the base too
            self.store(entry, start, tau)
            return
        values = self.work.buffer("finished", tau.size)
        finite = vectors.finish(start, tau, scale, values)
        self.store(entry, start, values, finite=finite)

    def put_model(self, entry: PlannedTensor, start: int, model: np.ndarray, vectors: TaskVectors) -> None:
        """Finish one block of a method that gives the model itself, in float64: convert, write."""
        values = model
        if self.vector:
            values = model - vectors.model(None, start, start + model.size)
        self.store(entry, start, values)

    def store(
        self, entry: PlannedTensor, start: int, values: np.ndarray, *, finite: bool | None = None, kept: bool = False
    ) -> None:
        """Write `values` from element `start` on, in the output's format. `finite`: whether they are, where that is
        known. `kept`: they are to be taken as they are, infinities too.
        """
        if kept:
            stored = from_float32(values, entry.dtype)
        else:
            stored = rounded(values, entry.dtype, entry.name, start, finite=finite)
        for target in (entry, *self.twins.get(entry.name, ())):
            self.sink.write(target.name, start, stored)
            self.reporter(f"merging {entry.name}", stored.nbytes)

    def copy(self, entry: PlannedTensor) -> None:
        """Copy a tensor from the base, bit for bit unless another number format was asked for; zeros in a task
        vector.
        """
        base, info = self.reading.base, entry.info
        vector = self.vector
        if vector and info.dtype.family != "float":
            return
        base.touched = True
        if entry.role == "copy" and info.dtype.family == "integer":
            self.note_differences(entry)
        for start, stop in spans(info.size, self.work.block):
            stored = base.read(entry.name, start, stop, self.reading.space, "copied")
            if vector:
                self.store(entry, start, np.zeros(stop - start, np.float32))
            elif entry.dtype == info.dtype:
                for target in (entry, *self.twins.get(entry.name, ())):
                    self.sink.write(target.name, start, stored)
                    self.reporter(f"copying {entry.name}", stored.nbytes)
            else:
                values = to_float32(stored, info.dtype)
                # What no task changes may hold infinities, which every float format has: they do not overflow.
                kept = entry.role == "copy" and not np.isfinite(values).all()
                if kept:
                    rounded(values[np.isfinite(values)], entry.dtype, entry.name, start)
                self.store(entry, start, values, kept=kept)

    def note_differences(self, entry: PlannedTensor) -> None:
        base, differing = self.plan.base.checkpoint, []
        for name, source, called in zip(self.plan.names, self.plan.tasks, entry.stored_as, strict=True):
            # A look at a buffer does not make a task's file one that was read: its weights may be no part of it.
            own = source.checkpoint
            kind = own.tensors[called].dtype.family if called else None
            # Floats of equal values are the plan's to compare.
            if kind == entry.info.dtype.family and not same_elements(own, called, base, entry.name):
                differing.append(name)
        if differing:
            self.differing.setdefault((entry.info.dtype.name, ", ".join(differing)), []).append(entry.name)


def _notes_of(differing: Mapping[tuple[str, str], Sequence[str]]) -> list[str]:
    """One note for all buffers of one number format that differ in the same tasks."""
    return [
        f"{quoted(names, SHOWN)} {'holds' if len(names) == 1 else 'hold'} {dtype} and "
        f"{'differs' if len(names) == 1 else 'differ'} in {tasks}; such buffers are not merged: the base's "
        f"{'is' if len(names) == 1 else 'are'} kept."
        for (dtype, tasks), names in differing.items()
    ]


def rounded(values: np.ndarray, dtype: Dtype, name: str, start: int, *, finite: bool | None = None) -> np.ndarray:
    """`values`, float32 or float64, of tensor `name` from element `start` on as stored elements. `finite`: whether
    they are, where that is known. Raises DtypeOverflow.
    """
    infinite = kernels.INFINITE_OF_16_BITS.get(dtype.code)
    if values.dtype == np.float32 and infinite is not None:
        stored = np.empty(values.size, dtype.storage)
        fits = kernels.narrow(values, kernels.operand(stored, dtype), infinite)
    else:
        stored = (from_float64 if values.dtype == np.float64 else from_float32)(values, dtype)
        fits = kernels.survey(kernels.operand(stored, dtype))[0] if finite is None else finite
    if not fits:
        worst = int(np.flatnonzero(~np.isfinite(to_float32(stored, dtype)))[0])
        wide = _formats_that_hold(float(values[worst]))
        advice = f"Write a wider format (--dtype {' or '.join(wide)}), or use" if wide else "Use"
        raise DtypeOverflow(
            f"tensor {name!r}: the merged value {values[worst]:g} at element {start + worst} does not fit "
            f"{dtype.name}. {advice} a smaller --scale."
        )
    return stored


def _formats_that_hold(value: float) -> list[str]:
    """The number formats in which a value stays finite; float64 where no other is."""
    with np.errstate(over="ignore"):
        formats = sorted(map(by_name, FLOATS), key=lambda one: one.itemsize)
        holding = [one.name for one in formats if np.isfinite(to_float32(from_float64(np.array([value]), one), one))[0]]
    return holding or (["float64"] if np.isfinite(value) else [])


class MemorySink:
    """Collects the output as flat stored arrays."""

    def __init__(self, layout: Sequence[TensorInfo]) -> None:
        self.arrays = {info.name: np.empty(info.size, info.dtype.storage) for info in layout}

    def write(self, name: str, start: int, stored: np.ndarray) -> None:
        self.arrays[name][start : start + stored.size] = stored

    def raw(self, name: str) -> np.ndarray:
        """What was written of a tensor."""
        return self.arrays[name]


class Readable(Sink, Protocol):
    """A sink that has what was written."""

    def raw(self, name: str) -> np.ndarray:
        """All elements of a tensor, flat."""
        ...


class HashedSink:
    """Hands blocks on to a sink and hashes them while they are in the cache. Where blocks are shorter than the chunks
    that are hashed, `hash_rest` takes these from the sink.
    """

    def __init__(self, sink: Readable, layout: Sequence[TensorInfo]) -> None:
        self._sink, self._layout = sink, layout
        self.fingerprint = Fingerprint(layout)

    def write(self, name: str, start: int, stored: np.ndarray) -> None:
        self._sink.write(name, start, stored)
        self.fingerprint.add(name, stored, start)

    def hash_rest(self, work: Workspace) -> None:
        """Hash what no block held whole."""
        chunks = [(info.name, *chunk) for info in self._layout for chunk in self.fingerprint.missing(info.name)]
        work.map(
            lambda chunk: self.fingerprint.add(chunk[0], self._sink.raw(chunk[0])[slice(*chunk[1:])], chunk[1]), chunks
        )
