"""What commands print: tables on stdout, notes on stderr, both without colour where there is no terminal.

Every merge says how it was made: preference, method, scale, where the receipt is. Nothing is computed here that the
receipt does not hold.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from prefmerge.cli import screen
from prefmerge.ground.words import counted, listed
from prefmerge.methods import declared
from prefmerge.methods.parameters import PREFERENCE
from prefmerge.methods.shares_by_layer import describe
from prefmerge.preference import Preference
from prefmerge.report import place
from prefmerge.report.place import ReportWhere
from prefmerge.shown import line as in_one_line

if TYPE_CHECKING:
    from rich.console import Console

    from prefmerge.analysis import Inventory, OwnedRow, Ownership
    from prefmerge.merging.plan import Plan
    from prefmerge.merging.receipt import Receipt
    from prefmerge.merging.recipe import Recipe
    from prefmerge.merging.verify import VerifyReport
    from prefmerge.models.evaluation import Evaluation
    from prefmerge.models.matrix import MatrixReport
    from prefmerge.runs import Run

MOST_TASKS = 8  # columns; beyond that a layer shows its largest owners
LARGEST = 4
SETTING = 60  # characters of a value
MOST_PASSES = 3  # columns; a merge with more passes shows the last ones summed


def say_report(where: ReportWhere, out: Path, *, folder: bool = True) -> None:
    """Where the report is, where one was asked for."""
    asked, console = place.asked(where, force=True), screen.console()
    if asked is not None:
        console.print(f"Report:  {asked.of(out, folder=folder)}", soft_wrap=True)


def say_report_at(file: Path | None) -> None:
    """The same for a report that is there."""
    console = screen.console()
    if file is not None:
        console.print(f"Report: {file}", soft_wrap=True)


def as_json(data: Any) -> None:
    """One object on stdout."""
    print(json.dumps(data, indent=1))  # ASCII: no encoding of stdout can refuse it


def say_compiling() -> None:
    """Say, on a terminal, that the first merge on a machine compiles its kernels."""
    from prefmerge.vectors import kernels

    compiled = kernels.compiled()  # where they cannot be kept, a note about that comes here, before any progress
    if sys.stderr.isatty() and not compiled:
        once = "" if compiled is None else ", once on this machine"
        screen.say(f"Compiling the kernels{once}: a few seconds.")


def trained(run: Run) -> None:
    """What a run holds, and what can be done with it."""
    console = screen.console()
    table = Table("task", "classes", "samples", "checkpoint", box=box.SIMPLE)
    for task in run.tasks:
        table.add_row(task.name, listed(task.classes, 3), f"{sum(task.label_counts.values()):,}", task.file)
    console.print(table)
    console.print(f"{run.folder}: {run.training} fine-tuning of {run.about.get('encoder', {}).get('id', 'a model')}.")
    kept = run.about.get("kept")
    if kept:
        what = "texts" if run.about.get("encoder", {}).get("inputs") == "text" else "images"
        console.print(
            f"Held-out samples: {kept['held_out']:,} {what}, {_bytes(kept['held_out_bytes'])}; the base's embeddings "
            f"of {kept['embeddings']:,} training samples, {_bytes(kept['embeddings_bytes'])}."
        )
    console.print(f"Next: prefmerge evaluate --run {run.folder}")
    console.print(f"      prefmerge merge --run {run.folder} -o merged/ --prefer uniform")
    if kept:
        console.print(f"      prefmerge adapt --run {run.folder} --labels seen.csv -o for-my-target/")


def evaluated(evaluation: Evaluation) -> None:
    """The accuracies of one model: per task, mean over tasks, all samples."""
    table = Table("task", "samples", "among all", "task known", box=box.SIMPLE)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, samples, agnostic, aware in evaluation.rows():
        table.add_row(name, f"{samples:,}", _percent(agnostic), _percent(aware))
    low, high = evaluation.to_json()["overall"]["interval"]
    console = screen.console()
    _say_samples(console, evaluation.about)
    console.print(table)
    console.print(
        f"Accuracy among all classes of the head, and among the task's own; the first overall: {_percent(low)} to "
        f"{_percent(high)} (95 % interval)."
    )


def _say_samples(console: Console, about: Mapping[str, Any]) -> None:
    """What to know of the samples, where they are not the data's test samples, and of the checkpoint's names."""
    if about.get("note"):
        console.print(about["note"])
    _say_notes(console, about.get("notes", ()))


def over_seeds(means: Mapping[str, Any]) -> None:
    """Mean and standard deviation over runs."""
    table = Table("task", "among all", "task known", box=box.SIMPLE)
    for column in table.columns[1:]:
        column.justify = "right"
    rows = [*means["tasks"], {"name": "mean over tasks", **means["mean"]}, {"name": "overall", **means["overall"]}]
    for row in rows:
        spread = [f"{_percent(row[k]['mean'])} ± {100 * row[k]['std']:.1f}" for k in ("agnostic", "aware")]
        table.add_row(row["name"], *spread)
    console = screen.console()
    _say_samples(console, means)
    console.print(table)
    console.print(f"Mean ± standard deviation over {means['runs']} runs, in percent.")


def matrix(report: MatrixReport) -> None:
    """Every checkpoint of a run on every task, and what that says of forgetting."""
    console = screen.console()
    _say_samples(console, report.about)
    for knowing, title in (("agnostic", "Among all classes"), ("aware", "Among the task's own classes")):
        table = Table("after", *report.tasks, "mean", "overall", title=title, title_justify="left", box=box.SIMPLE)
        for column in table.columns[1:]:
            column.justify = "right"
        for name, *accuracies in report.rows("aware" if knowing == "aware" else "agnostic"):
            table.add_row(name, *map(_percent, accuracies))
        console.print(table)
        values = report.metrics("aware" if knowing == "aware" else "agnostic").to_json()
        metrics = [f"{name.replace('_', ' ')} {_percent(value)}" for name, value in values.items() if value is not None]
        console.print(f"{', '.join(metrics)}.")


def merged(receipt: Receipt, recipe: Recipe, out: Path) -> None:
    """What a merge did, from its receipt."""
    from prefmerge.outputs.receipts import find_receipt

    console = screen.console()
    elements, gap = receipt.elements, receipt.totals.gap
    if receipt.owned is not None:
        console.print(_owners(receipt, receipt.owned))
        console.print()
    counts = {role: getattr(elements, role) for role in ("unchanged", "excluded", "copied", "tied")}
    parts = [f"{elements.merged:,} elements merged", *(f"{count:,} {role}" for role, count in counts.items() if count)]
    console.print(", ".join(parts) + ".")
    if gap is not None:
        console.print(f"The retained importance is at most {gap:.1e} of it below the best for these budgets.")
    _say_how(console, receipt.recipe, recipe)
    _say_notes(console, receipt.notes)
    if receipt.run.kept:
        console.print(f"{counted(receipt.run.kept, 'tensor')} of {len(receipt.tensors)} had been finished before.")
    console.print(
        f"Output:  {out} ({_bytes(sum(file.bytes for file in receipt.output.files))}, {receipt.run.seconds:.1f} s)",
        soft_wrap=True,
    )
    console.print(f"Receipt: {find_receipt(out)}", soft_wrap=True)


def say_kept(out: Path) -> None:
    """One line: an output was there."""
    console = screen.console()
    console.print(f"kept: {out} was made so already.", soft_wrap=True)


def say_adapt(inputs: str, target: str = "--labels FILE") -> None:
    """One line: what would choose the model by measurement."""
    screen.console().print(
        f"To choose by measurement, and to see how good the model will be: prefmerge adapt {inputs} {target} -o OUT",
        soft_wrap=True,
    )


def planned(plan: Plan, recipe: Recipe) -> None:
    """What a merge would do."""
    console = screen.console()
    data = plan.to_json()
    headings, rows = ["task", "file", "share"], []
    for task in data["tasks"]:
        rows.append([task["name"], task["path"] or "", "-" if task["share"] is None else _share(task["share"])])
    if any(task["most_elements"] is not None for task in data["tasks"]):
        headings.append("elements at most")
        rows = [[*row, f"{task['most_elements']:,}"] for row, task in zip(rows, data["tasks"], strict=True)]
    console.print(_table(headings, rows, names=2))
    console.print()
    words = {"merge": "to merge", "copy": "to copy", "exclude": "excluded", "tied": "tied"}
    counts = [
        f"{n} tensors {words[role]} ({data['elements'][role]:,} elements)"
        for role, n in data["tensors"].items()
        if n or role == "merge"
    ]
    console.print("; ".join(counts) + ".")
    _say_how(console, data["recipe"], recipe)
    _say_notes(console, data["notes"])
    console.print(f"The output would take {_bytes(data['output_bytes'])}. Nothing was written.")


def verified(report: VerifyReport) -> None:
    """What was checked."""
    console = screen.console()
    for line in report.passed:
        console.print(f"ok       {line}", soft_wrap=True)
    for line in report.skipped:
        console.print(f"skipped  {line}", soft_wrap=True)
    console.print(
        f"{report.out} is what {report.receipt} says: {report.tensors} tensors, {report.fingerprint}", soft_wrap=True
    )


def inspected(result: Ownership | Inventory, png: Path | None) -> None:
    """Ownership per layer, or a checkpoint's tensors."""
    from prefmerge.analysis import Ownership

    console = screen.console()
    if isinstance(result, Ownership):
        _ownership(console, result)
    else:
        _inventory(console, result)
    if png is not None:
        console.print(f"Picture: {png}", soft_wrap=True)


