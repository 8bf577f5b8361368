"""What is said where values were rounded on their way into a task's file, so that it differs where nothing was trained.

    base float32, task bfloat16                   what rounding the base explains is no change (`dtypes.rounds`)
    base float32, task float32, once bfloat16     it counts as change: the file does not say that it was rounded

Path: the tensors to merge -> their number formats, and of some a few stretches -> sentences. Cost: at most 32 short
readings of the base and of each task. Not here: what counts as change in a merge (`vectors.reader`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from prefmerge.checkpoints import Checkpoint, is_task_vector
from prefmerge.checkpoints.dtypes import DTYPES, Dtype, from_float32, rounds, to_float32
from prefmerge.ground.words import quoted
from prefmerge.merging.sameness import Sameness

SHOWN = 5  # names of tasks in a note
LOOKED_AT = 16  # tensors, the largest
STRETCH = 256  # elements at the start and in the middle of each
ENOUGH = 64  # values that are not zero; of fewer nothing is said


def notes_of_rounding(
    base: Checkpoint,
    tasks: Sequence[Checkpoint],
    names: Sequence[str],
    merged: Mapping[str, Sequence[str]],
    sameness: Sameness,
) -> list[str]:
    """One for each pair of formats of which the task's may round the base's values, and one for each format to which
    tasks were rounded before they were stored in a wider one. `merged`: the tensors to merge, and what each task calls
    them.
    """
    pairs: dict[tuple[str, str], list[str]] = {}
    narrow: dict[str, list[str]] = {}
    for i, (task, name) in enumerate(zip(tasks, names, strict=True)):
        if is_task_vector(task):
            continue
        called = {one: own[i] for one, own in merged.items()}
        formats = {(task.tensors[own].dtype, base.tensors[one].dtype) for one, own in called.items()}
        for own, before in sorted(formats, key=lambda pair: (pair[0].name, pair[1].name)):
            if rounds(own, before):
                pairs.setdefault((own.name, before.name), []).append(name)
        key = tuple(called.items())
        once = sameness.once("rounded", (base, task), key, lambda task=task, called=called: _once(base, task, called))
        if once is not None:
            narrow.setdefault(once.name, []).append(name)
    told = [
        f"{_tasks(several)}: stored as {own}, and the base as {before}. Where rounding the base to {own} gives the "
        "task's value, the task counts as unchanged."
        for (own, before), several in pairs.items()
    ]
    return told + [
        f"{_tasks(several)}: stored as float32, but every value that was looked at fits {once}, and the base's do not. "
        f"Rounding to {once} counts as a change, also where training changed nothing. Save a task that was {once} as "
        f"{once} again: that loses nothing, and then rounding does not count."
        for once, several in narrow.items()
    ]


def _tasks(names: Sequence[str]) -> str:
    return f"{'task' if len(names) == 1 else 'tasks'} {quoted(names, SHOWN)}"


def _once(base: Checkpoint, task: Checkpoint, called: Mapping[str, str]) -> Dtype | None:
    """The format of 16 bits whose values a float32 task seems to hold, where the base's are others."""
    wide = DTYPES["F32"]
    both = [one for one, own in called.items() if base.tensors[one].dtype == task.tensors[own].dtype == wide]
    largest = sorted(both, key=lambda one: (-base.tensors[one].size, one))[:LOOKED_AT]
    if not largest:
        return None
    before = np.concatenate([part for one in largest for part in _some(base, one)])
    after = np.concatenate([part for one in largest for part in _some(task, called[one])])
    if np.count_nonzero(after) < ENOUGH:
        return None
    for narrow in (DTYPES["BF16"], DTYPES["F16"]):
        if _holds(after, narrow) and not _holds(before, narrow):
            return narrow
    return None


def _some(checkpoint: Checkpoint, tensor: str) -> list[np.ndarray]:
    info = checkpoint.tensors[tensor]
    starts = dict.fromkeys((0, info.size // 2))
    stretches = [(start, min(start + STRETCH, info.size)) for start in starts]
    return [to_float32(checkpoint.read(tensor, *stretch), info.dtype).copy() for stretch in stretches]


def _holds(values: np.ndarray, narrow: Dtype) -> bool:
    """Whether every value is one of that format."""
    with np.errstate(over="ignore"):
        return np.array_equal(to_float32(from_float32(values, narrow), narrow), values)
