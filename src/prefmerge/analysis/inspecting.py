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
from prefmerge.report import place
from prefmerge.report.place import ReportWhere


@overload
def inspect(
    path: str | Path,
    *,
    by: By = "layer",
    with_inputs: bool = False,
    threads: int | None = None,
    report: ReportWhere = None,
    progress: Progress | None = None,
) -> Ownership | Inventory: ...


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
    report: ReportWhere = None,
    progress: Progress | None = None,
) -> Measured: ...


def inspect(
    path: str | Path,
    tasks: Sequence[str | Path] | None = None,
    *,
    by: By = "layer",
    with_inputs: bool = False,
    names: Sequence[str] | None = None,
    threads: int | None = None,
    label: str | None = None,
    exclude: Sequence[str] = (),
    rename: Sequence[str] = (),
    report: ReportWhere = None,
    progress: Progress | None = None,
) -> Ownership | Inventory | Measured:
    """Look into a merged model, or into the task vectors of a base and its tasks.

        prefmerge.inspect("merged").total.owned              # elements of each task, from the receipt
        prefmerge.inspect("base.safetensors").dtypes         # without a receipt: what tensors there are
        prefmerge.inspect("base", ["cars", "birds"]).signs   # sign conflicts, magnitudes, angles

    Without `tasks`, `path` is a merged model, its receipt or any checkpoint, and `by` says what a row is: a layer or a
    tensor. `with_inputs`: the model is merged again from its inputs, without writing it, to measure what each row keeps
    of the changes, which no receipt holds; `threads` is for that too.

    With `tasks`, in the order of training, `path` is their base, and every value is read once; `names` are the tasks'
    names, `label` that of all of them in figures, and `exclude` and `rename` are those of `merge`: tensors that do not
    count, and tensors that the tasks call otherwise.

    `report`: an HTML file to write it to as well, True for report.html in the folder where you are.

    Raises what opening and merging the same checkpoints raises, and UsageError for arguments of the other case.
    """
    to = report_place(report)
    if tasks is None:
        if names or label or exclude or rename or ((threads or progress) and not with_inputs):
            raise UsageError(
                "names, threads, label, exclude, rename and progress are for task vectors. Give tasks too."
            )
        found = look(path, by, with_inputs=with_inputs, threads=threads, progress=progress)
        if to is not None:
            write_report_of(Path(path), found, to)
        return found
    if with_inputs:
        raise UsageError("with_inputs is for a merged model, and tasks were given. Leave one of them out.")
    if by != "layer":
        raise UsageError("by is for one model. What is measured of task vectors has all tensors: see `Measured.by`.")
    from prefmerge.analysis.task_vectors import measure

    measured = measure(path, tasks, names, threads, progress, label=label, exclude=exclude, rename=rename)
    if to is not None:
        write_report_of_vectors([measured], [Path(one).name for one in (path, *tasks)], to)
    return measured


def report_place(where: ReportWhere) -> Path | None:
    """The file of the report on what is inspected; None where no report is wanted. Raises UsageError, OutputExists."""
    asked = place.asked(where)
    if asked is None:
        return None
    if asked.file is None:  # nothing else is written, so there is no other place for it
        place.require_free(Path(place.REPORT))
    return asked.file or Path(place.REPORT)


def write_report_of(path: Path, found: Ownership | Inventory, to: Path) -> None:
    """Write the report of a merged model or of a checkpoint. Raises OutputError."""
    from prefmerge.analysis import page
    from prefmerge.merging.receipt import Receipt
    from prefmerge.outputs.receipts import find_receipt

    if isinstance(found, Inventory):
        place.write(to, page.of_checkpoint(found))
        return
    receipt = path if path.suffix == ".json" else find_receipt(path)
    assert receipt is not None, "an ownership comes from a receipt"
    place.write(to, page.of_receipt(Receipt.load(receipt), receipt.absolute().parent, found))


def write_report_of_vectors(sets: Sequence[Measured], checkpoints: Sequence[str], to: Path) -> None:
    """Write the report of task vectors. Raises OutputError."""
    from prefmerge.analysis import page

    place.write(to, page.of_vectors(sets, checkpoints))
