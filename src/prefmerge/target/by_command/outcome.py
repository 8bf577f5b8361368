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
    """The result. `compared`: the search's best first, then the inputs. `confirmed`: by the confirming command.
    `recipe`: the text of a recipe file; None where none can say it. `searched`: what was searched, as JSON.
    """

    __repr__ = brief

    searched: Mapping[str, Any]
    trials: tuple[ScoredTrial, ...]
    stopped: str
    recipe: str | None
    fingerprints: tuple[str, ...]
    ending: str  # of the name of a model: "/", ".safetensors"
    notes: tuple[str, ...]
    cost: Mapping[str, float]

    @property
    def settings(self) -> Mapping[str, Any]:
        """What to give `merge` for the chosen model; nothing where that is an input."""
        return self.chosen.settings

    def to_json(self) -> dict[str, Any]:
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
