"""`prefmerge prefer`: how much each task matters at the target, out of what is at hand of it."""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefmerge.cli import options as o
from prefmerge.cli.app import command
from prefmerge.cli.of_target import flags_of, parameters
from prefmerge.ground.words import flag
from prefmerge.target.parameters import PreferParameters

if TYPE_CHECKING:
    from prefmerge.target.preferred import Preferred

BAR = 24  # columns of the largest share


@command
@flags_of(PreferParameters)
def prefer(*, json: o.Json = False, **given: Any) -> None:
    """Find the preference for a target from what is at hand of it. (`prefmerge adapt` makes the model for it too.)

    Labels alone, inputs alone, or both; with nothing, every task gets the same. Prints the share of each task and how
    sure it is. Inputs are encoded by the base, and by every checkpoint for the paper's distances (extra
    `places`); labels need no more than the core.
    """
    asked = parameters(PreferParameters, given)
    from prefmerge.cli import progress, show
    from prefmerge.target import prefer as work

    counting, cache = contextlib.nullcontext(), None
    if asked.inputs is not None:
        from prefmerge.models.features import cache_folder

        counting, cache = progress.counting("samples"), cache_folder()
    elif asked.pairs is not None:
        counting = progress.counting("trials")
    with counting as report:
        made = work.prefer(asked, cache, report)
    if json:
        show.as_json({**made.to_json(), "next": next_command(made, asked.out)})
        return
    preferred(made, asked.out)
    source = shlex.join(["--run", str(asked.run)] if asked.run else map(str, asked.checkpoints or ["BASE", "TASK..."]))
    source += "" if asked.task_labels is None else f" --task-labels {shlex.quote(str(asked.task_labels))}"
    target = "--labels FILE"
    if asked.given is not None:
        target = f"--{asked.given} {shlex.quote(str(getattr(asked, asked.given)))}"
    show.say_adapt(source, target)


def next_command(made: Preferred, out: Path | None) -> str:
    """What to type to merge with this preference, and with the settings that were chosen with it."""
    tasks = made.checkpoints
    if tasks.run is not None:
        inputs = shlex.join(["--run", str(tasks.run.folder)])
    else:
        inputs = shlex.join(map(str, (tasks.base, *tasks.paths))) if tasks.paths else "BASE TASK..."
    flags = [word for name, value in made.settings.items() for word in (flag(name), value)]
    last = shlex.join(["--prefer", f"@{out or 'preference.json'}", *flags])
    return f"prefmerge merge {inputs} -o merged/ {last}"


def preferred(made: Preferred, out: Path | None) -> None:
    """The share of each task, how sure it is, what to doubt, and what to type next."""
    from rich import box
    from rich.table import Table

    from prefmerge.cli import screen

    console = screen.console()
    plain = console.options.ascii_only
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("task", overflow="fold")
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, min_width=BAR)
    if made.low is not None:
        table.add_column(f"{100 * made.level:g} % interval", justify="right", no_wrap=True)
    beside = made.beside
    if beside is not None:
        table.add_column("labels alone", justify="right", no_wrap=True)
    largest = float(made.shares.max())
    for t, (name, share) in enumerate(zip(made.checkpoints.names, made.shares.tolist(), strict=True)):
        row = [name, f"{100 * share:.1f} %", bar(share / largest, plain)]
        if made.low is not None and made.high is not None:
            row.append(f"{100 * made.low[t]:.1f} to {100 * made.high[t]:.1f} %")
        if beside is not None:
            alone = f"{100 * beside.shares[t]:.1f} %"
            if beside.low is not None and beside.high is not None:
                alone += f" ({100 * beside.low[t]:.1f} to {100 * beside.high[t]:.1f})"
            row.append(alone)
        table.add_row(*row)
    for doubt in made.doubts:
        console.print(doubt, soft_wrap=True)
        console.print()
    console.print(table)
    console.print()
    if made.about.get("case") == "nothing":
        console.print("Nothing is known of the target, so every task gets the same. With something from there, better:")
        console.print("  --labels FILE     labels that occur there")
        console.print("  --inputs PATH     inputs from there, without labels")
        console.print("  --pairs PATH      inputs with their labels")
    elif made.sure() is not None:
        console.print(made.sure(), soft_wrap=True)
    if made.settings:
        told = ", ".join(f"{name} {value}" for name, value in made.settings.items())
        console.print(f"Chosen with it: {told}.", soft_wrap=True)
    for note in (
        *made.notes,
        *(f"labels alone: {note}" for note in ((*beside.doubts, *beside.notes) if beside else ())),
    ):
        console.print(f"Note: {note}", soft_wrap=True)
    if out is None:
        console.print("Next: the same with -o preference.json, then")
        console.print(f"      {next_command(made, out)}", soft_wrap=True)
    else:
        console.print(f"Output: {out}", soft_wrap=True)
        console.print(f"Next: {next_command(made, out)}", soft_wrap=True)


def bar(part: float, plain: bool = False) -> str:
    """`part` of BAR columns, in eighths of one; whole ones of # where stdout takes only ASCII."""
    if plain:
        return "#" * max(round(part * BAR), int(part > 0))
    eighths = max(round(part * BAR * 8), int(part > 0))
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
