"""The merge itself: every tensor of N plans, block by block, from one reading of the inputs to N sinks.

    theta = theta_0 + scale * tau_merged in float32, then the output's number format
    tau_merged itself, unscaled and in float32, for a task vector

`merge` is N = 1. Where several plans want a tensor, all prepare their rules first; then every plan fills a block before
the next is read, so that the task vectors of a block are decoded once, into the cache. What rules are prepared from is
decoded once into memory where that fits. A plan whose budgets span all tensors (scope `model`) reads for itself. What a
method prepares is shared by the plans that would prepare the same. Whether the inputs are hashed, for receipts, is the
caller's to say. Memory does not grow with the model or with T: a few blocks per thread, plus the owners and masks of
the tensors in flight, which spill to disk beyond the limit; for N > 1, a block of each task per thread, and T + 1 times
the largest tensor in float32, or as much of that as it may take. Large tensors are cut into blocks over all threads;
small ones go to one thread each. Not here: where the blocks end up (the sink) and the receipt.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from prefmerge.checkpoints import TensorInfo, same_elements
from prefmerge.checkpoints.dtypes import from_float32, to_float32
from prefmerge.ground.progress import Progress
from prefmerge.ground.words import quoted
from prefmerge.merging.kept import Keeping, KeptMagnitude, added
from prefmerge.merging.outcome import Finished, Outcome
from prefmerge.merging.parameters import AS_TASK_VECTOR
from prefmerge.merging.plan import Plan, PlannedTensor
from prefmerge.merging.scopes import first_alike, scope_of
from prefmerge.merging.sinks import Sink, rounded
from prefmerge.methods import Rule, Settings
from prefmerge.methods.sections import InSections, ScopeSection
from prefmerge.vectors.reader import TaskVectors
from prefmerge.vectors.reading import Reading
from prefmerge.vectors.workspace import Workspace, spans

SHOWN = 5  # names listed in a note about many


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
    finished: Sequence[Finished | None] = (),
    measured: bool = False,
) -> list[Outcome]:
    """Merge each plan into its sink, from one reading. The plans are over the same open checkpoints. `hashed`: receipts
    will say what was read. `hold`: bytes that decoded task vectors may take; a tensor of which they take more is
    decoded again for each rule that is prepared from it. `finished`: for each plan, what is not to be merged again.
    `measured`: the outcomes say what of the changes is kept.

    Raises NonFiniteValue or DtypeOverflow naming the tensor.
    """
    if not jobs:
        return []
    first = jobs[0][0]
    if any(plan.checkpoints != first.checkpoints for plan, _ in jobs):
        raise ValueError("plans of one reading must be over the same open checkpoints")
    reading = Reading.of(first.base, first.tasks, hashed=hashed)
    reporter = _Reporter(progress, sum(plan.output_bytes for plan, _ in jobs))
    kept, alike = finished or [None] * len(jobs), first_alike([plan for plan, _ in jobs])
    keeping = Keeping(first, work) if measured else None
    merges = [
        _Merge(*job, reading, work, reporter, same, own, keeping)
        for job, same, own in zip(jobs, alike, kept, strict=True)
    ]
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


def merge_some(
    jobs: Sequence[tuple[Plan, Sink, Finished]],
    work: Workspace,
    names: frozenset[str],
    *,
    hold: int = 1 << 62,
    measured: bool = False,
) -> None:
    """Merge the tensors of these names, each a scope of its own, for every plan that merges them, and keep them as
    finished. Nothing is copied. Raises as `merge_all`.
    """
    merges = _merges_of(jobs, work, measured=measured)
    _tensor_by_tensor(merges, merges[0].reading, work, hold, names)


def _merges_of(jobs: Sequence[tuple[Plan, Sink, Finished]], work: Workspace, *, measured: bool) -> list[_Merge]:
    """Merges of some tensors each."""
    first = jobs[0][0]
    reading, reporter = Reading.of(first.base, first.tasks, hashed=True), _Reporter(None, 0)
    alike = first_alike([plan for plan, _, _ in jobs])
    keeping = Keeping(first, work) if measured else None
    return [
        _Merge(plan, sink, reading, work, reporter, same, finished, keeping)
        for (plan, sink, finished), same in zip(jobs, alike, strict=True)
    ]


class SomeOfModels:
    """Some tensors of plans whose scope is the whole model, on a machine that has these alone (`methods.sections`)."""

    def __init__(
        self,
        jobs: Sequence[tuple[Plan, Sink, Finished]],
        work: Workspace,
        names: frozenset[str],
        *,
        measured: bool = False,
    ) -> None:
        self._merges, self._work, self._names = _merges_of(jobs, work, measured=measured), work, names

    def finished(self, plan: int) -> bool:
        """Whether an interrupted merge had finished all of them for that plan."""
        merge = self._merges[plan]
        done = self._work.map(merge.take, merge.entries(self._names))
        return all(done) and merge.finished is not None and merge.finished.report is not None

    def section(self, plan: int) -> ScopeSection:
        """These tensors, of which nothing was read yet, for the selection of that plan."""
        merge = self._merges[plan]
        assert isinstance(merge.plan.method, InSections)
        return merge.plan.method.section(merge.vectors(merge.entries(self._names)), merge.plan.settings, self._work)

    def write(self, plans: Sequence[int], rule: Rule) -> None:
        """Merge the tensors for these plans, by a rule that was prepared for the first, and keep them as finished."""
        for merge in (self._merges[plan] for plan in plans):
            merge.all_at_once({merge.scope(merge.plan.settings, merge.entries(self._names)): rule}, self._names)


Shared = tuple[TensorInfo, tuple[str, ...]]  # a tensor of the base, and what each task calls it
RulesOfScope = dict[Hashable, Rule]  # by what they were prepared from


def _tensor_by_tensor(
    merges: Sequence[_Merge], reading: Reading, work: Workspace, hold: int, names: frozenset[str] | None = None
) -> None:
    """Every tensor once, the largest first, for all merges that want it; those of one task vector side by side.
    `names`: of those to do, where not all are.
    """
    wanted: dict[Shared, list[tuple[_Merge, PlannedTensor]]] = {}
    for merge in sorted(merges, key=lambda merge: merge.alike):
        for entry in merge.plan.of_role("merge"):
            if names is None or entry.name in names:
                wanted.setdefault((entry.info, entry.stored_as), []).append((merge, entry))

    def whole(shared: Shared) -> None:
        missing = [(merge, entry) for merge, entry in wanted[shared] if not merge.take(entry)]
        several = len(missing) > 1
        # Small tensors go one to a thread, so each thread has its part.
        fits = 4 * (1 + len(shared[1])) * shared[0].size <= hold // work.threads
        vectors = TaskVectors.of(reading, *shared, held=fits and several)
        if several:
            vectors = vectors.shared(reading.space)
        prepared: RulesOfScope | None = {} if several else None
        for group in _side_by_side(missing, shared[0].size, work):
            filling = [merge.begin(entry, vectors.again(), prepared) for merge, entry in group]
            _fill([one for one in filling if one is not None], reading, work)

    work.walk(sorted(wanted, key=lambda shared: -shared[0].size), lambda shared: shared[0].size, whole)


def _side_by_side(
    wanted: Sequence[tuple[_Merge, PlannedTensor]], size: int, work: Workspace
) -> Iterator[list[tuple[_Merge, PlannedTensor]]]:
    """The merges of a tensor in groups, whose rules keep no more together than memory holds; at least one each."""
    group: list[tuple[_Merge, PlannedTensor]] = []
    kept = 0
    for merge, entry in wanted:
        own = size * merge.plan.method.scratch(merge.plan.settings_of(entry.name))
        if group and kept + own > work.memory // work.threads:
            yield group
            group, kept = [], 0
        group.append((merge, entry))
        kept += own
    if group:
        yield group


@dataclass
class _Filling:
    """A tensor that one plan's rule fills. `owned`: what each block says of its owners."""

    merge: _Merge
    entry: PlannedTensor
    vectors: TaskVectors
    rule: Rule
    scale: np.float32
    index: int = 0  # of the tensor in the rule's scope
    owned: list[np.ndarray | None] = field(default_factory=list)
    kept: dict[int, KeptMagnitude] = field(default_factory=dict)  # by where a block begins, where it is measured


