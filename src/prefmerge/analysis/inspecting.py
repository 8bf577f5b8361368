"""`prefmerge.inspect`: who owns what in a model, or what is in the task vectors of several.

Not here: the pictures (`ownership.draw`, `figures`) and the words (`findings`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import overload

from prefmerge.analysis.measured import Measured
from prefmerge.analysis.ownership import By, Inventory, Ownership, look
from prefmerge.errors import UsageError
from prefmerge.ground.progress import Progress


@overload
def inspect(path: str | Path, *, by: By = "layer") -> Ownership | Inventory: ...


@overload
def inspect(
    path: str | Path,
    tasks: Sequence[str | Path],
    *,
    names: Sequence[str] | None = None,
    threads: int | None = None,
    label: str | None = None,
    exclude: Sequence[str] = (),
    rename: Sequence[str] = (),
    progress: Progress | None = None,
) -> Measured: ...


def inspect(
    path: str | Path,
    tasks: Sequence[str | Path] | None = None,
    *,
    by: By = "layer",
    names: Sequence[str] | None = None,
    threads: int | None = None,
    label: str | None = None,
    exclude: Sequence[str] = (),
    rename: Sequence[str] = (),
    progress: Progress | None = None,
) -> Ownership | Inventory | Measured:
    """Look into a merged model, or into the task vectors of a base and its tasks.

        prefmerge.inspect("merged").total.owned              # elements of each task, from the receipt
        prefmerge.inspect("base.safetensors").dtypes         # without a receipt: what tensors there are
        prefmerge.inspect("base", ["cars", "birds"]).signs   # sign conflicts, magnitudes, angles

    Without `tasks`, `path` is a merged model, its receipt or any checkpoint, and `by` says what a row is: a layer or a
    tensor. With `tasks`, in the order of training, `path` is their base, and every value is read once; `names` are the
    tasks' names, `label` that of all of them in figures, and `exclude` and `rename` are those of `merge`:
    tensors that do not count, and tensors that the tasks call otherwise.

    Raises what opening and merging the same checkpoints raises, and UsageError for arguments of the other case.
    """
    if tasks is None:
        if names or threads or label or exclude or rename or progress:
            raise UsageError(
                "names, threads, label, exclude, rename and progress are for task vectors. Give tasks too."
            )
        return look(path, by)
    if by != "layer":
        raise UsageError("by is for one model. What is measured of task vectors has all tensors: see `Measured.by`.")
    from prefmerge.analysis.task_vectors import measure

    return measure(path, tasks, names, threads, progress, label=label, exclude=exclude, rename=rename)
