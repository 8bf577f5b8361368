"""`prefmerge adapt`: the best model for a target, and how good it will be there.

Its flags are derived from `target.parameters`: one that is declared there appears here.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_origin

import typer

from prefmerge.cli import options as o
from prefmerge.cli.app import command
from prefmerge.cli.derived import keyword, with_flags
from prefmerge.ground.words import flag
from prefmerge.target.parameters import Declared, Parameters, declarations

if TYPE_CHECKING:
    from prefmerge.target.estimates import Estimate, Row
    from prefmerge.target.result import Adapted

BAR = 24  # columns of the largest share
MOST_TASKS = 8  # rows of shares; beyond that the largest
EVERY = 30  # seconds between signs of life where there is no terminal


def _derived(run: Callable[..., None]) -> Callable[..., None]:
    """`run` with one option for each declared parameter, which it takes by name."""
    taken: list[inspect.Parameter] = []
    for name, (kind, declared) in declarations().items():
        several = get_origin(kind) is tuple
        shown = list[Path] | None if several else str if name == "metric" else kind
        default = None if several else getattr(Parameters, name)
        taken.append(keyword(name, shown, default, _typer(name, declared, several)))
    return with_flags(run, taken)


def _typer(name: str, declared: Declared, several: bool) -> Any:
    if declared.argument:
        return typer.Argument(metavar=declared.metavar, help=declared.help, show_default=False)
    spelled = (flag(name), *declared.flags)
    return typer.Option(*spelled, metavar=declared.metavar, help=declared.help, show_default=not several)


@command
@_derived
def adapt(*, json: o.Json = False, **given: Any) -> None:
    """Make the best model for a target out of a run, and say how good it will be there.

    Show what you have of the target: labels that occur there, inputs, inputs with labels, or a mix that you state. It
    tries the checkpoints and merges of them on held-out samples, weighed as the target has them. The output is a folder
    with weights, head, receipt and report. Needs the extra `places`.
    """
    from prefmerge.cli import show
    from prefmerge.target.adapt import adapt as work
    from prefmerge.target.adapt import require_extras

    require_extras()
    asked = Parameters.of(
        **{name: () if value is None and name in _SEVERAL else value for name, value in given.items()}
    )
    with _progress() as told:
        found = work(asked, told)
    if json:
        show.as_json({**found.to_json(), "command": _command(found)})
    else:
        adapted(found)


_SEVERAL = {name for name, (kind, _) in declarations().items() if get_origin(kind) is tuple}


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """What says what is being done: one changing line on a terminal; elsewhere a line for each step, and every 30 s."""
    if sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True, markup=False).status("") as status:
            yield lambda what, done, of: status.update(f"{what} {f'{done} of {of} samples' if of else '...'}")
        return
    last = {"what": "", "time": time.monotonic()}

    def told(what: str, done: int, of: int) -> None:
        step, now = what.partition(":")[0], time.monotonic()
        if step != last["what"] or now - float(last["time"]) >= EVERY:
            last.update(what=step, time=now)
            print(f"{what}{f' ({done} of {of})' if of else ''}", file=sys.stderr, flush=True)

    yield told


def adapted(found: Adapted) -> None:
    """What the target is like, what was chosen, what it is worth there, and where it is."""
    from rich import box
    from rich.table import Table

    from prefmerge.cli import show

    console = show._console()
    shares = found.evidence.shares
    console.print(f"The target, by {_source(found)}:")
    order = sorted(range(len(shares.names)), key=lambda t: -shares.shares[t])
    width = max(len(shares.names[t]) for t in order[:MOST_TASKS])
    for t in order[:MOST_TASKS]:
        bar = "█" * round(BAR * shares.shares[t] / max(shares.shares.max(), 1e-9))
        sure = "" if shares.source == "stated" else f"[{100 * shares.low[t]:.0f}, {100 * shares.high[t]:.0f}]"
        console.print(f"  {shares.names[t]:<{width}}  {bar:<{BAR}}  {100 * shares.shares[t]:5.1f} %  {sure}")
    if len(order) > MOST_TASKS:
        console.print(f"  and {len(order) - MOST_TASKS} more tasks")
    console.print()
    if found.estimates is not None:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        table.add_column("model")
        for heading in (
            f"{_measure(found)} at the target",
            f"{100 * found.estimates.level:g} % interval",
            "this model is ahead by",
        ):
            table.add_column(heading, justify="right")
        for row in found.estimates.rows:
            table.add_row(_name(row), *_numbers(row), style="bold" if row is found.estimates.chosen else None)
        console.print(table)
        console.print()
    console.print(found.verdict, soft_wrap=True)
    if found.estimates is not None and found.estimates.others:
        others = found.estimates.others
        n = sum(count for count, _, _ in others.values())
        before, after = (sum(row[0] * row[k] for row in others.values()) / n for k in (1, 2))
        console.print(
            f"On the other tasks it names {100 * after:.0f} % correctly, the {found.there} {100 * before:.0f} % "
            f"({n} samples): use it at the target only.",
            soft_wrap=True,
        )
    if found.drift is not None:
        console.print(found.drift, soft_wrap=True)
    for note in found.notes:
        console.print(f"Note: {note}", soft_wrap=True)
    cost = found.cost
    console.print(
        f"{cost['candidates']:.0f} candidates, {cost['merges']:.0f} merges, {cost['forwards']:.0f} forward passes, "
        f"{cost['seconds']:.0f} s."
    )
    out = found.parameters.out
    by_itself = None if out is None else found.use(str(out))
    if out is not None:
        head = "" if found.head is None else "head, "
        console.print(f"Output: {out} (weights, {head}report.html)", soft_wrap=True)
    if by_itself is not None:
        console.print(by_itself[0], soft_wrap=True)
        for line in by_itself[1].splitlines():
            console.print(f"    {line}", soft_wrap=True)
    console.print(f"{found.by_hand}: {_command(found)}", soft_wrap=True)


def _command(found: Adapted) -> str:
    from prefmerge.target.result import command as line

    out = found.parameters.out
    return line(found, "OUT" if out is None else f"{out}-by-hand")


def _measure(found: Adapted) -> str:
    """What the numbers are."""
    foreign = found.evidence.shares.foreign
    of = " of what is of a task" if foreign is not None and foreign.low > 0 else ""
    return ("mean recall" if found.parameters.metric == "balanced" else "accuracy") + of


def _source(found: Adapted) -> str:
    shares = found.evidence.shares
    if shares.source == "stated":
        return "the mix that you state"
    return f"{shares.samples:,} {shares.source} (shares of the tasks, with {100 * shares.level:g} % intervals)"


def _name(row: Row) -> str:
    return f"{row.name} (chosen)" if row.how == "chosen" else f"{row.name}, {row.how}"


def _numbers(row: Row) -> tuple[str, str, str]:
    ahead = ""
    if row.ahead is not None:
        ahead = f"{100 * row.ahead.value:+.1f} {_interval(row.ahead)}"
        ahead += "" if row.told_apart else ", not told apart"
    return f"{100 * row.accuracy.value:.1f} %", _interval(row.accuracy), ahead


def _interval(one: Estimate) -> str:
    return f"[{100 * one.low:.1f}, {100 * one.high:.1f}]"
