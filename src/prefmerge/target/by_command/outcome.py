"""What came of a search by a command: its trials, their scores at every budget, and what was chosen.

Cost: none. Not here: how it came to this (`search`), what is compared with what (`choice`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefmerge.ground.brief import brief
from prefmerge.target.by_command.choice import CommandChoice
from prefmerge.target.search.trial import ScoredTrial, as_json

FORMAT = "prefmerge-search-by-command/1"


@dataclass(frozen=True, kw_only=True)
class CommandOutcome(CommandChoice):
    """The result of a search by your own score."""

    __repr__ = brief

    searched: Mapping[str, Any]  # what was searched, as JSON
    trials: tuple[ScoredTrial, ...]  # every model that was scored, in the order of trying
    stopped: str  # why it ended, in words
    recipe: str | None  # text of a recipe file for the chosen model; None where none can say it
    fingerprints: tuple[str, ...]  # of the base and of each task, shape (1 + T,)
    ending: str  # of the name of a model: "/", ".safetensors"
    notes: tuple[str, ...]  # a sentence each
    cost: Mapping[str, float]  # `commands` that were run, `merges` that were written, `seconds`

    @property
    def settings(self) -> Mapping[str, Any]:
        """What to give `merge` for the chosen model; nothing where that is an input."""
        return self.chosen.settings

    def to_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        return {
            "format": FORMAT,
            **super().to_json(),
            **self.searched,
            "trials": [
                {**one.to_json(), "score": one.score if math.isfinite(one.score) else None} for one in self.trials
            ],
            "stopped": self.stopped,
            "chosen": {
                "number": self.chosen.number,
                "what": self.chosen.what,
                "settings": as_json(dict(self.settings)),
            },
            "recipe": self.recipe,
            "inputs": list(self.fingerprints),
            "notes": list(self.notes),
            "cost": dict(self.cost),
        }
