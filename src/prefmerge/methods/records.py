"""Algorithm 1 as a walk over bit masks (design: records).

    task t is a record of element p when |tau_t[p]| >= max_{t' < t} |tau_t'[p]|
    candidates of stage t = free elements of which t is a record

Why: eq. 2 asks for the elements, not yet owned, where t has the largest magnitude among tasks 1..t. That is a property
of p and t alone, so one running maximum over the tasks writes a bit mask per element and a whole pass walks the masks
from the highest bit to the lowest without reading a delta again. A stage with more candidates than budget takes those
with the smallest keyed numbers: a uniformly random subset that no block size or thread changes. Passes 2..K: only tasks
with budget left compete and their records are new ones (docs/algorithm.md proves that the printed second pass assigns
nothing). In the authors' released code a later pass gives a free element to the largest of tasks 2..T, if that one has
budget left. Rest: the free elements go to the tasks with budget left, uniformly at random. Cost: one reading of the
competing tasks per pass; 1, 2, 4 or 8 bytes of mask and one of owner per element; two walks over the masks per stage.
Where a scope is in sections, they tell counts and, where a stage draws, the numbers near the last one drawn: about the
square root of the candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prefmerge.errors import MethodError
from prefmerge.methods import kernels
from prefmerge.methods.importance import Importance, reader
from prefmerge.methods.keyed import key
from prefmerge.methods.parameters import SEED
from prefmerge.methods.protocol import Deltas, Report, Settings
from prefmerge.methods.sections import Ask
from prefmerge.vectors.workspace import Workspace, spans

MOST_COMPETING = 64  # bits of the widest mask
REST = 0  # the "pass" of the random rest in the keys; passes count from 1
WIDTH = 8.0  # standard deviations: beyond them once in 10^15 draws


@dataclass(frozen=True)
class _Part:
    """A stretch of one tensor's masks and owners."""

    tensor: int
    start: int
    mask: np.ndarray
    owner: np.ndarray


@dataclass(frozen=True)
class _Run:
    """Parts that lie one after the other, and their masks and owners in one stretch each: what a kernel walks at once.

    Part s has the elements [edges[s], edges[s + 1]) of the stretch. It begins at index `starts[s]` of its tensor.
    """

    mask: np.ndarray
    owner: np.ndarray
    edges: np.ndarray
    starts: np.ndarray
    tensors: np.ndarray


def mask_dtype(competing: int) -> np.dtype:
    """The narrowest unsigned integer with one bit per competing task. Raises MethodError above 64."""
    for bits in (8, 16, 32, 64):
        if competing <= bits:
            return np.dtype(f"u{bits // 8}")
    raise MethodError(
        f"{competing} tasks have a positive budget, but this selection holds at most {MOST_COMPETING}. "
        "Give fewer tasks a share, or carry on from a merged task vector (--as-task-vector)."
    )


def _runs(parts: Sequence[_Part], masks: np.ndarray, owners: np.ndarray, length: int) -> list[_Run]:
    """The parts in runs of `length` elements or a little more."""
    sizes = np.array([part.mask.size for part in parts], np.int64)
    edges = np.concatenate([[0], np.cumsum(sizes)])
    runs: list[_Run] = []
    first = 0
    while first < len(parts):
        last = min(int(np.searchsorted(edges, edges[first] + length)), len(parts))
        low, high, own = int(edges[first]), int(edges[last]), parts[first:last]
        starts = np.array([part.start for part in own], np.int64)
        numbers = np.array([part.tensor for part in own], np.int64)
        runs.append(_Run(masks[low:high], owners[low:high], edges[first : last + 1] - low, starts, numbers))
        first = last
    return runs


