"""How should the demo fine-tune, and what does each method then score?

Regimes: every learning rate x epochs x logit scale of GRID, trained on DEV_SEEDS; chosen by the plain sequential
model's accuracy on validation images, as a mean over the 19 two-task places that the demo does not show, without
merges or test images. The common scale is then the one at which MAGMAX, the rival, does best on the same places and
images. Methods: five other seeds, test images, every method at every scale of SCALES; accuracy at the shown place, over
all 20 places, on all digits.

    python -m benchmarks.demo_regimes regimes   # about 25 minutes on one core; resumes
    python -m benchmarks.demo_regimes methods   # about 20 minutes; resumes
    python -m benchmarks.demo_tables            # docs/demo.md from results/demo_*.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import prefmerge
from benchmarks import common
from prefmerge.config import TrainingConfig
from prefmerge.lab.demo.digits import NAMES, PLACES, SHOWN, TASKS, Digits, Place, load_digits
from prefmerge.lab.demo.evaluate import Right, right_images, share
from prefmerge.lab.demo.model import BASE, load_base
from prefmerge.lab.demo.run import label_preference
from prefmerge.lab.demo.train import REGIME, fine_tune_in_sequence

GRID = {
    "learning_rate": (1e-5, 3e-5, 1e-4, 2e-4, 4e-4, 1e-3),
    "epochs": (2, 5, 10),
    "logit_scale": (5.0, 10.0, 20.0, 40.0),
}
DEV_SEEDS = (100, 101)
SEEDS = (0, 1, 2, 3, 4)
COMMON_SCALE = 1.25  # MAGMAX's best on validation images of the places that are not shown
SCALES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
METHODS: dict[str, dict[str, Any]] = {
    "last": {"method": "last"},
    "average": {"method": "average"},
    "task arithmetic": {"method": "task_arithmetic"},
    "random mix": {"method": "random_mix"},
    "TIES": {"method": "ties"},
    "MAGMAX": {"method": "magmax"},
    "Tunable MAGMAX (paper)": {"method": "tunable_magmax", "selection": "paper", "importance": "magnitude"},
    "Tunable, optimal": {"method": "tunable_magmax", "selection": "optimal", "importance": "magnitude"},
    "Tunable, optimal + step": {"method": "tunable_magmax", "selection": "optimal", "importance": "step"},
    "Tunable, optimal + step + carry 0.5": {
        "method": "tunable_magmax",
        "selection": "optimal",
        "importance": "step",
        "carry": 0.5,
    },
}
State = Mapping[str, Tensor]


def about() -> dict[str, Any]:
    """Commit, date, versions and hardware of a result."""
    origin = common.provenance()
    return origin | {"versions": origin["versions"] | {"torch": torch.__version__}}


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.exists() else {}


def others(digits: Digits, part: str) -> list[Place]:
    """The places that the demo does not show."""
    return [digits.place(tasks, part) for tasks in PLACES if tasks != SHOWN]


def mean_at(right: Right, places: Sequence[Place]) -> float:
    return statistics.fmean(share(right, place.test) for place in places)


def scaled(base: State, delta: State, scale: float) -> dict[str, Tensor]:
    return {name: tensor + scale * delta[name] for name, tensor in base.items()}


def merged_delta(base: State, states: Sequence[State], options: Mapping[str, Any]) -> tuple[State, float]:
    """The merged task vector, before the scale (one merge serves all scales), and the method's default scale."""
    delta, receipt = prefmerge.merge_state_dicts(base, states, names=NAMES, as_task_vector=True, **options)
    return delta, float(receipt.recipe["scale"])


def trained(digits: Digits, regime: TrainingConfig, seed: int) -> list[State]:
    """theta_0, theta_1, ..., theta_T."""
    encoder, head = load_base()
    with tempfile.TemporaryDirectory() as folder:
        run = fine_tune_in_sequence(encoder, head, digits, Path(folder) / "run", seed, regime)
        return [encoder.read(path) for path in (run.base_path, *(run.task_path(t) for t in range(len(TASKS))))]


def soundness(digits: Digits, regime: TrainingConfig, seed: int) -> dict[str, Any]:
    """How well the sequential model holds up on validation images under one regime."""
    started = time.perf_counter()
    _, *states = trained(digits, regime, seed)
    seconds = time.perf_counter() - started
    model = load_base()
    rights = [right_images(state, *model, digits, "validation") for state in states]
    right = rights[-1]
    fresh = [share(each, digits.ids("validation", t)) for t, each in enumerate(rights)]
    return {
        "seed": seed,
        "other_places": mean_at(right, others(digits, "validation")),
        "all_digits": share(right, digits.parts["validation"]),
        "tasks": [share(right, digits.ids("validation", t)) for t in range(len(TASKS))],
        "tasks_when_learned": fresh,
        "seconds": round(seconds, 1),
    }


def score(entry: Mapping[str, Any]) -> float:
    """What regimes are chosen by: the last model's mean accuracy on the other places, over the development seeds."""
    return statistics.fmean(run["other_places"] for run in entry["runs"])


