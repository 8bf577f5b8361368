"""`prefmerge search`: the settings with the best accuracy on labelled samples of a place."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from prefmerge.cli import options as o
from prefmerge.cli.app import command
from prefmerge.errors import UsageError
from prefmerge.ground.words import joined
from prefmerge.merging.parameters import searchable
from prefmerge.methods.parameters import PREFERENCE

if TYPE_CHECKING:
    from prefmerge.target.search import Found, Output

_USUAL = [name for name, over in searchable().items() if over.usual]
_OTHERS = [name for name, over in searchable().items() if not over.usual]
MOST_TASKS = 8  # rows of shares; beyond that the largest


@command
def search(
    run: o.Run = None,
    pairs: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Inputs of the place with labels: a CSV, or a folder of images per class."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="OUT", help="A folder for trials and result; or a .json, the preference."),
    ] = None,
    trials: Annotated[int, typer.Option(metavar="N", help="Settings to try at most.")] = 50,
    patience: Annotated[int, typer.Option(metavar="N", help="End after so many trials that are no better.")] = 10,
    space: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help=f"What to search: some of {', '.join(_USUAL)} (the default), {joined(_OTHERS)}; name=value fixes one.",
        ),
    ] = None,
    held_out: Annotated[
        float, typer.Option(metavar="0..0.9", help="Part of the samples that only chooses among the best.")
    ] = 0.3,
    batch: Annotated[
        int, typer.Option(metavar="N", help="Settings that are merged together, in one reading of the checkpoints.")
    ] = 4,
    seed: Annotated[int, typer.Option(metavar="N", help="Decides what is tried and what is held out.")] = 0,
    threads: o.Threads = None,
    force: Annotated[bool, typer.Option("--force", help="Begin an existing search anew.")] = False,
    json: o.Json = False,
) -> None:
    """Search for the preference and scale with the best accuracy on labelled samples of a place.

    Most people want `prefmerge adapt --pairs`, which chooses among more models and says how good the choice is.
    Needs inputs with labels (with labels or inputs alone, see `prefmerge prefer`) and the extra `places`. The same
    command goes on with a search that was interrupted.
    """
    for flag, given, what in (
        ("--run RUN", run, "the run whose tasks are to be merged"),
        ("--pairs PATH", pairs, "inputs of the place with their labels"),
        ("--out OUT", out, "where to keep the search"),
    ):
        if given is None:
            raise UsageError(f"{flag} is missing: {what}.")
    assert run is not None
    assert pairs is not None
    assert out is not None
    from prefmerge.cli import progress, show
    from prefmerge.target import search as work

    wanted = work.Space() if space is None else work.Space.parse(space)
    with progress.searching() as report:
        found = work.search(
            run,
            pairs,
            out,
            space=wanted,
            held_out=held_out,
            patience=patience,
            trials=trials,
            batch=batch,
            seed=seed,
            force=force,
            threads=threads,
            progress=report,
        )
    place = work.Output.of(out)
    line = found.command(["--run", str(run)], str(place.preference))
    if json:
        show.as_json({**found.to_json(), "command": line})
    else:
        searched(found, place, line)
        show.say_adapt(f"--run {quote(str(run))}", f"--pairs {quote(str(pairs))}")


def searched(found: Found, place: Output, line: str) -> None:
    """What was chosen, how good it is and how sure that is, and what to type next."""
    from rich import box
    from rich.table import Table

    from prefmerge.cli import show

    console = show._console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for title in ("", "ranked the trials", "held out"):
        table.add_column(title, overflow="fold")
    rows = [one for one in found.trials if one.start]
    if not found.best.start:
        rows.append(found.best)
    for one in rows:
        held = found.held_out_accuracy(one)
        chosen = ", chosen" if one.number == found.best.number else ""
        table.add_row(f"{one.what}{chosen}", str(found.search_accuracy(one)), "none" if held is None else str(held))
    console.print(table)
    console.print()
    console.print(f"{len(found.trials)} trials; ended by {found.stopped}.")
    console.print(found.verdict, soft_wrap=True)
    if found.preference is not None:
        shares = sorted(zip(found.names, found.preference.shares(found.names), strict=True), key=lambda pair: -pair[1])
        told = ", ".join(f"{name} {100 * float(share):.1f} %" for name, share in shares[:MOST_TASKS] if share)
        console.print(f"Preference: {told}", soft_wrap=True)
    rest = ", ".join(f"{name} {value}" for name, value in found.settings.items() if name != PREFERENCE.name)
    console.print(f"Settings: {rest}", soft_wrap=True)
    console.print(f"Output: {place.folder}", soft_wrap=True)
    console.print(f"Next: {line}", soft_wrap=True)
