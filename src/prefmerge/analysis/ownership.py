"""Who owns what in a merged model, per task and per layer; and what is in a checkpoint that was not merged.

    owned[layer, task] = sum over the layer's tensors of the elements that take their value from the task

Read from receipts and headers alone: counts of elements, no weights. Cost: O(tensors x tasks); where what each layer
keeps is asked for, that of the merge (`merging.again`). Not here: sign conflicts and magnitudes, which need the weights
(task_vectors.py).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefmerge import plotting
from prefmerge.errors import CheckpointNotFound, OutputError, UsageError
from prefmerge.ground.brief import brief
from prefmerge.ground.progress import Progress
from prefmerge.merging.layer_names import layers, natural

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from prefmerge.merging.kept import KeptMagnitude
    from prefmerge.merging.receipt import Receipt

By = Literal["layer", "tensor"]
_ALIKE = 0.02  # shares that differ by less look the same in a picture: small tensors cannot be cut exactly


@dataclass(frozen=True)
class OwnedRow:
    """One layer or tensor, or the whole model."""

    name: str  # of the layer or tensor; `all` of the whole
    tensors: int  # how many it has
    elements: int  # of all its tensors
    owned: tuple[int, ...] | None  # merged elements of each task, shape (T,); None where they have no owner
    kept: KeptMagnitude | None = None  # what it keeps of the changes; None where that was not measured

    @property
    def shares(self) -> tuple[float, ...] | None:
        """`owned` as fractions of what the layer owns in all; None where nothing is owned."""
        total = sum(self.owned or ())
        return tuple(n / total for n in self.owned or ()) if total else None


@dataclass(frozen=True)
class Ownership:
    """A merged model as its receipt describes it, of T tasks."""

    __repr__ = brief

    source: str  # the path that was given
    method: str  # the merge method
    tasks: tuple[str, ...]  # their names, in the order of the merge
    asked: tuple[int, ...] | None  # budgets in elements, shape (T,); None of a method without a preference
    random: tuple[int, ...] | None  # of the owned elements those that chance gave, shape (T,)
    total: OwnedRow  # the whole model
    rows: tuple[OwnedRow, ...]  # its layers or tensors, in the order of the network as far as names show it
    by: By  # what a row is
    scope: str | None = None  # of the budgets, where the method has some
    kept: Mapping[str, KeptMagnitude] | None = None  # what each merged tensor keeps, where it was measured
    formats: tuple[str, ...] | None = None  # number formats of the base and of each task, likewise; shape (1 + T,)

    @property
    def note(self) -> str | None:
        """Why all rows look alike, where they do: budgets that hold in every tensor say nothing of layers."""
        rows = [row.shares for row in self.rows if row.shares]
        if self.scope != "tensor" or not self.total.shares or len(rows) < 2:
            return None
        if any(abs(a - b) >= _ALIKE for shares in rows for a, b in zip(shares, self.total.shares, strict=True)):
            return None
        return (
            f"Every {self.by} has the shares of the whole, for the budgets hold in each tensor (scope tensor). With "
            "`--scope model` a task owns more where it changed more."
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON object with everything that the table shows."""
        return {
            **({"note": self.note} if self.note else {}),
            "source": self.source,
            "method": self.method,
            "tasks": list(self.tasks),
            "asked": None if self.asked is None else list(self.asked),
            "random": None if self.random is None else list(self.random),
            "total": _row_json(self.total),
            "by": self.by,
            "rows": [_row_json(row) for row in self.rows],
        }


@dataclass(frozen=True)
class Inventory:
    """A checkpoint without a receipt, counted by layer and by number format."""

    __repr__ = brief

    source: str  # the path that was given
    dtypes: Mapping[str, tuple[int, int, int]]  # number format -> tensors, elements, bytes
    rows: tuple[OwnedRow, ...]  # its layers or tensors; nobody owns anything
    by: By  # what a row is
    notes: tuple[str, ...] = ()  # which weights were taken, where the path alone does not say

    def to_json(self) -> dict[str, Any]:
        """A JSON object with everything that the table shows."""
        keys = ("tensors", "elements", "bytes")
        return {
            "source": self.source,
            "dtypes": {name: dict(zip(keys, counts, strict=True)) for name, counts in self.dtypes.items()},
            "by": self.by,
            "rows": [_row_json(row) for row in self.rows],
            "notes": list(self.notes),
        }


