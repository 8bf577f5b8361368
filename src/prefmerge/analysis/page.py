"""What a report says of `inspect`: a merged model from its receipt, the tensors of a checkpoint, or task vectors.

Cost: that of the text. Not here: measuring (`task_vectors`), what a merge keeps, which is measured while merging.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from prefmerge.analysis import findings
from prefmerge.analysis.measured import Measured, MeasuredPart
from prefmerge.analysis.ownership import Inventory, Ownership
from prefmerge.ground.words import counted
from prefmerge.merging import page as of_a_merge
from prefmerge.merging.page import NOT_MEASURED, ReportedMerge, percent, size
from prefmerge.merging.receipt import Receipt
from prefmerge.report import charts
from prefmerge.report.charts import Bar, StackedBar
from prefmerge.report.markup import Html, name, tag, together
from prefmerge.report.page import page
from prefmerge.report.parts import PageSection, code, paragraph, paragraphs, section, table

MOST_PAIRS = 16  # tasks whose pairs are shown


def of_receipt(receipt: Receipt, folder: Path, owned: Ownership) -> str:
    """The report of a merged model, whose receipt is in `folder`."""
    made = ReportedMerge(receipt.published(folder), owned.kept, owned.formats, owned.by)
    return of_a_merge.page(made, layer_chart=_owned(owned))


def _owned(owned: Ownership) -> Html:
    """Owners by layer or tensor, where they differ."""
    rows = [row for row in owned.rows if row.shares]
    if not rows:
        return paragraph(NOT_MEASURED, soft=True)
    lines = [[row.name, f"{row.elements:,}", *(percent(part) for part in row.shares or ())] for row in rows]
    numbers = table(f"Owners by {owned.by}", [owned.by, "elements", *owned.tasks], lines)
    if owned.note is not None:
        return together(paragraph(owned.note), paragraph(NOT_MEASURED, soft=True), numbers)
    drawn = [StackedBar(row.name, row.shares or (), f"{row.elements:,} elements") for row in rows]
    said = f"Of the merged elements of each {owned.by}, the part whose value comes from each task."
    chart = charts.stacks("layers", f"Owners by {owned.by}", said, owned.tasks, drawn, numbers)
    return together(chart, paragraph(NOT_MEASURED, soft=True))


def of_checkpoint(held: Inventory) -> str:
    """The report of a checkpoint without a receipt."""
    called = Path(held.source).name
    elements = sum(row.elements for row in held.rows)
    formats = [[kind, f"{n:,}", f"{count:,}", size(nbytes)] for kind, (n, count, nbytes) in held.dtypes.items()]
    rows = [[row.name, f"{row.tensors:,}", f"{row.elements:,}"] for row in held.rows]
    numbers = table(f"Elements by {held.by}", [held.by, "tensors", "elements"], rows)
    most = max((row.elements for row in held.rows), default=1)
    drawn = [Bar(row.name, row.elements, f"{row.elements:,}") for row in held.rows]
    said = "A whole bar is the largest."
    sections = [
        section(
            "What it holds",
            table("Number formats", ["number format", "tensors", "elements", "size"], formats),
            paragraphs(f"{note}." for note in held.notes),
        ),
        section("Layers", charts.bars("layers", f"Elements by {held.by}", said, drawn, numbers, most=float(most))),
        section("Make it again", code(_line([called]))),
    ]
    lead = tag(
        "p", name(called), f": {elements:,} elements. It has no receipt: a checkpoint, not a merge.", class_="lead"
    )
    return page("A checkpoint", sections, lead=[lead])


def of_vectors(sets: Sequence[Measured], checkpoints: Sequence[str]) -> str:
    """The report of one set of task vectors, or of several over one base. `checkpoints`: what the base and the tasks
    are called, for the command that makes the report again.
    """
    sections: list[PageSection] = []
    for i, one in enumerate(sets):
        of = f": {one.label}" if len(sets) > 1 else ""
        sections += [
            section(f"Task by task{of}", *_tasks(one, i)),
            section(f"How large the changes are, by layer{of}", _magnitudes(one, i)),
            section(f"Sign conflicts{of}", *_signs(one, i)),
            section(f"How alike the task vectors point{of}", _cosines(one)),
        ]
    sections.append(section("What the numbers say", paragraphs(findings.every(sets))))
    sections.append(section("Make it again", code(_line(checkpoints))))
    whole = " and ".join(f"{counted(len(one.tasks), 'task vector')} of {one.elements:,} elements" for one in sets)
    return page("Task vectors", [one for one in sections if one.parts], lead=[tag("p", f"{whole}.", class_="lead")])


def _tasks(one: Measured, i: int) -> list[Html]:
    shares = one.contributions()
    columns = ["task", "contributes", "unchanged", "mean |tau|", "std", "median", "99 %", "norm"]
    rows = [
        [
            task,
            _share(shares[t]),
            percent(one.zeros()[t] / max(1, one.elements)),
            _number(one.mean_magnitudes()[t]),
            _number(one.deviations()[t]),
            _number(one.quantiles(0.5)[t]),
            _number(one.quantiles(0.99)[t]),
            _number(one.norms()[t]),
        ]
        for t, task in enumerate(one.tasks)
    ]
    numbers = table("Task by task", columns, rows)
    known = [0.0 if share != share else float(share) for share in shares]
    drawn = [Bar(task, share, percent(share)) for task, share in zip(one.tasks, known, strict=True)]
    said = "Of the elements that any task changed, the part of which a task alone has the largest change."
    return [charts.bars(f"tasks-{i}", "What each task contributes to MAGMAX", said, drawn, numbers, opened=True)]


def _magnitudes(one: Measured, i: int) -> Html:
    """sum |tau_t| of each layer, a row each, beside the MAGMAX merge."""
    parts = one.by("layer")

    def mean(part: MeasuredPart) -> float:
        return float(part.mean_merged()[-1]) if part.elements else 0.0

    most = max((mean(part) for part in parts), default=0.0)
    rows = [
        [part.name, f"{part.elements:,}", _number(mean(part)), *map(_number, part.mean_magnitudes())] for part in parts
    ]
    numbers = table("Mean size of a change, by layer", ["layer", "elements", "MAGMAX", *one.tasks], rows)
    drawn: list[StackedBar] = []
    for part in parts:
        owned = sum(part.contributed)
        cut = [mean(part) * count / owned if owned else 0.0 for count in part.contributed]
        drawn.append(StackedBar(part.name, tuple(cut), _number(mean(part))))
    said = (
        "The mean size of a change in the MAGMAX merge of all tasks, cut by how many elements each task contributes "
        "alone. The longest bar is the layer that changed most."
    )
    return charts.stacks(
        f"layers-{i}", "How large the changes are", said, one.tasks, drawn, numbers, most=most or 1.0, form=_number
    )


def _signs(one: Measured, i: int) -> list[Html]:
    if len(one.tasks) < 2:
        return []
    parts = [(part.name, part.conflict_share(), part.conflict_share(1)) for part in one.by("layer")]
    rows = [[layer, _share(every), _share(top)] for layer, every, top in parts]
    numbers = table("Sign conflicts, by layer", ["layer", "of all values", "of the top 20 %"], rows)
    drawn = [Bar(layer, None if every != every else every, _share(every)) for layer, every, _ in parts]
    said = "Of the elements that two tasks or more changed, the part that they changed in both directions."
    made = [charts.bars(f"signs-{i}", "Sign conflicts by layer", said, drawn, numbers)]
    if 2 < len(one.tasks) <= MOST_PAIRS:
        made.append(_matrix("Signs that differ, pair by pair", one.tasks, one.signs[0].pairs(), _share))
    return made


def _cosines(one: Measured) -> Html:
    if not 1 < len(one.tasks) <= MOST_PAIRS:
        return Html()
    return _matrix("Cosine between task vectors", one.tasks, one.cosines(), lambda value: f"{value + 0.0:.2f}")


def _matrix(caption: str, tasks: Sequence[str], values_TT: np.ndarray, shown: Callable[[float], str]) -> Html:
    rows = [
        [task, *("-" if s == t or value != value else shown(value) for s, value in enumerate(values_TT[t]))]
        for t, task in enumerate(tasks)
    ]
    return table(caption, ["task", *tasks], rows)


def _line(checkpoints: Sequence[str]) -> str:
    return " ".join(["prefmerge", "inspect", *map(shlex.quote, checkpoints), "--report"])


def _share(value: float) -> str:
    return "-" if value != value else percent(value)


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.3g}"
