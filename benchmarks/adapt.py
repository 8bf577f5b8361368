"""Does `prefmerge adapt` give a better model for a target than what is there, and does it say truly how good it is?

all-MiniLM-L6-v2 learns WordNet's classes in T tasks, training seed 4, a class order of its own, 100 samples of each
task held out of training. 25 targets of the papers' five mixes (e1 to e5) of 500 test samples, 50 of them shown; the
other 450 judge. Entries: what is there, the papers' methods, the log prior, a fitted bias, adapt
from 50 labels, without the prior, and for three targets of each mix from 50 inputs. Also, for one target of each mix:
estimates against the truth at 20, 50 and 100 held-out samples a task (the truth: 60 test samples of each class),
training samples in place of held-out ones, and what is lost where the mix is wrong; for some of these: seconds with
nothing kept, and fine-tuning of the last checkpoint instead. Nothing is chosen on test samples. Resumable: a target
that is done is kept. An hour or two on two cores, 1 GB of disk. With --tasks 17 only seconds and forward passes are
measured. Writes `results/adapt.json` (or `adapt_17.json`); `benchmarks.adapt_tables` makes docs/adapt.md from it.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import common, wordnet
from benchmarks.adapt_summary import costs, summary
from prefmerge.data.examples import Examples, concatenated
from prefmerge.ground import atomic
from prefmerge.ground.draws import per_class
from prefmerge.lab import environments as targets
from prefmerge.lab.at_target import train_on
from prefmerge.models.evaluation import right_answers
from prefmerge.models.features import embed
from prefmerge.target import adapt as work
from prefmerge.target.choice import Judge
from prefmerge.target.evidence import read_evidence
from prefmerge.target.forwards import Forwards
from prefmerge.target.judging import stand_ins
from prefmerge.target.merges import Merges
from prefmerge.target.parameters import Parameters
from prefmerge.target.pool import Candidate, baselines
from prefmerge.target.prior import Prior, make_prior

WORK = Path(__file__).parent / "scratch" / "adapt"
SEED = 4
HELD_OUT = {5: 100, 17: 60}
TRAIN = {5: 300, 17: 150}  # definitions of a class
SIZE, SHOWN = 500, 50
FEWER = (20, 50)  # held-out samples of a task, beside 100, at
WITH_FEWER = 1  # targets of each mix, for which training samples are tried too
INPUTS = 3  # targets of each mix that are adapted from inputs too
EVERY = 60  # test samples of each class that the truth of an estimate is measured on
DRIFT = (0.1, 0.2, 0.4, 1.0)  # parts of the target that come evenly from all tasks, unknown to us
WRONG = 1  # targets of each mix that are judged under wrong mixes
SKEWS = 20  # draws of skewed classes
TIMED = ("e1", "e3")  # mixes whose first target is timed with nothing kept
FINE_TUNED = ("e1", "e2", "e3")  # mixes at whose first target the last checkpoint is fine-tuned instead
RATE = 2e-5  # of that fine-tuning: the run's, nothing was tuned
TARGETS = 25
MANY = 17  # tasks of which only the cost is measured


def config(model: Path, work: Path, tasks: int, epochs: int = 2) -> dict[str, Any]:
    """The configuration of one run: that of examples/bench/wordnet.yaml with another order of classes."""
    made = wordnet.recipe(wordnet.RECIPE, work, model)["finetune"]
    order = list(wordnet.CLASSES.values())
    random.Random(SEED).shuffle(order)
    made["data"]["train_per_class"] = TRAIN[tasks]
    made["scenario"] |= {"tasks": tasks, "class_order": order}
    del made["training"]["ewc"]
    made["training"] |= {"method": "sequential", "epochs": epochs}
    return {**made, "held_out": HELD_OUT[tasks], "seed": SEED}


def train(work_folder: Path, definitions: Path, model: Path, tasks: int, epochs: int) -> Path:
    """The run, finished; one that was interrupted is resumed."""
    work_folder.mkdir(parents=True, exist_ok=True)
    if not (work_folder / "data" / "test.csv").exists():
        wordnet.write_data(definitions, work_folder / "data", wordnet.TRAIN, wordnet.TEST)
    file, out = work_folder / f"run-{tasks}.yaml", work_folder / f"run-{tasks}"
    file.write_text(yaml.safe_dump(config(model, work_folder, tasks, epochs), sort_keys=False))
    done = subprocess.run(
        [*common.PREFMERGE, "finetune", str(file), "-o", str(out)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"prefmerge finetune {file}: {done.stderr.strip()}")
    return out


class Bench:
    """One run, its targets, and forward passes that are done once: the cache of features keeps them."""

    def __init__(self, run: Path, folder: Path) -> None:
        from prefmerge.target.source import open_source
        from prefmerge.training.opened import open_run

        self.run, self.folder = run, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.opened = open_run(run)
        self.bare = without_held_out(run, folder / "run-without-held-out")
        assert self.opened.judged_on == "test"
        self.source = open_source(Parameters.of(run=run, prefer="uniform"))
        self.tests = [task.test for task in self.opened.scenario.tasks]
        self.truth = [test.take(per_class(test.ids, test.labels, EVERY, seed=0)) for test in self.tests]
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

    def adapted(
        self, place: targets.Environment, given: str, run: Path | None = None, again: bool = True, **how: Any
    ) -> work.Adapted:
        """`adapt` from the shown samples of a target: a file of their labels or texts, as a user would give it.
        `again`: merges of this target that were made before are used again.
        """
        asked = Parameters.of(run=run or self.run, **{given: self._file(place, given)}, **how)
        return work.adapt(asked, merges=self.merges if again else None)

    def _file(self, place: targets.Environment, given: str) -> Path:
        """The shown samples as a table: their labels, texts, or both."""
        shown, file = self.shown(place), self.folder / f"{place.name}-{place.variant}-{given}.csv"
        texts = shown.read(range(len(shown)))
        with open(file, "w", newline="", encoding="utf-8") as opened:
            writer = csv.writer(opened)
            labels = [self.classes[c] for c in shown.labels.tolist()]
            columns = {
                "inputs": {"text": texts},
                "labels": {"label": labels},
                "pairs": {"text": texts, "label": labels},
            }
            writer.writerow(columns[given])
            writer.writerows(zip(*columns[given].values(), strict=True))
        return file

    def units(self, candidates: Sequence[Candidate], examples: Sequence[Examples]) -> list[list[np.ndarray]]:
        """[candidate][part]: unit embeddings."""
        forwards = Forwards(self.source, Parameters.of(run=self.run, prefer="uniform"), lambda *_: None, self.merges)
        return forwards.units(candidates, examples, "judging")

    def judge(self, place: targets.Environment) -> dict[str, Any]:
        """Everything that is measured at one target."""
        started = time.perf_counter()
        self.merges = self._merges()  # those of another target are of no use here
        names = self.source.tasks.names
        truth = np.array(place.truth(names))
        pools = self.pools()
        judged = concatenated(
            [self.tests[t].take(place.test_positions(pools[t])) for t in np.flatnonzero(truth > 0).tolist()]
        )
        cost = self.cost(place) if place.variant == 0 and place.name in TIMED else None
        made = {
            "labels": self.adapted(place, "labels"),
            "labels, encoder only": self.adapted(place, "labels", no_prior=True),
        }
        if place.variant < INPUTS:
            made["inputs"] = self.adapted(place, "inputs")
        if place.variant < WITH_FEWER:
            made["labels, training samples"] = self.adapted(place, "labels", run=self.bare)
        last = Candidate("last", task=len(names) - 1)
        there = [last, *baselines(made["labels"].evidence.shares.shares, True)]
        entries = self.units([*there, *(one.chosen for one in made.values())], [judged])
        prior = made["labels"].prior

        def accuracy(logits: np.ndarray) -> float:
            return float(np.mean(logits.argmax(axis=1) == judged.labels))

        right: dict[str, float] = {}
        for one, (units,) in zip(there, entries, strict=False):
            right[one.name] = accuracy(self.head.logits(units))
            right[f"{one.name} + prior"] = accuracy(self.head.logits(units) + prior.logits)
        fitted = self._heads(made["labels"], last, float("inf"), {"": prior})[""]
        right["last + fitted bias"] = accuracy(fitted(entries[0][0]))
        adapted: dict[str, Any] = {}
        for (name, one), (units,) in zip(made.items(), entries[len(there) :], strict=True):
            head = self.head if one.parameters.no_prior else one.head
            assert head is not None
            right[f"adapt, {name}"] = accuracy(head.logits(units))
            adapted[name] = self._about(one, truth)
        alternatives = None
        if place.variant == 0 and place.name in FINE_TUNED:
            alternatives = {
                "adapt from labels": right["adapt, labels"],
                **self._alternatives(place, made["labels"], judged),
            }
        estimates = {
            str(n): self._estimate(made["labels"] if n == 100 else self.adapted(place, "labels", samples=n), truth)
            for n in (*(FEWER if place.variant < WITH_FEWER else ()), 100)
        }
        return {
            "target": place.title,
            "mix": place.name,
            "variant": place.variant,
            "accuracy": right,
            "adapt": adapted,
            "variation_of_inputs": None if "inputs" in made else self._variation(place, truth),
            "estimates": estimates,
            "wrong": self._wrong(place, made["labels"], last, truth) if place.variant < WRONG else None,
            "cost": cost,
            "alternatives": alternatives,
            "seconds": round(time.perf_counter() - started, 1),
        }

    def cost(self, place: targets.Environment) -> dict[str, float]:
        """What one call costs that finds nothing done already."""
        began, spent = time.perf_counter(), time.process_time()
        made = self.adapted(place, "labels", again=False, no_cache=True)
        return {
            "present": int(made.evidence.shares.present.sum()),
            "merges": made.cost["merges"],
            "forwards": made.cost["forwards"],
            "seconds": round(time.perf_counter() - began, 1),
            "processor_seconds": round(time.process_time() - spent, 1),
        }

    def _alternatives(self, place: targets.Environment, made: work.Adapted, judged: Examples) -> dict[str, float]:
        """What the pairs of the target would give, and what fine-tuning the last checkpoint would."""
        pairs, from_pairs = self.shown(place), self.adapted(place, "pairs")
        ((units,),) = self.units([from_pairs.chosen], [judged])
        assert from_pairs.head is not None
        held, proxy = stand_ins(made.source, made.evidence, made.prior, made.evidence.shares.present, made.parameters)
        weights, prior = proxy.weights(made.prior.joint, proxy.everything), made.prior.logits
        even = np.full(len(pairs), 1 / len(pairs))
        return {
            "adapt from pairs": float(np.mean(from_pairs.head.logits(units).argmax(axis=1) == judged.labels)),
            "fine-tuned on the pairs": self._fine_tuned(pairs, even, np.zeros(len(prior)), judged),
            "fine-tuned on held-out samples, with the prior": self._fine_tuned(held, weights, prior, judged),
        }

    def _fine_tuned(self, samples: Examples, weights: np.ndarray, bias: np.ndarray, judged: Examples) -> float:
        """Accuracy of the last checkpoint after some steps on weighted samples, `bias` on its logits throughout."""
        encoder, _ = self.source.encoder()
        encoder.load(self.source.checkpoints[-1])
        head = self.opened.head.with_bias(bias)
        train_on(encoder, head, samples, weights, rate=RATE, seed=SEED)
        embeddings = embed(encoder, judged, batch=64)
        return float(right_answers(embeddings, head, judged.labels, range(len(bias))).mean())

    def _variation(self, place: targets.Environment, truth: np.ndarray) -> float:
        """Total variation of the shares from 50 inputs to the truth; no candidate is tried."""
        asked = Parameters.of(run=self.run, inputs=self._file(place, "inputs"))
        forwards = Forwards(self.source, asked, lambda *_: None, self.merges)
        shares = read_evidence(asked, self.source, forwards.embeddings_of_base).shares.shares
        return float(np.abs(shares - truth).sum() / 2)

    def _about(self, made: work.Adapted, truth: np.ndarray) -> dict[str, Any]:
        assert made.choice is not None
        shares = made.evidence.shares
        return {
            "chosen": made.chosen.name,
            "l2": made.choice.fit.l2 if np.isfinite(made.choice.fit.l2) else None,
            "variation": float(np.abs(shares.shares - truth).sum() / 2),
            "present": int(shares.present.sum()),
            "forwards": made.cost["forwards"],
        }

    def _estimate(self, made: work.Adapted, truth: np.ndarray) -> dict[str, float]:
        """The estimate, and the accuracy that it is of: each present task's, by its share."""
        present = np.flatnonzero(truth > 0).tolist()
        (parts,) = self.units([made.chosen], [self.truth[t] for t in present])
        assert made.head is not None
        assert made.estimates is not None
        by_task = [
            np.mean(made.head.logits(units).argmax(axis=1) == self.truth[t].labels)
            for t, units in zip(present, parts, strict=True)
        ]
        one = made.estimates.chosen.accuracy
        true = float(np.sum(truth[present] * by_task))
        return {"truth": true, "estimate": one.value, "low": one.low, "high": one.high}

    def _heads(
        self, made: work.Adapted, model: Candidate, l2: float, priors: Mapping[str, Prior]
    ) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
        """For each prior, what turns unit embeddings of a model into logits, bias and rows fitted as by `adapt`."""
        shares = made.evidence.shares
        examples, proxy = stand_ins(made.source, made.evidence, made.prior, shares.present, made.parameters)
        ((units,),) = self.units([model], [examples])
        rows, scale = self.head.rows.astype(np.float64), self.head.scale

        def answers(prior: Prior) -> Callable[[np.ndarray], np.ndarray]:
            fit = Judge(proxy, prior, rows, scale).fitted(units.astype(np.float64), proxy.everything, l2)
            own = rows if fit.rows is None else rows + fit.rows
            return lambda units: fit.beta * scale * (units @ own.T) + prior.logits + fit.bias

        return {name: answers(prior) for name, prior in priors.items()}

    def _wrong(
        self, place: targets.Environment, made: work.Adapted, last: Candidate, truth: np.ndarray
    ) -> dict[str, dict[str, float]]:
        """Accuracy where the mix is not the one that was shown: a weighted mean of the recall of every class.
        Where the labels show skewed classes, adapt is made from 50 of them.
        """
        assert made.choice is not None
        chosen, plain = self.units([made.chosen, last], self.truth)
        bare = make_prior(made.source.tasks, made.evidence.shares, guard=0.0)
        bare = Prior(bare.joint, np.where(made.prior.classes > 0, bare.logits, -np.inf))
        priors, l2 = {"": made.prior, ", no guard": bare}, made.choice.fit.l2
        answers: dict[str, tuple[list[np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
            "last": (plain, self.head.logits)
        }
        for name, one in priors.items():
            answers[f"last + prior{name}"] = plain, lambda units, one=one: self.head.logits(units) + one.logits
        for name, one in self._heads(made, last, float("inf"), priors).items():
            answers[f"last + fitted bias{name}"] = plain, one
        for name, one in self._heads(made, made.chosen, l2, priors).items():
            answers[f"adapt{name}"] = chosen, one
        recalls = {name: self._recalls(units, logits) for name, (units, logits) in answers.items()}
        even = np.array(
            [[float(c in own) / len(own) for c in range(len(self.classes))] for own in made.source.tasks.of_task]
        )
        generator = np.random.default_rng([SEED, place.variant, *place.name.encode()])
        mixes = {str(q): [((1 - q) * truth + q / len(truth)) @ even] for q in (0.0, *DRIFT)}
        mixes["skewed"] = [truth @ _skewed(even, generator) for _ in range(SKEWS)]
        present = np.flatnonzero(truth > 0)
        swapped = truth.copy()
        swapped[present] = np.sort(truth)[::-1][np.argsort(np.argsort(truth[present], kind="stable"), kind="stable")]
        if not np.allclose(swapped, truth):
            mixes["swapped"] = [swapped @ even]
        accuracies = {
            mix: {name: float(np.mean([one @ recall for one in classes])) for name, recall in recalls.items()}
            for mix, classes in mixes.items()
        }
        classes = mixes["skewed"][0]
        file = self.folder / f"{place.name}-{place.variant}-skewed.json"
        counts = generator.multinomial(SHOWN, classes)
        file.write_text(json.dumps({self.classes[c]: int(n) for c, n in enumerate(counts) if n}))
        again = work.adapt(Parameters.of(run=self.run, labels=file), merges=self.merges)
        (units,) = self.units([again.chosen], self.truth)
        assert again.head is not None
        skewed = {name: float(classes @ recall) for name, recall in recalls.items() if "no guard" not in name}
        skewed["adapt"] = float(classes @ self._recalls(units, again.head.logits))
        skewed["last + prior"] = float(
            classes @ self._recalls(plain, lambda units: self.head.logits(units) + again.prior.logits)
        )
        del skewed["last + fitted bias"]
        return {**accuracies, "skewed, as the labels show": skewed}

    def _recalls(self, units: Sequence[np.ndarray], logits: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """(C,): which part of each class's test samples is named correctly."""
        labels = np.concatenate([test.labels for test in self.truth])
        right = np.concatenate([logits(one).argmax(axis=1) for one in units]) == labels
        return np.bincount(labels, right, len(self.classes)) / np.bincount(labels, minlength=len(self.classes))


def _skewed(even: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(T, C): the classes of every task by a flat Dirichlet distribution."""
    drawn = np.where(even > 0, generator.exponential(size=even.shape), 0)
    return drawn / drawn.sum(axis=1, keepdims=True)


def without_held_out(run: Path, out: Path) -> Path:
    """A copy of a run that kept nothing aside; its weights are links."""
    if not (out / "run.json").exists():
        shutil.copytree(run, out, copy_function=lambda a, b: Path(b).symlink_to(a), dirs_exist_ok=True)
        for kept in ("held-out", "base-embeddings.safetensors"):
            one = out / kept
            shutil.rmtree(one) if one.is_dir() else one.unlink()
        about = json.loads((run / "run.json").read_text(encoding="utf-8"))
        del about["kept"]
        (out / "run.json").unlink()
        (out / "run.json").write_text(json.dumps(about), encoding="utf-8")
    return out


def run(
    folder: Path, definitions: Path, model: Path, *, tasks: int, most: int | None, epochs: int, backwards: bool = False
) -> dict[str, Any]:
    """All targets of one run, done ones taken from the folder."""
    began = common.provenance()
    bench = Bench(train(folder, definitions, model, tasks, epochs), folder / f"targets-{tasks}")
    places = targets.environments(bench.pools(), targets.PAPERS, size=SIZE)
    places = sorted(places, key=lambda place: place.variant)  # so that the first few are of every mix
    kept = [bench.folder / f"{place.name}-{place.variant}.json" for place in places[:most]]
    for place, file in sorted(zip(places, kept, strict=False), key=lambda pair: pair[0].variant, reverse=backwards):
        if not file.exists():
            atomic.write_whole(file, json.dumps(bench.judge(place)).encode())
            print(f"{place.title}: done", flush=True)
    rows = [json.loads(file.read_text(encoding="utf-8")) for file in kept]
    return {"question": common.question(__doc__), **began, "summary": summary(rows), "rows": rows}


def run_costs(folder: Path, definitions: Path, model: Path, *, tasks: int, epochs: int) -> dict[str, Any]:
    """What a call costs at one target of each of TIMED, of a run of which nothing else is asked."""
    began = common.provenance()
    bench = Bench(train(folder, definitions, model, tasks, epochs), folder / f"targets-{tasks}")
    places = targets.environments(bench.pools(), targets.PAPERS, size=SIZE)
    rows = [
        {"target": place.title, "cost": bench.cost(place)}
        for place in places
        if place.variant == 0 and place.name in TIMED
    ]
    return {"question": common.question(__doc__), **began, "summary": {"cost": costs(rows)}, "rows": rows}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=WORK, help="where all is kept; what is done is not done again")
    parser.add_argument("--wordnet", type=Path, default=wordnet.FOLDER, help="folder with data.noun and data.verb")
    parser.add_argument("--model", type=Path, help="folder of the encoder; default: the package's")
    parser.add_argument("--tasks", type=int, choices=sorted(TRAIN), default=5)
    parser.add_argument("--targets", type=int, default=TARGETS, help="so many targets only")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument(
        "--backwards", action="store_true", help="from the last variant on, beside a call that does not"
    )
    asked = parser.parse_args(arguments)
    wordnet.require(asked.wordnet)
    model = asked.model or wordnet.encoder_folder()
    how: dict[str, Any] = {"tasks": asked.tasks, "epochs": asked.epochs}
    if asked.tasks == MANY:
        data = run_costs(asked.work, asked.wordnet, model, **how)
    else:
        data = run(asked.work, asked.wordnet, model, **how, most=asked.targets, backwards=asked.backwards)
    common.write_result(common.RESULTS / ("adapt.json" if asked.tasks == 5 else f"adapt_{asked.tasks}.json"), data)


if __name__ == "__main__":
    main()
