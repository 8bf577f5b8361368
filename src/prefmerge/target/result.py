"""What came of `adapt`, as one value: what was chosen and why, what it is worth, and how to make the same again.

Cost: none. Not here: finding it (`adapt`), writing it (`output`), drawing it (`report`).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from prefmerge.ground.brief import brief
from prefmerge.merging.api import recipe_of
from prefmerge.merging.parameters import METHOD, every
from prefmerge.merging.receipt import Receipt
from prefmerge.merging.recipe import Recipe
from prefmerge.models.head_file import FrozenHead
from prefmerge.preference import Preference, as_text
from prefmerge.target.choice import Choice
from prefmerge.target.estimates import Estimates
from prefmerge.target.evidence import Evidence
from prefmerge.target.files import FORMAT
from prefmerge.target.own import Addition, lines_of_use
from prefmerge.target.parameters import Parameters
from prefmerge.target.pool import Candidate
from prefmerge.target.prior import Prior
from prefmerge.target.scored import Scored
from prefmerge.target.source import Source

DRIFT = 0.2  # part of the target that comes from other tasks, in the sentence on what is lost then


@dataclass(frozen=True, eq=False)
class Adapted:
    """What came out."""

    __repr__ = brief

    source: Source  # the checkpoints, their samples and the head
    evidence: Evidence  # what was shown of the target: `evidence.shares` are its shares
    prior: Prior  # how often each class occurs at the target
    pool: tuple[Candidate, ...]  # all models that were tried
    choice: Choice | None  # how the choice was made; None where there was nothing to judge by
    chosen: Candidate  # the model that was chosen
    estimates: Estimates | None  # how good it will be, with intervals; None where there was nothing to judge by
    head: FrozenHead | None  # the head that goes with it; None where the model answers by itself
    notes: tuple[str, ...]  # what to know of this result, a sentence each
    cost: Mapping[str, float]  # `forwards` (samples encoded), `merges`, `candidates`, `seconds`
    parameters: Parameters  # what was asked for
    receipt: Receipt | None = None  # of the model that was written; None where nothing was
    added: Addition | None = None  # what the classifier's bias takes, where the model answers by itself
    scored: Scored | None = None  # what a command of yours made of the candidates, in place of choice, estimates, head

    @property
    def verdict(self) -> str:
        """What was chosen and why, in a sentence or two."""
        if self.scored is not None:
            return self.scored.verdict
        if self.choice is None:
            why = "there are no samples of the tasks, so it could not be compared with anything"
            return f"Took {self.chosen.name}: {why}."
        if self.choice.best_single is None or not self.chosen.single:
            return f"Chose {self.chosen.name} out of {len(self.pool)} candidates."
        kept = f"Kept the weights of the {self.chosen.name}"
        if self.choice.index == self.choice.best:
            return f"{kept}: no other of the {len(self.pool)} candidates is better here."
        best = self.pool[self.choice.best].name
        return f"{kept}: {best} scores better, but by less than half a standard error."

    @property
    def drift(self) -> str | None:
        """What is left where a part of the target comes evenly from the other tasks, in a sentence; None where that was
        not measured. It is made of the estimates and of the samples of the other tasks.
        """
        if self.estimates is None or not self.estimates.others:
            return None
        there, row = self.estimates.there, self.estimates.before
        if row is None:
            return None
        others = list(self.estimates.others.values())
        of_others = [sum(one[k] for one in others) / len(others) for k in (1, 2)]
        at_target = [row.accuracy.value, self.estimates.chosen.accuracy.value]
        before, after = ((1 - DRIFT) * a + DRIFT * o for a, o in zip(at_target, of_others, strict=True))
        told = (
            f"Where {100 * DRIFT:.0f} % of the target comes evenly from the other tasks, expect {100 * after:.0f} % in "
            f"place of {100 * at_target[1]:.0f} % (the {there}: {100 * before:.0f} %)."
        )
        gain, loss = at_target[1] - at_target[0], of_others[0] - of_others[1]
        if gain > 0 and loss > 0:
            told += f" Beyond {100 * gain / (gain + loss):.0f} % the {there} is the better model."
        return told

    @property
    def nothing_said(self) -> bool:
        """Whether all tasks count alike because the user said nothing of the target."""
        return self.evidence.shares.source == "stated" and self.parameters.prefer is None

    @property
    def by_hand(self) -> str:
        """What the line of `merge` gives, in words."""
        without = "" if self.added is None else f", without the prior in {self.added.tensor!r}"
        return f"The same weights by hand{without}"

    def use(self, out: str = "OUT") -> tuple[str, str] | None:
        """How to use a model that answers by itself: a sentence, and two lines of Python. None where a head does."""
        classifier = self.source.classifier
        if classifier is None:
            return None
        told = "The model answers by itself: no prior was added to its classifier."
        if self.added is not None:
            told = f"The prior is in the classifier's bias ({self.added.tensor!r}), so the model answers by itself."
        return told, lines_of_use(classifier, out)

    def to_json(self) -> dict[str, Any]:
        """What adapt.json holds: no path, no host. `drawn`: shares as they could be, in the order of the tasks."""
        shares = self.evidence.shares
        drawn = [] if shares.source == "stated" else [" ".join(f"{s:.4f}" for s in one) for one in shares.draws]
        data: dict[str, Any] = {
            "format": FORMAT,
            "parameters": self.parameters.to_json(),
            "tasks": list(self.source.tasks.names),
            "target": shares.to_json(),
            "shown": self.evidence.shown.to_json(),
            "drawn": drawn,
            "prior": {
                name: float(p) for name, p in zip(self.source.tasks.classes, self.prior.classes, strict=True) if p > 0
            },
            "chosen": {"name": self.chosen.name, "settings": told_settings(self.chosen)},
            "verdict": self.verdict,
            "estimates": None if self.estimates is None else self.estimates.to_json(),
            "drift": self.drift,
            "notes": list(self.notes),
            "cost": dict(self.cost),
        }
        if self.scored is not None:
            del data["prior"]  # nothing is made of it
            data["scored"] = self.scored.to_json()
            data["candidates"] = [{"name": one.name, "settings": told_settings(one)} for one in self.pool]
        if self.added is not None:
            data["added"] = {
                "tensor": self.added.tensor,
                "values": dict(zip(self.source.tasks.classes, self.added.values.tolist(), strict=True)),
            }
        if self.choice is not None:
            data["candidates"] = [
                {
                    "name": one.name,
                    "single": one.single,
                    "settings": told_settings(one),
                    "first_score": float(self.choice.first[i]),
                    "score": None if np.isnan(self.choice.scores[i]) else float(self.choice.scores[i]),
                }
                for i, one in enumerate(self.pool)
            ]
            data["choice"] = {
                "ahead_of_best_checkpoint": self.choice.ahead,
                "standard_error": self.choice.error,
                "temperature": 1 / self.choice.fit.beta,
                "rows_l2": self.choice.fit.l2 if np.isfinite(self.choice.fit.l2) else None,
            }
        return data


def recipe(made: Adapted) -> Recipe:
    """The recipe of the chosen model."""
    if made.scored is not None:
        return made.scored.recipe
    source, chosen = made.source, made.chosen
    names, paths = source.tasks.names, source.checkpoints
    settings: dict[str, Any] = dict(chosen.settings)
    if chosen.task is not None:
        names, paths, settings = (names[chosen.task],), (paths[chosen.task],), {"method": "increments"}
    if made.parameters.dtype is not None:
        settings["dtype"] = made.parameters.dtype
    return recipe_of(source.base, paths, names=names, **settings)


def command(made: Adapted, out: str = "OUT", *, published: bool = False) -> str:
    """The line of `prefmerge merge` that makes the same weights. `published`: for files that others may see, with names
    in place of paths.
    """

    def told_path(path: Path) -> str:
        return path.name if published else str(path)

    source, chosen, asked = made.source, made.chosen, made.parameters
    words = ["prefmerge", "merge"]
    settings: dict[str, Any] = dict(chosen.settings)
    if chosen.task is not None and made.scored is not None:
        one = made.scored.recipe
        paths = [*([] if one.base is None else [one.base]), *(task.path for task in one.tasks)]
        words += [told_path(Path(path)) for path in paths]
        settings = {"method": one.method, **({"scale": "1"} if one.tasks else {})}
    elif chosen.task is not None:
        words += [told_path(source.base), told_path(source.checkpoints[chosen.task])]
        settings = {"method": "increments"}
    elif asked.run is not None:
        words += ["--run", told_path(asked.run)]
    else:
        words += [told_path(path) for path in asked.checkpoints]
    if asked.dtype is not None:
        settings["dtype"] = asked.dtype
    told = told_settings(replace(chosen, settings=settings))
    declared = {METHOD.name: METHOD, **every()}
    by_file = {name: value for name, value in told.items() if declared[name].per_task or not declared[name].flag}
    if by_file:
        listed = (f"{name} {', '.join(v) if isinstance(v, list) else v}" for name, v in by_file.items())
        return f"a recipe file with {'; '.join(listed)}"
    for name, value in told.items():
        for one in value if isinstance(value, list) else [value]:
            words += [declared[name].spelled, one.replace("_", "-") if name == METHOD.name else one]
    return " ".join(shlex.quote(word) for word in [*words, "-o", out])


def told_settings(candidate: Candidate) -> dict[str, Any]:
    """The settings of a candidate, for JSON and for people."""

    def told(value: Any) -> Any:
        if isinstance(value, Preference):
            return value.describe()
        if isinstance(value, Fraction):
            return as_text(value)
        return [told(one) for one in value] if isinstance(value, list | tuple) else str(value)

    return {name: told(value) for name, value in candidate.settings.items()}
