"""`prefmerge inspect`: what is in a merged model, or in the task vectors of a base and its tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prefmerge.cli import options as o
from prefmerge.cli.app import command
from prefmerge.errors import UsageError, require_one_source
from prefmerge.ground.words import counted
from prefmerge.report.place import ReportWhere

if TYPE_CHECKING:
    import numpy as np

    from prefmerge.analysis import By, Measured

MOST_IN_A_MATRIX = 8  # tasks; the JSON and the pictures have all pairs
KEPT = ("all", "top 20%")


@command
def inspect(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RECEIPT|OUT|CHECKPOINT | BASE TASK...",
            help="A merged model, its receipt or any checkpoint; or a base and its tasks in the order of training.",
            show_default=False,
        ),
    ] = None,
    run: o.RunFlag = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            "--against",
            metavar="RUN|TASK",
            help="Compare with the tasks of another run, or with these, over the same base. Repeatable.",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Do not measure these tensors (head.*). Repeatable.")
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(metavar="OLD=NEW", help="Rename the tasks' tensors, as merge does. Repeatable."),
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option(
            "--png",
            metavar="FILE|DIR",
            help="Draw who owns what into this file, or the analyses of task vectors into this folder.",
        ),
    ] = None,
    by: Annotated[str, typer.Option("--by", metavar="layer|tensor", help="One row per layer or per tensor.")] = "layer",
    with_inputs: Annotated[
        bool,
        typer.Option(
            "--with-inputs",
            help="Of a merged model: also merge again from its inputs, without writing it, and show what each layer "
            "keeps of the changes. Takes about as long as the merge did.",
        ),
    ] = False,
    threads: o.Threads = None,
    report: o.ReportFlag = None,
    json: o.Json = False,
) -> None:
    """Show which task owns how much, per layer. For a checkpoint without a receipt: its tensors.

    For a base and its tasks: how their signs conflict, what each contributes to MAGMAX's merge, how much each type of
    layer changed, how the values are spread and how alike the task vectors point.
    """
    paths, against = paths or [], against or []
    grouping = _grouping(by)
    if not paths and run is None:
        # The parser's own word for a missing argument, which only --run makes optional.
        raise typer.BadParameter("give a merged model or a checkpoint, a base and its tasks, or --run RUN.")
    require_one_source(run, paths)
    if run is None and len(paths) == 1:
        of_vectors = ((against, "--against"), (exclude, "--exclude"), (rename, "--rename"))
        for given, flag in (*of_vectors, (threads and not with_inputs, "--threads")):
            if given:
                raise UsageError(f"{flag} is for task vectors; {paths[0]} is alone. Give a base and its tasks.")
        _one(paths[0], png, grouping, with_inputs, threads, json, o.where(report))
    else:
        if with_inputs:
            raise UsageError("--with-inputs is for one merged model. Leave it out, or give the merged model alone.")
        _several(paths, run, against, exclude or [], rename or [], png, grouping, threads, json, o.where(report))


def _grouping(by: str) -> By:
    if by == "layer" or by == "tensor":
        return by
    raise UsageError(f"--by: expected layer or tensor, found {by!r}.")


def _one(
    path: Path, png: Path | None, by: By, with_inputs: bool, threads: int | None, json: bool, report: ReportWhere
) -> None:
    from prefmerge import analysis
    from prefmerge.analysis.inspecting import report_place, write_report_of
    from prefmerge.cli import progress, show

    to = report_place(report)
    if with_inputs:
        show.say_compiling()
        with progress.merging() as shown:
            result = analysis.look(path, by, with_inputs=True, threads=threads, progress=shown)
    else:
        result = analysis.look(path, by)
    if png is not None:
        if not isinstance(result, analysis.Ownership):
            raise UsageError(
                f"--png draws who owns what, which needs a receipt; {path} has none. Leave --png out, or give a "
                f"merged model."
            )
        analysis.draw(result, png)
    if to is not None:
        write_report_of(path, result, to)
    if json:
        show.as_json(result.to_json())
    else:
        show.inspected(result, png)
        show.say_report_at(to)


def _several(
    paths: Sequence[Path],
    run: Path | None,
    against: Sequence[Path],
    exclude: Sequence[str],
    rename: Sequence[str],
    png: Path | None,
    by: By,
    threads: int | None,
    json: bool,
    report: ReportWhere,
) -> None:
    from prefmerge import analysis, plotting
    from prefmerge.analysis.inspecting import report_place, write_report_of_vectors
    from prefmerge.analysis.measured import require_one_base
    from prefmerge.cli import progress, show

    to = report_place(report)
    if png is not None:
        _require_folder(png)
        plotting.new_figure(1, 1)  # without matplotlib: say so before anything is read
    given = [_of_run(run) if run is not None else (paths[0], paths[1:], None)]
    if len(against) == 1 and (against[0] / _manifest()).is_file():
        given.append(_of_run(against[0]))
    elif against:
        given.append((given[0][0], against, None))
    show.say_compiling()
    sets: list[Measured] = []
    for base, tasks, names in given:
        with progress.merging() as shown:
            sets.append(analysis.measure(base, tasks, names, threads, shown, exclude=exclude, rename=rename))
    sets = _labelled(sets, run, against)
    require_one_base(sets)
    pictures: list[Path] = []
    if png is not None:
        pictures = analysis.figures.draw_all(sets, png)
    if to is not None:
        words = ["--run", run.name] if run is not None else [path.name for path in paths]
        words += [part for one in against for part in ("--against", one.name)]
        write_report_of_vectors(sets, words, to)
    if json:
        show.as_json(
            {
                "format": "prefmerge-inspect/1",
                "sets": [measured.to_json() for measured in sets],
                "findings": analysis.findings.every(sets),
                "pictures": [str(path) for path in pictures],
            }
        )
    else:
        _show(sets, by, pictures)
        show.say_report_at(to)


def _require_folder(png: Path) -> None:
    if png.is_file() or (png.suffix and not png.is_dir()):
        raise UsageError(f"--png {png}: the analyses of task vectors are several pictures. Give a folder.")
    if png.parent != png and not png.parent.is_dir():
        raise UsageError(f"--png {png}: there is no folder {png.parent}. Make it, or choose another.")


def _manifest() -> str:
    from prefmerge.runs import FILE

    return FILE


def _of_run(folder: Path) -> tuple[Path, Sequence[Path], Sequence[str] | None]:
    """Base, tasks and their names of a run that is finished."""
    from prefmerge.cli.merging import of_run as recipe_of_run

    recipe = recipe_of_run(folder)
    return (
        Path(recipe.base or ""),
        [Path(task.path) for task in recipe.tasks],
        [task.name or "" for task in recipe.tasks],
    )


def _labelled(sets: list[Measured], run: Path | None, against: Sequence[Path]) -> list[Measured]:
    """The sets; two that were trained alike are called after their folders."""
    if len(sets) < 2 or sets[0].label != sets[1].label:
        return sets
    names = [
        "tasks" if run is None else run.absolute().name,
        "against" if len(against) > 1 else against[0].absolute().name,
    ]
    if names[0] == names[1]:
        names = ["tasks", "against"]
    return [replace(measured, label=name) for measured, name in zip(sets, names, strict=True)]


def _show(sets: Sequence[Measured], by: By, pictures: Sequence[Path]) -> None:
    from prefmerge.analysis import findings
    from prefmerge.cli import screen, show

    console = screen.console()

    def table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], said: str) -> None:
        console.print(title, soft_wrap=True)
        if rows:
            console.print(show._table(headings, rows))
        console.print(said, soft_wrap=True)
        console.print()

    for measured in sets:
        said = f"{findings.contributions(measured)} {findings.distributions(measured)}"
        table(f"{_title(measured)} Task by task:", _TASKS, _tasks(measured), said)
    columns = [f"{_of(measured, sets)}{kept}" for measured in sets for kept in KEPT]
    rows = _first_tasks(sets)
    said = findings.sign_conflicts(sets)
    table("Sign conflicts, % of what two tasks or more keep, after each task:", ["tasks", *columns], rows, said)
    for measured in sets:
        if 2 < len(measured.tasks) <= MOST_IN_A_MATRIX:
            pairs = _matrix(measured.signs[0].pairs(), show._percent)
            title = f"Signs that differ, pair by pair{_in(measured, sets)}, % of what both changed:"
            table(title, ["task", *measured.tasks], _rows(measured.tasks, pairs), findings.pairs(measured))
    layers = [
        [name, f"{parts[0].elements:,}", *(_percent(p.conflict_share(d)) for p in parts for d in range(len(KEPT)))]
        for name, parts in _joined(sets, by)
    ]
    title = f"Sign conflicts by {by}, after all tasks:"
    table(title, [by, "elements", *columns], layers, findings.layers(sets, by))
    types = [
        [name, f"{parts[0].elements:,}", *(_number(p.mean_merged()[-1]) for p in parts)]
        for name, parts in _joined(sets, "type")
    ]
    means = [f"{_of(measured, sets)}mean |tau|" for measured in sets]
    title = "Magnitudes of the MAGMAX merge by layer type, biases left out:"
    table(title, ["layer type", "elements", *means], types, findings.magnitudes(sets))
    console.print(findings.angles(sets), soft_wrap=True)
    if pictures:
        console.print(f"Pictures: {', '.join(map(str, pictures))}", soft_wrap=True)


_TASKS = (
    "task",
    "contributes",
    "unchanged",
    "mean |tau|",
    "std",
    "median",
    "99 %",
    "norm",
    "cosine to the one before",
)


def _tasks(measured: Measured) -> list[list[str]]:
    cosines = measured.cosines()
    return [
        [
            name,
            _percent(measured.contributions()[t]),
            _percent(measured.zeros()[t] / max(1, measured.elements)),
            _number(measured.mean_magnitudes()[t]),
            _number(measured.deviations()[t]),
            _number(measured.quantiles(0.5)[t]),
            _number(measured.quantiles(0.99)[t]),
            f"{measured.norms()[t]:.4g}",
            "-" if t == 0 else _plain(cosines[t][t - 1]),
        ]
        for t, name in enumerate(measured.tasks)
    ]


def _first_tasks(sets: Sequence[Measured]) -> list[list[str]]:
    """A row per number of tasks, from two on."""
    rows = []
    for t in range(1, max(len(measured.tasks) for measured in sets)):
        row = [f"first {t + 1}"]
        for measured in sets:
            for signs in measured.signs:
                row.append(_percent(signs.share()[t]) if t < len(measured.tasks) else "-")
        rows.append(row)
    return rows


def _joined(sets: Sequence[Measured], by: str) -> list[tuple[str, list]]:
    """The same layer or type of every set, side by side: they change one base."""
    each = [{part.name: part for part in measured.by(by)} for measured in sets]  # pyright: ignore[reportArgumentType]
    return [(name, [parts[name] for parts in each]) for name in each[0] if all(name in parts for parts in each)]


def _matrix(values_TT: np.ndarray, shown: Callable[[float], str]) -> list[list[str]]:
    return [
        ["-" if i == j or value != value else shown(value) for j, value in enumerate(row)]
        for i, row in enumerate(values_TT)
    ]


def _rows(names: Sequence[str], cells: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[name, *row] for name, row in zip(names, cells, strict=True)]


def _title(measured: Measured) -> str:
    how = f", {measured.training} fine-tuning" if measured.training else ""
    vectors = counted(len(measured.tasks), "task vector")
    return f"{measured.label}: {vectors} of {measured.elements:,} elements{how}."


def _of(measured: Measured, sets: Sequence[Measured]) -> str:
    return f"{measured.label}: " if len(sets) > 1 else ""


def _in(measured: Measured, sets: Sequence[Measured]) -> str:
    return f", {measured.label}" if len(sets) > 1 else ""


def _percent(share: float) -> str:
    return "-" if share != share else f"{100 * share:.1f} %"


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.2e}"


def _plain(value: float) -> str:
    return "-" if value != value else f"{round(value, 3) + 0.0:.3f}"
