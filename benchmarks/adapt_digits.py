"""Is `prefmerge adapt` ever worse than the last checkpoint, at any place of the demo's digits?

The demo's run, five training seeds (the order of batches); all 20 places of two tasks, 20 labels each. The place's test
images judge: the last checkpoint, the same with the log prior, the merges that the papers compare, and adapt. Nothing
is chosen on them. About half an hour on two cores. Writes `results/adapt_digits.json` and, with --docs, the table of
docs/adapt.md. Resumable: a place that is done is kept.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.adapt import between_marks, interval
from prefmerge.ground import atomic
from prefmerge.lab.demo.digits import NAMES, PLACES, Digits, Place, load_digits
from prefmerge.lab.demo.model import load_base
from prefmerge.lab.demo.train import fine_tune_in_sequence
from prefmerge.target import adapt as work
from prefmerge.target.forwards import Forwards
from prefmerge.target.merges import Merges
from prefmerge.target.parameters import Parameters
from prefmerge.target.pool import Candidate, baselines
from prefmerge.training.steps import torch_threads

WORK = Path(__file__).parent / "scratch" / "adapt_digits"
SEEDS = 5
MARK = "<!-- made by benchmarks/adapt_digits.py -->"


def judge(run: Path, digits: Digits, place: Place, file: Path) -> dict[str, Any]:
    """The accuracies of every entry at one place."""
    with open(file, "w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([["label"], *([str(int(digits.labels[i]))] for i in place.meta)])
    made = work.adapt(Parameters.of(run=run, labels=file))
    assert made.source.head is not None
    assert made.head is not None
    assert made.estimates is not None
    source, shares = made.source, made.evidence.shares.shares
    there = [Candidate("last", task=len(NAMES) - 1), *baselines(shares, True), made.chosen]
    forwards = Forwards(source, made.parameters, lambda *_: None, Merges(source.base, source.checkpoints, NAMES))
    examples = digits.examples(place.test)
    found: dict[str, float] = {}
    for one, (units,) in zip(there, forwards.units(there, [examples], "judging"), strict=True):
        if one is made.chosen:
            found["adapt"] = float(np.mean(made.head.logits(units).argmax(axis=1) == examples.labels))
            continue
        logits = source.head.logits(units)  # type: ignore[union-attr]
        found[one.name] = float(np.mean(logits.argmax(axis=1) == examples.labels))
        found[f"{one.name} + prior"] = float(np.mean((logits + made.prior.logits).argmax(axis=1) == examples.labels))
    estimate = made.estimates.chosen.accuracy
    return {"place": place.title, "chosen": made.chosen.name, "accuracy": found, "estimate": estimate.to_json()}


def run(folder: Path, *, seeds: int = SEEDS, places: int | None = None) -> dict[str, Any]:
    """All places of all seeds, done ones taken from the folder."""
    began = common.provenance()
    digits, rows = load_digits(), []
    folder.mkdir(parents=True, exist_ok=True)
    with torch_threads(1):
        for seed in range(seeds):
            encoder, head = load_base()
            fine_tune_in_sequence(encoder, head, digits, folder / f"run-{seed}", seed)
            for number, tasks in enumerate(PLACES[:places]):
                kept = folder / f"{seed}-{number}.json"
                if not kept.exists():
                    told = judge(folder / f"run-{seed}", digits, digits.place(tasks), folder / f"{seed}-{number}.csv")
                    atomic.write_whole(kept, json.dumps({"seed": seed, **told}).encode())
                rows.append(json.loads(kept.read_text()))
            print(f"seed {seed}: done", flush=True)
    return {"question": common.question(__doc__), **began, "summary": summary(rows), "rows": rows}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
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


def document(data: Mapping[str, Any]) -> str:
    """The table of docs/adapt.md."""
    told = data["summary"]
    count = len(told["by_place"])
    rows = [
        [name, f"{one['mean']:.1f}", f"{min(place[name] for place in told['by_place'].values()):.1f}"]
        for name, one in sorted(told["accuracy"].items(), key=lambda pair: -pair[1]["mean"])
    ]
    ahead, error = told["ahead_of_last"], told["signed_error_of_estimates"]
    seeds = len({row["seed"] for row in data["rows"]})
    return "\n".join(
        [
            common.table(["entry", "accuracy", "at its worst place"], rows),
            f"{count} places of two tasks, {seeds} training seeds, 20 labels each. Adapt is ahead of the last "
            f"checkpoint by {ahead['mean']:.1f} points [{ahead['low']:.1f}, {ahead['high']:.1f}]; where it gains "
            f"least, by {told['least_ahead_of_last_at_a_place']:.1f} (mean over seeds). Its estimate less the "
            f"accuracy on the 125 test images of a place is {error['mean']:+.1f} [{error['low']:.1f}, "
            f"{error['high']:.1f}] points, and its 90 % interval holds that accuracy {100 * told['coverage']:.0f} % of "
            "the time (125 images leave doubt of their own).\n",
            "Where something else wins: the last checkpoint with the log prior alone is better at "
            f"{told['places_where_the_prior_alone_is_better']} of the {count} places, by more than a point at "
            f"{told['of_these_by_more_than_a_point']}, by {told['most_behind_the_prior_alone']:.1f} at most.\n",
            common.origin(dict(data)),
        ]
    )


def _by_seed(rows: Sequence[dict[str, Any]], other: str) -> list[float]:
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


def _holds(row: dict[str, Any]) -> bool:
    return row["estimate"]["low"] <= row["accuracy"]["adapt"] <= row["estimate"]["high"]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=WORK, help="where all is kept; what is done is not done again")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--docs", type=Path, help="also put the table into this file, between its marks")
    asked = parser.parse_args(arguments)
    data = run(asked.work, seeds=asked.seeds)
    common.write_result(common.RESULTS / "adapt_digits.json", data)
    if asked.docs:
        between_marks(asked.docs, MARK, document(data))


if __name__ == "__main__":
    main()