def _ownership(console: Console, ownership: Ownership) -> None:
    if ownership.total.owned is None:
        console.print(f"{ownership.method} blends the tasks: no element has an owner. The tensors are:")
        console.print(_sizes(ownership.rows, ownership.by, ownership.kept is not None))
        _say_kept(console, ownership)
        return
    whole = ownership.total.shares or (0.0,) * len(ownership.tasks)
    tasks = zip(ownership.tasks, ownership.total.owned, whole, strict=True)
    console.print(
        _table(
            ["task", "elements owned", "share owned"],
            [[name, f"{count:,}", _percent(share)] for name, count, share in tasks],
        )
    )
    console.print()
    few = len(ownership.tasks) <= MOST_TASKS
    rows = []
    for row in ownership.rows:
        if few:
            cells = [_percent(share) for share in row.shares] if row.shares else ["-"] * len(ownership.tasks)
        else:
            cells = [_largest(ownership.tasks, row.shares) if row.shares else "-"]
        kept = [_kept(row)] if ownership.kept is not None else []
        rows.append([row.name, str(row.tensors), f"{row.elements:,}", *kept, *cells])
    headings = [ownership.by, "tensors", "elements", *(["kept"] if ownership.kept is not None else [])]
    console.print(_table([*headings, *(ownership.tasks if few else ["largest owners"])], rows))
    if any(row.shares is None for row in ownership.rows):
        console.print("-: not merged (no task changed it, or it was excluded or copied).")
    if ownership.note is not None:
        console.print(ownership.note, soft_wrap=True)
    _say_kept(console, ownership)


