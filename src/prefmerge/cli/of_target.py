"""The flags of `adapt`, `prefer` and `search`, made from what their parameters declare.

Cost: none; nothing heavy is imported. Not here: flags of a recipe (`derived`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import typer

from prefmerge.cli.derived import keyword, with_flags
from prefmerge.ground.words import flag
from prefmerge.target.parameters import Declared, Declaring, declarations

Asked = TypeVar("Asked", bound=Declaring)


def flags_of(of: type[Declaring]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator: the command with one flag for each declared parameter, which it takes by name."""
    taken = []
    for name, (kind, declared) in declarations(of).items():
        several = get_origin(kind) is tuple
        default = None if several else getattr(of, name)
        taken.append(keyword(name, _shown(kind), default, _typer(name, declared, several)))
    return lambda run: with_flags(run, taken)


def parameters(of: type[Asked], given: dict[str, Any]) -> Asked:
    """The parameters that the flags gave. Raises UsageError."""
    several = {name for name, (kind, _) in declarations(of).items() if get_origin(kind) is tuple}
    return of.of(**{name: () if value is None and name in several else value for name, value in given.items()})


def typed(context: typer.Context, given: dict[str, Any]) -> dict[str, Any]:
    """What of `given` was typed; the rest are defaults."""
    sources = {name: context.get_parameter_source(name) for name in given}
    return {name: given[name] for name, source in sources.items() if source is not None and source.name != "DEFAULT"}


def _shown(kind: Any) -> Any:
    """The type as typer takes it: words are text, which the parameters check."""
    if get_origin(kind) is tuple:
        return list[Path] | None
    if any(get_origin(one) is Literal for one in (kind, *get_args(kind))):
        return str | None if type(None) in get_args(kind) else str
    return kind


def _typer(name: str, declared: Declared, several: bool) -> Any:
    if declared.argument:
        return typer.Argument(metavar=declared.metavar, help=declared.help, show_default=False)
    spelled = (flag(name), *declared.flags)
    return typer.Option(*spelled, metavar=declared.metavar, help=declared.help, show_default=not several)
