"""What the rows of `benchmarks.adapt` and `benchmarks.adapt_digits` say: means, intervals, paired differences.

    python -m benchmarks.adapt_summary     # makes the summary of every results/adapt*.json from its rows

Not here: tables.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import common
from prefmerge.ground.stats import t_interval, wilson

Rows = Sequence[Mapping[str, Any]]


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean and 95 % interval (Student's) over targets, in points."""
    mean = statistics.fmean(values)
    low, high = t_interval(values) or (mean, mean)
    return {"mean": round(100 * mean, 2), "low": round(100 * low, 2), "high": round(100 * high, 2)}


def summary(rows: Rows) -> dict[str, Any]:
    """Means over targets; differences of adapt, paired."""
    names = [name for name in rows[0]["accuracy"] if all(name in row["accuracy"] for row in rows)]
    ours = "adapt, labels"
    by_mix = {}
    for mix in dict.fromkeys(row["mix"] for row in rows):
        own = [row["accuracy"] for row in rows if row["mix"] == mix]
        by_mix[mix] = {name: round(100 * statistics.fmean(one[name] for one in own), 2) for name in names}
    errors = {}
    for n in rows[0]["estimates"]:
        own = [row["estimates"][n] for row in rows if n in row["estimates"]]
        inside = [one["low"] <= one["truth"] <= one["high"] for one in own]
        errors[n] = {
            "targets": len(own),
            "signed_error": interval([one["estimate"] - one["truth"] for one in own]),
            "coverage": round(sum(inside) / len(inside), 3),
            "coverage_interval": [round(end, 3) for end in wilson(sum(inside), len(inside))],
            "width": round(100 * statistics.fmean(one["high"] - one["low"] for one in own), 2),
            "truth": round(100 * statistics.fmean(one["truth"] for one in own), 2),
        }
    judged = [row["wrong"] for row in rows if row["wrong"] is not None]
    wrong = {}
    for mix in dict.fromkeys(mix for one in judged for mix in one):
        own = [one[mix] for one in judged if mix in one]
        means = {name: round(100 * statistics.fmean(each[name] for each in own), 2) for name in own[0]}
        wrong[mix] = {"targets": len(own), **means}
    return {
        "targets": len(rows),
        "accuracy": {name: interval([row["accuracy"][name] for row in rows]) for name in names},
        "adapt_ahead_of": {
            name: interval([row["accuracy"][ours] - row["accuracy"][name] for row in rows])
            for name in names
            if name != ours
        },
        "encoder_only_ahead_of_last": interval(
            [row["accuracy"]["adapt, labels, encoder only"] - row["accuracy"]["last"] for row in rows]
        ),
        "training_samples": _training_samples(rows),
        "by_mix": by_mix,
        "variation": {
            "labels": round(statistics.fmean(row["adapt"]["labels"]["variation"] for row in rows), 4),
            "inputs": round(statistics.fmean(_variation_of_inputs(row) for row in rows), 4),
        },
        "inputs": _inputs(rows),
        "forwards": _forwards(rows),
        "cost": costs(rows),
        "alternatives": _alternatives(rows),
        "estimates": errors,
        "wrong": wrong,
    }


def _variation_of_inputs(row: Mapping[str, Any]) -> float:
    made = row["adapt"].get("inputs")
    return row["variation_of_inputs"] if made is None else made["variation"]


def _inputs(rows: Rows) -> dict[str, Any]:
    """Adapt from inputs beside adapt from labels, over the targets that have both."""
    own = [row["accuracy"] for row in rows if "adapt, inputs" in row["accuracy"]]
    inputs, labels = ([one[f"adapt, {name}"] for one in own] for name in ("inputs", "labels"))
    return {
        "targets": len(own),
        "inputs": interval(inputs),
        "labels": interval(labels),
        "behind": interval([b - a for a, b in zip(inputs, labels, strict=True)]),
    }


def _training_samples(rows: Rows) -> dict[str, Any]:
    """What training samples in place of held-out ones choose, over the targets where they were tried."""
    name = "adapt, labels, training samples"
    own = [row["accuracy"] for row in rows if name in row["accuracy"]]
    entries = {
        "held-out samples": "adapt, labels",
        "training samples": name,
        "last + prior": "last + prior",
        "last": "last",
    }
    means = {title: round(100 * statistics.fmean(one[entry] for one in own), 2) for title, entry in entries.items()}
    return {"targets": len(own), **means}


