"""`prefmerge push`, and `--push` of `merge`: a merged folder to the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prefmerge.cli import options as o
from prefmerge.cli import screen
from prefmerge.cli.app import command
from prefmerge.errors import UsageError
from prefmerge.ground.words import counted

if TYPE_CHECKING:
    from prefmerge.merging.push import Pushed


@command
def push(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A merged folder.")],
    repository: Annotated[
        str, typer.Argument(metavar="ORG/NAME", help="The repository. It is made if it is not there.")
    ],
    private: o.Private = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the folder, list what would go, and send nothing.")
    ] = False,
    json: o.Json = False,
) -> None:
    """Upload a merged folder to the Hugging Face hub (extra `hub`).

    Its weights, model card, tokenizer, configuration and receipt go in one commit: the files that the receipt lists,
    and nothing else that lies in the folder. An output that is not what its receipt says is refused.
    """
    from prefmerge.cli import progress, show
    from prefmerge.merging.push import push as upload

    with progress.merging() as report:
        pushed = upload(out, repository, private=private, dry_run=dry_run, progress=report)
    if json:
        show.as_json(pushed.to_json())
    elif pushed.address is None:
        _say_what(pushed)
    else:
        screen.console().print(_where(pushed), soft_wrap=True)


def require_pushable(repository: str | None, private: bool, out: Path | None, dry_run: bool) -> None:
    """Raise, before a merge is made, what would keep its output from being pushed."""
    from prefmerge.merging.push import repository_of, require_welcome
    from prefmerge.outputs.write import kind_of

    if repository is None:
        raise UsageError("--private says how --push ORG/NAME makes a repository. Add it, or leave --private out.")
    if out is not None and kind_of(out) == "file":
        raise UsageError(
            f"-o {out} is one file, and --push sends a folder. Give for instance -o {out.with_suffix('')}."
        )
    repository = repository_of(repository)
    if not dry_run:
        require_welcome(repository, private)


def send(out: Path, repository: str, private: bool, to: Callable[[str], None] | None = None) -> None:
    """Push what was merged, and say where it is: on stdout, or `to` somebody."""
    from prefmerge.cli import progress
    from prefmerge.merging.push import push as upload

    with progress.merging() as report:
        pushed = upload(out, repository, private=private, progress=report)
    if to is None:
        screen.console().print(_where(pushed), soft_wrap=True)
    else:
        to(_where(pushed))


def _where(pushed: Pushed) -> str:
    return f"Pushed:  {counted(len(pushed.files), 'file')} to {pushed.repository}: {pushed.address}"


def _say_what(pushed: Pushed) -> None:
    """What would go."""
    from rich import box
    from rich.table import Table

    console = screen.console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("file", overflow="fold")
    table.add_column("bytes", justify="right")
    for file in pushed.files:
        table.add_row(file.name, f"{file.bytes:,}")
    console.print(table)
    console.print()
    console.print(f"This would go to {pushed.repository}. Nothing was sent.", soft_wrap=True)