def search_regimes(file: Path, grid: Mapping[str, Sequence[float]], seeds: Sequence[int]) -> dict[str, Any]:
    """Try every regime and choose; `file` grows by one regime at a time."""
    torch.set_num_threads(1)
    digits, model = load_digits(), load_base()
    tried: list[dict[str, Any]] = _read(file).get("tried", [])
    done = {(e["learning_rate"], e["epochs"], e["logit_scale"]) for e in tried}
    question = "Which regime keeps the sequential model sound on places that the demo does not show?"
    untouched = right_images(BASE, *model, digits, "validation")
    result: dict[str, Any] = {
        "question": question,
        **about(),
        "criterion": "accuracy of the last model, ten classes, on validation images, mean of the 19 places not shown",
        "grid": {key: list(values) for key, values in grid.items()},
        "seeds": list(seeds),
        "base": {
            "other_places": mean_at(untouched, others(digits, "validation")),
            "all_digits": share(untouched, digits.parts["validation"]),
        },
        "tried": tried,
    }
    for rate, epochs, logit in product(grid["learning_rate"], grid["epochs"], grid["logit_scale"]):
        if (rate, epochs, logit) in done:
            continue
        regime = REGIME.model_copy(update={"learning_rate": rate, "epochs": int(epochs), "logit_scale": logit})
        runs = [soundness(digits, regime, seed) for seed in seeds]
        tried.append({"learning_rate": rate, "epochs": int(epochs), "logit_scale": logit, "runs": runs})
        common.write_result(file, result)
        print(f"lr {rate:g} epochs {epochs} logit {logit:g}: {score(tried[-1]):.3f} on other places", flush=True)
    best = max(tried, key=score)
    chosen = {key: best[key] for key in ("learning_rate", "epochs", "logit_scale")}
    regime = REGIME.model_copy(update=chosen)
    by_scale: dict[str, list[float]] = {str(scale): [] for scale in SCALES}
    for seed in seeds:
        base, *states = trained(digits, regime, seed)
        delta, _ = merged_delta(base, states, {"method": "magmax"})
        for scale in SCALES:
            right = right_images(scaled(base, delta, scale), *model, digits, "validation")
            by_scale[str(scale)].append(mean_at(right, others(digits, "validation")))
    result["chosen"] = {**chosen, "other_places": score(best)}
    result["magmax_by_scale"] = by_scale
    result["common_scale"] = max(SCALES, key=lambda scale: statistics.fmean(by_scale[str(scale)]))
    common.write_result(file, result)
    return result


def place_key(tasks: tuple[int, int]) -> str:
    """`1-5`: tasks are counted from 1."""
    return "-".join(str(t + 1) for t in tasks)


def measure(
    seed: int, regime: TrainingConfig, scales: Sequence[float], places: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """Every method at every scale for one training seed: right answers at each place, accuracy on all digits."""
    digits, model = load_digits(), load_base()
    base, *states = trained(digits, regime, seed)
    at = {tasks: digits.place(tasks) for tasks in places}
    accuracy: dict[str, Any] = {}
    default_scale: dict[str, float] = {}

    def note(name: str, scale: float | None, right: Right, which: Sequence[tuple[int, int]]) -> None:
        entry = accuracy.setdefault(name, {}).setdefault(
            "" if scale is None else str(scale), {"right": [], "all_digits": []}
        )
        entry["right"] += [round(share(right, at[tasks].test) * len(at[tasks].test)) for tasks in which]
        entry["all_digits"].append(share(right, digits.parts["test"]))

    note("base", None, right_images(base, *model, digits), places)
    for name, options in METHODS.items():
        groups = [[tasks] for tasks in places] if options["method"] == "tunable_magmax" else [list(places)]
        for group in groups:
            asked = (
                {"preference": label_preference(digits, at[group[0]])} if options["method"] == "tunable_magmax" else {}
            )
            delta, default_scale[name] = merged_delta(base, states, {**options, **asked})
            for scale in scales:
                note(name, scale, right_images(scaled(base, delta, scale), *model, digits), group)
    for by_scale in accuracy.values():
        for entry in by_scale.values():
            entry["all_digits"] = statistics.fmean(entry["all_digits"])  # a tunable model per place: their mean
    return {"default_scale": default_scale, "accuracy": accuracy}


def compare_methods(
    file: Path, seeds: Sequence[int], scales: Sequence[float], places: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """All seeds; `file` grows by one seed at a time."""
    torch.set_num_threads(1)
    regime = REGIME
    seen = _read(file)
    wanted = {"learning_rate": regime.learning_rate, "epochs": regime.epochs, "logit_scale": regime.logit_scale}
    runs: dict[str, Any] = seen["runs"] if seen.get("regime") == wanted else {}
    result = {
        "question": "What does each method score on the demo's data, at each scale?",
        **about(),
        "regime": wanted,
        "common_scale": COMMON_SCALE,
        "seeds": list(seeds),
        "scales": list(scales),
        "places": [place_key(tasks) for tasks in places],
        "shown_place": place_key(SHOWN),
        "test_images": {"place": len(load_digits().place(SHOWN).test), "all_digits": len(load_digits().parts["test"])},
        "runs": runs,
    }
    for seed in seeds:
        if str(seed) not in runs:
            started = time.perf_counter()
            runs[str(seed)] = measure(seed, regime, scales, places)
            common.write_result(file, result)
            print(f"seed {seed}: {time.perf_counter() - started:.0f} s", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("regimes", "methods"))
    part = parser.parse_args().part
    regimes, methods = common.RESULTS / "demo_regimes.json", common.RESULTS / "demo_methods.json"
    if part == "regimes":
        result = search_regimes(regimes, GRID, DEV_SEEDS)
        print(json.dumps({"chosen": result["chosen"], "common_scale": result["common_scale"]}))
    else:
        compare_methods(methods, SEEDS, SCALES, PLACES)


if __name__ == "__main__":
    main()
