"""What came of a search that ranks as `adapt` does: in words, as JSON, as a picture, and how to make the model.

Scores rank and choose; they flatter what they chose, so none is called an accuracy. Accuracies are of the samples
apart. Cost: none. Not here: finding it (`by_score`), files (`folder`).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from prefmerge.ground.brief import brief
from prefmerge.ground.words import counted
from prefmerge.methods.parameters import PREFERENCE
from prefmerge.models.head_file import FrozenHead
from prefmerge.preference import Preference
from prefmerge.target.estimates import LEVEL, Row
from prefmerge.target.evidence import Evidence
from prefmerge.target.parameters import SearchParameters
from prefmerge.target.pool import Candidate
from prefmerge.target.prior import Prior
from prefmerge.target.result import Adapted, command, told_settings
from prefmerge.target.search.decision import Decision
from prefmerge.target.search.space import ParameterValues, Space
from prefmerge.target.search.trial import ScoredTrial, key_of
from prefmerge.target.source import Source

FORMAT = "prefmerge-search/2"


@dataclass(frozen=True, eq=False, kw_only=True)
class SearchOutcome:
    """The result of a search at a target. Scores are soft accuracies, for ranking only."""

    __repr__ = brief

    asked: SearchParameters  # what was asked for
    source: Source  # the checkpoints, their samples and the head
    evidence: Evidence  # what was shown of the target
    prior: Prior  # how often each class occurs there
    space: Space  # what was searched, and what was fixed
    pool: tuple[Candidate, ...]  # `adapt`'s candidates, with which the search started
    trials: tuple[ScoredTrial, ...]  # every model that was tried, in that order
    stopped: str  # why it ended, in words
    ranking: int  # how many samples ranked; the others compared the best two
    best: ScoredTrial  # the trial of the best score
    adapts: Candidate  # what `adapt` chooses among its candidates on the same samples
    same: bool  # whether these two are one model
    decision: Decision  # which of the two, and how far apart they are
    chosen: Candidate  # the one of the two that is the result
    head: FrozenHead  # for it, fitted on all samples
    notes: tuple[str, ...]  # a sentence each
    cost: Mapping[str, float]  # `forwards` (samples encoded), `merges`, `candidates`, `seconds`

    level: ClassVar[float] = LEVEL  # of the intervals

    @property
    def settings(self) -> ParameterValues:
        """What to merge with; empty for a checkpoint as it is."""
        return dict(self.chosen.settings)

    @property
    def preference(self) -> Preference | None:
        """The chosen preference; None where the chosen model takes none."""
        return self.settings.get(PREFERENCE.name)

    @property
    def verdict(self) -> str:
        """Which of the two was chosen, and why, in a sentence or two."""
        made, samples = self.decision, counted(self.decision.samples, "sample")
        if self.same:
            return f"Chose {self.adapts.name}: what adapt chooses. No trial scored better."
        ahead = f"{100 * made.ahead:+.1f} points of soft accuracy, standard error {100 * made.error:.1f}"
        if made.kept:
            return (
                f"Chose {self.best.what}, which the search came upon: on the {samples} that ranked no trial it is "
                f"ahead of adapt's choice, {self.adapts.name}, by more than half a standard error ({ahead})."
            )
        return (
            f"Chose {self.adapts.name}, which adapt chooses: on the {samples} that ranked no trial, the search's best, "
            f"{self.best.what}, is not ahead of it by more than half a standard error ({ahead})."
        )

    @property
    def compared(self) -> list[str]:
        """What the samples apart say of both, in sentences."""
        rows, made = self.decision.rows, self.decision
        if len(rows) < 2 or rows[1].ahead is None:
            return []
        ahead = rows[1].ahead
        clear = "" if rows[1].clear else ", no clear difference"
        told = [f"The search's best is ahead of adapt's choice by {100 * ahead.value:+.1f} {ahead.interval}{clear}."]
        if made.decided is not None:
            told.append(
                "These samples also decide which of the two is the result, so its own number is a little too high. "
                "Decided for each fifth of them on the others, the accuracy is "
                f"{100 * made.decided.value:.1f} % {made.decided.interval}."
            )
        return told

    def titled(self) -> list[tuple[str, Row]]:
        """The models that are reported, each with what it is called."""
        titles = [f"adapt's choice: {self.adapts.name}"]
        if not self.same:
            titles.insert(0, f"the search's best: {self.best.what}")
        return list(zip(titles, self.decision.rows, strict=False))

    def command(self, out: str = "merged/") -> str:
        """The line of `prefmerge merge` that makes the chosen weights."""
        return command(self._adapted, out)

    def use(self, head: str | Path, out: str = "merged/") -> str:
        """The line that judges these weights with the head."""
        return shlex.join(["prefmerge", "evaluate", out, "--run", str(self.asked.run), "--head", str(head)])

    @property
    def _adapted(self) -> Adapted:
        """The same as a result of `adapt`, which knows how its model is made."""
        return Adapted(
            self.source,
            self.evidence,
            self.prior,
            self.pool,
            None,
            self.chosen,
            None,
            self.head,
            self.notes,
            self.cost,
            self.asked.of_adapt,
        )

    def to_json(self) -> dict[str, Any]:
        """Everything but what it cost: the chosen model first, then the comparison, then all trials."""
        made, asked = self.decision, self.asked
        return {
            "format": FORMAT,
            "tasks": list(self.source.tasks.names),
            "target": self.evidence.shares.to_json(),
            "chosen": {"name": self.chosen.name, "task": self.chosen.task, "settings": told_settings(self.chosen)},
            "verdict": self.verdict,
            "best": self.best.to_json(),
            "adapt": {"name": self.adapts.name, "task": self.adapts.task, "settings": told_settings(self.adapts)},
            "comparison": {
                "same": self.same,
                "kept": made.kept,
                "samples": made.samples,
                "ahead": made.ahead,
                "standard_error": made.error,
                "level": self.level,
                "rows": [row.to_json() for row in made.rows],
                "decided": None if made.decided is None else made.decided.to_json(),
            },
            "stopped": self.stopped,
            "space": self.space.to_json(),
            "samples": {"ranking": self.ranking, "held_out": made.samples},
            "settings": {
                "seed": asked.seed,
                "batch": asked.batch,
                "patience": asked.patience,
                "trials_at_most": asked.trials,
                "held_out": asked.held_out,
            },
            "about": {
                "run": str(asked.run),
                **{
                    name: str(getattr(asked, name))
                    for name in ("labels", "inputs", "pairs", "prefer")
                    if getattr(asked, name) is not None
                },
            },
            "notes": list(self.notes),
            "trials": [one.to_json() for one in self.trials],
        }

    def preference_json(self) -> dict[str, Any] | None:
        """The chosen preference as `Preference.load` reads it, with the settings that belong to it."""
        if self.preference is None:
            return None
        names = self.source.tasks.names
        return {
            **self.preference.to_json(),
            "about": {
                "format": FORMAT,
                "tasks": list(names),
                "shares": [float(share) for share in self.preference.shares(names)],
                "settings": {
                    name: value for name, value in told_settings(self.chosen).items() if name != PREFERENCE.name
                },
                "verdict": self.verdict,
            },
        }

    def draw(self, path: str | Path) -> None:
        """The scores over the trials, as a picture. Raises MissingExtra, OutputError."""
        from prefmerge import plotting

        figure = plotting.new_figure(7.5, 4)
        from matplotlib.ticker import MaxNLocator

        axes = figure.add_subplot()
        numbers = [one.number + 1 for one in self.trials]
        scores = [100 * one.score for one in self.trials]
        own, adapts = plotting.style_of("Search").colour, plotting.style_of("Tunable (Label)").colour
        axes.step(numbers, np.maximum.accumulate(scores), where="post", color=own, label="best so far")
        axes.plot(numbers, scores, ".", color=own, label="trial")
        starts = [(number, score) for one, number, score in zip(self.trials, numbers, scores, strict=True) if one.start]
        axes.plot(*zip(*starts, strict=True), "s", color=adapts, label="adapt's candidate")
        ours = {_key(self.adapts): "adapt's choice", _key(self.chosen): "chosen"}
        for one, number, score in zip(self.trials, numbers, scores, strict=True):
            label = ours.pop(one.key, None)
            if label is not None:
                colour, mark = (plotting.VERMILION, "*") if label == "chosen" else (adapts, "D")
                axes.plot([number], [score], mark, markersize=11, color=colour, label=label)
        axes.set_xlabel("trial")
        axes.set_ylabel("score on the samples that rank (%)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(x=0.03)
        plotting.open_sides([axes])
        figure.legend(loc="outside right upper", frameon=False, fontsize="small")
        plotting.save(figure, path)


def _key(one: Candidate) -> str:
    return key_of(dict(one.settings), one.task)
