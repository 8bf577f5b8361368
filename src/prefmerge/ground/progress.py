"""How a long job says how far it is: it calls what its caller gave it.

    progress(done, all)          `Counted`: samples or trials
    progress(done, all, what)    `Progress`: bytes or pieces of work, and what is being done or was done last
    with phase("loading the model"): ...   what cannot be counted, to whoever listens in this process

A job calls at its own pace, from one thread at a time. Not here: how it is shown, which is `cli.progress`'s.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

Counted = Callable[[int, int], None]
Progress = Callable[[int, int, str], None]

_listeners: list[Callable[[str], None]] = []
_under_way: list[str] = []


@contextlib.contextmanager
def phase(what: str) -> Iterator[None]:
    """Say that `what` is going on inside, as `loading the model`. Nothing happens where nobody listens."""
    _under_way.append(what)
    try:
        _tell()
        yield
    finally:
        _under_way.pop()
        _tell()


def _tell() -> None:
    if _listeners:
        _listeners[-1](_under_way[-1] if _under_way else "")


@contextlib.contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Inside, `listener` gets what `phase` is given, and "" when that is over."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.pop()
