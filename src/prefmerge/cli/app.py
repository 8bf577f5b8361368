"""How a function becomes a command. A path that is empty, as a variable of the shell that is not set makes one, is
refused: it would mean the working directory. Not here: how a command ends (`ending`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import typer
from typer.core import TyperCommand

from prefmerge.cli import options as o

REPORT = "--report"

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
    return app.command(epilog=o.examples(run.__name__), cls=ReportingCommand)(run)


def passing_absent(parameters: list[Any]) -> list[Any]:
    """The parameters, of which those that are not given pass unchecked. typer makes a validator of pydantic's for each,
    and imports pydantic for the first, only to say that there is nothing to validate.
    """
    for one in parameters:
        if "process_value" not in vars(one):
            one.process_value = partial(_process_value, one, one.process_value)
    return parameters


def _process_value(one: Any, check: Callable[[Any, Any], Any], ctx: Any, value: Any) -> Any:
    if value is not None or one.required:
        return check(ctx, value)
    value = () if one.multiple or one.nargs == -1 else None
    return value if one.callback is None else one.callback(ctx, one, value)


class ReportingCommand(TyperCommand):
    """A command whose `--report` may stand alone, and whose paths are not empty."""

    def get_params(self, ctx: Any) -> list[Any]:
        return passing_absent(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        empty = empty_path(args, paths_by_flag(self.params))
        if empty is not None:
            ctx.fail(f"{empty} is empty. Give its path; or is a variable of the shell not set?")
        return super().parse_args(ctx, reports_alone(args))


def paths_by_flag(parameters: list[Any]) -> dict[str, bool]:
    """Of each flag that takes a value, whether that is a path."""
    taking = [one for one in parameters if not getattr(one, "is_flag", False)]
    return {name: _is_path(one) for one in taking for name in one.opts if name.startswith("-")}


def _is_path(parameter: Any) -> bool:
    """By its annotation, or where typer stands on click and keeps none, by the name of its type."""
    described = getattr(parameter, "type_descriptor", None)
    return "Path" in (type(parameter.type).__name__ if described is None else str(described.annotation))


def empty_path(args: list[str], flags: dict[str, bool]) -> str | None:
    """What of the command line is empty where a path belongs; None where nothing is. `flags`: of those that take a
    value, whether it is a path.
    """
    for i, word in enumerate(args):
        before = args[i - 1] if i else ""
        flag, equals, value = word.partition("=")
        if flag.startswith("--") and equals and not value and flags.get(flag):
            return flag
        if word == "" and (before not in flags or flags[before]):
            return before if before in flags else "an argument"
    return None


def reports_alone(args: list[str]) -> list[str]:
    """The arguments with an empty value for a `--report` that no HTML file follows: what follows is no part of it."""
    if REPORT not in args:
        return args
    from prefmerge.report.place import is_report

    end = args.index("--") if "--" in args else len(args)
    return [
        f"{word}=" if word == REPORT and i < end and not is_report(args[i + 1] if i + 1 < end else "") else word
        for i, word in enumerate(args)
    ]
