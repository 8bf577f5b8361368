"""Flags that are made from declared parameters, so that no command lists them by hand.

A command takes them by name in its `**given`; `with_flags` puts them into the signature that typer reads. Cost: none;
nothing heavy is imported. Not here: what the flags do.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

from prefmerge.ground.words import joined
from prefmerge.merging.parameters import METHOD, OF_EVERY_MERGE, every
from prefmerge.methods import DEFAULT, METHODS, declared
from prefmerge.methods.parameters import AS_PUBLISHED, YES_OR_NO, Parameter


def with_flags(
    run: Callable[..., None], flags: Iterable[inspect.Parameter], after: str | None = None
) -> Callable[..., None]:
    """`run` with the flags in the place of its `**given`, behind its own parameter `after` or before all of them."""
    own = [one for one in inspect.signature(run, eval_str=True).parameters.values() if one.kind is not one.VAR_KEYWORD]
    at = 0 if after is None else 1 + [one.name for one in own].index(after)
    every_one = [one.replace(kind=one.KEYWORD_ONLY) for one in (*own[:at], *flags, *own[at:])]
    run.__dict__["__signature__"] = inspect.Signature(every_one)
    run.__annotations__ = {one.name: one.annotation for one in every_one}
    return run


def keyword(name: str, kind: Any, default: Any, declared: Any) -> inspect.Parameter:
    """One flag (or argument), as typer reads it from a signature."""
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, declared]
    )


def of_a_merge(run: Callable[..., None]) -> Callable[..., None]:
    """`run` with the flags of every parameter that a recipe has, behind `--run`."""
    return with_flags(run, [_flag(one) for one in (METHOD, *every().values()) if one.flag], after="run")


def given_flags(given: dict[str, Any]) -> dict[str, Any]:
    """What was given on the command line: a flag that is not there says nothing."""
    return {name: value for name, value in given.items() if value is not None and value is not False}


def _flag(one: Parameter[Any]) -> inspect.Parameter:
    # Values that must stay exact (shares, factors) come as text; the parameter reads and checks them.
    option = typer.Option(one.spelled, metavar=one.kind.metavar or None, help=help_of(one))
    if one.kind is YES_OR_NO:
        return keyword(one.name, bool, False, option)
    return keyword(one.name, list[str] | None if one.several else str | None, None, option)


def help_of(one: Parameter[Any]) -> str:
    """What the help says of a parameter: what it is, of which method where only one has it, and its default."""
    if one is METHOD:
        *names, last = (typed(name) + (" (default)" if name == DEFAULT.name else "") for name in METHODS)
        return f"{', '.join(names)} or {last}."
    if one is AS_PUBLISHED:
        return f"{one.help[:1].upper()}{one.help[1:]}: {_published()}."
    having = [method.name for method in METHODS.values() if method.honours(one)]
    if len(having) == 1 and one.name not in OF_EVERY_MERGE:
        what = f"{typed(having[0])}: {one.help}."
    else:
        what = f"{one.help[:1].upper()}{one.help[1:]}."
    return what + _default(one, having)


def _published() -> str:
    """What `as_published` sets, method by method."""
    of: dict[str, list[str]] = {}
    for name, method in METHODS.items():
        values = [f"{key} {declared()[key].text(value)}" for key, value in method.published.items()]
        if values:
            of.setdefault(joined(values), []).append(typed(name))
    return "; ".join(f"{values} for {joined(names)}" for values, names in of.items())


def _default(one: Parameter[Any], having: list[str]) -> str:
    if one.default in (None, ()) or (one.kind is YES_OR_NO and not one.varies):
        return ""
    of = {name: METHODS[name].own(one) for name in having}
    usual, _ = Counter(own.default for own in of.values()).most_common(1)[0]
    if len(of) == 1 and (instead := _instead(one)):
        return f" Default {instead}, else {one.text(usual)}."
    others: dict[Any, list[str]] = {}
    for name, own in of.items():
        if own.default != usual or own.instead:
            where = f" ({_instead(own)})" if own.instead else ""
            others.setdefault(own.default, []).append(f"{typed(name)}{where}")
    special = ", ".join(f"{one.text(value)} for {joined(names)}" for value, names in others.items())
    in_a_file = "" if one.mergekit_default is None else f" (in a recipe file: {one.text(one.mergekit_default)})"
    return f" Default {f'{special}, else ' if special else ''}{one.text(usual)}{in_a_file}."


def _instead(one: Parameter[Any]) -> str:
    """The default that other parameters decide, and where: `1 where importance is step`."""
    if one.instead is None:
        return ""
    where = [f"{o.name} is {' or '.join(map(o.text, values))}" for o, values in one.instead.others]
    return f"{one.text(one.instead.value)} where {joined(where)}"


def typed(name: str) -> str:
    """A method as one types it."""
    return name.replace("_", "-")
