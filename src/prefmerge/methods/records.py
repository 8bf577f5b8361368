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


def select_by_records(
    tensors: Sequence[Deltas],
    asked: Sequence[int],
    competing: Sequence[int],
    importance: Importance,
    settings: Settings,
    rounds: int,
    law: str,
    work: Workspace,
) -> tuple[np.ndarray, Report]:
    """The owner of every element of `tensors`, one after the other, uint8, and the counts. `asked` sums to the number
    of elements. `rounds`: passes. `law`: what makes a candidate after the first pass. "paper": it is a record among the
    tasks with budget left. "printed": it was a record in the first pass. "released": it is the largest of tasks 2..T.
    """
    dtype = mask_dtype(len(competing))
    elements = sum(deltas.size for deltas in tensors)
    masks, owners = work.allocate(elements, dtype), work.allocate(elements, np.uint8)
    owners[:] = kernels.FREE
    parts: list[_Part] = []
    origin = 0
    for i, deltas in enumerate(tensors):
        for start, stop in spans(deltas.size, work.part):
            parts.append(_Part(i, start, masks[origin + start : origin + stop], owners[origin + start : origin + stop]))
        origin += deltas.size
    runs = _runs(parts, masks, owners, work.part)
    left = list(asked)
    passes: list[tuple[int, ...]] = []
    hungry = list(competing)
    for number in range(1, rounds + 1):
        if number > 1:
            if sum(left) == 0:
                passes.append((0,) * settings.tasks)
                continue
            if law == "paper":
                hungry = [task for task in competing if left[task]]
            elif law == "released":
                hungry = [task for task in competing if task]
        if number == 1 or law != "printed":
            largest = number > 1 and law == "released"
            work.map(
                lambda part, hungry=hungry, alone=largest: _mark(tensors, part, hungry, importance, dtype, alone, work),
                parts,
            )
        taken = [0] * settings.tasks
        for bit in reversed(range(len(hungry))):
            task = hungry[bit]
            if left[task]:
                taken[task] = _draw(
                    tensors, runs, dtype.type(1 << bit), task, left[task], (number, task), settings, work
                )
                left[task] -= taken[task]
        passes.append(tuple(taken))
    return owners, Report(tuple(asked), passes, _rest(tensors, runs, left, dtype, settings, work))


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


def _mark(
    tensors: Sequence[Deltas],
    part: _Part,
    tasks: Sequence[int],
    importance: Importance,
    dtype: np.dtype,
    alone: bool,
    work: Workspace,
) -> None:
    """Write the masks of the part's free elements: one bit for each of `tasks` that is a record there; `alone`: for the
    last record only, which is the largest of them all.
    """
    deltas = tensors[part.tensor]
    for low, high in spans(part.mask.size, work.block):
        mask, owner = part.mask[low:high], part.owner[low:high]
        mask[:] = 0
        if not (owner == kernels.FREE).any():
            continue
        values, running = work.buffer("importance", high - low), work.buffer("running", high - low)
        running[:] = -1  # below every magnitude: the first task is always a record
        read = reader(deltas, part.start + low, part.start + high)
        for bit, _ in enumerate(importance.each(read, part.tensor, tasks, [values] * len(tasks), work)):
            if alone:
                mask[np.abs(values) >= running] = 0
            kernels.mark_records(values, running, mask, dtype.type(1 << bit))
        kernels.keep_free(mask, owner)


def _draw(
    tensors: Sequence[Deltas],
    runs: Sequence[_Run],
    bit: np.unsignedinteger,
    task: int,
    wanted: int,
    stage: tuple[int, int],
    settings: Settings,
    work: Workspace,
) -> int:
    """Give `task` its candidates (the elements that carry `bit`), or `wanted` of them at random if there are more.
    Returns how many it got.
    """
    counts = work.map(lambda run: int(kernels.count_candidates(run.mask, bit, run.owner)), runs)
    candidates = sum(counts)
    if candidates <= wanted:
        work.map(lambda run: kernels.take_all(run.mask, bit, run.owner, np.uint8(task)), runs)
        return candidates
    keys = np.array([key(settings[SEED], deltas.name, "draw", *stage) for deltas in tensors], np.uint64)
    width = WIDTH
    while not _taken(runs, counts, keys, bit, task, wanted, width, work):
        work.map(lambda run: kernels.give_back(run.mask, bit, run.owner, np.uint8(task)), runs)
        width *= 4
    return wanted


def _taken(
    runs: Sequence[_Run],
    counts: Sequence[int],
    keys: np.ndarray,
    bit: np.unsignedinteger,
    task: int,
    wanted: int,
    width: float,
    work: Workspace,
) -> bool:
    """Give `task` the `wanted` candidates with the smallest keyed numbers, which are uniform: so the largest of these
    is known to `width` standard deviations before one is computed, and only the numbers near it are put in order. False
    where it lies elsewhere; the owners are then to be taken back.
    """
    total = sum(counts)
    part = wanted / total
    near = (width * math.sqrt(total * part * (1 - part)) + width) / total
    low, last = (min(max(int((part + side * near) * 2.0**64), 0), 2**64 - 1) for side in (-1, 1))
    room = int(4 * near * total) + 64  # twice what is expected

    def take(item: tuple[_Run, int]) -> tuple[int, int, np.ndarray, np.ndarray]:
        run, most = item[0], min(item[1], room)
        numbers, places = work.buffer("numbers", most, np.uint64), work.buffer("places", most, np.int64)
        given, noted = kernels.take_below(
            run.mask,
            bit,
            run.edges,
            keys[run.tensors],
            run.starts,
            np.uint64(low),
            np.uint64(last),
            run.owner,
            np.uint8(task),
            numbers,
            places,
        )
        return given, noted, numbers[:noted].copy(), places[:noted].copy()

    near_it = work.map(take, list(zip(runs, counts, strict=True)))
    lacking = wanted - sum(given for given, _, _, _ in near_it)
    complete = all(noted == len(numbers) for _, noted, numbers, _ in near_it)
    if not (complete and 0 <= lacking <= sum(noted for _, noted, _, _ in near_it)):
        return False
    numbers = np.concatenate([numbers for _, _, numbers, _ in near_it])
    places = np.concatenate([places for _, _, _, places in near_it])
    run_of = np.repeat(np.arange(len(near_it)), [noted for _, noted, _, _ in near_it])
    # A stable sort: equal numbers (one chance in 2^64) fall to the order of tensors and indices.
    for i in np.argsort(numbers, kind="stable")[:lacking].tolist():
        runs[int(run_of[i])].owner[places[i]] = task
    return True


def _rest(
    tensors: Sequence[Deltas],
    runs: Sequence[_Run],
    left: list[int],
    dtype: np.dtype,
    settings: Settings,
    work: Workspace,
) -> tuple[int, ...]:
    """Algorithm 1, lines 11 to 14: what is free goes to the tasks with budget left, uniformly at random."""
    given = [0] * settings.tasks
    if sum(left):
        bit = dtype.type(1)
        work.map(lambda run: kernels.open_free(run.mask, run.owner, bit), runs)
        for task, wanted in enumerate(left):
            if wanted:
                given[task] = _draw(tensors, runs, bit, task, wanted, (REST, task), settings, work)
    return tuple(given)
