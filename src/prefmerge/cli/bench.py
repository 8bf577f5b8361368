"""`prefmerge bench`: a whole experiment from a recipe, and what it prints."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prefmerge.cli import options as o
from prefmerge.cli.app import command
from prefmerge.errors import PrefmergeError, UsageError, require
from prefmerge.ground.progress import phase
from prefmerge.report import place

if TYPE_CHECKING:
    from prefmerge.lab.recipe import Experiment
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
            metavar="N",
            min=1,
            help="Pieces of work at once. Default: one per accelerator, or one per core without any.",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="ADDRESS|local",
            help="Train and do the work on a cluster of Ray whose machines see the same files (extra `ray`). --jobs is "
            "then of all machines together.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Write nothing: count trainings, merges, evaluations, samples and disk, open data and model, and time "
            "some batches.",
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Freeze other environments than those that are frozen in OUT.")
    ] = False,
    report: o.BenchReportFlag = None,
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
    from prefmerge.lab.recipe import read_experiment

    place.asked(o.where(report), made=out)
    require("an experiment", "places", "accelerate", "torch")
    asked = read_experiment(recipe)
    if dry_run:
        _dry_run(asked, out, jobs, ray, force, json)
        return
    with progress.experiment() as shown:
        results = experiment.run(
            asked, out, jobs=jobs, ray=ray, progress=shown.cells, watch=shown.runs, say=shown.say, force=force
        )
        with phase("drawing the report"):
            written = experiment.report(results, out, o.where(report))
    if json:
        show.as_json(results.to_json())
    else:
        _done(results, out, written)
        show.say_report(o.where(report), out)
    if results.missing:
        raise PrefmergeError(
            f"{len(results.missing)} pieces of work could not be done, the first: {results.missing[0]} The report "
            "names all of them; the same command tries them again."
        )


def _dry_run(asked: Experiment, out: Path, jobs: int | None, ray: str | None, force: bool, json: bool) -> None:
    """Say what would be done, write nothing. Raises PrefmergeError where the model cannot be opened."""
    from prefmerge.cli import progress, screen, show
    from prefmerge.lab import on_ray
    from prefmerge.lab.bench import default_jobs
    from prefmerge.lab.forecast import forecast
    from prefmerge.lab.prepare import planned

    with progress.experiment() as shown, contextlib.ExitStack() as stack:
        ready = planned(asked, out, shown.say, force=force)
        crew = None if ray is None else stack.enter_context(on_ray.hired_on(ray, asked, jobs))
        ahead = forecast(ready, jobs or default_jobs() if crew is None else crew.workers, crew=crew)
    if json:
        show.as_json(ahead.to_json())
    else:
        lines = ["To do:", *(f"  {cell.called}" for cell in ahead.to_do)] if ahead.to_do else []
        for line in (*lines, *ahead.lines()):
            screen.console().print(line, soft_wrap=True)
    if ahead.measured.problem is not None:
        raise PrefmergeError(f"the experiment cannot be done here: {ahead.measured.problem}.")


def _done(results: Results, out: Path, written: list[Path]) -> None:
    """The main tables, one per scale, and where the rest is."""
    from rich import box
    from rich.table import Table

    from prefmerge.cli import screen
    from prefmerge.lab import tables

    console = screen.console()
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