def _row_json(row: OwnedRow) -> dict[str, Any]:
    data: dict[str, Any] = {"name": row.name, "tensors": row.tensors, "elements": row.elements}
    if row.owned is not None:
        data["owned"] = list(row.owned)
    return data if row.kept is None else {**data, "kept": row.kept.to_json()}


def look(
    path: str | Path,
    by: By = "layer",
    *,
    with_inputs: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Ownership | Inventory:
    """What is at `path`: the ownership that a receipt has (`path` is the receipt, or an output that has one), else a
    checkpoint's inventory.

    Reads headers only; `with_inputs`: also merges again, to measure what each layer keeps. Raises CheckpointNotFound,
    CheckpointCorrupt; with `with_inputs` UsageError where there is no receipt, and what `measured_again` raises.
    """
    from prefmerge.checkpoints import is_there, open_checkpoint
    from prefmerge.merging.receipt import Receipt
    from prefmerge.outputs.receipts import find_receipt

    path = Path(path)
    if not is_there(path):
        raise CheckpointNotFound(f"{path} does not exist. Give a merged model, its receipt or a checkpoint.")
    is_receipt = path.is_file() and path.suffix == ".json" and not path.name.endswith(".index.json")
    receipt = path if is_receipt else find_receipt(path)
    if receipt is not None and with_inputs:
        from prefmerge.merging.again import measured_again

        known = Receipt.load(receipt)
        kept, formats = measured_again(known, path, threads=threads, progress=progress)
        return ownership(known, source=str(path), by=by, kept=kept, formats=formats)
    if receipt is not None:
        return ownership(Receipt.load(receipt), source=str(path), by=by)
    if with_inputs:
        raise UsageError(
            f"{path} has no receipt, so it is not known what it was merged from. Leave --with-inputs out, or give a "
            "model that prefmerge merged."
        )
    checkpoint = open_checkpoint(path)
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for info in checkpoint.tensors.values():
        for i, count in enumerate((1, info.size, info.nbytes)):
            counts[info.dtype.name][i] += count
    sizes = {name: info.size for name, info in checkpoint.tensors.items()}
    notes = checkpoint.notes
    checkpoint.close()
    dtypes = {name: (n, elements, nbytes) for name, (n, elements, nbytes) in sorted(counts.items())}
    return Inventory(str(path), dtypes, _rows(sizes, {}, by), by, notes)


def ownership(
    receipt: Receipt,
    *,
    source: str = "",
    by: By = "layer",
    kept: Mapping[str, KeptMagnitude] | None = None,
    formats: tuple[str, ...] | None = None,
) -> Ownership:
    """Who owns what, as a receipt says. `kept` and `formats`: what a receipt does not say, where it was measured."""
    sizes = {name: math.prod(tensor.shape) for name, tensor in receipt.tensors.items()}
    owned = {name: tensor.owned for name, tensor in receipt.tensors.items() if tensor.owned}
    totals = receipt.totals
    return Ownership(
        source=source,
        method=receipt.recipe["method"],
        tasks=receipt.tasks,
        asked=totals.asked,
        random=totals.random,
        total=OwnedRow("all", len(sizes), sum(sizes.values()), totals.owned, _kept(list(sizes), kept)),
        rows=_rows(sizes, owned, by, kept),
        by=by,
        scope=receipt.recipe.get("scope"),
        kept=kept,
        formats=formats,
    )


def _kept(names: Sequence[str], kept: Mapping[str, KeptMagnitude] | None) -> KeptMagnitude | None:
    """What these tensors keep together; None where none of them is known to be changed."""
    known = [kept[name] for name in names if name in kept] if kept else []
    if not known:
        return None
    from prefmerge.merging.kept import added

    return added(known)


def _rows(
    sizes: Mapping[str, int],
    owned: Mapping[str, Sequence[int]],
    by: By,
    kept: Mapping[str, KeptMagnitude] | None = None,
) -> tuple[OwnedRow, ...]:
    names = sorted(sizes, key=natural)
    group = layers(names) if by == "layer" else {name: name for name in names}
    members: dict[str, list[str]] = defaultdict(list)
    for name in names:
        members[group[name]].append(name)
    rows = []
    for layer, inside in members.items():
        counts = [owned[name] for name in inside if name in owned]
        summed = tuple(sum(column) for column in zip(*counts, strict=True)) if counts else None
        elements = sum(sizes[name] for name in inside)
        rows.append(OwnedRow(layer, len(inside), elements, summed, _kept(inside, kept)))
    return tuple(rows)


# The picture

_NARROWEST = 2.5  # % of a bar that holds a task's number
_INCHES_PER_ROW = 0.24
_MOST_ROWS = 400  # a figure of 100 inches; beyond that nobody reads it


def draw(owned: Ownership, path: str | Path) -> None:
    """A picture of `owned`: one stacked bar per layer, task by task, in the format that the suffix of `path` says.

    Raises OutputError where there is nothing to draw or no way to write it, MissingExtra without matplotlib.
    """
    rows = [row for row in (owned.total, *owned.rows) if row.shares]
    if not rows:
        raise OutputError(
            f"{owned.source}: {owned.method} blends the tasks, so no element has an owner and there is nothing to draw."
        )
    if len(rows) > _MOST_ROWS:
        raise OutputError(
            f"{owned.source}: {len(rows)} bars are too many for one picture; at most {_MOST_ROWS}. Draw it by layer."
        )
    columns = min(len(owned.tasks), 5)
    legend_rows = -(-len(owned.tasks) // columns)
    figure = plotting.new_figure(10, 1.6 + _INCHES_PER_ROW * (len(rows) + legend_rows))
    axes = figure.add_subplot()
    _bars(axes, rows, owned.tasks)
    axes.set_xlabel("elements owned (% of the layer's merged elements)")
    axes.set_ylabel("tensor" if owned.by == "tensor" else "layer")
    if owned.note is not None:
        figure.supxlabel(owned.note.replace("). ", ").\n"), fontsize=8)
    axes.set_title(f"Who owns what: {Path(owned.source).name or owned.source} ({owned.method})", loc="left")
    figure.legend(
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=8,
        title="task, in the order of training",
        title_fontsize=8,
    )
    plotting.save(figure, path)


def _bars(axes: Axes, rows: Sequence[OwnedRow], tasks: Sequence[str]) -> None:
    colours, numbered = plotting.task_colours(len(tasks)), len(tasks) > len(plotting.FEW)
    left = [0.0] * len(rows)
    for task, (name, colour) in enumerate(zip(tasks, colours, strict=True)):
        widths = [100 * row.shares[task] for row in rows if row.shares]
        # A label that begins with an underscore would be left out of the legend.
        label = f"{task + 1}  {name}" if numbered else name.lstrip("_") or name
        axes.barh(range(len(rows)), widths, left=left, label=label, color=colour, edgecolor="white", linewidth=0.4)
        if numbered:
            ink = "black" if task > 0.55 * len(tasks) else "white"  # viridis ends bright
            for i, (start, width) in enumerate(zip(left, widths, strict=True)):
                if width >= _NARROWEST:
                    axes.text(
                        start + width / 2, i, str(task + 1), color=ink, fontsize=6, ha="center", va="center_baseline"
                    ).set_in_layout(False)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=7)
    axes.axhline(0.5, color="black", linewidth=0.6)  # above it the model as a whole, below it its layers
    axes.set_xlim(0, 100)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    plotting.open_sides([axes])
