"""`prefmerge search`: the settings with the best accuracy on labelled samples of the target."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, Any

from prefmerge.cli import options as o
from prefmerge.cli.app import command
from prefmerge.cli.of_target import flags_of, parameters
from prefmerge.methods.parameters import PREFERENCE
from prefmerge.target.parameters import SearchParameters

if TYPE_CHECKING:
    from prefmerge.target.search import SearchFolder, SearchResult

MOST_TASKS = 8  # rows of shares; beyond that the largest


@command
@flags_of(SearchParameters)
def search(*, json: o.Json = False, **given: Any) -> None:
    """Search for the preference and scale with the best accuracy on labelled samples of the target.

    Most people want `prefmerge adapt --pairs`, which chooses among more models and says how good the choice is.
    Needs inputs with labels (with labels or inputs alone, see `prefmerge prefer`) and the extra `places`. The same
    command resumes a search that was interrupted.
    """
    asked = parameters(SearchParameters, given)
    run, pairs, out = asked.run, asked.pairs, asked.out
    assert run is not None
    assert pairs is not None
    assert out is not None
    from prefmerge.cli import progress, show
    from prefmerge.target import search as work

    space = work.Space() if asked.space is None else work.Space.parse(asked.space)
    how = {name: value for name, _, value in asked.declared() if name not in ("run", "pairs", "out", "space")}
    with progress.searching() as report:
        result = work.search(run, pairs, out, space=space, progress=report, **how)
    folder = work.SearchFolder.of(out)
    line = result.command(["--run", str(run)], str(folder.preference))
    if json:
        show.as_json({**result.to_json(), "command": line})
    else:
        searched(result, folder, line)
        show.say_adapt(f"--run {quote(str(run))}", f"--pairs {quote(str(pairs))}")


def searched(result: SearchResult, folder: SearchFolder, line: str) -> None:
    """What was chosen, how good it is and how sure that is, and what to type next."""
    from rich import box
    from rich.table import Table

    from prefmerge.cli import show

    console = show._console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for title in ("", "ranked the trials", "held out"):
        table.add_column(title, overflow="fold")
    rows = [one for one in result.trials if one.start]
    if not result.best.start:
        rows.append(result.best)
    for one in rows:
        held = result.held_out_accuracy(one)
        chosen = ", chosen" if one.number == result.best.number else ""
        table.add_row(f"{one.what}{chosen}", str(result.search_accuracy(one)), "none" if held is None else str(held))
    console.print(table)
    console.print()
    console.print(f"{len(result.trials)} trials; ended by {result.stopped}.")
    console.print(result.verdict, soft_wrap=True)
    if result.preference is not None:
        shares = sorted(
            zip(result.names, result.preference.shares(result.names), strict=True), key=lambda pair: -pair[1]
        )
        told = ", ".join(f"{name} {100 * float(share):.1f} %" for name, share in shares[:MOST_TASKS] if share)
        console.print(f"Preference: {told}", soft_wrap=True)
    rest = ", ".join(f"{name} {value}" for name, value in result.settings.items() if name != PREFERENCE.name)
    console.print(f"Settings: {rest}", soft_wrap=True)
    for note in result.notes:
        console.print(f"Note: {note}", soft_wrap=True)
    console.print(f"Output: {folder.folder}", soft_wrap=True)
    console.print(f"Next: {line}", soft_wrap=True)
