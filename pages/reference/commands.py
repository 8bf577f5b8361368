"""Every command with its arguments and flags, from what the command line itself is made of.

Not here: what the parameters of a merge mean method by method (`prefmerge.cli.listing`).
"""

from __future__ import annotations

from typing import Any

import typer.main

from pages.reference.markdown import code, table
from prefmerge.cli import app
from prefmerge.cli.commands import COMMANDS
from prefmerge.cli.options import EXAMPLES
from prefmerge.errors import PrefmergeError, UsageError
from prefmerge.merging.parameters import METHOD, every

FAILED, MISUSED = PrefmergeError.exit_code, UsageError.exit_code
HEAD = f"""# Commands

This page is made from the commands: `python -m pages.reference`. `prefmerge COMMAND --help` says the same. A command
ends with 0 when it is done, with {FAILED} and one message when it cannot be done, with {MISUSED} when it was not used
as it should be, and with 128 + n where signal n ended it. Results go to standard output, progress and messages to
standard error.
"""
SHARED = 5  # so many flags that another command has just so are named, not told again


def page() -> str:
    """The page, in Markdown."""
    group: Any = typer.main.get_command(app)
    commands = {name: group.get_command(None, name) for name in group.list_commands(None)}
    index = table(["command", "what it does"], ([f"[`{name}`](#{name})", COMMANDS[name][1]] for name in commands))
    told = {row[0] for row in _rows(commands["merge"])}
    sections = [_section(name, one, told if name != "merge" else set()) for name, one in commands.items()]
    return "\n".join([HEAD, *index, "", *sections])


def _section(name: str, one: Any, told: set[str]) -> str:
    arguments = " ".join(_spelled(each) for each in one.params if not _is_flag(each))
    rows, ours = _rows(one), _of_parameters()
    shared = [row for row in rows if row[0] in told and row[0].strip("`").split(" ")[0] in ours]
    if len(shared) < SHARED:
        shared = []
    lines = [f"## {name}", "", code(f"prefmerge {name} {arguments} [FLAGS]".replace("  ", " ")), "", _help(one.help)]
    lines += ["", *table(["argument or flag", "what it is"], [row for row in rows if row not in shared]), ""]
    if shared:
        flags = ", ".join(code(row[0].strip("`").split(" ")[0]) for row in shared)
        lines += [f"It also has these flags of [`merge`](#merge): {flags}.", ""]
    return "\n".join([*lines, "Examples:", "", *(f"    {line}" for line in EXAMPLES[name]), ""])


def _of_parameters() -> set[str]:
    """The flags of a recipe's parameters."""
    return {one.spelled for one in (METHOD, *every().values()) if one.flag}


def _rows(one: Any) -> list[list[str]]:
    return [[code(_spelled(each)), _told(each)] for each in one.params if not getattr(each, "hidden", False)]


def _is_flag(one: Any) -> bool:
    return one.opts[0].startswith("-")


def _spelled(one: Any) -> str:
    if not _is_flag(one):
        text = one.metavar or one.name.upper()
        return text if one.required else f"[{text}]"
    names = ", ".join(sorted(one.opts, key=lambda name: (name.startswith("--"), one.opts.index(name))))
    return names if one.is_flag else f"{names} {one.metavar}"


def _told(one: Any) -> str:
    text = " ".join((one.help or "").split())
    if _is_flag(one) and not one.is_flag and one.show_default and one.default not in (None, (), []):
        default = one.default
        text += f" Default {default:g}." if isinstance(default, float) else f" Default {default}."
    if one.min is not None:
        text += f" At least {one.min}." if one.max is None else f" From {one.min} to {one.max}."
    return text


def _help(text: str) -> str:
    """The help text as Markdown. A paragraph that begins with a \\b keeps its lines."""
    parts = []
    for part in text.strip().split("\n\n"):
        kept = part.startswith("\b")
        lines = [line.strip() for line in part.lstrip("\b").splitlines() if line.strip()]
        parts.append("\n".join(f"    {line}" for line in lines) if kept else "\n".join(lines))
    return "\n\n".join(parts)
