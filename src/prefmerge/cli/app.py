"""How a function becomes a command. Not here: how it ends (`ending`)."""

from __future__ import annotations

from collections.abc import Callable

import typer

from prefmerge.cli import options as o

app = typer.Typer(
    name="prefmerge",
    help="Merge task checkpoints into one model for the target where it will run.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help: rich would double the time that it takes
    pretty_exceptions_enable=False,  # an unexpected exception keeps its ordinary traceback
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def command(run: Callable[..., None]) -> Callable[..., None]:
    """Register `run` as a command."""
    return app.command(epilog=o.examples(run.__name__))(run)
