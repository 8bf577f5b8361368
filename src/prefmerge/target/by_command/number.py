"""The number in what a command printed, or in the JSON that it left.

    printed("loss 3\nperplexity: 12.5\ndone")                12.5: the last line with a number must have one alone
    printed("accuracy 0.61 +- 0.02")                         0.61, and its standard error 0.02
    in_json('{"results": {"arc": {"acc": 0.4}}}', "results/arc/acc")     0.4; results/*/acc too, if one task has it

Colours and what a carriage return wrote over are skipped. In JSON, lm-eval's `X_stderr,F` beside `X,F` is the standard
error. Raises NoNumber, whose text says what was printed instead. Cost: none. Not here: which is better.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from prefmerge.ground.words import quoted

_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_ANY = r"[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|nan|inf|infinity)(?![\w.]*\w)"
_NUMBER = re.compile(rf"(?<![\w./\\-]){_ANY}(?![/\\]|-\w)", re.IGNORECASE)  # not a part of a path or of a word
_WITH_ERROR = re.compile(rf"({_NUMBER.pattern})\s*(?:±|\+/?-)\s*({_ANY})", re.IGNORECASE)
SHOWN = 200  # characters of a line in a message
SEVERAL = 5  # places in a message


class NoNumber(Exception):
    """There is no one number: why."""


@dataclass(frozen=True)
class MeasuredNumber:
    """A finite number, and its standard error where one is known."""

    value: float
    error: float | None = None


@dataclass(frozen=True)
class RepeatedNumber(MeasuredNumber):
    """The mean of several runs, and its standard error: that of the runs, or the one that they print where that is
    larger. None where there is neither: runs that are all the same do not show how sure they are.
    """

    runs: tuple[float, ...] = ()
    printed: float | None = None  # the mean of the standard errors that the runs print


def repeated(several: Sequence[MeasuredNumber]) -> RepeatedNumber:
    """Runs of one command on one model, at least two, as one number."""
    runs = tuple(one.value for one in several)
    errors = [one.error for one in several if one.error is not None]
    shown = fmean(errors) if len(errors) == len(runs) else None
    spread = stdev(runs) / math.sqrt(len(runs))
    known = [one for one in (spread or None, shown) if one is not None]
    return RepeatedNumber(fmean(runs), max(known, default=None), runs, shown)


def printed(text: str) -> MeasuredNumber:
    """The number of the last line that holds one."""
    lines = [line.rpartition("\r")[2] for line in _COLOUR.sub("", text).replace("\r\n", "\n").splitlines()]
    line = next((line for line in reversed(lines) if _NUMBER.search(line)), None)
    if line is None:
        raise NoNumber("it printed no number" if text.strip() else "it printed nothing")
    pair = _WITH_ERROR.search(line)
    rest = line if pair is None else line[: pair.start()] + line[pair.end() :]
    others = _NUMBER.findall(rest)
    if pair is not None and not others:
        return _checked(float(pair[1]), float(pair[2]))
    if pair is not None or len(others) > 1:
        raise NoNumber(
            f"the last line with a number has several: {line.strip()[:SHOWN]!r}. Print one, or one with its standard "
            "error (0.61 +- 0.02)"
        )
    return _checked(float(others[0]))


def in_json(text: str, key: str, files: Iterable[Path] = ()) -> MeasuredNumber:
    """The number at `key`, names joined by /, of which * is any: in the newest of the files that has it, else in the
    last JSON object that was printed.
    """
    for file in sorted(files, key=lambda one: one.stat().st_mtime_ns, reverse=True):
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if (number := _at(value, key)) is not None:
            return number
    for start in reversed([match.start() for match in re.finditer(r"^\s*\{", text, re.MULTILINE)][-100:]):
        try:
            value, _ = json.JSONDecoder().raw_decode(text[start:].lstrip())
        except (ValueError, RecursionError):
            continue
        if (number := _at(value, key)) is not None:
            return number
    raise NoNumber(f"no JSON that it printed, or left in {{out}}, has a number at {key!r}")


def _at(value: Any, key: str) -> MeasuredNumber | None:
    *way, last = key.split("/")
    places = {"": value}
    for name in way:
        places = {
            f"{place}{own}/": entry
            for place, one in places.items()
            if isinstance(one, dict)
            for own, entry in (one.items() if name == "*" else [(name, one.get(name))])
        }
    metric, comma, rest = last.partition(",")
    found = {
        f"{place}{last}": (number, _number(one.get(f"{metric}_stderr{comma}{rest}")))
        for place, one in places.items()
        if isinstance(one, dict) and (number := _number(one.get(last))) is not None
    }
    if len(found) > 1:
        raise NoNumber(f"there are numbers at {quoted(found, SEVERAL)}; name one of them")
    return _checked(*next(iter(found.values()))) if found else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _checked(value: float, error: float | None = None) -> MeasuredNumber:
    if not math.isfinite(value):
        raise NoNumber(f"the number is {value:g}; expected a finite one")
    return MeasuredNumber(value, error if error is not None and math.isfinite(error) else None)