def _say_kept(console: Console, ownership: Ownership) -> None:
    """What is kept of the changes, or how to see it."""
    if ownership.kept is None:
        text = f"What each {ownership.by} keeps of the changes is not in a receipt. --with-inputs measures it."
    else:
        from prefmerge.merging.page import OF_KEPT

        whole = "" if ownership.total.kept is None else f"The whole model keeps {_kept(ownership.total)}. "
        text = f"{whole}{OF_KEPT}"
    console.print(text, soft_wrap=True)


def _kept(row: OwnedRow) -> str:
    share = None if row.kept is None else row.kept.share
    return "-" if share is None else _percent(share)


def _largest(tasks: Sequence[str], shares: Sequence[float]) -> str:
    first = sorted(range(len(tasks)), key=lambda t: -shares[t])[:LARGEST]
    return ", ".join(f"{tasks[t]} {_percent(shares[t])}" for t in first if shares[t])


def _inventory(console: Console, inventory: Inventory) -> None:
    console.print(f"{inventory.source} has no receipt: a checkpoint, not a merged model.", soft_wrap=True)
    _say_notes(console, [f"{note}." for note in inventory.notes])
    rows = [[name, *(f"{n:,}" for n in counts)] for name, counts in inventory.dtypes.items()]
    console.print(_table(["number format", "tensors", "elements", "bytes"], rows))
    console.print()
    console.print(_sizes(inventory.rows, inventory.by))


def _sizes(rows: Sequence[OwnedRow], by: str, kept: bool = False) -> Table:
    headings = [by, "tensors", "elements", *(["kept"] if kept else [])]
    return _table(
        headings,
        [[row.name, str(row.tensors), f"{row.elements:,}", *([_kept(row)] if kept else [])] for row in rows],
    )


