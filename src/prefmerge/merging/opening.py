"""Opens the inputs of a merge: a base, and tasks that may be adapters over it. What is on the hub is fetched first.

    open_base("org/model")                  a model; with it come the files that an output takes from its base
    open_task("cars", base)                 a whole model, or a task vector
    open_task("cars-lora", base)            a LoRA adapter, as the task vector that it is over the base
    open_task("other+cars-lora", base)      the same over another model

Cost: headers, and the values of an adapter's small file for none. Not here: whether the inputs fit together (`plan`).
"""

from __future__ import annotations

import os
from pathlib import Path

from prefmerge.checkpoints import Checkpoint, content_fingerprint, open_checkpoint, split_adapter
from prefmerge.checkpoints.adapter import find_adapter, open_adapter
from prefmerge.checkpoints.hub import fetch
from prefmerge.checkpoints.paths import expanded, hub_id
from prefmerge.errors import CheckpointMismatch
from prefmerge.outputs.companions import companions_among
from prefmerge.vectors.adapter import AdapterVector


def local_base(path: str | Path) -> Path:
    """Where a base is on this machine: a hub id is fetched, a path stays as it is. Raises CheckpointError, DiskFull and
    MissingExtra.
    """
    model, adapter = split_adapter(path)
    if model is not None:
        raise CheckpointMismatch(
            f"{path}: a model with an adapter, and the base must be one model. Make it first: prefmerge merge {model} "
            f"{adapter} --method last -o base"
        )
    on_hub = hub_id(path)
    return Path(path) if on_hub is None else fetch(on_hub, companions_among)


def local_task(path: str | Path) -> Path:
    """Where a task is on this machine, or a model and its adapter. Raises what `local_base` raises."""
    parts = [part for part in split_adapter(path) if part is not None]
    on_hub = [hub_id(part) for part in parts]
    if not any(on_hub):
        return Path(path)
    return Path("+".join(str(part if one is None else fetch(one)) for part, one in zip(parts, on_hub, strict=True)))


def open_base(path: str | Path) -> Checkpoint:
    """The checkpoint of a base. Raises what `local_base` and `open_checkpoint` raise."""
    return open_checkpoint(local_base(path))


def open_task(path: str | Path, base: Checkpoint, *, name: str | None = None) -> Checkpoint:
    """The checkpoint of a task. Raises what `local_task` and `open_checkpoint` raise, and CheckpointMismatch for an
    adapter that does not belong to the base.
    """
    path = local_task(path)
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


def content_of(opened: Checkpoint) -> str:
    """A hash of all that an opened checkpoint holds: of an adapter its factors, not their products."""
    return opened.content() if isinstance(opened, AdapterVector) else content_fingerprint(opened)


def _is(path: Path, opened: Checkpoint) -> bool:
    return opened.path is not None and os.path.realpath(expanded(path)) == os.path.realpath(opened.path)