class Records:
    """The masks and owners of some tensors of a scope, one after the other. What is asked of it: see `sections`."""

    merged = None  # the values of the owners are not at hand

    def __init__(
        self, tensors: Sequence[Deltas], competing: int, importance: Importance, settings: Settings, work: Workspace
    ) -> None:
        self._tensors, self._importance, self._settings, self._work = tensors, importance, settings, work
        self._dtype = mask_dtype(competing)
        elements = sum(deltas.size for deltas in tensors)
        masks, self.owners = work.allocate(elements, self._dtype), work.allocate(elements, np.uint8)
        self.owners[:] = kernels.FREE
        self._parts: list[_Part] = []
        origin = 0
        for i, deltas in enumerate(tensors):
            self._parts += [
                _Part(i, start, masks[origin + start : origin + stop], self.owners[origin + start : origin + stop])
                for start, stop in spans(deltas.size, work.part)
            ]
            origin += deltas.size
        self._runs = _runs(self._parts, masks, self.owners, work.part)
        self._counts: list[int] = []  # of candidates, run by run
        self._near: list[tuple[np.ndarray, np.ndarray]] = []  # numbers near the last one drawn, and their places

    def mark(self, tasks: Sequence[int], alone: bool) -> None:
        """Write the masks of the free elements: one bit for each of `tasks` that is a record there; `alone`: for the
        last record only, which is the largest of them all.
        """
        self._work.map(lambda part: self._mark(part, tasks, alone), self._parts)

    def _mark(self, part: _Part, tasks: Sequence[int], alone: bool) -> None:
        deltas, work = self._tensors[part.tensor], self._work
        for low, high in spans(part.mask.size, work.block):
            mask, owner = part.mask[low:high], part.owner[low:high]
            mask[:] = 0
            if not (owner == kernels.FREE).any():
                continue
            values, running = work.buffer("importance", high - low), work.buffer("running", high - low)
            running[:] = -1  # below every magnitude: the first task is always a record
            read = reader(deltas, part.start + low, part.start + high)
            rows = [values] * len(tasks)
            for bit, _ in enumerate(self._importance.each(read, part.tensor, tasks, rows, work)):
                if alone:
                    mask[np.abs(values) >= running] = 0
                kernels.mark_records(values, running, mask, self._bit(bit))
            kernels.keep_free(mask, owner)

    def open_free(self) -> None:
        """Make every free element a candidate of bit 0, and no other."""
        self._work.map(lambda run: kernels.open_free(run.mask, run.owner, self._bit(0)), self._runs)

    def count(self, bit: int) -> int:
        """How many candidates there are: free elements that carry the bit."""
        self._counts = self._work.map(
            lambda run: int(kernels.count_candidates(run.mask, self._bit(bit), run.owner)), self._runs
        )
        return sum(self._counts)

    def take_all(self, bit: int, task: int) -> None:
        """Give `task` its candidates."""
        self._work.map(lambda run: kernels.take_all(run.mask, self._bit(bit), run.owner, np.uint8(task)), self._runs)

    def take_below(
        self, bit: int, task: int, stage: tuple[int, int], low: int, last: int, room: int
    ) -> tuple[int, bool, np.ndarray]:
        """Give `task` the candidates whose keyed number is below `low`, after `count`. Returns how many these are,
        whether no run had more than `room` between `low` and `last`, and the numbers there, in order of the elements.
        """
        work = self._work
        keys = [key(self._settings[SEED], deltas.name, "draw", *stage) for deltas in self._tensors]
        keys_S = np.array(keys, np.uint64)

        def take(item: tuple[_Run, int]) -> tuple[int, int, np.ndarray, np.ndarray]:
            run, most = item[0], min(item[1], room)
            numbers, places = work.buffer("numbers", most, np.uint64), work.buffer("places", most, np.int64)
            given, noted = kernels.take_below(
                run.mask,
                self._bit(bit),
                run.edges,
                keys_S[run.tensors],
                run.starts,
                np.uint64(low),
                np.uint64(last),
                run.owner,
                np.uint8(task),
                numbers,
                places,
            )
            return given, noted, numbers[:noted].copy(), places[:noted].copy()

        taken = work.map(take, list(zip(self._runs, self._counts, strict=True)))
        self._near = [(numbers, places) for _, _, numbers, places in taken]
        complete = all(noted == len(numbers) for _, noted, numbers, _ in taken)
        none = [np.empty(0, np.uint64)]
        return sum(given for given, _, _, _ in taken), complete, np.concatenate(none + [n for _, _, n, _ in taken])

    def take_smallest(self, count: int, task: int) -> None:
        """Give `task` the elements of the `count` smallest numbers that `take_below` told."""
        if not count:
            return
        numbers, places = (np.concatenate([near[i] for near in self._near]) for i in (0, 1))
        run_of = np.repeat(np.arange(len(self._near)), [len(near) for near, _ in self._near])
        for i in _smallest(numbers, count).tolist():
            self._runs[int(run_of[i])].owner[places[i]] = task

    def give_back(self, bit: int, task: int) -> None:
        """Take back what `take_below` gave."""
        self._work.map(lambda run: kernels.give_back(run.mask, self._bit(bit), run.owner, np.uint8(task)), self._runs)

    def _bit(self, number: int) -> np.unsignedinteger:
        return self._dtype.type(1 << number)


