"""How should the demo fine-tune, and what does each method then score? Regimes, then methods, then docs/demo.md.

Regimes: every learning rate x epochs x logit scale of GRID, trained on DEV_SEEDS; chosen by the plain sequential
model's accuracy on validation images, as a mean over the 19 two-task places that the demo does not show. No merge and
no test image has a say. The common scale is then the one at which MAGMAX, the rival, does best on the same places and
images. Methods: five other seeds, test images, every method at every scale of SCALES; accuracy at the shown place, over
all 20 places, on all digits.

    python -m benchmarks.demo_regimes regimes   # about 25 minutes on one core; takes up where it stopped
    python -m benchmarks.demo_regimes methods   # about 20 minutes; likewise
    python -m benchmarks.demo_regimes docs      # writes docs/demo.md from results/demo_*.json
"""

from __future__ import annotations

import argparse
import json
import re
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
from prefmerge.lab.demo.digits import META_LABELS, NAMES, PLACES, SHOWN, TASKS, Digits, Place, load_digits
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
    "Tunable MAGMAX (paper)": {"method": "tunable_magmax"},
    "Tunable, optimal": {"method": "tunable_magmax", "selection": "optimal"},
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
    found = common.provenance()
    return found | {"versions": found["versions"] | {"torch": torch.__version__}}


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
    fresh = [share(found, digits.ids("validation", t)) for t, found in enumerate(rights)]
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


