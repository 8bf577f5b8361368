"""Runs that differ in their seed alone, together: mean and standard deviation of their accuracies.

Cost: none to speak of. Not here: the evaluations themselves (`evaluation`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefmerge.errors import DataError
from prefmerge.models.metrics import mean_std


def summary_over_seeds(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and sample standard deviation over runs that differ in their seed, of `Evaluation.to_json` objects.

    Every accuracy becomes {"mean", "std"}; std is None for one run. Raises DataError where there is none, or the tasks
    are not the same.
    """
    if not evaluations:
        raise DataError("there is no evaluation to summarise. Give at least one.")
    about = [one.get("about", {}) for one in evaluations]
    for at, theirs in enumerate(about):
        if theirs.get("classes") != about[0].get("classes"):
            raise DataError(
                f"evaluation {at + 1} is of other classes than the first. A mean over seeds needs the same data."
            )
        judged = [one.get("samples", "test") for one in (about[0], theirs)]
        if judged[0] != judged[1]:
            raise DataError(
                f"evaluation {at + 1} is on {judged[1]} samples, the first on {judged[0]} samples. A mean over seeds "
                "needs the same: put the data back where the runs had them."
            )
        if theirs and theirs in about[:at]:
            raise DataError(f"evaluation {at + 1} is the same as an earlier one: {theirs.get('checkpoint')}.")
    names = [[task["name"] for task in one["tasks"]] for one in evaluations]
    for at, theirs in enumerate(names):
        if theirs != names[0]:
            raise DataError(
                f"evaluation {at + 1} has the tasks {', '.join(theirs)}; the first has {', '.join(names[0])}. "
                "A mean over seeds needs the same tasks in the same order."
            )

    notes = list(dict.fromkeys(note for one in about for note in one.get("notes", ())))

    def over(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        both = {knowing: mean_std([part[knowing] for part in parts]) for knowing in ("agnostic", "aware")}
        return {knowing: {"mean": mean, "std": std} for knowing, (mean, std) in both.items()}

    return {
        "runs": len(evaluations),
        **{key: about[0][key] for key in ("samples", "note") if key in about[0]},
        **({"notes": notes} if notes else {}),
        "overall": over([one["overall"] for one in evaluations]),
        "mean": over([one["mean"] for one in evaluations]),
        "tasks": [
            {"name": name, **over([one["tasks"][at] for one in evaluations])} for at, name in enumerate(names[0])
        ],
    }