def _fill(filling: Sequence[_Filling], reading: Reading, work: Workspace) -> None:
    """Write one tensor for each of these, block by block: every plan has had a block before the next is read."""
    if not filling:
        return

    def block(span: tuple[int, int]) -> None:
        reading.space.begin(span if len(filling) > 1 else None)
        try:
            before: tuple[_Filling, np.ndarray | None] | None = None
            for one in filling:
                before = one, one.merge.block(one, *span, before)
        finally:
            reading.space.begin(None)

    work.map(block, spans(filling[0].vectors.size, work.block))
    for one in filling:
        one.merge.end(one)


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
        alike: int,
        finished: Finished | None,
        keeping: Keeping | None,
    ) -> None:
        self.plan, self.sink, self.reading, self.work, self.reporter = plan, sink, reading, work, reporter
        self.alike = alike  # equal where the merged task vectors are
        self.finished = finished
        self.counting = threading.Lock()
        self.keeping = keeping
        self.outcome = Outcome(reading, measured=keeping is not None)
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

    def entries(self, names: frozenset[str] | None = None) -> list[PlannedTensor]:
        """What is to be merged; of these names, where not all is."""
        return [entry for entry in self.plan.of_role("merge") if names is None or entry.name in names]

    def vectors(self, entries: Sequence[PlannedTensor]) -> list[TaskVectors]:
        """Their task vectors."""
        return [TaskVectors.of(self.reading, entry.info, entry.stored_as) for entry in entries]

    def scope(self, settings: Settings, entries: Sequence[PlannedTensor]) -> Hashable:
        return scope_of(self.plan, self.alike, settings, entries)

    def all_at_once(self, prepared: RulesOfScope, names: frozenset[str] | None = None) -> None:
        """Merge all tensors, as one scope. `names`: of those to merge, where their rule is prepared already."""
        entries = self.entries(names)
        taken = self.work.map(self.take, entries)
        if self.finished is not None and self.finished.report is not None and all(taken):
            self.outcome.report = self.finished.report
            return
        tensors = self.vectors(entries)
        rule = self.prepare(entries, tensors, self.plan.settings, prepared)
        self.outcome.report = rule.report
        for i, (entry, vectors) in enumerate(zip(entries, tensors, strict=True)):
            if not taken[i]:
                filling = self.ready(_Filling(self, entry, vectors, rule, self.scale(entry), i))
                _fill([] if filling is None else [filling], self.reading, self.work)

    def begin(self, entry: PlannedTensor, vectors: TaskVectors, prepared: RulesOfScope | None) -> _Filling | None:
        """What merges one tensor, as a scope of its own; None where it is the base's, and is written."""
        rule = self.prepare([entry], [vectors], self.plan.settings_of(entry.name), prepared)
        self.outcome.reports[entry.name] = rule.report
        return self.ready(_Filling(self, entry, vectors, rule, self.scale(entry)))

    def take(self, entry: PlannedTensor) -> bool:
        """Whether an interrupted merge had finished a tensor."""
        if self.finished is None or not self.finished.take(entry, self.outcome, self.work):
            return False
        for target in (entry, *self.twins.get(entry.name, ())):
            self.reporter(f"keeping {entry.name}", target.info.size * target.dtype.itemsize)
        with self.counting:
            self.outcome.kept += 1
        return True

    def keep(self, entry: PlannedTensor) -> None:
        if self.finished is not None:
            self.finished.add(entry, self.outcome)

    def prepare(
        self,
        entries: Sequence[PlannedTensor],
        tensors: Sequence[TaskVectors],
        settings: Settings,
        prepared: RulesOfScope | None,
    ) -> Rule:
        """The rule of a scope; of an earlier merge of the same tensors of the tasks with this one's settings where they
        make no other. `prepared`: None where there is no other merge.
        """
        method = self.plan.method
        if prepared is None:
            return method.prepare(tensors, settings, self.work)
        key = self.scope(settings, entries)
        if key not in prepared:
            prepared[key] = method.prepare(tensors, settings, self.work)
            return prepared[key]
        for mine, earlier in zip(tensors, prepared[key].tensors, strict=True):
            mine.changed = earlier.changed  # what was read then is not read again
        return replace(prepared[key], tensors=tensors, settings=settings)

    def scale(self, entry: PlannedTensor) -> np.float32:
        """lambda_merge of one tensor."""
        return np.float32(self.plan.settings_of(entry.name).scale)

    def ready(self, filling: _Filling) -> _Filling | None:
        """The same; None where no task changes the tensor, and it is copied."""
        if filling.rule.unchanged(filling.index):
            self.outcome.changed[filling.entry.name] = False
            self.copy(filling.entry)
            self.keep(filling.entry)
            return None
        if not self.plan.method.gives_model:
            self.reading.base.touched = True
        return filling

    def block(
        self, filling: _Filling, start: int, stop: int, before: tuple[_Filling, np.ndarray | None] | None
    ) -> np.ndarray | None:
        """Write one block of a tensor. Returns elements by owner, where each has one. `before`: what has just had this
        block, and its owners; its task vector serves again where it is the same.
        """
        if self.plan.method.gives_model:
            model = self.work.buffer("model", stop - start, np.float64)
            owned = filling.rule.block(filling.index, start, stop, model, self.work)
            filling.owned.append(owned)
            if self.keeping is not None:
                filling.kept[start] = self.keeping.model(filling.entry, start, model, filling.scale)
            self.put_model(filling.entry, start, model, filling.vectors)
            return owned
        tau = self.work.buffer("merged", stop - start)
        if before is None or before[0].merge.alike != self.alike:
            owned = filling.rule.block(filling.index, start, stop, tau, self.work)
            if self.keeping is not None:
                owner = filling.rule.owner_of(filling.index, start, stop, self.work)
                filling.kept[start] = self.keeping.vector(filling.entry, start, tau, owner)
        else:
            owned = before[1]
            if self.keeping is not None:
                filling.kept[start] = before[0].kept[start]
            filling.vectors.changed |= before[0].vectors.changed
        filling.owned.append(owned)
        self.put(filling.entry, start, tau, filling.vectors, filling.scale)
        return owned

    def end(self, filling: _Filling) -> None:
        """Note how a tensor came out whose blocks are written."""
        name, rule = filling.entry.name, filling.rule
        # A model may be made another without any task.
        self.outcome.changed[name] = filling.vectors.changed or (
            self.plan.method.gives_model and bool(rule.base_weight)
        )
        if filling.kept and self.outcome.changed[name]:
            self.outcome.magnitudes[name] = added([filling.kept[start] for start in sorted(filling.kept)])
        known = [count for count in filling.owned if count is not None]
        if len(known) == len(filling.owned):
            self.outcome.owned[name] = sum(known, start=np.zeros(len(self.plan.names), np.int64))
        self.keep(filling.entry)

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
