"""Opens the inputs of a merge: a base, and tasks that may be adapters over it.

    open_task("cars", base)                 a whole model, or a task vector
    open_task("cars-lora", base)            a LoRA adapter, as the task vector that it is over the base
    open_task("other+cars-lora", base)      the same over another model

Cost: headers, and the values of an adapter's small file for none. Not here: whether the inputs fit together (`plan`).
"""

from __future__ import annotations

import os
from pathlib import Path

from prefmerge.checkpoints import Checkpoint, open_checkpoint, split_adapter
from prefmerge.checkpoints.adapter import find_adapter, open_adapter
from prefmerge.checkpoints.paths import expanded
from prefmerge.errors import CheckpointMismatch
from prefmerge.vectors.adapter import AdapterVector


def open_task(path: str | Path, base: Checkpoint, *, name: str | None = None) -> Checkpoint:
    """The checkpoint of a task. Raises what `open_checkpoint` raises, and CheckpointMismatch for an adapter that does
    not belong to the base.
    """
    model, own = split_adapter(path)
    if model is not None and find_adapter(own) is None:
        raise CheckpointMismatch(
            f"{path}: {own} is no LoRA adapter, so it cannot be added to {model}. Give each as a task of its own."
        )
    if find_adapter(own) is None:
        return open_checkpoint(path, name=name)
    adapter = open_adapter(own, name=name)
    over: Checkpoint | None = None
    try:
        if model is not None and not _is(model, base):
            over = open_checkpoint(model)
        return AdapterVector(adapter, base, over)
    except BaseException:
        adapter.close()
        if over is not None:
            over.close()
        raise


def _is(path: Path, opened: Checkpoint) -> bool:
    return opened.path is not None and os.path.realpath(expanded(path)) == os.path.realpath(opened.path)