def select_by_records(asked: Sequence[int], competing: Sequence[int], rounds: int, law: str, ask: Ask) -> Report:
    """Have the sections of a scope, each a `Records`, find the owner of every element. Returns the counts. `asked` sums
    to the number of elements. `rounds`: passes. `law`: what makes a candidate after the first pass. "paper": it is a
    record among the tasks with budget left. "printed": it was a record in the first pass. "released": it is the largest
    of tasks 2..T.
    """
    left = list(asked)
    passes: list[tuple[int, ...]] = []
    hungry = list(competing)
    for number in range(1, rounds + 1):
        if number > 1:
            if sum(left) == 0:
                passes.append((0,) * len(asked))
                continue
            if law == "paper":
                hungry = [task for task in competing if left[task]]
            elif law == "released":
                hungry = [task for task in competing if task]
        if number == 1 or law != "printed":
            ask(Records.mark, hungry, number > 1 and law == "released")
        taken = [0] * len(asked)
        for bit in reversed(range(len(hungry))):
            task = hungry[bit]
            if left[task]:
                taken[task] = _draw(bit, task, left[task], (number, task), ask)
                left[task] -= taken[task]
        passes.append(tuple(taken))
    return Report(tuple(asked), passes, _rest(left, ask))


def _draw(bit: int, task: int, wanted: int, stage: tuple[int, int], ask: Ask) -> int:
    """Give `task` its candidates (the elements that carry `bit`), or `wanted` of them at random if there are more.
    Returns how many it got.
    """
    candidates = sum(ask(Records.count, bit))
    if candidates <= wanted:
        ask(Records.take_all, bit, task)
        return candidates
    width = WIDTH
    while not _taken(candidates, bit, task, wanted, stage, width, ask):
        ask(Records.give_back, bit, task)
        width *= 4
    return wanted


def _taken(total: int, bit: int, task: int, wanted: int, stage: tuple[int, int], width: float, ask: Ask) -> bool:
    """Give `task` the `wanted` candidates with the smallest keyed numbers, which are uniform: so the largest of these
    is known to `width` standard deviations before one is computed, and only the numbers near it are put in order. False
    where it lies elsewhere; the owners are then to be taken back.
    """
    part = wanted / total
    near = (width * math.sqrt(total * part * (1 - part)) + width) / total
    low, last = (min(max(int((part + side * near) * 2.0**64), 0), 2**64 - 1) for side in (-1, 1))
    room = int(4 * near * total) + 64  # twice what is expected
    answers = ask(Records.take_below, bit, task, stage, low, last, room)
    lacking = wanted - sum(given for given, _, _ in answers)
    complete = all(all_told for _, all_told, _ in answers)
    numbers = [own for _, _, own in answers]
    if not (complete and 0 <= lacking <= sum(map(len, numbers))):
        return False
    counts = [lacking]
    if len(numbers) > 1:
        section_of = np.repeat(np.arange(len(numbers)), list(map(len, numbers)))
        chosen = section_of[_smallest(np.concatenate(numbers), lacking)]
        counts = np.bincount(chosen, minlength=len(numbers)).tolist()
    ask(Records.take_smallest, task, each=counts)
    return True


def _smallest(numbers: np.ndarray, count: int) -> np.ndarray:
    """Where the smallest ones are. Equal numbers (one chance in 2^64) fall to the order of tensors and indices."""
    return np.argsort(numbers, kind="stable")[:count]


def _rest(left: list[int], ask: Ask) -> tuple[int, ...]:
    """Algorithm 1, lines 11 to 14: what is free goes to the tasks with budget left, uniformly at random."""
    given = [0] * len(left)
    if sum(left):
        ask(Records.open_free)
        for task, wanted in enumerate(left):
            if wanted:
                given[task] = _draw(0, task, wanted, (REST, task), ask)
    return tuple(given)
