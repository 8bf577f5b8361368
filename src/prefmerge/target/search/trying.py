"""Trials, a batch after the other, until a limit is reached: what every search does, whatever ranks its trials.

    batch    asked of the study as a whole; what an interruption left of it is done first
    end      `trials` in all, or `patience` of them in a row that are no better, the first ones left aside

Cost: what a trial costs. Not here: what a trial is and what it is worth (`tuning`, `by_score`), keeping it (`study`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from prefmerge.errors import UsageError
from prefmerge.target.search.space import Params, Start
from prefmerge.target.search.study import Study


class Keepable(Protocol):
    """A trial that a study can keep."""

    def kept(self) -> dict[str, Any]: ...


T = TypeVar("T", bound=Keepable)


@dataclass(frozen=True)
class Limits:
    """How long a search goes on, and how many of its trials are made together. Raises UsageError."""

    trials: int
    patience: int
    batch: int

    def __post_init__(self) -> None:
        for what, value in (("trials", self.trials), ("patience", self.patience), ("batch", self.batch)):
            if value < 1:
                raise UsageError(f"{what} is {value}; expected a whole number of at least 1.")


def carry_on(
    study: Study,
    done: list[T],
    starts: Sequence[Start],
    limits: Limits,
    *,
    drawn: Callable[[int, Params], Start],
    tried: Callable[[Sequence[Start]], Iterable[T]],
    value: Callable[[T], float],
    seen: Callable[[T], None] | None = None,
) -> str:
    """Add trials to `done` and to the study until a limit is reached. Returns which one, in words.

    drawn: the number of a trial and what the study draws for it -> what is tried. tried: a trial for each of what is
    to be tried, in this order, each as soon as it is done. value: what ranks a trial. seen: called after each.
    """

    def stale() -> bool:
        values = [value(one) for one in done]
        return (
            len(done) >= len(starts) and len(done) - max(len(starts), values.index(max(values)) + 1) >= limits.patience
        )

    while len(done) < limits.trials and not (len(done) % limits.batch == 0 and stale()):
        # A batch is asked for as a whole, as it was before an interruption; what is done of it is not done again.
        first = len(done) // limits.batch * limits.batch
        last = min(first + limits.batch, limits.trials)
        asked = list(starts[first:last])
        numbers = range(first + len(asked), last)
        asked += [drawn(number, params) for number, params in zip(numbers, study.ask(first, numbers), strict=True)]
        waiting = asked[len(done) - first :]
        for one, trial in zip(waiting, tried(waiting), strict=True):
            study.keep(one.params, value(trial), trial.kept())
            done.append(trial)
            if seen is not None:
                seen(trial)
    if len(done) < limits.trials:
        return f"{limits.patience} trials without improvement"
    return f"{limits.trials} trials"
