"""`prefmerge bench`: a whole experiment from a recipe, and what it prints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prefmerge.cli import options as o
from prefmerge.cli.app import command
from prefmerge.errors import PrefmergeError, UsageError, require

if TYPE_CHECKING:
    from prefmerge.lab.prepare import Ready
    from prefmerge.lab.results import Results


@command
def bench(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="Runs, methods, environments, studies.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="OUT", help="Where cells, results and report are kept.")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Pieces of work at once. Default: one per core; 1 where there is an accelerator."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    json: o.Json = False,
) -> None:
    """Run the papers' experiments on a run's checkpoints: tables, figures, one HTML report. Needs the extra `places`.

    After an interruption the same command resumes: what is finished is kept. The smallest recipe:

    \b
      runs: [runs/seed-3, runs/seed-4, runs/seed-5]
    """
    if out is None:
        raise UsageError("-o OUT is missing: where should results and report go?")
    from prefmerge.cli import progress, show
    from prefmerge.lab import bench as experiment
    from prefmerge.lab import report
    from prefmerge.lab.prepare import prepare
    from prefmerge.lab.recipe import read_experiment
    from prefmerge.lab.trainings import untrained

    require("an experiment", "places", "accelerate", "torch")
    asked = read_experiment(recipe)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    if dry_run:
        waiting = untrained(asked, out)
        if waiting:
            _trainings(waiting, json)
            return
        _planned(prepare(asked, out, jobs=jobs or experiment.default_jobs(), say=say), json)
        return
    with progress.working() as shown:
        results = experiment.run(asked, out, jobs=jobs, progress=shown, say=say)
    written = report.write(results, out, experiment.analysis_figures(out))
    if json:
        show.as_json(results.to_json())
    else:
        _done(results, out, written)
    if results.missing:
        raise PrefmergeError(
            f"{len(results.missing)} pieces of work could not be done, the first: {results.missing[0]} The report "
            "names all of them; the same command tries them again."
        )


def _trainings(waiting: list[str], json: bool) -> None:
    from prefmerge.cli import show

    if json:
        show.as_json({"trainings": waiting})
        return
    print(f"To be trained first: {', '.join(waiting)}. The other work is known when they are finished.")


def _planned(ready: Ready, json: bool) -> None:
    from prefmerge.cli import show

    cells = ready.work.cells()
    todo = [cell for cell in cells if cell.load(ready.out) is None]
    if json:
        show.as_json({"cells": len(cells), "to_do": [cell.title for cell in todo]})
        return
    print(f"{len(cells)} pieces of work, {len(cells) - len(todo)} of them done; to do:")
    for cell in todo:
        print(f"  {cell.title}")


def _done(results: Results, out: Path, written: list[Path]) -> None:
    """The main tables, one per scale, and where the rest is."""
    from rich import box
    from rich.table import Table

    from prefmerge.cli import show
    from prefmerge.lab import tables

    console = show._console()
    for scale in results.scales:
        table = tables.environments(results, scale)
        if table is None:
            continue
        shown = Table(title=table.caption, title_justify="left", box=box.SIMPLE)
        for i, text in enumerate(table.header):
            shown.add_column(text, justify="left" if i < table.words else "right")
        for row in table.rows:
            shown.add_row(*(value.text for value in row))
        console.print(shown)
    console.print(f"Report: {out / 'report.html'}, with {len(written) - 1} tables and figures beside it.")
    console.print(f"All right answers: {out / 'results.json'}.")
