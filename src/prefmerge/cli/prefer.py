"""`prefmerge prefer`: how much each task matters at a place, out of what is at hand there."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefmerge.cli import options as o
from prefmerge.cli.app import command
from prefmerge.errors import UsageError
from prefmerge.ground.words import flag

if TYPE_CHECKING:
    from prefmerge.target.prefer import Preferred, Tasks

BAR = 24  # columns of the largest share


@command
def prefer(
    checkpoints: Annotated[
        list[Path] | None,
        typer.Argument(metavar="BASE TASK...", help="The base and the tasks in the order of training; or --run."),
    ] = None,
    run: o.Run = None,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Labels seen at the place: a CSV with a column label, a .txt, JSON counts."),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Inputs seen at the place, without labels: a folder of images or .txt files, a .txt, a CSV; or their "
            "embeddings (.npy, .npz).",
        ),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Inputs with labels: a CSV, or a folder of images per class. Searches; needs --run."
        ),
    ] = None,
    similarity: Annotated[
        str | None,
        typer.Option(metavar="ot|cosine|mmd", help="How --features are compared: optimal transport (default), ..."),
    ] = None,
    solver: Annotated[
        str | None, typer.Option(metavar="sinkhorn|exact|debiased", help="Of optimal transport. Default sinkhorn.")
    ] = None,
    regularization: Annotated[
        float | None, typer.Option(metavar="R", help="Of sinkhorn, as a part of the largest cost. Default 0.1.")
    ] = None,
    gamma: Annotated[
        float | None,
        typer.Option(metavar="G", help="How sharply distances become shares. Default 100; cosine: 50."),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Training samples of each task that are encoded. Default 500."),
    ] = None,
    task_labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Samples per task and class, without a run: {task: {class: n}} or a CSV."),
    ] = None,
    task_samples: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH", help="Training samples of a task, without a run; once for each, or one folder of all."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="ID|FOLDER", help="The encoder that the checkpoints are of. Default: BASE.")
    ] = None,
    level: Annotated[float, typer.Option(metavar="0..1", help="Confidence of the interval on each share.")] = 0.9,
    draws: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Of the bootstrap. Default 1000 for labels, 200 for features; 0: none."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Chooses training samples and draws.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Keep the preference: preference.json.")
    ] = None,
    force: o.Force = False,
    json: o.Json = False,
) -> None:
    """Find the preference for a place from what is at hand there. (`prefmerge adapt` goes on to the model for it.)

    Labels alone, inputs alone, or both; with nothing, every task gets the same. Prints the share of each task and how
    sure it is. Inputs are encoded by every checkpoint (extra `places`), labels need no more than the core.
    """
    given = {name: path for name, path in (("labels", labels), ("features", features), ("pairs", pairs)) if path}
    if len(given) > 1:
        raise UsageError(f"--{' and --'.join(given)}: give one of them. With labels for the inputs, that is --pairs.")
    if run is not None and checkpoints:
        raise UsageError(f"--run {run} already says which checkpoints to take; {checkpoints[0]} is one too many.")
    case = next(iter(given), "nothing")
    _no_use(
        case,
        similarity or "ot",
        {
            "similarity": similarity,
            "solver": solver,
            "regularization": regularization,
            "gamma": gamma,
            "samples": samples,
            "task-labels": task_labels,
            "task-samples": task_samples or None,
            "model": model,
            "draws": draws,
        },
    )
    if similarity not in (None, "ot", "cosine", "mmd"):
        raise UsageError(f"--similarity {similarity}: expected ot, cosine or mmd.")
    if not 0 < level < 1:
        raise UsageError(f"--level {level:g}: expected a number between 0 and 1, such as 0.9.")
    from prefmerge.cli import progress, show
    from prefmerge.target import prefer as work

    if out is not None:
        work.check_output(out, force or case == "pairs")
    tasks = _tasks(run, checkpoints or [])
    if case == "nothing":
        if tasks is None:
            raise UsageError(
                "nothing to go by. Say what the tasks are (--run RUN, or BASE TASK...) and what you have of the place: "
                "--labels FILE, --features PATH or --pairs PATH."
            )
        found = work.from_nothing(tasks)
    elif labels is not None:
        found = work.from_labels(
            tasks, labels, task_labels=task_labels, draws=1000 if draws is None else draws, level=level, seed=seed
        )
    elif features is not None:
        from prefmerge.models.features import cache_folder

        settings = {"solver": solver, "regularization": regularization, "gamma": gamma}
        with progress.counting("samples") as report:
            found = work.from_features(
                tasks,
                features,
                kind=similarity or "ot",
                settings={name: value for name, value in settings.items() if value is not None},
                samples=samples or 500,
                task_samples=task_samples or (),
                model=model,
                draws=200 if draws is None else draws,
                level=level,
                seed=seed,
                cache=cache_folder(),
                progress=report,
            )
    else:
        assert pairs is not None
        with progress.counting("trials") as report:
            found = work.from_pairs(
                tasks,
                pairs,
                out=out,
                force=force,
                draws=1000 if draws is None else draws,
                level=level,
                seed=seed,
                progress=report,
            )
    if out is not None:
        found.save(out, force or case == "pairs")  # a search has written a preference there, and asked before
    if json:
        show.as_json({**found.to_json(), "next": next_command(found, out)})
    else:
        preferred(found, out)
        source = shlex.join(["--run", str(run)] if run is not None else map(str, checkpoints or ["BASE", "TASK..."]))
        source += "" if task_labels is None else f" --task-labels {shlex.quote(str(task_labels))}"
        flag = "inputs" if case == "features" else case
        show.say_adapt(source, f"--{flag} {shlex.quote(str(given[case]))}" if given else "--labels FILE")


def _tasks(run: Path | None, checkpoints: list[Path]) -> Tasks | None:
    from prefmerge.target import prefer as work

    if run is not None:
        return work.tasks_of_run(run)
    return work.tasks_of_checkpoints(checkpoints[0], checkpoints[1:]) if checkpoints else None


def _no_use(case: str, kind: str, flags: dict[str, Any]) -> None:
    """Refuse a flag that what is given has no use for."""
    used = {
        "labels": ("task-labels", "draws"),
        "pairs": ("draws",),
        "features": ("similarity", "gamma", "samples", "task-samples", "model", "draws")
        + (("solver", "regularization") if kind == "ot" else ()),
    }.get(case, ())
    idle = next((name for name, value in flags.items() if value is not None and name not in used), None)
    if idle is None:
        return
    if case == "nothing":
        raise UsageError(f"--{idle} is of no use without --labels, --features or --pairs.")
    with_what = f"--similarity {kind}" if case == "features" and idle in ("solver", "regularization") else f"--{case}"
    raise UsageError(f"--{idle} is of no use with {with_what}.")


def next_command(found: Preferred, out: Path | None) -> str:
    """What to type to merge with this preference, and with the settings that were found with it."""
    tasks = found.tasks
    if tasks.run is not None:
        inputs = shlex.join(["--run", str(tasks.run.folder)])
    else:
        inputs = shlex.join(map(str, (tasks.base, *tasks.checkpoints))) if tasks.checkpoints else "BASE TASK..."
    flags = [word for name, value in found.settings.items() for word in (flag(name), value)]
    last = shlex.join(["--prefer", f"@{out or 'preference.json'}", *flags])
    return f"prefmerge merge {inputs} -o merged/ {last}"


def preferred(found: Preferred, out: Path | None) -> None:
    """The share of each task, how sure it is, what to doubt, and what to type next."""
    from rich import box
    from rich.table import Table

    from prefmerge.cli import show

    console = show._console()
    plain = console.options.ascii_only
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("task", overflow="fold")
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, min_width=BAR)
    if found.low is not None:
        table.add_column(f"{100 * found.level:g} % interval", justify="right", no_wrap=True)
    beside = found.beside
    if beside is not None:
        table.add_column("labels alone", justify="right", no_wrap=True)
    largest = float(found.shares.max())
    for t, (name, share) in enumerate(zip(found.tasks.names, found.shares.tolist(), strict=True)):
        row = [name, f"{100 * share:.1f} %", bar(share / largest, plain)]
        if found.low is not None and found.high is not None:
            row.append(f"{100 * found.low[t]:.1f} to {100 * found.high[t]:.1f} %")
        if beside is not None:
            alone = f"{100 * beside.shares[t]:.1f} %"
            if beside.low is not None and beside.high is not None:
                alone += f" ({100 * beside.low[t]:.1f} to {100 * beside.high[t]:.1f})"
            row.append(alone)
        table.add_row(*row)
    console.print(table)
    console.print()
    if found.about.get("case") == "nothing":
        console.print("Nothing is known of the place, so every task gets the same. With something from there, better:")
        console.print("  --labels FILE     labels that occur there")
        console.print("  --features PATH   inputs from there, without labels")
        console.print("  --pairs PATH      inputs with their labels")
    elif found.sure() is not None:
        console.print(found.sure(), soft_wrap=True)
    if found.settings:
        told = ", ".join(f"{name} {value}" for name, value in found.settings.items())
        console.print(f"Found with it: {told}.", soft_wrap=True)
    for note in (*found.notes, *(f"labels alone: {note}" for note in (beside.notes if beside else ()))):
        console.print(f"Note: {note}", soft_wrap=True)
    if out is None:
        console.print("Next: the same with -o preference.json, then")
        console.print(f"      {next_command(found, out)}", soft_wrap=True)
    else:
        console.print(f"Output: {out}", soft_wrap=True)
        console.print(f"Next: {next_command(found, out)}", soft_wrap=True)


def bar(part: float, plain: bool = False) -> str:
    """`part` of BAR columns, in eighths of one; whole ones of # where stdout takes only ASCII."""
    if plain:
        return "#" * max(round(part * BAR), int(part > 0))
    eighths = max(round(part * BAR * 8), int(part > 0))
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
