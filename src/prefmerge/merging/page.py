"""What a report says of a merge: what was merged, how, who owns what, what each layer keeps, how to make it again.

    page(ReportedMerge(receipt.published(folder), kept, formats))      one file of HTML

Nothing of the run itself (time, threads, memory) is in it, and no path: the same inputs give the same bytes. Cost: that
of the text; what is kept is measured while merging (`kept`). Not here: how a report looks (`prefmerge.report`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from prefmerge.ground import jsons
from prefmerge.ground.words import counted
from prefmerge.merging.kept import KeptMagnitude, added, grouped
from prefmerge.merging.layer_names import layers, natural
from prefmerge.merging.parameters import AS_TASK_VECTOR, METHOD, parameter
from prefmerge.merging.receipt import Receipt, ReceiptInput
from prefmerge.merging.recipe_text import checkpoints, recipe_text
from prefmerge.methods.parameters import PREFERENCE
from prefmerge.report import charts
from prefmerge.report import page as template
from prefmerge.report.charts import Bar, StackedBar
from prefmerge.report.markup import Html, name, tag, together
from prefmerge.report.parts import PageSection, code, facts, listing, paragraph, section, table

AGAIN = "prefmerge merge recipe.yaml -o merged/"
OF_KEPT = (
    "Kept: the size of the merged changes, before the scale, as a part of the largest change that any task makes to "
    "each element. MAGMAX keeps 100 %; a preference takes values of tasks where others changed more, so it keeps less."
)
EVEN = 1.0005  # what is shown as 100.0 %
NOT_MEASURED = (
    "What each layer keeps is measured while merging: `prefmerge merge --report` shows it, and later `prefmerge "
    "inspect OUT --with-inputs`, which merges again."
)


@dataclass(frozen=True)
class ReportedMerge:
    """A merge that is done. `receipt`: as it is published. `kept`: of each merged tensor, where it was measured.
    `formats`: the number formats of the base and of each task, where they are known. `by`: what a bar is of, a layer or
    a tensor.
    """

    receipt: Receipt
    kept: Mapping[str, KeptMagnitude] | None = None
    formats: tuple[str, ...] | None = None
    by: str = "layer"

    @property
    def total(self) -> KeptMagnitude | None:
        """What the whole model keeps."""
        return added(list(self.kept.values())) if self.kept else None

    def layers(self) -> dict[str, KeptMagnitude]:
        """What each layer (or tensor) keeps, in the order of the network; those that no task changed are left out."""
        names = sorted(self.kept or {}, key=natural)
        every = sorted(self.receipt.tensors, key=natural)
        groups = layers(every) if self.by == "layer" else {name: name for name in every}
        return {
            layer: one for layer, one in grouped({n: (self.kept or {})[n] for n in names}, groups).items() if one.most
        }


def page(made: ReportedMerge, *, layer_chart: Html | None = None) -> str:
    """The report of one merge. `layer_chart`: shown where `kept` is not known."""
    title = "A merged task vector" if made.receipt.recipe[AS_TASK_VECTOR.name] else "A merged model"
    return template.page(title, sections(made, layer_chart=layer_chart), lead=lead(made))


def lead(made: ReportedMerge) -> list[Html]:
    """The merge in a sentence or two."""
    receipt, total = made.receipt, made.total
    tasks, base = counted(len(receipt.tasks), "task"), name(checkpoints(receipt)[0])
    told: list[object] = [f"{tasks} over ", base, f", merged with {receipt.recipe[METHOD.name]}."]
    if total is not None and total.share is not None:
        told.append(f" {percent(total.share)} of the changes is kept.")
    return [tag("p", *told, class_="lead")]


def sections(made: ReportedMerge, *, layer_chart: Html | None = None) -> list[PageSection]:
    """Everything that a report says of one merge. `layer_chart`: shown where `kept` is not known."""
    receipt = made.receipt
    return [
        section("What was merged", inputs(made)),
        section("How", how(receipt)),
        section("Who owns what", owners(made), layers_kept(made) if made.kept else layer_chart or Html()),
        *([section("Notes", listing(receipt.notes))] if receipt.notes else []),
        section("Make it again", again(receipt)),
    ]


def inputs(made: ReportedMerge, *, output: bool = True) -> Html:
    """Base, tasks and output, with their sizes."""
    receipt = made.receipt
    entries: list[tuple[str, ReceiptInput]] = [("base", receipt.inputs.base)]
    entries += [(f"task {i + 1}", one) for i, one in enumerate(receipt.inputs.tasks)]
    formats = made.formats
    called = checkpoints(receipt)
    rows: list[list[object]] = []
    for i, (role, one) in enumerate(entries):
        shown = called[i] if i == 0 or called[i] == receipt.tasks[i - 1] else f"{receipt.tasks[i - 1]} ({called[i]})"
        kind = ", a task vector" if one.task_vector else ""
        own = [formats[i]] if formats else []
        rows.append([shown, f"{role}{kind}", *own, size(sum(file.bytes for file in one.files))])
    written = sum(file.bytes for file in receipt.output.files)
    if output:
        own = [_formats(receipt)] if formats else []
        rows.append(["the merged weights", "output", *own, size(written) if written else ""])
    words = ["checkpoint", "role", *(["number format"] if formats else [])]
    elements = receipt.elements
    parts = {"merged": elements.merged, "as the base has them, for no task changed them": elements.unchanged}
    parts |= {"excluded": elements.excluded, "copied (no floating point)": elements.copied, "tied": elements.tied}
    told = ", ".join(f"{count:,} {what}" for what, count in parts.items() if count)
    return together(
        table("Checkpoints", [*words, "size"], rows, words=len(words)),
        paragraph(f"{elements.total:,} elements, merged into {_formats(receipt)}: {told}.", soft=True),
    )


def how(receipt: Receipt) -> Html:
    """The method and every parameter that it has, those of single tasks left out: they stand beside the tasks."""
    pairs: list[tuple[str, object]] = [(METHOD.name, receipt.recipe[METHOD.name])]
    if receipt.preference:
        pairs.append((PREFERENCE.name, receipt.preference))
    for key, value in receipt.recipe.items():
        one = parameter(key)
        unused = (
            one is not None and one.unless is not None and receipt.recipe.get(one.unless.other.name) == one.unless.value
        )
        if key in (METHOD.name, PREFERENCE.name) or unused or (one is not None and one.per_task):
            continue
        if value is None or value is False or value == []:
            continue
        pairs.append((key.replace("_", " "), told(value)))
    if receipt.totals.gap is not None:
        pairs.append(("below the best retained importance for these budgets", f"{receipt.totals.gap:.1e} at most"))
    return facts(pairs)


def owners(made: ReportedMerge) -> Html:
    """A row for each task: what was asked, what it owns, what of its changes is kept."""
    receipt, total = made.receipt, made.total
    owned, asked, tasks = receipt.owned, receipt.totals.asked, receipt.tasks
    shares = _parts(owned)
    columns: dict[str, list[object]] = {}
    if receipt.shares is not None:
        columns["share asked"] = [percent(float(Fraction(share))) for share in receipt.shares]
    for key, values in receipt.recipe.items():
        one = parameter(key)
        if one is not None and one.per_task and values:
            columns[key.replace("_", " ")] = [told(value) for value in values]
    if asked is not None:
        columns["budget"] = [f"{count:,}" for count in asked]
    if owned is not None and shares:
        columns["elements owned"] = [f"{count:,}" for count in owned]
        columns["share owned"] = [percent(share) for share in shares]
    if receipt.totals.random is not None and any(receipt.totals.random):
        columns["at random"] = [f"{count:,}" for count in receipt.totals.random]
    if total is not None and total.shares:
        columns["kept by it"] = [percent(share) for share in total.shares]
    rows = [list(row) for row in zip(tasks, *columns.values(), strict=True)]
    numbers = table("Tasks, in the order of training", ["task", *columns], rows)
    if not shares:
        blended = paragraph("The method blends the tasks, so no element has an owner.", soft=True)
        return together(blended if owned is None else Html(), numbers)
    drawn = [StackedBar("elements owned", tuple(shares), "100 %")]
    if receipt.shares is not None:
        drawn.insert(0, StackedBar("shares asked", tuple(float(Fraction(one)) for one in receipt.shares), "100 %"))
    said = "Of all merged elements, the part whose value comes from each task."
    return charts.stacks("owners", "Owners", said, tasks, drawn, numbers, opened=True)


def layers_kept(made: ReportedMerge) -> Html:
    """What each layer keeps, by task where elements have owners."""
    of_layer = made.layers()
    tasks, cut = made.receipt.tasks, bool(of_layer) and all(one.shares for one in of_layer.values())
    rows: list[list[object]] = []
    for layer, one in of_layer.items():
        parts = one.shares or ()
        rows.append([layer, percent(one.share), *(percent(part) for part in parts if cut)])
    title = f"What each {made.by} keeps"
    numbers = table(f"Kept, by {made.by}", [made.by, "kept", *(tasks if cut else ())], rows)
    most = max((one.share or 0.0 for one in of_layer.values()), default=1.0)
    most = max(1.0, most)
    whole = "" if most < EVEN else f" A whole bar is {percent(most)}."
    if cut:
        stacked = [StackedBar(layer, one.shares or (), percent(one.share)) for layer, one in of_layer.items()]
        said = f"{OF_KEPT} A bar is cut by the task that owns the elements.{whole}"
        return charts.stacks("layers", title, said, tasks, stacked, numbers, most=most)
    plain = [Bar(layer, one.share, percent(one.share)) for layer, one in of_layer.items()]
    return charts.bars("layers", title, f"{OF_KEPT}{whole}", plain, numbers, most=most)


def again(receipt: Receipt) -> Html:
    """The command and the recipe that make the same weights, and the fingerprint to compare them by."""
    recipe, without = recipe_text(receipt), ""
    fingerprint = paragraph("Fingerprint of the weights: ", tag("code", receipt.fingerprint))
    if recipe is None:
        return together(paragraph("No recipe file can say this merge; the receipt has every parameter."), fingerprint)
    if receipt.added:
        without = f", but for the numbers that were added to {', '.join(receipt.added)}"
    return together(
        paragraph(f"With the checkpoints beside it, this recipe makes the same weights{without}:"),
        code(AGAIN),
        code(recipe),
        fingerprint,
    )


def told(value: Any) -> str:
    """A value of a receipt's recipe, in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(told, value))
    if isinstance(value, Mapping):
        return jsons.encoded(dict(value), indent=None).decode().strip()
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def size(count: int) -> str:
    """Bytes, for people."""
    for unit, one in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= one:
            return f"{count / one:.1f} {unit}"
    return f"{count} bytes"


def percent(share: float | None) -> str:
    return "not known" if share is None else f"{100 * share:.1f} %"


def formats_of(tensors: Iterable[Any]) -> str:
    """The number formats of a checkpoint's tensors, the largest part first."""
    elements: Counter[str] = Counter()
    for info in tensors:
        elements[info.dtype.name] += info.size
    return ", ".join(one for one, _ in sorted(elements.items(), key=lambda pair: (-pair[1], pair[0])))


def _formats(receipt: Receipt) -> str:
    counts = Counter(tensor.dtype for tensor in receipt.tensors.values())
    return ", ".join(one for one, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _parts(counts: Sequence[int] | None) -> list[float]:
    whole = sum(counts or ())
    return [count / whole for count in counts or ()] if whole else []
