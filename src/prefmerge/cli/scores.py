"""Scores by a command of the user on the screen: what `search --score` and `adapt --score` print."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prefmerge.cli import screen

if TYPE_CHECKING:
    from prefmerge.target.result import Adapted
    from prefmerge.target.scored import ScoreTable


def tables(shown: Iterable[ScoreTable]) -> None:
    """A table for each; the chosen model says so."""
    from rich import box
    from rich.table import Table

    console = screen.console()
    for one in shown:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        table.add_column(one.title, overflow="fold")
        table.add_column("score", justify="right", no_wrap=True)
        for i, (what, score) in enumerate(one.rows):
            table.add_row(f"{what}{', chosen' if i == one.chosen else ''}", score)
        console.print(table)
        console.print()


def adapted(made: Adapted) -> None:
    """What was scored and chosen, what to expect of it, and what that does not say."""
    scored, console = made.scored, screen.console()
    assert scored is not None
    tables(scored.tables)
    for line in (scored.verdict, scored.expected, scored.doubt):
        console.print(line, soft_wrap=True)
    for note in made.notes:
        console.print(f"Note: {note}", soft_wrap=True)
    cost, out = made.cost, made.parameters.out
    console.print(
        f"{cost['candidates']:.0f} candidates, {cost['commands']:.0f} commands, {cost['merges']:.0f} merges, "
        f"{cost['seconds']:.0f} s."
    )
    kept = "" if made.parameters.no_cache else f"; scores, which are not asked for again: {out}.scores"
    console.print(f"Output: {out} (weights, report.html{kept})", soft_wrap=True)
