"""Words for messages: lists, counted nouns, the name that was meant.

    listed("abcdef", 3)                  a, b, c and 3 more
    quoted("abcdef", 3)                  'a', 'b', 'c' and 3 more
    joined("abc")                        a, b and c
    counted(1234, "sample")              1,234 samples
    nearest("lamda", ["lambda", "mu"])   lambda
    did_you_mean("lamda", ["lambda"])    ` Did you mean 'lambda'?`
    flag("toward_last")                  --toward-last
    flag("from_")                        --from

Source of `nearest`: difflib (Ratcliff and Obershelp 1988), its cutoff 0.6. Cost: nothing but for `nearest`, which
compares with every known name. Not here: nouns whose plural is not made with an s; other languages.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable


def listed(names: Iterable[str], most: int, *, form: Callable[[str], str] = str, separator: str = ", ") -> str:
    """The first `most` of the names, each as `form` writes it, and how many more there are."""
    several = list(names)
    more = f" and {len(several) - most} more" if len(several) > most else ""
    return separator.join(map(form, several[:most])) + more


def quoted(names: Iterable[str], most: int) -> str:
    """`listed`, each name as it would be typed in Python: `'a', 'b' and 1 more`."""
    return listed(names, most, form=repr)


def joined(names: Iterable[str]) -> str:
    """All of the names, `and` before the last."""
    *several, last = list(names) or [""]
    return f"{', '.join(several)} and {last}" if several else last


def counted(number: int, noun: str) -> str:
    """The number with its noun: `1 sample`, `0 samples`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def nearest(name: str, known: Iterable[str], *, fold: bool = False, cutoff: float = 0.6) -> str | None:
    """Of the known names the one that is most like `name`; None where none is like it. `fold`: case does not count, and
    of names that differ in case alone the first is meant. `cutoff`: from 0 (any will do) to 1 (the very same).
    """
    if not fold:
        return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)
    folded: dict[str, str] = {}
    for one in known:
        folded.setdefault(one.casefold(), one)
    near = nearest(name.casefold(), folded, cutoff=cutoff)
    return None if near is None else folded[near]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """What a message about an unknown name ends with: ` Did you mean 'scale'?`, or nothing."""
    near = nearest(name, known)
    return "" if near is None else f" Did you mean {near!r}?"


def flag(name: str) -> str:
    """What the command line calls a parameter."""
    return "--" + name.rstrip("_").replace("_", "-")


def duration(seconds: float) -> str:
    """In hours and minutes, minutes and seconds, or seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