def _owners(receipt: Receipt, owned: Sequence[int]) -> Table:
    """One row per task: share asked, elements owned, and what part of these each pass and chance brought."""
    tasks, totals = receipt.tasks, receipt.totals

    def parts(counts: Sequence[int], wholes: Sequence[int]) -> list[str]:
        return [_percent(n / whole) if whole else "-" for n, whole in zip(counts, wholes, strict=True)]

    columns: dict[str, list[str]] = {}
    if receipt.shares is not None:
        columns["share asked"] = [_share(share) for share in receipt.shares]
    columns["elements owned"] = [f"{n:,}" for n in owned]
    columns["share owned"] = parts(owned, [receipt.elements.merged] * len(tasks))
    passes = totals.passes or ()
    shown = len(passes) if len(passes) <= MOST_PASSES else MOST_PASSES - 1
    for i, counts in enumerate(passes[:shown]):
        columns[f"by pass {i + 1}"] = parts(counts, owned)
    if passes[shown:]:
        columns[f"by passes {shown + 1} to {len(passes)}"] = parts(
            [sum(column) for column in zip(*passes[shown:], strict=True)], owned
        )
    if totals.random is not None:
        columns["at random"] = parts(totals.random, owned)
    return _table(["task", *columns], [list(row) for row in zip(tasks, *columns.values(), strict=True)])


def _say_how(console: Console, settings: Mapping[str, Any], recipe: Recipe) -> None:
    """Preference and parameters, whether they were given or not, and what they take for granted."""
    from prefmerge.merging.order import told_of_order

    if settings[PREFERENCE.name] is not None:
        given = "uniform (none was given)" if recipe.preference is None else describe(recipe.preference, _in_percent)
        console.print(f"Preference: {given}", soft_wrap=True)
    limited = ((one.name, one.unless) for one in declared().values() if one.unless is not None)
    unused = [name for name, unless in limited if settings[unless.other.name] == unless.value]
    shown = {
        name: value
        for name, value in settings.items()
        if not (value is None or value is False or value == []) and name not in (PREFERENCE.name, *unused)
    }
    console.print(", ".join(f"{name} {_setting(value)}" for name, value in shown.items()) + ".", soft_wrap=True)
    for sentence in told_of_order(recipe, settings):
        console.print(sentence, soft_wrap=True)


def _say_notes(console: Console, notes: Sequence[str]) -> None:
    for note in notes:
        console.print(f"Note: {note}", soft_wrap=True)


def _setting(value: Any) -> str:
    if isinstance(value, list):
        rules = any(isinstance(one, dict) for one in value)
        return ("; " if rules else ",").join(map(_setting, value))
    if isinstance(value, dict) and "source" in value:  # a tokenizer
        more = [f"{counted(len(value['tokens']), 'token')} of its own"] if "tokens" in value else []
        more += [f"padded to a multiple of {value['pad_to_multiple_of']}"] if "pad_to_multiple_of" in value else []
        return value["source"] + (f" ({', '.join(more)})" if more else "")
    if isinstance(value, dict):  # a rule for a part of the layers
        return " to ".join(map(_setting, value["value"])) + (f" in {value['filter']}" if "filter" in value else "")
    if isinstance(value, str) and len(value) > SETTING:  # the text of a chat template
        return in_one_line(f"{value[:SETTING]}...")
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1) -> Table:
    """The first `names` columns hold names, the others numbers. In too little room, all but numbers are folded."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for i, heading in enumerate(headings):
        if i < names:
            table.add_column(heading, overflow="fold")
        else:
            table.add_column(
                heading, overflow="fold", justify="right", min_width=max((len(row[i]) for row in rows), default=0)
            )
    for row in rows:
        table.add_row(*row)
    return table


def _share(fraction: str) -> str:
    """`4/5` or `0.8` as a percentage."""
    from fractions import Fraction

    return _percent(float(Fraction(fraction)))


def _in_percent(preference: Preference) -> str:
    """As one would type it; shares as percentages of their sum."""
    if preference.kind != "shares":
        return preference.describe()
    whole = sum(preference.values)
    shares = [f"{100 * float(value / whole):.4g} %" for value in preference.values]
    named = zip(preference.names or (), shares)  # noqa: B905  (no names: positions)
    return ", ".join([f"{name} {share}" for name, share in named] or shares)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _bytes(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
