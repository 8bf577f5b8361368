"""What a command's scores say: which candidate is best, what it was compared with, and what was chosen.

    ahead = score of the best candidate - that of the best that it is compared with    by the confirming command, if any

Compared are the inputs, and where there is one, what would be merged without scores (`default`). Where the best
candidate is not ahead of all of them, the best of them is chosen. A score has an interval only where the command
printed a standard error; that of a difference is then sqrt(e1^2 + e2^2), which is too wide where both were measured on
the same samples. Where the command was run several times, the interval of a difference is that of its mean over the
runs (Student's t), or the one before where that is wider. Cost: none. Not here: how the scores come about (`judge`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import stdev
from typing import Any

from prefmerge.ground.stats import LEVEL, t_quantile
from prefmerge.target.by_command.command import CommandScore
from prefmerge.target.by_command.number import MeasuredNumber, RepeatedNumber
from prefmerge.target.scored import ScoreTable
from prefmerge.target.search.trial import ScoredTrial

SURE = 1.96  # standard errors on each side of a 95 % interval
DIGITS = 6  # significant ones, of a score that is printed


@dataclass(frozen=True)
class Contender:
    """A trial and its score at a budget, or by the confirming command."""

    trial: ScoredTrial
    score: CommandScore

    @property
    def measured(self) -> MeasuredNumber | None:
        return self.score if isinstance(self.score, MeasuredNumber) else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the score, where its error is known."""
        if self.measured is None or self.measured.error is None:
            return None
        half = _sure(self.measured) * self.measured.error
        return self.measured.value - half, self.measured.value + half

    @property
    def text(self) -> str:
        """The score, with its standard error where there is one."""
        if self.measured is None:
            return "none"
        error = "" if self.measured.error is None else f" ± {self.measured.error:.2g}"
        return f"{self.measured.value:.{DIGITS}g}{error}"

    def to_json(self) -> dict[str, Any]:
        own = {"number": self.trial.number, "what": self.trial.what}
        if isinstance(self.score, MeasuredNumber):
            runs = {"runs": list(self.score.runs)} if isinstance(self.score, RepeatedNumber) else {}
            return {**own, "score": self.score.value, "error": self.score.error, **runs}
        return {**own, "score": None, "why": self.score.why}


@dataclass(frozen=True)
class Rung:
    """What was scored at one budget ("": there are no budgets), the best first; those without a score at the end."""

    budget: str
    rows: tuple[Contender, ...]

    def to_json(self) -> dict[str, Any]:
        return {"budget": self.budget or None, "scores": [row.to_json() for row in self.rows]}


