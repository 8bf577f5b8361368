"""`prefmerge bench`: a whole experiment from a recipe, and what it prints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefmerge.cli import options as o
from prefmerge.cli.app import command
from prefmerge.errors import PrefmergeError, UsageError

if TYPE_CHECKING:
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what there is to do, and do none of it.")] = False,
    json: o.Json = False,
) -> None:
    """Run the papers' experiments on a run's checkpoints: tables, figures, one HTML report. Needs the extra `places`.

    The same command goes on where it was interrupted: what is finished is kept. The smallest recipe:

    \b
      runs: [runs/seed-3, runs/seed-4, runs/seed-5]
    """
    if out is None:
        raise UsageError("-o OUT is missing: where should results and report go?")
    from prefmerge.cli import progress, show
    from prefmerge.lab import report, runner
    from prefmerge.lab.recipe import read_experiment
    from prefmerge.training.finetuning import require_train

    require_train("an experiment")
    asked = read_experiment(recipe)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    if dry_run:
        waiting = runner.untrained(asked, out)
        if waiting:
            _trainings(waiting, json)
            return
        ready = runner.prepare(asked, out, jobs=jobs, say=say)
        _planned(ready, json)
        return
    with progress.working() as told:
        results = runner.run(asked, out, jobs=jobs, progress=told, say=say)
    written = report.write(results, out, runner.analysis_figures(out))
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
    print(f"To be trained first: {', '.join(waiting)}. What else there is to do is known when these are there.")


def _planned(ready: Any, json: bool) -> None:
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
        found = tables.environments(results, scale)
        if found is None:
            continue
        shown = Table(title=found.caption, title_justify="left", box=box.SIMPLE)
        for i, text in enumerate(found.header):
            shown.add_column(text, justify="left" if i < found.words else "right")
        for row in found.rows:
            shown.add_row(*(cell.text for cell in row))
        console.print(shown)
    console.print(f"Report: {out / 'report.html'}, with {len(written) - 1} tables and figures beside it.")
    console.print(f"All right answers: {out / 'results.json'}.")
