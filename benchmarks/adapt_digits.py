"""Is `prefmerge adapt` ever worse than the last checkpoint, at any place of the demo's digits?

The demo's run, five training seeds (the order of batches); all 20 places of two tasks, 20 labels each. The place's test
images judge: the last checkpoint, the same with the log prior, the merges that the papers compare, and adapt. Nothing
is chosen on them. About half an hour on two cores. Writes `results/adapt_digits.json`; `benchmarks.adapt_tables` makes
the table of docs/adapt.md from it. Resumable: a place that is done is kept.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.adapt_summary import summary_of_digits
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
    accuracy: dict[str, float] = {}
    for one, (units,) in zip(there, forwards.units(there, [examples], "judging"), strict=True):
        if one is made.chosen:
            accuracy["adapt"] = float(np.mean(made.head.logits(units).argmax(axis=1) == examples.labels))
            continue
        logits = source.head.logits(units)  # type: ignore[union-attr]
        accuracy[one.name] = float(np.mean(logits.argmax(axis=1) == examples.labels))
        accuracy[f"{one.name} + prior"] = float(np.mean((logits + made.prior.logits).argmax(axis=1) == examples.labels))
    estimate = made.estimates.chosen.accuracy
    return {"place": place.title, "chosen": made.chosen.name, "accuracy": accuracy, "estimate": estimate.to_json()}


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
                    row = judge(folder / f"run-{seed}", digits, digits.place(tasks), folder / f"{seed}-{number}.csv")
                    atomic.write_whole(kept, json.dumps({"seed": seed, **row}).encode())
                rows.append(json.loads(kept.read_text()))
            print(f"seed {seed}: done", flush=True)
    return {"question": common.question(__doc__), **began, "summary": summary_of_digits(rows), "rows": rows}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=WORK, help="where all is kept; what is done is not done again")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    asked = parser.parse_args(arguments)
    common.write_result(common.RESULTS / "adapt_digits.json", run(asked.work, seeds=asked.seeds))


if __name__ == "__main__":
    main()
