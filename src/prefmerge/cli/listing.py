"""The page of the documentation that lists every method with its parameters: `python -m prefmerge.cli.listing`.

Made from the declarations; `docs/parameters.md` is what this prints. Not here: what the methods compute.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prefmerge.cli.derived import help_of, typed
from prefmerge.merging.parameters import OF_EVERY_MERGE, per_task, searchable
from prefmerge.methods import DEFAULT, METHODS, declared
from prefmerge.methods.parameters import Choices, Parameter, Range, TaskShares

HEAD = """# Methods and their parameters

This page is made from the declarations in `prefmerge/methods`: `python -m prefmerge.cli.listing > docs/parameters.md`.
A parameter is a flag of `merge` and `plan`, a key of a recipe file, an argument of `prefmerge.merge`, and an entry of
the receipt. What can be searched, `search --space` takes.
"""


def page() -> str:
    """The page, in Markdown."""
    methods = []
    for name, method in METHODS.items():
        default, summary = " (default)" if method is DEFAULT else "", method.summary.removesuffix(" (the default)")
        own = ", ".join(f"`{one}`" for one in declared() if one in method.options)
        methods.append(f"| `{name}`{default} | {summary} | {own} |")
    return "\n".join(
        [
            HEAD,
            "| method | what it merges | parameters |",
            "| --- | --- | --- |",
            *methods,
            "",
            *_table("parameter", declared().values()),
            "",
            "Every method has these too:",
            "",
            *_table("parameter", OF_EVERY_MERGE.values()),
            "",
        ]
    )


def _table(first: str, several: Iterable[Parameter[Any]]) -> list[str]:
    rows = [
        f"| `{one.name}` | {f'`{one.spelled}`' if one.flag else '-'} | {_keys(one)} | {help_of(one)} | {_search(one)} |"
        for one in several
    ]
    return [
        f"| {first} | flag | key in a recipe file | what it is | searched over |",
        "| --- | --- | --- | --- | --- |",
        *rows,
    ]


def _keys(one: Parameter[Any]) -> str:
    own = " (of a model too)" if one in per_task() else ""
    return f"{', '.join(f'`{key}`' for key in one.keys)}{own}" if one.keys else "-"


def _search(one: Parameter[Any]) -> str:
    over = searchable().get(one.name)
    if isinstance(over, Range):
        return f"{over.low:g} to {over.high:g}"
    if isinstance(over, TaskShares):
        return "a share for each task"
    return ", ".join(typed(value) for value in over.values) if isinstance(over, Choices) else "-"


if __name__ == "__main__":
    print(page(), end="")
