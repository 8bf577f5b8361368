"""Measure the task vectors of a base and its tasks in one streamed reading: signs, magnitudes, values, angles.

    tau_t = float32(theta_t) - float32(theta_0)
    sign conflict     among the tasks' kept values of an element both signs occur     (MAGMAX; TIES)
    |tau_MAGMAX_t|    max over t' <= t of |tau_t'|, owner: the later of equals        (MAGMAX supplement, figure 3)
    <tau_s, tau_t>    for norms and cosines; of steps tau_t - tau_{t-1} too, which are differences of these

Kept are all values that are not zero, and, as TIES trims, the int(0.2 n) largest of each task in each tensor of n
elements, at least one; equals of the smallest of them are kept too, so that no order among elements matters. That
threshold needs two more looks at a tensor of more than a block, at the tensor's turn, while its pages are in the cache.

Cost: per element and task a few nanoseconds, plus T / 2 products; memory: T blocks per thread, and counts of T x T and
T x 2560 numbers per job in flight, whatever the size of the model. The result does not depend on the number of threads:
jobs are cut by sizes alone and added in order. Not here: pictures and words.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from prefmerge.analysis import kernels
from prefmerge.analysis.layer_types import layer_type
from prefmerge.analysis.measured import BIAS, DENSITIES, Measured, MeasuredPart, Signs, Spread
from prefmerge.merging.api import recipe_of
from prefmerge.merging.engine import Progress
from prefmerge.merging.layer_names import layers, natural
from prefmerge.merging.limits import checked_threads
from prefmerge.merging.order import training_of
from prefmerge.merging.plan import Plan, make_plan
from prefmerge.methods import kernels as counting
from prefmerge.methods.largest import HIGH, LOW, locate
from prefmerge.vectors.reader import TaskVectors
from prefmerge.vectors.reading import Reading, ReadInput
from prefmerge.vectors.workspace import Workspace, spans

BLOCK = 1 << 14  # elements held for all T tasks at once
JOB = 1 << 20  # elements that one thread measures at a time: a stretch of a large tensor, or several small ones

Piece = tuple[int, int, int]  # tensor, start, stop


def measure(
    base: str | Path,
    tasks: Sequence[str | Path],
    names: Sequence[str] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    *,
    label: str | None = None,
    exclude: Sequence[str] = (),
    rename: Sequence[str] = (),
) -> Measured:
    """Measure the task vectors of `tasks`, in the order of training, over `base`.

    base, tasks: a safetensors file, a Hugging Face folder or a .pt/.bin state dict; a task may be a task-vector file.
    label: what figures call this set of tasks; by default how it was trained, where a run's manifest says so. exclude:
    patterns of tensors to leave out. rename: `OLD=NEW`, as for `merge`. Raises what `prefmerge.merge` raises for the
    same inputs.
    """
    given = {"exclude": tuple(exclude) or None, "rename": tuple(rename) or None}
    recipe = recipe_of(base, tasks, names=names, method="magmax", **given)
    with make_plan(recipe) as planned:
        return measure_over(planned, label=label, threads=threads, progress=progress)


def measure_over(
    planned: Plan,
    *,
    label: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    block: int = BLOCK,
    job: int = JOB,
) -> Measured:
    """Measure what a plan would merge. `block` and `job` (elements) are for tests: counts do not depend on them, and
    sums only by a rounding.
    """
    with planned.reading(), Workspace(threads=checked_threads(threads), block=block) as work:
        return _Measuring(planned, work, job, progress).run(label)


@dataclass
class _Sums:
    """What one job counted, and in the end what all of them did. D densities, B bins."""

    tasks: int
    prefixes_D4T: np.ndarray = field(init=False)
    pairs_D2TT: np.ndarray = field(init=False)
    gram_TT: np.ndarray = field(init=False)
    values_T2B: np.ndarray = field(init=False)
    contributed_T2B: np.ndarray = field(init=False)
    tensors: dict[int, _Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        T, D, B = self.tasks, len(DENSITIES), kernels.BINS
        self.prefixes_D4T = np.zeros((D, 4, T), np.int64)
        self.pairs_D2TT = np.zeros((D, 2, T, T), np.int64)
        self.gram_TT = np.zeros((T, T))
        self.values_T2B = np.zeros((T, 2, B), np.int64)
        self.contributed_T2B = np.zeros((T, 2, B), np.int64)

    def of(self, tensor: int) -> _Tensor:
        return self.tensors.setdefault(tensor, _Tensor(self.tasks))

    def add_counts(self, other: _Sums) -> None:
        """What has no order."""
        self.prefixes_D4T += other.prefixes_D4T
        self.pairs_D2TT += other.pairs_D2TT
        self.values_T2B += other.values_T2B
        self.contributed_T2B += other.contributed_T2B
        for tensor, sums in other.tensors.items():
            mine = self.of(tensor)
            mine.signs_D2 += sums.signs_D2
            mine.owners_2T += sums.owners_2T

    def add_sums(self, gram_TT: np.ndarray, sums_3T: Mapping[int, np.ndarray]) -> None:
        """What is rounded, so that its order matters."""
        self.gram_TT += gram_TT
        for tensor, sums in sums_3T.items():
            self.of(tensor).sums_3T += sums


@dataclass
class _Tensor:
    tasks: int
    signs_D2: np.ndarray = field(init=False)  # kept by several, in conflict
    sums_3T: np.ndarray = field(init=False)  # of tau, |tau|, |tau_MAGMAX|
    owners_2T: np.ndarray = field(init=False)  # owned, contributed

    def __post_init__(self) -> None:
        self.signs_D2 = np.zeros((len(DENSITIES), 2), np.int64)
        self.sums_3T = np.zeros((3, self.tasks))
        self.owners_2T = np.zeros((2, self.tasks), np.int64)


class _Measuring:
    def __init__(self, plan: Plan, work: Workspace, job: int, progress: Progress | None) -> None:
        self.plan, self.work, self.job, self.progress = plan, work, job, progress
        self.tasks = len(plan.names)
        self.entries = sorted(plan.of_role("merge"), key=lambda entry: natural(entry.name))
        self.base = ReadInput(plan.base, hashed=True)
        self.base.touched = True
        reading = Reading(self.base, [ReadInput(task, hashed=False) for task in plan.tasks])
        self.deltas = [TaskVectors.of(reading, entry.info, entry.stored_as) for entry in self.entries]
        self.nbytes = [entry.info.dtype.itemsize * (self.tasks + 1) for entry in self.entries]  # of an element
        self.everything = sum(deltas.size * each for deltas, each in zip(self.deltas, self.nbytes, strict=True))
        self.jobs = self.cut()
        self.total = _Sums(self.tasks)
        self.adding = threading.Lock()
        self.ended: dict[int, tuple[np.ndarray, dict[int, np.ndarray]]] = {}  # sums of jobs whose turn has not come
        self.turn, self.done = 0, 0

    def run(self, label: str | None) -> Measured:
        self.work.walk(self.units(), self.size, self.unit)
        self.base.hash_rest()
        return self.measured(label, self.total)

    def units(self) -> list[range]:
        """Stretches of jobs: those of one large tensor, or a single one of small tensors."""
        cuts = [
            i
            for i, pieces in enumerate(self.jobs)
            if i == 0 or pieces[0][0] != self.jobs[i - 1][0][0]  # another tensor begins
        ]
        return [range(low, high) for low, high in pairwise([*cuts, len(self.jobs)])]

    def size(self, unit: range) -> int:
        return sum(stop - start for i in unit for _, start, stop in self.jobs[i])

    def unit(self, unit: range) -> None:
        tensor = self.jobs[unit[0]][0][0]
        known = {tensor: self.threshold(tensor)} if len(unit) > 1 else {}
        self.work.map(lambda i: self.measure(i, known), unit)

    def cut(self) -> list[list[Piece]]:
        """What one thread does at a time, cut by the tensors' sizes alone."""
        jobs: list[list[Piece]] = []
        room = 0
        for tensor, deltas in enumerate(self.deltas):
            if deltas.size >= self.job:
                jobs += [[(tensor, start, stop)] for start, stop in spans(deltas.size, self.job)]
                room = 0
            elif deltas.size:
                if deltas.size > room:
                    jobs.append([])
                    room = self.job
                jobs[-1].append((tensor, 0, deltas.size))
                room -= deltas.size
        return jobs

    def threshold(self, tensor: int) -> np.ndarray:
        """Per task the float32 pattern of the smallest magnitude that trimming keeps, shape (T,); 1 or more, so that
        zero is never kept.
        """
        deltas = self.deltas[tensor]
        keep = max(1, int(DENSITIES[1] * deltas.size))

        def of_task(task: int) -> int:
            if deltas.size <= self.work.block:
                tau = self.work.buffer("tau", deltas.size)
                deltas.read(task, 0, deltas.size, tau)
                patterns = tau.view(np.uint32) & np.uint32(0x7FFFFFFF)
                return int(np.partition(patterns, deltas.size - keep)[deltas.size - keep])
            high = np.zeros(HIGH, np.int64)
            for tau in self.read(deltas, task):
                counting.magnitude_histogram(tau, high)
            bucket, above = locate(high, keep)
            low = np.zeros(LOW, np.int64)
            for tau in self.read(deltas, task):
                counting.magnitude_histogram_low(tau, np.uint32(bucket), low)
            return (bucket << 16) | locate(low, keep - above)[0]

        return np.maximum(self.work.map(of_task, range(self.tasks)), 1).astype(np.uint32)

    def read(self, deltas: TaskVectors, task: int) -> Iterator[np.ndarray]:
        for start, stop in spans(deltas.size, self.work.block):
            tau = self.work.buffer("tau", stop - start)
            deltas.read(task, start, stop, tau)
            yield tau

    def measure(self, job: int, known: Mapping[int, np.ndarray]) -> None:
        """Measure the pieces of a job. `known`: thresholds of tensors that several jobs measure."""
        sums, pieces = _Sums(self.tasks), self.jobs[job]
        for tensor, first, last in pieces:
            thresholds = known[tensor] if tensor in known else self.threshold(tensor)
            for low, high in spans(last - first, self.work.block):
                self.block(tensor, first + low, first + high, thresholds, sums)
        with self.adding:
            self.total.add_counts(sums)
            self.ended[job] = sums.gram_TT, {tensor: each.sums_3T for tensor, each in sums.tensors.items()}
            while self.turn in self.ended:
                self.total.add_sums(*self.ended.pop(self.turn))
                self.turn += 1
            self.done += sum((stop - start) * self.nbytes[tensor] for tensor, start, stop in pieces)
            if self.progress is not None:
                self.progress(self.done, self.everything, f"measuring {self.deltas[pieces[-1][0]].name}")

    def block(self, tensor: int, start: int, stop: int, thresholds_T: np.ndarray, sums: _Sums) -> None:
        deltas, work, length = self.deltas[tensor], self.work, stop - start
        of_tensor = sums.of(tensor)
        deltas.origin.operand(
            start, stop
        )  # in the fingerprint too, where every task is a vector and no task asks for it
        tau_TP = work.buffer("tau_TP", (self.tasks, length))
        best = work.buffer("best", length)
        owner, alone = work.buffer("owner", length, np.int32), work.buffer("alone", length, np.int32)
        for task in range(self.tasks):
            deltas.read(task, start, stop, tau_TP[task])
        kernels.fold_magnitudes(tau_TP, best, owner, alone, of_tensor.sums_3T)
        kernels.count_owners(owner, alone, of_tensor.owners_2T)
        kernels.count_contributed(tau_TP, alone, sums.contributed_T2B)
        kernels.add_products(tau_TP, sums.gram_TT)
        for task in range(self.tasks):
            kernels.count_values(tau_TP[task], sums.values_T2B[task])
        shape = (self.tasks, -(-length // 64))
        plus_TW, minus_TW = work.buffer("plus", shape, np.uint64), work.buffer("minus", shape, np.uint64)
        for density in range(len(DENSITIES)):
            for task in range(self.tasks):
                least = np.uint32(1) if density == 0 else thresholds_T[task]
                kernels.pack_signs(tau_TP[task], least, plus_TW[task], minus_TW[task])
            prefixes_4T = np.zeros((4, self.tasks), np.int64)
            kernels.count_signs(plus_TW, minus_TW, prefixes_4T, sums.pairs_D2TT[density])
            sums.prefixes_D4T[density] += prefixes_4T
            of_tensor.signs_D2[density] += prefixes_4T[2:, -1]

    def measured(self, label: str | None, total: _Sums) -> Measured:
        plan, content = self.plan, self.base.content()
        assert content is not None, "all of it was hashed"
        layer = layers(entry.name for entry in self.entries)
        parts = []
        for i, entry in enumerate(self.entries):
            sums = total.of(i)
            # A tensor that no task changed is copied by a merge and has no owner.
            owners_2T = sums.owners_2T if sums.sums_3T[1].any() else np.zeros_like(sums.owners_2T)
            parts.append(
                MeasuredPart(
                    name=entry.name,
                    layer=layer[entry.name],
                    kind=layer_type(entry.name, entry.info.shape) or BIAS,
                    tensors=1,
                    elements=entry.info.size,
                    several=tuple(sums.signs_D2[:, 0].tolist()),
                    conflicts=tuple(sums.signs_D2[:, 1].tolist()),
                    magnitudes=tuple(sums.sums_3T[1].tolist()),
                    merged=tuple(sums.sums_3T[2].tolist()),
                    owned=tuple(owners_2T[0].tolist()),
                    contributed=tuple(owners_2T[1].tolist()),
                )
            )
        signed_T = np.sum([sums.sums_3T[0] for _, sums in sorted(total.tensors.items())], axis=0)
        trainings = {training_of(task.checkpoint) for task in plan.tasks}
        training = trainings.pop() if len(trainings) == 1 else None
        return Measured(
            label=label or training or "tasks",
            training=training,
            base=content,
            tasks=plan.names,
            elements=sum(deltas.size for deltas in self.deltas),
            signs=tuple(
                Signs.of(density, prefixes_4T, _whole(pairs_2TT))
                for density, prefixes_4T, pairs_2TT in zip(DENSITIES, total.prefixes_D4T, total.pairs_D2TT, strict=True)
            ),
            values=tuple(Spread.of(counts_2B) for counts_2B in total.values_T2B),
            contributed=tuple(Spread.of(counts_2B) for counts_2B in total.contributed_T2B),
            sums=tuple(np.broadcast_to(signed_T, (self.tasks,)).tolist()),
            products=tuple(map(tuple, _whole(total.gram_TT).tolist())),
            parts=tuple(parts),
        )


def _whole(lower: np.ndarray) -> np.ndarray:
    """Symmetric matrices from their lower halves, in the last two axes."""
    return np.tril(lower) + np.swapaxes(np.tril(lower, -1), -1, -2)
