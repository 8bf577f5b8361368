"""Markdown of what the code says of itself: tables, docstrings, and the comments beside the fields of a class.

Cost: the source of a class is read. Not here: what is listed.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Iterable, Sequence
from functools import cache


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table. A `|` in a cell is escaped."""
    lines = [header, ["---"] * len(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def code(text: str) -> str:
    """The text as code in a line; "" where there is none."""
    return f"`{text}`" if text else ""


def of_docstring(text: str) -> str:
    """A docstring as Markdown: its indented examples are blocks of Python."""
    blocks = re.split(r"\n{2,}(?=\S)|\n{2,}(?=    \S)", text.strip())
    return "\n\n".join(
        f"```python\n{textwrap.dedent(block)}\n```" if block.startswith("    ") else block for block in blocks
    )


def first_paragraph(text: str | None) -> str:
    """The first paragraph of a docstring, in one line."""
    return " ".join((text or "").split("\n\n", 1)[0].split())


@cache
def comments(cls: type) -> dict[str, str]:
    """What the comments say of the fields of a class: those above a field, then the one behind it."""
    source = textwrap.dedent(inspect.getsource(cls))
    written, own = _comments_of(source)
    told: dict[str, str] = {}
    for node in ast.parse(source).body[0].body:  # pyright: ignore[reportAttributeAccessIssue]
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name) or node.end_lineno is None:
            continue
        above, line = list[str](), node.lineno - 1
        while line in own:
            above.insert(0, written[line])
            line -= 1
        behind = [written[one] for one in range(node.lineno, node.end_lineno + 1) if one in written]
        told[node.target.id] = " ".join([*above, *behind])
    return told


def _comments_of(source: str) -> tuple[dict[int, str], set[int]]:
    """Every comment by its line, and the lines that have nothing else."""
    written: dict[int, str] = {}
    own: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            written[token.start[0]] = token.string.lstrip("#").strip()
            if not token.line[: token.start[1]].strip():
                own.add(token.start[0])
    return written, own
