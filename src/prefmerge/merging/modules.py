"""Modules of a pipeline that tasks changed and that are not merged: what a user of diffusers may have meant too.

A pipeline or a model of sentence-transformers has several sub-folders with weights, of which one is merged and the
others are copied from the base. Where a task holds other weights in one of these, a note says how to merge them. Cost:
the headers of the other modules, and a few slices of their tensors. Not here: which module is merged (`layouts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing

from prefmerge.checkpoints import Checkpoint, open_checkpoint
from prefmerge.checkpoints.folder import Folder
from prefmerge.errors import CheckpointError
from prefmerge.ground.words import joined
from prefmerge.merging.sameness import Sameness


def changed_modules(base: Checkpoint, tasks: Sequence[Checkpoint], names: Sequence[str]) -> list[str]:
    """A note for each module of the base beside the merged one that a task holds with other weights."""
    notes: list[str] = []
    if not isinstance(base, Folder):
        return notes
    for module in base.others:
        changed = [
            name
            for task, name in zip(tasks, names, strict=True)
            if isinstance(task, Folder) and module in task.others and _differs(base, task, module)
        ]
        if changed:
            whose = joined(f"task {name!r}" for name in changed)
            notes.append(
                f"{whose} changed {module} too, which stays the base's: to merge it, give {base.path}/{module} as the "
                "base and the same sub-folder of each task."
            )
    return notes


def _differs(base: Folder, task: Folder, module: str) -> bool:
    """Whether names, shapes or a few slices of the values do. What cannot be opened does not."""
    try:
        with ExitStack() as stack:
            one, other = (stack.enter_context(closing(open_checkpoint(of.path / module))) for of in (base, task))
            if set(one.tensors) != set(other.tensors):
                return True
            sameness = Sameness()
            return any(
                one.tensors[name].shape != other.tensors[name].shape
                or one.tensors[name].dtype.family != other.tensors[name].dtype.family
                or (
                    one.tensors[name].dtype.family == "float"
                    and not sameness.unchanged(one, name, other, name, sampled=True)
                )
                for name in one.tensors
            )
    except CheckpointError:
        return False