def _forwards(rows: Rows) -> dict[str, int]:
    """Most forward passes of a call, by how many tasks it thinks are present."""
    most: dict[int, int] = {}
    for row in rows:
        for name in {"labels", "inputs"} & set(row["adapt"]):
            one = row["adapt"][name]
            most[one["present"]] = max(most.get(one["present"], 0), one["forwards"])
    return {str(present): most[present] for present in sorted(most)}


def _alternatives(rows: Rows) -> dict[str, Any]:
    own = [row for row in rows if row["alternatives"] is not None]
    every = [{"last checkpoint": row["accuracy"]["last"], **row["alternatives"]} for row in own]
    return {"targets": len(own), **{n: round(100 * statistics.fmean(one[n] for one in every), 2) for n in every[0]}}


def costs(rows: Rows) -> list[dict[str, float]]:
    """Means of the targets that were timed, by how many tasks are present."""
    timed = [row["cost"] for row in rows if row["cost"] is not None]
    by_present = [[one for one in timed if one["present"] == n] for n in sorted({one["present"] for one in timed})]
    return [
        {"targets": len(own), **{name: round(statistics.fmean(one[name] for one in own), 1) for name in own[0]}}
        for own in by_present
    ]


def summary_of_digits(rows: Rows) -> dict[str, Any]:
    """Means over seeds at every place, and over all."""
    names = list(rows[0]["accuracy"])
    places: dict[str, dict[str, float]] = {}
    for place in dict.fromkeys(row["place"] for row in rows):
        own = [row["accuracy"] for row in rows if row["place"] == place]
        places[place] = {name: round(100 * statistics.fmean(one[name] for one in own), 2) for name in names}
    ahead = {place: round(one["adapt"] - one["last"], 2) for place, one in places.items()}
    return {
        "accuracy": {name: interval([row["accuracy"][name] for row in rows]) for name in names},
        "ahead_of_last": interval(_by_seed(rows, "last")),
        **_other_wins(places, "last + prior"),
        "coverage": round(statistics.fmean(_holds(row) for row in rows), 3),
        "least_ahead_of_last_at_a_place": min(ahead.values()),
        "signed_error_of_estimates": interval([row["estimate"]["value"] - row["accuracy"]["adapt"] for row in rows]),
        "by_place": places,
    }


def _by_seed(rows: Rows, other: str) -> list[float]:
    """How far adapt is ahead of another entry over all places, for each seed: places of one run are not independent."""
    seeds = dict.fromkeys(row["seed"] for row in rows)
    own = [[row["accuracy"] for row in rows if row["seed"] == seed] for seed in seeds]
    return [statistics.fmean(one["adapt"] - one[other] for one in of_seed) for of_seed in own]


def _other_wins(places: Mapping[str, Mapping[str, float]], other: str) -> dict[str, Any]:
    """At how many places another entry is better, by more than a point too, and by how much at most."""
    behind = [place[other] - place["adapt"] for place in places.values() if other in place]
    return {
        "places_where_the_prior_alone_is_better": sum(one > 0 for one in behind),
        "of_these_by_more_than_a_point": sum(one > 1 for one in behind),
        "most_behind_the_prior_alone": round(max(behind, default=0.0), 2),
    }


def _holds(row: Mapping[str, Any]) -> bool:
    return row["estimate"]["low"] <= row["accuracy"]["adapt"] <= row["estimate"]["high"]


SUMMARIES: dict[str, Callable[[Rows], dict[str, Any]]] = {
    "adapt": summary,
    "adapt_17": lambda rows: {"cost": costs(rows)},
    "adapt_digits": summary_of_digits,
}


def main() -> None:
    for name, of_rows in SUMMARIES.items():
        file = common.RESULTS / f"{name}.json"
        data = json.loads(file.read_text(encoding="utf-8"))
        common.write_result(file, {**data, "summary": of_rows(data["rows"])})


if __name__ == "__main__":
    main()
