"""What came of a search by a command: trials, budgets, the comparison with the inputs, and what was chosen.

    ahead = score of the search's best - that of the best input, by the confirming command where there is one

Where the search's best is not ahead, the best input is chosen. A score has an interval only where the command printed a
standard error; that of a difference is then sqrt(e1^2 + e2^2), which is too wide where both were measured on the same
samples. Cost: none. Not here: how it came to this (`search`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefmerge.ground.brief import brief
from prefmerge.target.by_command.command import CommandScore
from prefmerge.target.by_command.number import MeasuredNumber
from prefmerge.target.search.trial import ScoredTrial, as_json

FORMAT = "prefmerge-search-by-command/1"
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
    def text(self) -> str:
        """The score, with its standard error where there is one."""
        if self.measured is None:
            return "none"
        error = "" if self.measured.error is None else f" ± {self.measured.error:.2g}"
        return f"{self.measured.value:.{DIGITS}g}{error}"

    def to_json(self) -> dict[str, Any]:
        own = {"number": self.trial.number, "what": self.trial.what}
        if isinstance(self.score, MeasuredNumber):
            return {**own, "score": self.score.value, "error": self.score.error}
        return {**own, "score": None, "why": self.score.why}


@dataclass(frozen=True)
class Rung:
    """What was scored at one budget ("": there are no budgets), the best first; those without a score at the end."""

    budget: str
    rows: tuple[Contender, ...]

    def to_json(self) -> dict[str, Any]:
        return {"budget": self.budget or None, "scores": [row.to_json() for row in self.rows]}


@dataclass(frozen=True)
class CommandOutcome:
    """The result of a search by your own score. Scores are as the command prints them."""

    __repr__ = brief

    command: str  # the command that scores a model
    confirm: str | None  # the command that confirms the best; None where there is none
    lower: bool  # whether a lower score is better
    searched: Mapping[str, Any]  # what was searched, as JSON
    trials: tuple[ScoredTrial, ...]  # every model that was scored, in the order of trying
    stopped: str  # why it ended, in words
    rungs: tuple[Rung, ...]  # what was scored at each budget, the largest budget last
    best: ScoredTrial  # the best of the trials
    chosen: ScoredTrial  # the one to use: the best, or an input that is no worse
    compared: tuple[Contender, ...]  # the search's best first, then the inputs, at the last budget or as confirmed
    recipe: str | None  # text of a recipe file for the chosen model; None where none can say it
    fingerprints: tuple[str, ...]  # of the base and of each task, shape (1 + T,)
    ending: str  # of the name of a model: "/", ".safetensors"
    notes: tuple[str, ...]  # a sentence each
    cost: Mapping[str, float]  # `commands` that were run, `merges` that were written, `seconds`

    @property
    def confirmed(self) -> bool:
        """Whether `compared` has the scores of the confirming command."""
        return self.confirm is not None

    @property
    def settings(self) -> Mapping[str, Any]:
        """What to give `merge` for the chosen model; nothing where that is an input."""
        return self.chosen.settings

    @property
    def verdict(self) -> str:
        """What was chosen and why, in words."""
        own = next((row for row in self.compared if row.trial.number == self.best.number), None)
        inputs = [row for row in self.compared if row.trial.task is not None and row.measured is not None]
        better = "lower is better" if self.lower else "higher is better"
        if self.best.task is not None:
            return f"No merge scored better than {self.best.what}, which you have ({better}). It is kept."
        if own is None or own.measured is None:
            return f"The search's best, {self.best.what}, has no confirming score. {self.chosen.what} is kept."
        if not inputs:
            return f"{self.best.what} is chosen; no input has a score to compare it with."
        rival = inputs[0]
        ahead, error = ahead_of(own, rival, self.lower)
        if self.chosen.number != self.best.number:
            return (
                f"{rival.trial.what}, which you have, is no worse than the search's best, {self.best.what} "
                f"({rival.text} and {own.text}; {better}). It is kept."
            )
        sure = "" if error is None else f", 95 % interval {ahead - SURE * error:.3g} to {ahead + SURE * error:.3g}"
        return (
            f"{self.best.what} is chosen: {own.text}, better by {ahead:.3g} than the best input, {rival.trial.what} "
            f"({rival.text}{sure}; {better})."
        )

    @property
    def doubt(self) -> str:
        """What the numbers do not say."""
        if not self.confirmed:
            return (
                "These scores chose the model, so its own is too good. A --confirm command on other samples gives an "
                "estimate."
            )
        if self.chosen.number != self.best.number:
            return "The confirming scores chose among the inputs, so that of the best one is somewhat too good."
        if any(row.measured is not None and row.measured.error is not None for row in self.compared):
            return "The interval takes the two scores as independent; on the same samples the true one is narrower."
        return "One score has no interval: have the command print a standard error (0.61 +- 0.02) to get one."

    def to_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        return {
            "format": FORMAT,
            "command": self.command,
            "confirm": self.confirm,
            "better": "lower" if self.lower else "higher",
            **self.searched,
            "trials": [
                {**one.to_json(), "score": one.score if math.isfinite(one.score) else None} for one in self.trials
            ],
            "stopped": self.stopped,
            "budgets": [rung.to_json() for rung in self.rungs],
            "best": self.best.number,
            "chosen": {
                "number": self.chosen.number,
                "what": self.chosen.what,
                "settings": as_json(dict(self.settings)),
            },
            "compared": [row.to_json() for row in self.compared],
            "verdict": self.verdict,
            "doubt": self.doubt,
            "recipe": self.recipe,
            "inputs": list(self.fingerprints),
            "notes": list(self.notes),
            "cost": dict(self.cost),
        }


def ahead_of(one: Contender, other: Contender, lower: bool) -> tuple[float, float | None]:
    """How much better the first is, and the standard error of that where both have one."""
    assert one.measured is not None
    assert other.measured is not None
    difference = one.measured.value - other.measured.value
    known = one.measured.error is not None and other.measured.error is not None
    error = math.hypot(one.measured.error or 0.0, other.measured.error or 0.0) if known else None
    return (-difference if lower else difference), error
