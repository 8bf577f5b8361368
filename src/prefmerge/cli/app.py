"""How a function becomes a command, and how an error becomes one message and an exit code."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import typer

from prefmerge.cli import options as o
from prefmerge.errors import PrefmergeError

RESUMES = ("finetune", "adapt", "prefer", "search", "bench", "demo")  # commands that keep what they did

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
    """Register `run` as a command whose errors become one message and an exit code."""

    @functools.wraps(run)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            run(*args, **kwargs)
        except PrefmergeError as error:
            say_error(str(error))
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            left = "the same command resumes." if run.__name__ in RESUMES else "nothing was written."
            say_error(f"interrupted; {left}")
            raise typer.Exit(130) from error

    return app.command(epilog=o.examples(run.__name__))(guarded)


def say_error(message: str) -> None:
    label = typer.style("error:", fg="red", bold=True) if sys.stderr.isatty() else "error:"
    print(f"{label} {message}", file=sys.stderr)
