"""docs/demo.md out of results/demo_*.json: every number of the page comes from these files.

    python -m benchmarks.demo_tables

Not here: measuring (`benchmarks.demo_regimes`).
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import common
from prefmerge.lab.demo.digits import META_LABELS, TASKS

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
        self.places = data["places"]
        self.images = data["test_images"]["place"]
        self.methods = [name for name in self.runs[0]["accuracy"] if name != "base"]

    def default(self, method: str) -> str:
        return str(self.runs[0]["default_scale"][method])

    def at(self, method: str, scale: str, place: str) -> list[float]:
        """One accuracy per seed."""
        number = self.places.index(place)
        return [run["accuracy"][method][scale]["right"][number] / self.images for run in self.runs]

    def over_places(self, method: str, scale: str) -> list[float]:
        return [
            statistics.fmean(values) for values in zip(*(self.at(method, scale, p) for p in self.places), strict=True)
        ]

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
        # Twice the standard error of a mean over the seeds: a smaller gap may be chance.
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
        "Over all targets:\n\n" + "\n".join(f"- {s}." for s in sentences) + "\n"
        f"- with every method at its own best scale, {top} is first. The order: {order}. "
        f"The plain last model at scale 1 has {last[0]:.1f}.\n\n"
        f"At the shown target, every method at its own default scale, {first} is first with {at_home[first]:.1f}; "
        f"{paper} has {at_home[paper]:.1f}, {rival} {at_home[rival]:.1f}, the last model {at_home['last']:.1f}."
    )


def page(regimes: Mapping[str, Any], methods: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """The whole page."""
    scores = Scores(methods)
    text = f"""{_introduction(scores, base)}
{_regime(regimes, len(scores.places) - 1)}
{_results(scores)}
{_losses(scores)}
Regimes (`benchmarks/results/demo_regimes.json`): {common.origin(regimes)}
Methods (`demo_methods.json`): {common.origin(methods)}
"""
    return re.sub(r"\n{3,}", "\n\n", text)  # a table brings a line end of its own


def _introduction(scores: Scores, base: Mapping[str, Any]) -> str:
    images = scores.data["test_images"]
    return f"""# The demo on handwritten digits

<!-- Written by `python -m benchmarks.demo_tables` from benchmarks/results/demo_*.json. Edit the script. -->

`prefmerge demo` trains a small vision transformer ({base["elements"]:,} elements) on five tasks of scikit-learn's
handwritten digits, two digits each, one after another, and writes the six checkpoints. Its target sees two of the
tasks, 0.8 / 0.2. The demo merges for this target, lets `adapt` make one model from {META_LABELS} labels and one from
images without labels, and prints one table. This page has the methods that `adapt` is compared with, and how the
training was chosen. Everything in it is real and small: {images["place"]} test images at the target,
{images["all_digits"]} over all digits, ten classes always.

**The base** knows printed characters only: {len(base["characters"])} letters and digits in {len(base["fonts"])} fonts
that matplotlib ships, distorted ({base["printed_accuracy"]:.0%} right on fresh distortions).
`benchmarks/demo_base.py` makes it and never reads the handwritten digits, of which it then names
{100 * statistics.fmean(scores.all_digits("base", "")):.1f} % anyway. Its ten digit rows are the frozen head.

**The shown target** (digits {place_name(scores.data["shown_place"])}) was drawn with seed 42, the paper's first,
before anything was trained. It is one of {len(scores.places)}; the tables below say what the preference does at all
of them.
"""


def _regime(regimes: Mapping[str, Any], others: int) -> str:
    chosen = regimes["chosen"]
    by_scale = {scale: cell(values) for scale, values in regimes["magmax_by_scale"].items()}
    rival = ["MAGMAX", *(shown(value, float(scale) == regimes["common_scale"]) for scale, value in by_scale.items())]
    return f"""
## The training

The training with the best accuracy is chosen: that of the last model, ten classes, on validation images, mean of the
{others} targets that are not shown. Merges and test images play no part, and the seeds
({", ".join(map(str, regimes["seeds"]))}) are not those of the results below. All {len(regimes["tried"])} tried, as
other targets / all digits in % (the base: {100 * regimes["base"]["other_places"]:.1f} /
{100 * regimes["base"]["all_digits"]:.1f}); the chosen one is bold:

{regime_tables(regimes)}

Chosen: learning rate {chosen["learning_rate"]:g}, {chosen["epochs"]} epochs, logit scale {chosen["logit_scale"]:g}.

Methods are shown at their own default scale, and at one common scale: the one at which MAGMAX, the rival, does best
on the same targets and images. That is {regimes["common_scale"]:g}:

{common.table(["scale", *by_scale], [rival])}
"""


def _results(scores: Scores) -> str:
    data, shown_place = scores.data, scores.data["shown_place"]
    typical = statistics.fmean(scores.at("MAGMAX", scores.default("MAGMAX"), shown_place))
    error = 100 * (typical * (1 - typical) / scores.images) ** 0.5
    side_by_side = [["base", "", *scores.triple("base", ""), "", "", "", ""]]
    for method in scores.methods:
        default, best = scores.default(method), scores.best(method)
        side_by_side.append([method, default, *scores.triple(method, default), best, *scores.triple(method, best)])
    measures = ["shown target", "all targets", "all digits"]
    return f"""
## What each method scores

Test images, {len(data["seeds"])} seeds, accuracy in %, mean ± standard deviation over the seeds. *All targets* is
the mean over the {len(scores.places)} ordered pairs of tasks; the tunable methods get the label preference of each
target. The seeds vary the order of the training images and nothing else: the spread is not that of other test images
(one standard error of a single accuracy at the shown target: {error:.1f} points). *Best scale* is the best of
{", ".join(scores.scales)} on these test images, over all targets: optimistic, for every method alike. A best scale at
an end of that list may have a better one beyond it.

{verdict(scores)}

{common.table(["method", "default scale", *measures, "best scale", *measures], side_by_side)}

### Over all targets, by scale

{_by_scales(scores, scores.over_places)}

### At the shown target, by scale

{_by_scales(scores, lambda method, scale: scores.at(method, scale, shown_place))}
"""


def _by_scales(scores: Scores, measure: Callable[[str, str], list[float]]) -> str:
    rows = []
    for method in scores.methods:
        cells = {scale: cell(measure(method, scale)) for scale in scores.scales}
        top = max(cells, key=lambda scale: cells[scale][0])
        rows.append([method, *(shown(value, scale == top) for scale, value in cells.items())])
    return common.table(["method", *scores.scales], rows)


def _losses(scores: Scores) -> str:
    return f"""
## Where the preference loses

Target by target, mean over the seeds, against MAGMAX at the same scale and against the plain last model at scale 1.
Targets have the names of their digits, those of the 80 % first. One target has {scores.images} test images: a gap of a
point or two at one target is noise.

{losses(scores)}
"""


def main() -> None:
    parts = (json.loads((common.RESULTS / f"demo_{name}.json").read_text()) for name in ("regimes", "methods", "base"))
    (common.ROOT / "docs" / "demo.md").write_text(page(*parts), encoding="utf-8")


if __name__ == "__main__":
    main()
