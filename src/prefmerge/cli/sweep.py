"""`prefmerge sweep`: many merges of the same checkpoints, one for each combination of values, over one reading."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefmerge.cli import options as o
from prefmerge.cli.app import command
from prefmerge.cli.derived import given_flags, of_a_merge
from prefmerge.cli.merging import recipe_given, require_something
from prefmerge.errors import UsageError
from prefmerge.ground.words import counted
from prefmerge.merging.parameters import METHOD, every

if TYPE_CHECKING:
    from prefmerge.merging.sweep import SweptModel


@command
@of_a_merge
def sweep(
    inputs: o.Inputs = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="DIR", help="A folder for the models.")] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=A|B", help="A parameter and its values, with | between. Repeatable: all together."),
    ] = None,
    run: o.RunFlag = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Keep the models and tensors that are finished, and make the others."),
    ] = False,
    ray: o.Ray = None,
    threads: o.Threads = None,
    max_memory: o.MaxMemory = "1GiB",
    force: o.Force = False,
    report: o.MergeReportFlag = None,
    json: o.Json = False,
    **given: Any,
) -> None:
    """Write many merges of the same checkpoints, one for each combination of values, over one reading.

    Each model is what `prefmerge merge` makes with its parameters, and has its own receipt. sweep.json lists them.
    """
    require_something(inputs, run)
    if out is None:
        raise UsageError("-o DIR is missing: where should the models go?")
    values = _values(vary or [])
    recipe = recipe_given(inputs or [], run, given_flags(given))
    from prefmerge.cli import progress, show
    from prefmerge.ground import jsons
    from prefmerge.merging import sweep as work

    show.say_compiling()
    how: dict[str, Any] = {"threads": threads, "max_memory": max_memory, "ray": ray, "report": o.where(report)}
    with progress.merging() as shown:
        models = work.sweep(recipe, out, values, resume=resume, force=force, progress=shown, **how)
    if json:
        show.as_json(jsons.read(out / work.TABLE))
    else:
        _table(models, out)
        show.say_report(o.where(report), out)


def _values(vary: list[str]) -> dict[str, list[str]]:
    """The values of each parameter, by its name in a recipe. Raises UsageError."""
    flags = {one.spelled.removeprefix("--"): name for name, one in {METHOD.name: METHOD, **every()}.items() if one.flag}
    values: dict[str, list[str]] = {}
    for text in vary:
        word, equals, several = (part.strip() for part in text.partition("="))
        if not equals:
            raise UsageError(f"--vary {text}: expected NAME=ONE|ANOTHER, such as scale=0.5|1.")
        name = flags.get(word.replace("_", "-"), word.replace("-", "_"))
        if name in values:
            raise UsageError(f"--vary names {word} twice. Put all its values into one.")
        values[name] = list(dict.fromkeys(one.strip() for one in several.split("|") if one.strip()))
    return values


def _table(models: list[SweptModel], out: Path) -> None:
    """What was made, by name, and who owns how much of it."""
    from rich import box
    from rich.table import Table

    from prefmerge.cli import screen

    console = screen.console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("model", overflow="fold")
    tasks = models[0].receipt.tasks
    for task in tasks:
        table.add_column(f"{task} owns", justify="right")
    table.add_column("")
    for one in models:
        owned = one.receipt.owned
        whole = sum(owned or ())
        parts = [f"{100 * part / whole:.1f} %" for part in owned] if owned and whole else ["-"] * len(tasks)
        table.add_row(one.out.name, *parts, "kept" if one.kept else "")
    console.print(table)
    console.print()
    kept = sum(one.kept for one in models)
    number = counted(len(models), "model")
    console.print(f"{number}, {kept} of them kept." if kept else f"{number}.")
    console.print(f"Output: {out}", soft_wrap=True)
