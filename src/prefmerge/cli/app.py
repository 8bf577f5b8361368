"""The program itself: how a function becomes a command, and how an error becomes one message and an exit code."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
import typer.main
from typer.core import TyperGroup

from prefmerge.cli import options as o
from prefmerge.errors import PrefmergeError

RESUMES = ("finetune", "adapt", "prefer", "search", "bench")  # commands that keep what they did

COMMANDS = {  # in the order of the help: the module that has the command, and what it does
    "merge": ("merging", "Merge a base and its tasks into one model with a receipt."),
    "plan": ("merging", "Say what merge would do."),
    "verify": ("merging", "Check a merged model against its receipt."),
    "adapt": ("adapt", "Make the best model for a target, and say how good it will be."),
    "prefer": ("prefer", "Find the preference for a target from what is known of it."),
    "search": ("search", "Search for the preference and scale with the best accuracy."),
    "inspect": ("inspect", "Show which task owns how much, per layer."),
    "finetune": ("training", "Fine-tune one checkpoint per task, one task after another."),
    "evaluate": ("training", "Measure the accuracy of a checkpoint on every task of a run."),
    "bench": ("bench", "Run the papers' experiments on a run's checkpoints."),
    "demo": ("demo", "Fine-tune a tiny model on digits and adapt it to one target."),
}


class Commands(TyperGroup):
    """The commands by name. The module of one is imported when it is asked for, and none to list them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            module, _ = COMMANDS[cmd_name]
            importlib.import_module(f"prefmerge.cli.{module}")  # registers its commands
            self.commands.update(typer.main.get_group(app).commands)
        return self.commands.get(cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, phrase) for name, (_, phrase) in COMMANDS.items()])


app = typer.Typer(
    name="prefmerge",
    cls=Commands,
    help="Merge task checkpoints into one model for the target where it will run.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help: rich would double the time that it takes
    pretty_exceptions_enable=False,  # an unexpected exception keeps its ordinary traceback
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def main() -> None:
    """The script `prefmerge`."""
    app(prog_name="prefmerge")


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


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"prefmerge {version('prefmerge')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
