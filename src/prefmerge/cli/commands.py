"""Every command by its name, and the program that has them.

A command's module is imported when the command is asked for; to list them none is, so `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
from typing import Annotated, Any

import typer
import typer.main
from typer.core import TyperGroup

from prefmerge.cli.app import app, passing_absent
from prefmerge.cli.ending import ending, open_streams, raise_limits, safe_to_show
from prefmerge.ground.words import did_you_mean
from prefmerge.vectors import process
from prefmerge.version import __version__

COMMANDS = {  # in the order of the help: the module that has the command, and what it does
    "merge": ("merging", "Merge a base and its tasks into one model with a receipt."),
    "sweep": ("sweep", "Write many merges of the same checkpoints over one reading."),
    "plan": ("merging", "Say what merge would do."),
    "verify": ("merging", "Check a merged model against its receipt."),
    "push": ("push", "Upload a merged model to the Hugging Face hub."),
    "adapt": ("adapt", "Make the best model for a target, and say how good it will be."),
    "prefer": ("prefer", "Find the preference for a target from what is known of it."),
    "search": ("search", "Search for the parameters of a merge that do best, by any score."),
    "studio": ("studio", "Turn a dial for each task on a page, and write the model."),
    "inspect": ("inspect", "Show which task owns how much, per layer."),
    "finetune": ("training", "Fine-tune one checkpoint per task, one task after another."),
    "evaluate": ("training", "Measure the accuracy of a checkpoint on every task of a run."),
    "bench": ("bench", "Run the papers' experiments on a run's checkpoints."),
    "demo": ("demo", "Fine-tune a tiny model on digits and adapt it to one target."),
}
NO_MEMORY = b"error: there is not enough memory. Free some.\n"  # made before it is needed
COLLECTED_AFTER = (20_000, 20, 20)  # new objects; collections of these; collections of what outlived them


class Commands(TyperGroup):
    """The commands, each from its own module."""

    def get_params(self, ctx: Any) -> list[Any]:
        return passing_absent(super().get_params(ctx))

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}.{did_you_mean(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            module, _ = COMMANDS[cmd_name]
            importlib.import_module(f"prefmerge.cli.{module}")  # registers its commands
            self.commands.update(typer.main.get_group(app).commands)
        return self.commands.get(cmd_name)

    def make_context(self, *args: Any, **given: Any) -> Any:
        with safe_to_show():
            return super().make_context(*args, **given)

    def invoke(self, ctx: Any) -> Any:
        with ending(ctx), safe_to_show():
            return super().invoke(ctx)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, phrase) for name, (_, phrase) in COMMANDS.items()])


def main() -> None:
    """The script `prefmerge`."""
    # What a command makes, modules first, stays until it ends, so looking for cycles in it is in vain: with Python's
    # own thresholds that takes a tenth of a short command, and a fifth of one over 60,000 tensors. Cycles still go:
    # young ones with the next 20,000 objects, those that outlived a look later.
    gc.set_threshold(*COLLECTED_AFTER)
    open_streams()
    raise_limits()
    process.own = True
    try:
        app(prog_name="prefmerge")
    except MemoryError:  # before there was a command, whose end says it otherwise
        with contextlib.suppress(OSError):
            os.write(2, NO_MEMORY)
        sys.exit(1)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"prefmerge {__version__}")
        raise typer.Exit


@app.callback(cls=Commands)
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