@dataclass(frozen=True)
class CommandChoice:
    """What a command's scores say. They are as the command prints them."""

    command: str  # the command that scores a model
    confirm: str | None  # the confirming command, which scored `compared`; None where there is none
    lower: bool  # whether a lower score is better
    rungs: tuple[Rung, ...]  # what was scored at each budget, the largest budget last
    best: ScoredTrial  # the best candidate
    chosen: ScoredTrial  # the one to use
    # the best candidate first, unless it is one of those that it is compared with; then these, the best first
    compared: tuple[Contender, ...]
    default: int | None = None  # the number of the trial that is merged where there are no scores
    repeats: int = 1  # how often the confirming command was run for each

    @property
    def confirmed(self) -> bool:
        """Whether `compared` has the scores of the confirming command."""
        return self.confirm is not None

    @property
    def better(self) -> str:
        """Which scores are, in words."""
        return "lower is better" if self.lower else "higher is better"

    def row(self, trial: ScoredTrial) -> Contender | None:
        """How a trial was compared."""
        return next((row for row in self.compared if row.trial.number == trial.number), None)

    @property
    def verdict(self) -> str:
        """What was chosen and why, in words."""
        own, chosen = self.row(self.best), self.row(self.chosen)
        rivals = [row for row in self.compared if row.trial.number != self.best.number and row.measured is not None]
        if self.best.task is not None and self.chosen.number == self.best.number:
            return f"No merge scored better than {self.best.what}, which you have ({self.better}). It is kept."
        if own is None or own.measured is None:
            return f"The best candidate, {self.best.what}, has no confirming score. {self.chosen.what} is kept."
        if not rivals:
            return f"{self.best.what} is chosen; no input has a score to compare it with."
        if chosen is not None and self.chosen.number != self.best.number:
            return (
                f"{self.chosen.what}, {self._known(self.chosen)}, is no worse than the best candidate, "
                f"{self.best.what} ({chosen.text} and {own.text}; {self.better}). It is kept."
            )
        rival = rivals[0]
        ahead, half = ahead_of(own, rival, self.lower)
        sure = "" if half is None else f", 95 % interval {ahead - half:.3g} to {ahead + half:.3g}"
        of = "the best input, " if rival.trial.task is not None else "the default, "
        return (
            f"{self.best.what} is chosen: {own.text}, better by {ahead:.3g} than {of}{rival.trial.what} "
            f"({rival.text}{sure}; {self.better})."
        )

    def _known(self, trial: ScoredTrial) -> str:
        return "which you have" if trial.task is not None else "the default"

    @property
    def expected(self) -> str:
        """The score that is to be expected of the chosen model, in a sentence."""
        own = self.row(self.chosen)
        score = "none" if own is None else own.text
        if self.confirmed and own is not None:
            ends = own.interval
            sure = "" if ends is None else f", 95 % interval {ends[0]:.{DIGITS}g} to {ends[1]:.{DIGITS}g}"
            runs = f", the mean of {self.repeats} runs" if self.repeats > 1 else ""
            return f"Expected: {score}{sure}{runs}, by the confirming command ({self.better})."
        return f"By the score that chose it: {score} ({self.better}). How good it is on other samples is not known."

    @property
    def doubt(self) -> str:
        """What the numbers do not say."""
        if not self.confirmed:
            return (
                "These scores chose the model, so its own is too good. A --confirm command on other samples gives an "
                "estimate."
            )
        if self.chosen.number != self.best.number:
            return "The confirming scores chose among what was compared, so that of the best one is somewhat too good."
        if self.repeats > 1:
            if not any(row.interval for row in self.compared):
                return (
                    "All runs of the confirming command print the same, so there is no interval. Give it {repeat} as a "
                    "seed, or have it print a standard error (0.61 +- 0.02)."
                )
            return (
                f"The interval is that of {self.repeats} runs: it holds what differs from run to run, and not that "
                "samples are few, unless the command prints a standard error too or {repeat} draws other samples."
            )
        if any(row.measured is not None and row.measured.error is not None for row in self.compared):
            return "The interval takes the two scores as independent; on the same samples the true one is narrower."
        return "One score has no interval: have the command print a standard error (0.61 +- 0.02) to get one."

    def to_json(self) -> dict[str, Any]:
        return {
            "command": self.command,
            "confirm": self.confirm,
            "confirm_repeats": self.repeats,
            "better": "lower" if self.lower else "higher",
            "budgets": [rung.to_json() for rung in self.rungs],
            "compared": [row.to_json() for row in self.compared],
            "best": self.best.number,
            "chosen": self.chosen.number,
            "verdict": self.verdict,
            "doubt": self.doubt,
        }

    def tables_of(self, title: str, most: int | None = None) -> tuple[ScoreTable, ScoreTable]:
        """The best at the last budget, `most` of them, under this title; and what was compared."""
        beside = "by the confirming command" if self.confirmed else "beside the inputs"
        return self._table(title, self.rungs[-1].rows[:most]), self._table(beside, self.compared)

    def _table(self, title: str, rows: tuple[Contender, ...]) -> ScoreTable:
        chosen = next((i for i, row in enumerate(rows) if row.trial.number == self.chosen.number), None)
        return ScoreTable(title, tuple((row.trial.what, row.text) for row in rows), chosen)


def ahead_of(one: Contender, other: Contender, lower: bool) -> tuple[float, float | None]:
    """How much better the first is, and half of the 95 % interval of that, where it is known."""
    first, second = one.measured, other.measured
    assert first is not None
    assert second is not None
    ahead = first.value - second.value
    halves: list[float] = []
    errors = [_printed(each) for each in (first, second)]
    if None not in errors:
        halves.append(SURE * math.hypot(*(error or 0.0 for error in errors)))
    if isinstance(first, RepeatedNumber) and isinstance(second, RepeatedNumber):
        apart = [a - b for a, b in zip(first.runs, second.runs, strict=True)]
        spread = stdev(apart) / math.sqrt(len(apart))
        halves += [t_quantile(LEVEL, len(apart) - 1) * spread] if spread else []
    return -ahead if lower else ahead, max(halves, default=None)


def _printed(number: MeasuredNumber) -> float | None:
    """The standard error that a command prints."""
    return number.printed if isinstance(number, RepeatedNumber) else number.error


def _sure(number: MeasuredNumber) -> float:
    """Standard errors on each side of the 95 % interval of a score."""
    return t_quantile(LEVEL, len(number.runs) - 1) if isinstance(number, RepeatedNumber) else SURE
