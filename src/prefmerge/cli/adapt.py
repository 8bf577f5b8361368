"""`prefmerge adapt`: the best model for a target, and how good it will be there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefmerge.cli import options as o
from prefmerge.cli import scores, screen
from prefmerge.cli.app import command
from prefmerge.cli.of_target import flags_of, parameters, typed
from prefmerge.ground.words import listed
from prefmerge.report.place import is_report
from prefmerge.target.parameters import Parameters

if TYPE_CHECKING:
    from prefmerge.target.estimates import Estimates, Row
    from prefmerge.target.result import Adapted

BAR = 24  # columns of the largest share
MOST_TASKS = 8  # rows of shares; beyond that the largest


Check = Annotated[
    Path | None,
    typer.Option(
        "--check",
        metavar="OUT",
        help="Write nothing: say whether the target's mix has moved since OUT was adapted to it. Give later samples, "
        "without those of before.",
    ),
]


@command
@flags_of(Parameters)
def adapt(context: typer.Context, *, check: Check = None, json: o.Json = False, **given: Any) -> None:
    """Make the best model for a target out of a run, and say how good it will be there.

    Show what you have of the target: labels that occur there, inputs, inputs with labels, or a mix that you state. It
    tries the checkpoints and merges of them on held-out samples, weighed as the target has them. The output is a folder
    with weights, head, receipt and report. Needs the extra `places`.

    With --check nothing is written: it says whether the target's mix has moved since. The exit code is 0 either way.

    A model that prefmerge cannot run, such as a language model, needs a score of yours: a command that gets the folder
    of a candidate and prints a number. The target is then a mix that you state, or labels and those that each task had.
    """
    from prefmerge.cli import progress, show
    from prefmerge.target import api

    given = typed(context, given)
    if check is not None:
        _check(check, given, json)
        return
    asked = parameters(Parameters, given)
    counting = progress.steps() if asked.score is None else progress.scoring()
    with counting as report:
        made = api.adapted(asked, report)
    if json:
        show.as_json({**made.to_json(), "command": _command(made)})
    else:
        adapted(made)


def _check(out: Path, given: dict[str, Any], json: bool) -> None:
    """`--check OUT`."""
    from prefmerge.cli import progress, show
    from prefmerge.cli.adapt_check import checked
    from prefmerge.target.adapt import require_extras
    from prefmerge.target.check import check

    require_extras()
    with progress.steps() as report:
        done = check(out, progress=report, **given)
    if json:
        show.as_json(done.to_json())
    else:
        checked(done)


def adapted(made: Adapted) -> None:
    """What the target is like, what was chosen, what it is worth there, and where it is."""
    from rich import box
    from rich.table import Table

    console = screen.console()
    shares = made.evidence.shares
    console.print(_source(made))
    order = sorted(range(len(shares.names)), key=lambda t: -shares.shares[t])
    width = max(len(shares.names[t]) for t in order[:MOST_TASKS])
    for t in order[:MOST_TASKS]:
        bar = "█" * round(BAR * shares.shares[t] / max(shares.shares.max(), 1e-9))
        sure = "" if shares.source == "stated" else f"[{100 * shares.low[t]:.0f}, {100 * shares.high[t]:.0f}]"
        console.print(f"  {shares.names[t]:<{width}}  {bar:<{BAR}}  {100 * shares.shares[t]:5.1f} %  {sure}")
    if len(order) > MOST_TASKS:
        console.print(f"  and {len(order) - MOST_TASKS} more tasks")
    console.print()
    if made.scored is not None:
        scores.adapted(made)
        _report(made)
        console.print(f"{made.by_hand}: {_command(made)}", soft_wrap=True)
        return
    if made.estimates is not None:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        table.add_column("model")
        for heading in (
            f"{_measure(made)} at the target",
            f"{100 * made.estimates.level:g} % interval",
            "this model is ahead by",
        ):
            table.add_column(heading, justify="right")
        for row in made.estimates.rows:
            table.add_row(row.title, *_numbers(row), style="bold" if row is made.estimates.chosen else None)
        console.print(table)
        console.print()
    console.print(made.verdict, soft_wrap=True)
    if made.estimates is not None:
        for line in (*_by_class(made.estimates), *_elsewhere(made.estimates)):
            console.print(line, soft_wrap=True)
    if made.drift is not None:
        console.print(made.drift, soft_wrap=True)
    for note in made.notes:
        console.print(f"Note: {note}", soft_wrap=True)
    cost = made.cost
    console.print(
        f"{cost['candidates']:.0f} candidates, {cost['merges']:.0f} merges, {cost['forwards']:.0f} forward passes, "
        f"{cost['seconds']:.0f} s."
    )
    out = made.parameters.out
    by_itself = None if out is None else made.use(str(out))
    if out is not None:
        head = "" if made.head is None else "head, "
        console.print(f"Output: {out} (weights, {head}report.html)", soft_wrap=True)
    _report(made)
    if by_itself is not None:
        console.print(by_itself[0], soft_wrap=True)
        for line in by_itself[1].splitlines():
            console.print(f"    {line}", soft_wrap=True)
    console.print(f"{made.by_hand}: {_command(made)}", soft_wrap=True)


def _report(made: Adapted) -> None:
    """Where the report went, if that was asked for."""
    elsewhere = made.parameters.report
    if elsewhere is not None and is_report(elsewhere):
        screen.console().print(f"Report: {elsewhere}", soft_wrap=True)


def _by_class(estimates: Estimates) -> Iterator[str]:
    """Balanced accuracy, and which classes lose most."""
    chosen, before = estimates.chosen, estimates.before
    if chosen.balanced is not None:
        told = f"Balanced accuracy (mean recall of its classes): {100 * chosen.balanced.value:.1f} %"
        told += f" {chosen.balanced.interval}"
        if before is not None and before.balanced is not None:
            told += f"; the {before.name}: {100 * before.balanced.value:.1f} %"
        yield f"{told}."
    if estimates.fell:

        def fall(name: str) -> str:
            one = estimates.recall[name]
            return f"{name} ({100 * one.value:.0f} %, before {100 * one.before:.0f} %, of {one.samples} samples)"

        yield f"Classes that it names worse than the {estimates.there} does: {listed(estimates.fell, 3, form=fall)}."


def _elsewhere(estimates: Estimates) -> Iterator[str]:
    """What is lost on the other tasks."""
    others = estimates.others
    if others:
        n = sum(count for count, _, _ in others.values())
        before, after = (sum(row[0] * row[k] for row in others.values()) / n for k in (1, 2))
        yield (
            f"On the other tasks it names {100 * after:.0f} % correctly, the {estimates.there} {100 * before:.0f} % "
            f"({n} samples): use it at the target only."
        )


def _command(made: Adapted) -> str:
    from prefmerge.target.result import command as line

    out = made.parameters.out
    return line(made, "OUT" if out is None else f"{out}-by-hand")


def _measure(made: Adapted) -> str:
    """What the numbers are."""
    foreign = made.evidence.shares.foreign
    of = " of what is of a task" if foreign is not None and foreign.low > 0 else ""
    return ("mean recall" if made.parameters.metric == "balanced" else "accuracy") + of


def _source(made: Adapted) -> str:
    shares = made.evidence.shares
    if made.nothing_said:
        return "Nothing was said of the target, so all tasks count alike:"
    if shares.source == "stated":
        return "The target, by the mix that you state:"
    known = f"{shares.samples:,} {shares.source} (shares of the tasks, with {100 * shares.level:g} % intervals)"
    return f"The target, by {known}:"


def _numbers(row: Row) -> tuple[str, str, str]:
    ahead = ""
    if row.ahead is not None:
        ahead = f"{100 * row.ahead.value:+.1f} {row.ahead.interval}"
        ahead += "" if row.clear else ", no clear difference"
    return f"{100 * row.accuracy.value:.1f} %", row.accuracy.interval, ahead
