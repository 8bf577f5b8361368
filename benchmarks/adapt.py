"""Does `prefmerge adapt` give a better model for a target than what is there, and does it say truly how good it is?

all-MiniLM-L6-v2 learns WordNet's classes in T tasks (as `benchmarks.real_model`), training seed 4, a class order of its
own, 100 samples of each task held out of training. 25 targets of the papers' five mixes (e1 to e5) of 500 test samples,
50 of them shown; the other 450 judge. Entries: what is there, the papers' methods, the log prior, adapt from 50 labels,
from 50 inputs, and without the prior. Also: estimates against the truth at 100 held-out samples a task, and at 20 and
50 for three targets of each mix; for two, what is lost where the target drifts. Nothing is chosen on test samples.
Resumable: a target that is done is kept. About an hour on two cores, 1 GB of disk. Writes `results/adapt.json` and,
with --docs, the tables of docs/adapt.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import common, real_model
from prefmerge import targets
from prefmerge.continual.data.examples import Examples, concatenated
from prefmerge.ground import atomic
from prefmerge.target import adapt as work
from prefmerge.target.merges import Merges
from prefmerge.target.parameters import Parameters
from prefmerge.target.pool import Candidate, baselines
from prefmerge.target.prior import make_prior

WORK = Path(__file__).parent / "scratch" / "adapt"
TEST = 125  # definitions of a class
SEED = 4
HELD_OUT = {5: 100, 17: 60}
TRAIN = {5: 300, 17: 150}  # definitions of a class
SIZE, SHOWN = 500, 50
FEWER = (20, 50)  # held-out samples of a task, beside 100, at
WITH_FEWER = 3  # targets of each mix
DRIFT = (0.1, 0.2, 0.4, 1.0)  # parts of the target that come evenly from all tasks, unknown to us
DRIFTING = 2  # targets of each mix
MARK = "<!-- made by benchmarks/adapt.py -->"


def config(model: Path, data: Path, tasks: int, epochs: int = 2) -> dict[str, Any]:
    """The configuration of one run."""
    order = list(real_model.CLASSES.values())
    random.Random(SEED).shuffle(order)
    return {
        "model": {"id": str(model), "kind": "sentence", "logit_scale": real_model.LOGIT_SCALE},
        "data": {
            "name": str(data / "train.csv"),
            "test": str(data / "test.csv"),
            "classes": list(real_model.CLASSES.values()),
            "train_per_class": TRAIN[tasks],
        },
        "scenario": {"kind": "class-incremental", "tasks": tasks, "class_order": order},
        "training": {
            "method": "sequential",
            "epochs": epochs,
            "batch": 32,
            "learning_rate": 2e-5,
            "warmup_fraction": 0.1,
            "threads": 1,
            "device": "cpu",
        },
        "held_out": HELD_OUT[tasks],
        "seed": SEED,
    }


def train(work_folder: Path, wordnet: Path, model: Path, tasks: int, epochs: int) -> Path:
    """The run, finished; one that was interrupted is resumed."""
    work_folder.mkdir(parents=True, exist_ok=True)
    if not (work_folder / "data" / "test.csv").exists():
        real_model.write_data(wordnet, work_folder / "data", real_model.TRAIN, TEST)
    file, out = work_folder / f"run-{tasks}.yaml", work_folder / f"run-{tasks}"
    file.write_text(yaml.safe_dump(config(model, work_folder / "data", tasks, epochs), sort_keys=False))
    done = subprocess.run(
        [*common.PREFMERGE, "finetune", str(file), "-o", str(out)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"prefmerge finetune {file}: {done.stderr.strip()}")
    return out


class Bench:
    """One run, its targets, and forward passes that are done once: the cache of features keeps them."""

    def __init__(self, run: Path, folder: Path) -> None:
        from prefmerge.continual.evaluation import open_run
        from prefmerge.target.source import open_source

        self.run, self.folder = run, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.opened = open_run(run)
        assert self.opened.judged_on == "test"
        self.source = open_source(Parameters.of(run=run, prefer="uniform"))
        self.tests = [task.test for task in self.opened.scenario.tasks]
        self.classes = self.source.tasks.classes
        assert self.source.head is not None
        self.head = self.source.head
        self.merges = self._merges()

    def _merges(self) -> Merges:
        source = self.source
        return Merges(source.base, source.checkpoints, source.tasks.names)

    def pools(self) -> list[targets.Pool]:
        return [
            targets.Pool(
                task.name, task.test.ids, tuple(self.classes[c] for c in task.test.labels), task.test.fingerprint
            )
            for task in self.opened.scenario.tasks
        ]

    def shown(self, place: targets.Environment) -> Examples:
        parts = [test.take(place.meta_positions(pool)) for test, pool in zip(self.tests, self.pools(), strict=True)]
        return concatenated([part for part in parts if len(part)])

    def adapted(self, place: targets.Environment, given: str, **how: Any) -> work.Adapted:
        """`adapt` from the shown samples of a target: a file of their labels or texts, as a user would give it."""
        shown, file = self.shown(place), self.folder / f"{place.name}-{place.variant}-{given}.csv"
        texts = shown.read(range(len(shown)))
        with open(file, "w", newline="", encoding="utf-8") as opened:
            writer = csv.writer(opened)
            writer.writerow(("text",) if given == "inputs" else ("label",))
            rows = texts if given == "inputs" else [self.classes[c] for c in shown.labels.tolist()]
            writer.writerows([row] for row in rows)
        return work.adapt(Parameters.of(run=self.run, **{given: file}, **how), merges=self.merges)

    def units(self, candidates: Sequence[Candidate], examples: Sequence[Examples]) -> list[list[np.ndarray]]:
        """[candidate][part]: unit embeddings."""
        forwards = work._Work(self.source, Parameters.of(run=self.run, prefer="uniform"), lambda *_: None, self.merges)
        return forwards.units(candidates, examples, "judging")

    def judge(self, place: targets.Environment) -> dict[str, Any]:
        """Everything that is told of one target."""
        started = time.perf_counter()
        self.merges = self._merges()  # those of another target are of no use here
        names = self.source.tasks.names
        truth = np.array(place.truth(names))
        pools = self.pools()
        judged = concatenated(
            [self.tests[t].take(place.test_positions(pools[t])) for t in np.flatnonzero(truth > 0).tolist()]
        )
        made = {
            "labels": self.adapted(place, "labels"),
            "inputs": self.adapted(place, "inputs"),
            "labels, encoder only": self.adapted(place, "labels", no_prior=True),
        }
        last = Candidate("last", task=len(names) - 1)
        there = [last, *baselines(made["labels"].evidence.shares.shares, True)]
        entries = self.units([*there, *(one.chosen for one in made.values())], [judged])
        prior = made["labels"].prior.logits

        def accuracy(logits: np.ndarray) -> float:
            return float(np.mean(logits.argmax(axis=1) == judged.labels))

        found: dict[str, float] = {}
        for one, (units,) in zip(there, entries, strict=False):
            found[one.name] = accuracy(self.head.logits(units))
            found[f"{one.name} + prior"] = accuracy(self.head.logits(units) + prior)
        told: dict[str, Any] = {}
        for (name, one), (units,) in zip(made.items(), entries[len(there) :], strict=True):
            head = self.head if one.parameters.no_prior else one.head
            assert head is not None
            found[f"adapt, {name}"] = accuracy(head.logits(units))
            told[name] = self._told(one, truth)
        estimates = {
            str(n): self._estimate(made["labels"] if n == 100 else self.adapted(place, "labels", samples=n), truth)
            for n in (*(FEWER if place.variant < WITH_FEWER else ()), 100)
        }
        return {
            "target": place.title,
            "mix": place.name,
            "variant": place.variant,
            "accuracy": found,
            "adapt": told,
            "estimates": estimates,
            "drift": self._drift(made["labels"], last) if place.variant < DRIFTING else None,
            "seconds": round(time.perf_counter() - started, 1),
        }

    def _told(self, made: work.Adapted, truth: np.ndarray) -> dict[str, Any]:
        assert made.choice is not None
        shares = made.evidence.shares.shares
        return {
            "chosen": made.chosen.name,
            "l2": made.choice.fit.l2 if np.isfinite(made.choice.fit.l2) else None,
            "variation": float(np.abs(shares - truth).sum() / 2),
            "cost": dict(made.cost),
        }

    def _estimate(self, made: work.Adapted, truth: np.ndarray) -> dict[str, float]:
        """The estimate, and the accuracy that it is of: each present task's on all its test samples, by its share."""
        present = np.flatnonzero(truth > 0).tolist()
        (parts,) = self.units([made.chosen], [self.tests[t] for t in present])
        assert made.head is not None
        assert made.estimates is not None
        by_task = [
            np.mean(made.head.logits(units).argmax(axis=1) == self.tests[t].labels)
            for t, units in zip(present, parts, strict=True)
        ]
        one = made.estimates.chosen.accuracy
        true = float(np.sum(truth[present] * by_task))
        return {"truth": true, "estimate": one.value, "low": one.low, "high": one.high}

    def _drift(self, made: work.Adapted, last: Candidate) -> dict[str, dict[str, float]]:
        """Accuracy where a part q of the target comes evenly from all tasks: the share-weighted mean over all test
        samples of each task.
        """
        names, truth = self.source.tasks.names, made.evidence.shares.shares
        chosen, plain = self.units([made.chosen, last], self.tests)
        assert made.head is not None
        unguarded = make_prior(made.source.tasks, made.evidence.shares, guard=0.0).logits
        unguarded = np.where(made.prior.classes > 0, unguarded, -np.inf)
        answers = {
            "last": [self.head.logits(units) for units in plain],
            "last + prior": [self.head.logits(units) + made.prior.logits for units in plain],
            "last + prior, no guard": [self.head.logits(units) + unguarded for units in plain],
            "adapt": [made.head.logits(units) for units in chosen],
        }
        right = {
            name: np.array([np.mean(one.argmax(axis=1) == t.labels) for one, t in zip(logits, self.tests, strict=True)])
            for name, logits in answers.items()
        }
        return {
            str(q): {name: float(((1 - q) * truth + q / len(names)) @ by_task) for name, by_task in right.items()}
            for q in (0.0, *DRIFT)
        }


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean and 95 % interval (Student's) over targets, in points."""
    from scipy import stats

    mean = statistics.fmean(values)
    half = 0.0
    if len(values) > 1:
        half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return {"mean": round(100 * mean, 2), "low": round(100 * (mean - half), 2), "high": round(100 * (mean + half), 2)}


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over targets; differences of adapt, paired."""
    names = list(rows[0]["accuracy"])
    ours = "adapt, labels"
    last_by_mix = {}
    for mix in dict.fromkeys(row["mix"] for row in rows):
        own = [row["accuracy"] for row in rows if row["mix"] == mix]
        last_by_mix[mix] = {name: round(100 * statistics.fmean(one[name] for one in own), 2) for name in names}
    errors = {}
    for n in rows[0]["estimates"]:
        told = [row["estimates"][n] for row in rows if n in row["estimates"]]
        inside = [one["low"] <= one["truth"] <= one["high"] for one in told]
        errors[n] = {
            "targets": len(told),
            "signed_error": interval([one["estimate"] - one["truth"] for one in told]),
            "coverage": round(sum(inside) / len(inside), 3),
            "coverage_interval": _binomial(sum(inside), len(inside)),
            "width": round(100 * statistics.fmean(one["high"] - one["low"] for one in told), 2),
            "truth": round(100 * statistics.fmean(one["truth"] for one in told), 2),
        }
    drifting = [row["drift"] for row in rows if row["drift"] is not None]
    drift = {
        q: {name: round(100 * statistics.fmean(one[q][name] for one in drifting), 2) for name in drifting[0][q]}
        for q in drifting[0]
    }
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
        "by_mix": last_by_mix,
        "variation": {
            name: round(statistics.fmean(row["adapt"][name]["variation"] for row in rows), 4)
            for name in ("labels", "inputs")
        },
        "forwards": {
            name: max(row["adapt"][name]["cost"]["forwards"] for row in rows) for name in ("labels", "inputs")
        },
        "estimates": errors,
        "drift": drift,
    }


def _binomial(right: int, count: int) -> list[float]:
    from prefmerge.ground.stats import wilson

    return [round(end, 3) for end in wilson(right, count)]


def run(folder: Path, wordnet: Path, model: Path, *, tasks: int, most: int | None, epochs: int) -> dict[str, Any]:
    """All targets of one run, done ones taken from the folder."""
    began = common.provenance()
    bench = Bench(train(folder, wordnet, model, tasks, epochs), folder / f"targets-{tasks}")
    places = targets.environments(bench.pools(), targets.PAPERS, size=SIZE)
    places = sorted(places, key=lambda place: place.variant)  # so that the first few are of every mix
    rows = []
    for place in places[:most]:
        kept = bench.folder / f"{place.name}-{place.variant}.json"
        if not kept.exists():
            atomic.write_whole(kept, json.dumps(bench.judge(place)).encode())
            print(f"{place.title}: done", flush=True)
        rows.append(json.loads(kept.read_text()))
    return {"question": common.question(__doc__), **began, "summary": summary(rows), "rows": rows}


def document(data: Mapping[str, Any]) -> str:
    """The tables of docs/adapt.md."""
    told = data["summary"]
    rows = []
    for name, one in sorted(told["accuracy"].items(), key=lambda pair: -pair[1]["mean"]):
        ahead = told["adapt_ahead_of"].get(name)
        shown = "" if ahead is None else f"{ahead['mean']:+.1f} [{ahead['low']:.1f}, {ahead['high']:.1f}]"
        rows.append([name, f"{one['mean']:.1f}", shown])
    text = [
        common.table(["entry", "accuracy", "adapt from labels is ahead by (95 % interval)"], rows),
        "How true the estimates are:\n",
        common.table(
            [
                "held-out samples a task",
                "targets",
                "truth",
                "estimate less truth",
                "90 % interval holds it",
                "its width",
            ],
            [
                [
                    n,
                    str(one["targets"]),
                    f"{one['truth']:.1f}",
                    f"{one['signed_error']['mean']:+.1f} [{one['signed_error']['low']:.1f}, "
                    f"{one['signed_error']['high']:.1f}]",
                    f"{100 * one['coverage']:.0f} % [{100 * one['coverage_interval'][0]:.0f}, "
                    f"{100 * one['coverage_interval'][1]:.0f}]",
                    f"{one['width']:.1f}",
                ]
                for n, one in told["estimates"].items()
            ],
        ),
        "Where a part of the target comes evenly from all tasks, unknown to us:\n",
        common.table(
            ["part", *next(iter(told["drift"].values()))],
            [[f"{100 * float(q):.0f} %", *(f"{v:.1f}" for v in one.values())] for q, one in told["drift"].items()],
        ),
        common.origin(dict(data)),
    ]
    return "\n".join(text)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=WORK, help="where all is kept; what is done is not done again")
    parser.add_argument("--wordnet", type=Path, default=real_model.WORDNET, help="folder with data.noun and data.verb")
    parser.add_argument("--model", type=Path, help="folder of the encoder; default: the package's")
    parser.add_argument("--tasks", type=int, choices=sorted(TRAIN), default=5)
    parser.add_argument("--targets", type=int, help="so many targets only")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--docs", type=Path, help="also put the tables into this file, after its mark")
    asked = parser.parse_args(arguments)
    if not (asked.wordnet / "data.noun").is_file():
        sys.exit(f"{asked.wordnet}: no data.noun there. Install Debian's wordnet-base, or give --wordnet.")
    model = asked.model or real_model.encoder_folder()
    data = run(asked.work, asked.wordnet, model, tasks=asked.tasks, most=asked.targets, epochs=asked.epochs)
    name = "adapt.json" if asked.tasks == 5 else f"adapt_{asked.tasks}.json"
    common.write_result(common.RESULTS / name, data)
    if asked.docs:
        before, _, rest = asked.docs.read_text(encoding="utf-8").partition(MARK)
        _, _, after = rest.partition(MARK)
        asked.docs.write_text(f"{before}{MARK}\n\n{document(data)}\n{MARK}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
