"""`prefmerge search`: parameters tried one after another, and whether the best is better than what there was."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, Any

from prefmerge.cli import options as o
from prefmerge.cli.app import command
from prefmerge.cli.of_target import flags_of, parameters
from prefmerge.errors import UsageError
from prefmerge.methods.parameters import PREFERENCE
from prefmerge.target.parameters import SearchParameters

if TYPE_CHECKING:
    from pathlib import Path

    from prefmerge.target.by_command import CommandOutcome
    from prefmerge.target.search import SearchFolder, SearchOutcome, SearchResult

MOST_ROWS = 8  # of candidates
RECIPE = "recipe.yaml"  # in the folder of a search by a command
MOST_TASKS = 8  # rows of shares; beyond that the largest


@command
@flags_of(SearchParameters)
def search(*, json: o.Json = False, **given: Any) -> None:
    """Search for the settings of a merge that do best at a target, and compare them with what `adapt` chooses.

    Most people want `prefmerge adapt`: it tries a dozen models, this command up to 50. It starts with the same models,
    ranks them the same way, and keeps its own result only where samples that ranked nothing show it to be better.
    Needs the extra `places`; by a command, only `search`. The same command resumes a search that was interrupted.

    It also searches for models that prefmerge cannot run, language models above all: a command of yours gets the folder
    of a candidate, and prints a score.
    """
    asked = parameters(SearchParameters, given)
    if asked.out is None:
        raise UsageError("--out OUT is missing: where to keep the search.")
    from prefmerge.cli import progress, show
    from prefmerge.target import api
    from prefmerge.target import search as work
    from prefmerge.target.by_command import CommandOutcome

    with progress.searching() as report:
        result = api.searched(asked, report)
    if isinstance(result, CommandOutcome):
        if json:
            show.as_json(result.to_json())
        else:
            by_command(result, asked.out, asked.model)
        return
    folder, run = work.SearchFolder.of(asked.out), f"--run {quote(str(asked.run))}"
    if isinstance(result, work.SearchOutcome):
        if json:
            show.as_json({**result.to_json(), "command": result.command()})
        else:
            by_score(result, folder)
        return
    line = result.command(["--run", str(asked.run)], str(folder.preference))
    if json:
        show.as_json({**result.to_json(), "command": line})
    else:
        by_accuracy(result, folder, line)
        show.say_adapt(run, f"--pairs {quote(str(asked.pairs))}")


def by_score(result: SearchOutcome, folder: SearchFolder) -> None:
    """What was chosen, how good both that were compared are, and what to type next."""
    from rich import box
    from rich.table import Table

    from prefmerge.cli import screen

    console = screen.console()
    if result.decision.rows:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        table.add_column("model", overflow="fold")
        for heading in ("accuracy at the target", f"{100 * result.level:g} % interval"):
            table.add_column(heading, justify="right", no_wrap=True)
        for title, row in result.titled():
            table.add_row(title, f"{100 * row.accuracy.value:.1f} %", row.accuracy.interval)
        console.print(table)
        console.print()
    for sentence in result.compared:
        console.print(sentence, soft_wrap=True)
    console.print(result.verdict, soft_wrap=True)
    console.print(
        f"{len(result.trials)} trials, ranked on {result.ranking} samples; ended by {result.stopped}.", soft_wrap=True
    )
    for note in result.notes:
        console.print(f"Note: {note}", soft_wrap=True)
    cost = result.cost
    console.print(
        f"{cost['merges']:.0f} merges, {cost['forwards']:.0f} forward passes, {cost['seconds']:.0f} s.", soft_wrap=True
    )
    console.print(f"Output: {folder.folder} (trials, head)", soft_wrap=True)
    console.print("Next: make the model, and judge it with the head, without which it answers differently:")
    console.print(f"      {result.command()}", soft_wrap=True)
    console.print(f"      {result.use(folder.head)}", soft_wrap=True)


def by_command(result: CommandOutcome, out: Path, model: Path | None) -> None:
    """The models that were compared, what was chosen, and what to type next."""
    from prefmerge.cli import scores, screen

    console = screen.console()
    scores.tables(result.tables_of(f"the best of {len(result.trials)} trials", MOST_ROWS))
    console.print(result.verdict, soft_wrap=True)
    console.print(result.doubt, soft_wrap=True)
    failed = sum(row.measured is None for row in result.rungs[0].rows)
    without = f", {failed} without a score" if failed else ""
    console.print(f"{len(result.trials)} trials{without}; ended by {result.stopped}.", soft_wrap=True)
    for note in result.notes:
        console.print(f"Note: {note}", soft_wrap=True)
    cost = result.cost
    console.print(f"{cost['commands']:.0f} commands, {cost['merges']:.0f} merges, {cost['seconds']:.0f} s.")
    console.print(f"Output: {out}", soft_wrap=True)
    if model is not None:
        console.print(f"Model: {model}", soft_wrap=True)
    elif result.recipe is not None:
        console.print(f"Next: prefmerge merge {quote(str(out / RECIPE))} -o merged{result.ending}", soft_wrap=True)


def by_accuracy(result: SearchResult, folder: SearchFolder, line: str) -> None:
    """What was chosen, how good it is and how sure that is, and what to type next."""
    from rich import box
    from rich.table import Table

    from prefmerge.cli import screen

    console = screen.console()
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
