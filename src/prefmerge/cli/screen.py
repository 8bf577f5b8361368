"""What commands show goes through here: results to stdout, everything else to stderr, all of it safe to show.

    console().print(f"Note: {note}")     a line, a table; with `stderr=True` where progress is drawn
    say("done")                          a line on stderr

Names come from files of others, and may hold what a terminal obeys: escapes that move the cursor, marks that turn the
direction of reading, line breaks that begin a line of their own. `shown` has what is done about them. Cost: rich is
loaded when the first console is made. Not here: JSON, which escapes all of it; what is shown.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

import typer

from prefmerge import shown

if TYPE_CHECKING:
    from rich.console import Console

WIDTH_OF_A_PIPE = 200  # columns; where nobody looks, tables are not folded


def say(text: str) -> None:
    """A line on stderr, which may be closed or full: then nobody looks."""
    with contextlib.suppress(OSError, ValueError):
        print(shown.bounded(shown.line(text)), file=sys.stderr, flush=True)


def say_error(text: str) -> None:
    """An error on stderr. Its further lines are indented, so that none of them looks like a message of its own."""
    label = typer.style("error:", fg="red", bold=True) if sys.stderr.isatty() else "error:"
    with contextlib.suppress(OSError, ValueError):
        print(f"{label} {_indented(shown.message(text))}", file=sys.stderr, flush=True)


def _indented(text: str) -> str:
    return "\n".join(part if i == 0 or part.startswith(" ") else f"  {part}" for i, part in enumerate(text.split("\n")))


def console(*, stderr: bool = False) -> Console:
    """A console that obeys nothing in names."""
    # Markup would eat [brackets] in names; the highlighter would colour digits in them.
    width = None if stderr or sys.stdout.isatty() else WIDTH_OF_A_PIPE
    return _class()(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)


@cache
def _class() -> type[Console]:
    from rich.console import Console
    from rich.segment import Segment
    from rich.table import Table

    class Safe(Console):
        """Texts are cleaned before they are laid out; what other objects draw, after."""

        def print(self, *objects: Any, **given: Any) -> None:
            for one in objects:
                if isinstance(one, Table):
                    for column in one.columns:
                        column._cells = [_line(value) for value in column._cells]
                        column.header = _line(column.header)
                    one.title = _line(one.title)
            super().print(*map(_line, objects), **given)

        def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                if segment.control or segment.text.isprintable() or segment.text == "\n":
                    yield segment
                else:
                    yield Segment("\n".join(map(shown.line, segment.text.split("\n"))), segment.style)

    return Safe


def _line(value: Any) -> Any:
    return shown.line(value) if isinstance(value, str) else value
