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

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prefmerge.errors import MethodError
from prefmerge.methods import kernels
from prefmerge.methods.importance import Importance
from prefmerge.methods.keyed import key
from prefmerge.methods.parameters import SEED
from prefmerge.methods.protocol import Deltas, Report, Settings
from prefmerge.vectors.workspace import Workspace, spans

MOST_COMPETING = 64  # bits of the widest mask
REST = 0  # the "pass" of the random rest in the keys; passes count from 1


@dataclass(frozen=True)
class _Part:
    """A stretch of one tensor's masks and owners."""

    tensor: int
    start: int
    mask: np.ndarray
    owner: np.ndarray


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
                    tensors, parts, dtype.type(1 << bit), task, left[task], (number, task), settings, work
                )
                left[task] -= taken[task]
        passes.append(tuple(taken))
    return owners, Report(tuple(asked), passes, _rest(tensors, parts, left, dtype, settings, work))


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
        for bit, task in enumerate(tasks):
            importance.read(deltas, part.tensor, task, part.start + low, part.start + high, values, work)
            if alone:
                mask[np.abs(values) >= running] = 0
            kernels.mark_records(values, running, mask, dtype.type(1 << bit))
        kernels.keep_free(mask, owner)


def _draw(
    tensors: Sequence[Deltas],
    parts: Sequence[_Part],
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
    keys = [key(settings[SEED], deltas.name, "draw", *stage) for deltas in tensors]

    def count(part: _Part) -> tuple[int, np.ndarray]:
        histogram = np.zeros(kernels.BUCKETS, np.int64)
        return kernels.count_candidates(part.mask, bit, keys[part.tensor], part.start, histogram), histogram

    counted = work.map(count, parts)
    candidates = sum(total for total, _ in counted)
    if candidates <= wanted:
        work.map(lambda part: kernels.take_all(part.mask, bit, part.owner, np.uint8(task)), parts)
        return candidates
    below = np.cumsum(np.sum([histogram for _, histogram in counted], axis=0))
    bucket = int(np.searchsorted(below, wanted))
    certain = int(below[bucket - 1]) if bucket else 0

    def take(item: tuple[_Part, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        part, histogram = item
        listed = int(histogram[bucket])
        hashes, indices = np.empty(listed, np.uint64), np.empty(listed, np.int64)
        kernels.take_below(
            part.mask, bit, keys[part.tensor], part.start, bucket, part.owner, np.uint8(task), hashes, indices
        )
        return hashes, indices

    edges = work.map(take, [(part, histogram) for part, (_, histogram) in zip(parts, counted, strict=True)])
    hashes = np.concatenate([h for h, _ in edges])
    places = np.concatenate([np.full(len(h), i) for i, (h, _) in enumerate(edges)])
    indices = np.concatenate([i for _, i in edges])
    # A stable sort: equal numbers (one chance in 2^64) fall to the order of tensors and indices.
    for i in np.argsort(hashes, kind="stable")[: wanted - certain].tolist():
        part = parts[int(places[i])]
        part.owner[indices[i]] = task
        part.mask[indices[i]] = 0
    return wanted


def _rest(
    tensors: Sequence[Deltas],
    parts: Sequence[_Part],
    left: list[int],
    dtype: np.dtype,
    settings: Settings,
    work: Workspace,
) -> tuple[int, ...]:
    """Algorithm 1, lines 11 to 14: what is free goes to the tasks with budget left, uniformly at random."""
    given = [0] * settings.tasks
    if sum(left):
        bit = dtype.type(1)
        work.map(lambda part: kernels.open_free(part.mask, part.owner, bit), parts)
        for task, wanted in enumerate(left):
            if wanted:
                given[task] = _draw(tensors, parts, bit, task, wanted, (REST, task), settings, work)
    return tuple(given)
