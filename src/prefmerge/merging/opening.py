"""Opens the inputs of a merge: a base, and tasks that may be adapters over it. What is on the hub is fetched first.

    open_base("org/model")                  a model; with it come the files that an output takes from its base
    open_task("cars", base)                 a whole model, or a task vector
    open_task("cars-lora", base)            a LoRA adapter, as the task vector that it is over the base
    open_task("other+cars-lora", base)      the same over another model
    open_base("cars[0:8]|birds[4:12]")      a stack of slices, as a model; as a task too

Cost: headers, and the values of an adapter's small file for none. Not here: whether the inputs fit together (`plan`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from prefmerge.checkpoints import Checkpoint, content_fingerprint, open_checkpoint, split_adapter
from prefmerge.checkpoints.adapter import find_adapter, open_adapter
from prefmerge.checkpoints.hub import Beside, fetch
from prefmerge.checkpoints.paths import expanded, hub_id, in_stack, name_of, split_stack
from prefmerge.checkpoints.rearranged import original
from prefmerge.errors import CheckpointCorrupt, CheckpointError, CheckpointMismatch, DiskFull
from prefmerge.merging.stacks import Stack, open_stack
from prefmerge.outputs.companions import companions_among
from prefmerge.vectors.adapter import AdapterVector


def local_base(path: str | Path) -> Path:
    """Where a base is on this machine: a hub id is fetched, a path stays as it is. Raises CheckpointError, DiskFull and
    MissingExtra.
    """
    if split_stack(path) is not None:
        return Path(in_stack(path, lambda one: str(local_base(one))) or path)
    model, adapter = split_adapter(path)
    if model is not None:
        raise CheckpointMismatch(
            f"{path}: a model with an adapter, and the base must be one model. Make it first: prefmerge merge {model} "
            f"{adapter} --method last -o base"
        )
    on_hub = hub_id(path)
    return Path(path) if on_hub is None else fetch(on_hub, companions_among)


def local_task(path: str | Path, beside: Beside | None = None) -> Path:
    """Where a task is on this machine, or a model and its adapter. `beside`: what else is fetched of it. Raises what
    `local_base` raises.
    """
    if split_stack(path) is not None:
        return local_base(path)
    parts = [part for part in split_adapter(path) if part is not None]
    on_hub = [hub_id(part) for part in parts]
    if not any(on_hub):
        return Path(path)
    places = [part if one is None else fetch(one, beside) for part, one in zip(parts, on_hub, strict=True)]
    return Path("+".join(map(str, places)))


def open_base(path: str | Path) -> Checkpoint:
    """The checkpoint of a base. Raises what `local_base` and `open_checkpoint` raise."""
    with _as_typed(path):
        return open_model(local_base(path))


def open_model(path: Path, *, name: str | None = None) -> Checkpoint:
    """The checkpoint of a whole model, or of a stack of slices, that is on this machine. Raises what `open_checkpoint`
    raises, CheckpointCorrupt where it holds no tensors, and CheckpointMismatch.
    """
    parts = split_stack(path)
    if parts is None:
        opened = open_checkpoint(path, name=name)
        if not opened.tensors:
            opened.close()
            raise CheckpointCorrupt(f"{path}: holds no tensors. Save the model again, with its weights.")
        return opened
    return open_stack(path, parts, name or name_of(path), open_checkpoint)


def open_task(
    path: str | Path, base: Checkpoint, *, name: str | None = None, beside: Beside | None = None
) -> Checkpoint:
    """The checkpoint of a task. `beside`: what else is fetched of what is on the hub. Raises what `local_task` and
    `open_checkpoint` raise, and CheckpointMismatch for an adapter that does not belong to the base.
    """
    with _as_typed(path):
        if split_stack(path) is not None:
            return open_model(local_base(path), name=name)
    path = local_task(path, beside)
    model, own = split_adapter(path)
    if model is not None and find_adapter(own) is None:
        raise CheckpointMismatch(
            f"{path}: {own} is no LoRA adapter, so it cannot be added to {model}. Give each as a task of its own."
        )
    if find_adapter(own) is None:
        return open_model(path, name=name)
    if isinstance(original(base), Stack):
        raise CheckpointMismatch(
            f"{path}: a LoRA adapter over a stack, whose layers have other numbers than those of the model that it was "
            f"trained over. Make that model first, and stack it: prefmerge merge MODEL {own} --method last -o OUT"
        )
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


@contextlib.contextmanager
def _as_typed(path: str | Path) -> Iterator[None]:
    """What is wrong with a model of a stack, with the whole of what was typed for the stack."""
    try:
        yield
    except (CheckpointError, CheckpointMismatch, DiskFull) as error:
        if split_stack(path) is None or str(path) in str(error):
            raise
        raise type(error)(f"stack {path}: {error}") from error


def content_of(opened: Checkpoint) -> str:
    """A hash of all that an opened checkpoint holds: of an adapter its factors, not their products."""
    return opened.content() if isinstance(opened, AdapterVector) else content_fingerprint(opened)


def _is(path: Path, opened: Checkpoint) -> bool:
    return opened.path is not None and os.path.realpath(expanded(path)) == os.path.realpath(opened.path)
