"""Tensors that cannot be merged and need not be: no task changes them, so the base's are copied.

    a mask of -inf        its differences are no numbers
    float8, complex       nothing here computes with them
    position_ids          int64 in the base and float16 in a task, of equal values

Only what holds nothing else stops a merge. Cost: a few slices of each tensor; of those that agree in all tasks one
reading, up to `READ_WHOLE` elements. Not here: a value beyond that which is not finite; whoever reads it says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from prefmerge.checkpoints import Checkpoint, from_float32, is_task_vector, same_elements
from prefmerge.checkpoints.protocol import STRETCH
from prefmerge.ground.words import listed
from prefmerge.merging.sameness import Sameness

READ_WHOLE = 1 << 20  # elements; masks and buffers are smaller
FIRST = 32  # elements that are compared first
SHOWN = 5


def unmergeable(
    base: Checkpoint, tasks: Sequence[Checkpoint], stored: Mapping[str, Sequence[str]], sameness: Sameness
) -> dict[str, str]:
    """The float tensors of the base that no task changes and that cannot be merged -> why. `stored`: the tensors to
    look at, with their names in the tasks."""
    kept: dict[str, str] = {}
    for name, own in stored.items():
        pairs = list(zip(tasks, own, strict=True))
        formats = {task.tensors[called].dtype for task, called in pairs}
        others = sorted(dtype.name for dtype in formats if dtype.family != "float")
        if others:  # of equal values, or the plan would have refused them
            kept[name] = f"{base.tensors[name].dtype.name}, in a task {listed(others, SHOWN)}"
        elif (
            all(_begin_alike(base, name, task, called) for task, called in pairs)
            and all(sameness.unchanged(base, name, task, called, sampled=True) for task, called in pairs)
            and (value := sameness.not_finite(base, name, READ_WHOLE)) is not None
            and all(sameness.unchanged(base, name, task, called) for task, called in pairs)
        ):
            kept[name] = f"holds {value}"
    return kept


def _begin_alike(base: Checkpoint, name: str, task: Checkpoint, called: str) -> bool:
    """Whether the first elements may be equal: nearly all tensors of a fine-tuned model part here, after two short
    readings."""
    if is_task_vector(task) or task.tensors[called].dtype != base.tensors[name].dtype:
        return True
    stop = min(base.tensors[name].size, FIRST)
    return task.read(called, 0, stop).tobytes() == base.read(name, 0, stop).tobytes()


def is_same_everywhere(base: Checkpoint, tasks: Sequence[Checkpoint], name: str, called: Sequence[str]) -> bool:
    """Whether every task that has the base's tensor `name` holds the base's bits; `called`: what each calls it, ""
    where it has none."""
    return all(
        task.tensors[own].dtype == base.tensors[name].dtype and same_elements(task, own, base, name, bits=True)
        for task, own in zip(tasks, called, strict=True)
        if own
    )


def same_values(base: Checkpoint, name: str, task: Checkpoint, called: str) -> bool:
    """Whether two tensors of one shape, one of integers and one of floats, hold equal values, as far as the floats can
    hold them."""
    kinds = {base.tensors[name].dtype.family, task.tensors[called].dtype.family}
    if is_task_vector(task) or kinds != {"float", "integer"}:
        return False
    (integers, of), (floats, its) = sorted(
        ((base, name), (task, called)), key=lambda one: one[0].tensors[one[1]].dtype.family, reverse=True
    )
    dtype = floats.tensors[its].dtype
    for start, stop in _stretches(base.tensors[name].size):
        whole = integers.read(of, start, stop)
        expected = whole.astype(np.float64) if dtype.code == "F64" else from_float32(whole.astype(np.float32), dtype)
        if not np.array_equal(floats.read(its, start, stop), expected):
            return False
    return True


def _stretches(size: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + STRETCH, size)) for start in range(0, size, STRETCH))


def note_of(kept: Mapping[str, str]) -> list[str]:
    """What is said of the tensors that are kept; nothing where there are none."""
    if not kept:
        return []
    shown = listed((f"{name!r} ({why})" for name, why in sorted(kept.items())), SHOWN)
    return [f"equal in the base and in every task, and not of a kind that can be merged, so copied: {shown}."]