def measure(
    seed: int, regime: TrainingConfig, scales: Sequence[float], places: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """Every method at every scale for one training seed: accuracy at each place and on all digits, test images."""
    digits, model = load_digits(), load_base()
    base, *states = trained(digits, regime, seed)
    at = {tasks: digits.place(tasks) for tasks in places}
    found: dict[str, Any] = {}
    default_scale: dict[str, float] = {}

    def note(name: str, scale: float | None, right: Right, which: Sequence[tuple[int, int]]) -> None:
        entry = found.setdefault(name, {}).setdefault(
            "" if scale is None else str(scale), {"places": {}, "all_digits": []}
        )
        for tasks in which:
            entry["places"]["-".join(str(t + 1) for t in tasks)] = share(right, at[tasks].test)
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
    for by_scale in found.values():
        for entry in by_scale.values():
            entry["all_digits"] = statistics.fmean(entry["all_digits"])  # a tunable model per place: their mean
    return {"default_scale": default_scale, "accuracy": found}


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
        "shown_place": "-".join(str(t + 1) for t in SHOWN),
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


Cell = tuple[float, float]  # mean and standard deviation over the seeds, in points


def cell(values: Sequence[float]) -> Cell:
    return 100 * statistics.fmean(values), 100 * statistics.stdev(values) if len(values) > 1 else 0.0


def shown(value: Cell, bold: bool = False) -> str:
    text = f"{value[0]:.1f} ± {value[1]:.1f}"
    return f"**{text}**" if bold else text


class Scores:
    """demo_methods.json, asked by method, scale and measure."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = data
        self.runs = [data["runs"][str(seed)] for seed in data["seeds"]]
        self.scales = [str(scale) for scale in data["scales"]]
        self.places = list(self.runs[0]["accuracy"]["base"][""]["places"])
        self.methods = [name for name in self.runs[0]["accuracy"] if name != "base"]

    def default(self, method: str) -> str:
        return str(self.runs[0]["default_scale"][method])

    def at(self, method: str, scale: str, place: str) -> list[float]:
        """One accuracy per seed."""
        return [run["accuracy"][method][scale]["places"][place] for run in self.runs]

    def over_places(self, method: str, scale: str) -> list[float]:
        return [statistics.fmean(run["accuracy"][method][scale]["places"].values()) for run in self.runs]

    def all_digits(self, method: str, scale: str) -> list[float]:
        return [run["accuracy"][method][scale]["all_digits"] for run in self.runs]

    def best(self, method: str) -> str:
        return max(self.scales, key=lambda scale: statistics.fmean(self.over_places(method, scale)))

    def triple(self, method: str, scale: str) -> list[str]:
        values = (
            self.at(method, scale, self.data["shown_place"]),
            self.over_places(method, scale),
            self.all_digits(method, scale),
        )
        return [shown(cell(value)) for value in values]


def place_name(place: str) -> str:
    """`1-5` as digits: 01 (80 %) + 89 (20 %)."""
    main, side = ("".join(map(str, TASKS[int(t) - 1])) for t in place.split("-"))
    return f"{main} + {side}"


def regime_tables(result: Mapping[str, Any]) -> str:
    parts = []
    epochs = result["grid"]["epochs"]
    for logit in result["grid"]["logit_scale"]:
        rows = []
        for rate in result["grid"]["learning_rate"]:
            row = [f"{rate:g}"]
            for count in epochs:
                entry = next(
                    e
                    for e in result["tried"]
                    if (e["learning_rate"], e["epochs"], e["logit_scale"]) == (rate, count, logit)
                )
                is_chosen = all(
                    entry[key] == result["chosen"][key] for key in ("learning_rate", "epochs", "logit_scale")
                )
                places = cell([run["other_places"] for run in entry["runs"]])[0]
                digits = cell([run["all_digits"] for run in entry["runs"]])[0]
                text = f"{places:.1f} / {digits:.1f}"
                row.append(f"**{text}**" if is_chosen else text)
            rows.append(row)
        parts.append(
            f"Logit scale {logit:g}:\n\n"
            + common.table(["learning rate", *(f"{count} epochs" for count in epochs)], rows)
        )
    return "\n\n".join(parts)


def losses(scores: Scores) -> str:
    """Where each tunable variant loses to MAGMAX at the same scale; and how it stands to the last model."""

    def gaps(method: str, scale: str, rival: str, other: str) -> dict[str, list[float]]:
        pairs = {place: (scores.at(method, scale, place), scores.at(rival, other, place)) for place in scores.places}
        return {place: [a - b for a, b in zip(*pair, strict=True)] for place, pair in pairs.items()}

    def count(means: Mapping[str, float]) -> str:
        # Means of fractions of a hundred or so images: what is smaller than 1e-9 is rounding.
        return f"{sum(mean > 1e-9 for mean in means.values())} / {sum(mean < -1e-9 for mean in means.values())}"

    rows = []
    for method in (name for name in scores.methods if name.startswith("Tunable")):
        for scale in dict.fromkeys((scores.default(method), str(scores.data["common_scale"]))):
            row, named = [method, scale], "none"
            for rival, other in (("MAGMAX", scale), ("last", "1.0")):
                by_place = gaps(method, scale, rival, other)
                means = {place: 100 * statistics.fmean(values) for place, values in by_place.items()}
                row += [shown(cell([statistics.fmean(v) for v in zip(*by_place.values(), strict=True)])), count(means)]
                if rival == "MAGMAX":
                    lost = sorted((place for place in means if means[place] < -1e-9), key=lambda place: means[place])
                    named = ", ".join(f"{place_name(place)} ({means[place]:+.1f})" for place in lost) or named
            rows.append([*row, named])
    heads = ["gap to MAGMAX, points", "won / lost", "gap to the last model", "won / lost", "lost to MAGMAX at"]
    return common.table(["method", "scale", *heads], rows)


def verdict(scores: Scores) -> str:
    """The result in sentences, whatever it is."""
    paper, rival = "Tunable MAGMAX (paper)", "MAGMAX"
    sentences = []
    for scale in dict.fromkeys((scores.default(paper), str(scores.data["common_scale"]), "best")):
        ours, theirs = (scores.best(paper), scores.best(rival)) if scale == "best" else (scale, scale)
        gap = cell(
            [a - b for a, b in zip(scores.over_places(paper, ours), scores.over_places(rival, theirs), strict=True)]
        )
        where = f"each at its own best scale ({ours} and {theirs})" if scale == "best" else f"at scale {scale}"
        # Twice the standard error of a mean over the seeds: below that, a gap is not told from none.
        bound = 2 * gap[1] / len(scores.runs) ** 0.5
        what = "wins" if gap[0] > bound else "loses" if gap[0] < -bound else "is level"
        sentences.append(
            f"{where}, the paper's selection with a label preference {what}: "
            f"{gap[0]:+.1f} ± {gap[1]:.1f} points against MAGMAX"
        )
    best = {method: statistics.fmean(scores.over_places(method, scores.best(method))) for method in scores.methods}
    top = max(best, key=lambda method: best[method])
    ranked = sorted(best, key=lambda method: -best[method])
    last, here = cell(scores.over_places("last", "1.0")), scores.data["shown_place"]
    at_home = {method: cell(scores.at(method, scores.default(method), here))[0] for method in scores.methods}
    first = max(at_home, key=lambda method: at_home[method])
    order = ", ".join(f"{method} {100 * best[method]:.1f}" for method in ranked)
    return (
        "Over all places:\n\n" + "\n".join(f"- {s}." for s in sentences) + "\n"
        f"- with every method at its own best scale, {top} is first. The order: {order}. "
        f"The plain last model at scale 1 has {last[0]:.1f}.\n\n"
        f"At the shown place, every method at its own default scale, {first} is first with {at_home[first]:.1f}; "
        f"{paper} has {at_home[paper]:.1f}, {rival} {at_home[rival]:.1f}, the last model {at_home['last']:.1f}."
    )


def write_docs(regimes: dict[str, Any], methods: dict[str, Any], base: dict[str, Any], file: Path) -> None:
    """docs/demo.md: every number comes from the three results."""
    scores = Scores(methods)
    chosen, images = regimes["chosen"], methods["test_images"]
    by_scale = {scale: cell(values) for scale, values in regimes["magmax_by_scale"].items()}
    typical = statistics.fmean(scores.at("MAGMAX", scores.default("MAGMAX"), methods["shown_place"]))
    error = 100 * (typical * (1 - typical) / images["place"]) ** 0.5
    rival = ["MAGMAX", *(shown(value, float(scale) == regimes["common_scale"]) for scale, value in by_scale.items())]
    side_by_side = [["base", "", *scores.triple("base", ""), "", "", "", ""]]
    for method in scores.methods:
        default, best = scores.default(method), scores.best(method)
        side_by_side.append([method, default, *scores.triple(method, default), best, *scores.triple(method, best)])

    def by_scales(measure: Any) -> str:
        rows = []
        for method in scores.methods:
            cells = {scale: cell(measure(method, scale)) for scale in scores.scales}
            top = max(cells, key=lambda scale: cells[scale][0])
            rows.append([method, *(shown(value, scale == top) for scale, value in cells.items())])
        return common.table(["method", *scores.scales], rows)

    measures = ["shown place", "all places", "all digits"]
    text = f"""# The embedded default

<!-- Written by `python -m benchmarks.demo_regimes docs` from benchmarks/results/demo_*.json. Edit the script. -->

`prefmerge demo` trains a small vision transformer ({base["elements"]:,} elements) on five tasks of scikit-learn's
handwritten digits, two digits each, one after another; writes the six checkpoints; asks for a place that sees two of
the tasks, 0.8 / 0.2; merges for it; lets `adapt` make a model from {META_LABELS} labels, and one from images without
labels; and prints one table. Here: the methods that `adapt` is compared with, and how the regime was chosen.
Everything in it is real and small: {images["place"]} test images at the place, {images["all_digits"]} over all
digits, ten classes always.

**The base** knows printed characters only: {len(base["characters"])} letters and digits in {len(base["fonts"])} fonts
that matplotlib ships, distorted ({base["printed_accuracy"]:.0%} right on fresh distortions).
`benchmarks/demo_base.py` makes it and never reads the handwritten digits, of which it then names
{100 * statistics.fmean(scores.all_digits("base", "")):.1f} % anyway. Its ten digit rows are the frozen head.

**The place shown** (digits {place_name(scores.data["shown_place"])}) was drawn with seed 42, the paper's first,
before anything was trained. It is one of {len(scores.places)}; the tables below say how the preference does at all
of them.

## The regime

Criterion: {regimes["criterion"]}. No merge and no test image has a say, and the seeds
({", ".join(map(str, regimes["seeds"]))}) are not those of the results below. All {len(regimes["tried"])} regimes
tried, as other places / all digits in % (the base: {100 * regimes["base"]["other_places"]:.1f} /
{100 * regimes["base"]["all_digits"]:.1f}); the chosen one is bold:

{regime_tables(regimes)}

Chosen: learning rate {chosen["learning_rate"]:g}, {chosen["epochs"]} epochs, logit scale {chosen["logit_scale"]:g}.

Methods are shown at their own default scale, and at one common scale: the one at which MAGMAX, the rival, does best
on the same places and images. That is {regimes["common_scale"]:g}:

{common.table(["scale", *by_scale], [rival])}

## What each method scores

Test images, {len(methods["seeds"])} seeds, accuracy in %, mean ± standard deviation over the seeds. *All places* is
the mean over the {len(scores.places)} ordered pairs of tasks; the tunable methods get the label preference of each
place.
The seeds vary the order of the training images and nothing else: the spread is not that
of other test images (one standard error of a single accuracy at the shown place: {error:.1f} points).
*Best scale* is the best of {", ".join(scores.scales)} on these test images, over all places: optimistic, for
every method alike. A best scale at an end of that list may have a better one beyond it.

{verdict(scores)}

{common.table(["method", "default scale", *measures, "best scale", *measures], side_by_side)}

### Over all places, by scale

{by_scales(scores.over_places)}

### At the shown place, by scale

{by_scales(lambda method, scale: scores.at(method, scale, scores.data["shown_place"]))}

## Where the preference loses

Place by place, mean over the seeds, against MAGMAX at the same scale and against the plain last model at scale 1;
named by digits, those of the 80 % first. One place has {images["place"]} test images: a
gap of a point or two at one place is noise.

{losses(scores)}

Regimes (`benchmarks/results/demo_regimes.json`): {common.origin(regimes)}
Methods (`demo_methods.json`): {common.origin(methods)}
"""
    text = re.sub(r"\n{3,}", "\n\n", text)  # a table brings a line end of its own
    file.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("regimes", "methods", "docs"))
    part = parser.parse_args().part
    regimes, methods = common.RESULTS / "demo_regimes.json", common.RESULTS / "demo_methods.json"
    if part == "regimes":
        result = search_regimes(regimes, GRID, DEV_SEEDS)
        print(json.dumps({"chosen": result["chosen"], "common_scale": result["common_scale"]}))
    elif part == "methods":
        compare_methods(methods, SEEDS, SCALES, PLACES)
    else:
        write_docs(
            _read(regimes), _read(methods), _read(common.RESULTS / "demo_base.json"), common.ROOT / "docs" / "demo.md"
        )


if __name__ == "__main__":
    main()
