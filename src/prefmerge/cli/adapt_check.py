"""What `prefmerge adapt --check` prints: both mixes side by side, whether they differ, what that means.

Not here: the comparison (`target.check`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefmerge.target.checked import Checked

MOST_TASKS = 8  # rows; beyond that those that changed most


def checked(done: Checked) -> None:
    """The mixes, the verdict, the accuracy, the advice."""
    from rich import box
    from rich.table import Table

    from prefmerge.cli import screen

    console, moved, shares = screen.console(), done.moved, done.shares
    earlier = done.earlier.data
    console.print(
        f"The target by {shares.samples:,} {shares.source}, and the mix that {done.earlier.file.parent} was adapted to "
        f"({_samples(earlier)}):"
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("task")
    for heading in ("then", "now", "change", f"{100 * moved.level:g} % interval"):
        table.add_column(heading, justify="right")
    tasks = range(len(moved.names))
    largest = sorted(tasks, key=lambda t: -abs(moved.change[t].value))[:MOST_TASKS]
    for t in (t for t in tasks if t in largest):
        change = moved.change[t]
        table.add_row(
            moved.names[t],
            f"{100 * moved.before[t]:.1f} %",
            f"{100 * moved.now[t]:.1f} %",
            f"{100 * change.value:+.1f}",
            change.interval,
        )
    console.print(table)
    if len(tasks) > MOST_TASKS:
        console.print(f"and {len(tasks) - MOST_TASKS} more tasks, which changed less")
    console.print()
    console.print(done.verdict, soft_wrap=True)
    if shares.foreign is not None and not done.strange:
        console.print("Inputs of no task: no clear sign of any.")
    if done.expected is not None:
        there = earlier["estimates"].get("there", "checkpoint")
        other = "" if done.there is None else f"; the {there} {100 * done.there.value:.1f} % {done.there.interval}"
        of = " of what is of a task" if done.strange else ""
        console.print(
            f"Expected accuracy{of} in the new mix: {100 * done.expected.value:.1f} % {done.expected.interval}{other}. "
            f"In the earlier mix: {_promised(earlier)}.",
            soft_wrap=True,
        )
    if done.on_pairs is not None:
        console.print(f"Of the pairs it names {100 * done.on_pairs.value:.1f} % correctly {done.on_pairs.interval}.")
    for note in done.notes:
        console.print(f"Note: {note}", soft_wrap=True)
    console.print(done.advice, soft_wrap=True)
    if done.command is not None:
        console.print(f"    {done.command}", soft_wrap=True)


def _samples(earlier: object) -> str:
    assert isinstance(earlier, dict)
    target = earlier["target"]
    return "stated" if target["source"] == "stated" else f"by {target['samples']:,} {target['source']}"


def _promised(earlier: object) -> str:
    assert isinstance(earlier, dict)
    one = earlier["estimates"]["rows"][0]["accuracy"]
    what = " mean recall" if earlier["parameters"].get("metric") == "balanced" else ""
    return f"{100 * one['value']:.1f} %{what} [{100 * one['low']:.1f}, {100 * one['high']:.1f}]"
