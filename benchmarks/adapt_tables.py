"""The tables of docs/adapt.md, and one of docs/limits.md, out of results/adapt.json, _17.json and _digits.json.

    python -m benchmarks.adapt_tables     # writes them between the marks of the two pages

Not here: what the numbers are means of (`benchmarks.adapt_summary`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from benchmarks import common
from benchmarks.adapt import DRIFT, MANY, RATE
from prefmerge.lab.at_target import STEPS

PAGE, LIMITS = (common.ROOT / "docs" / name for name in ("adapt.md", "limits.md"))
MARKS = ("<!-- made by benchmarks/adapt.py -->", "<!-- made by benchmarks/adapt_digits.py -->")
NAMES = {
    "last": "last checkpoint, as it is",
    "last + prior": "last checkpoint, with the log prior",
    "last + fitted bias": "last checkpoint, with a fitted bias",
    "adapt, labels": "**adapt, from 50 labels**",
    "adapt, labels, encoder only": "adapt with `--no-prior`: the encoder alone",
}
WRONGS = {
    "0.0": "as shown",
    **{str(q): f"{100 * q:.0f} % from all tasks, evenly" for q in DRIFT},
    "skewed": "classes skewed inside the tasks, unknown",
    "skewed, as the labels show": "classes skewed inside the tasks, as the labels show",
    "swapped": "shares swapped: the largest for the smallest",
}


def _signed(one: Mapping[str, float]) -> str:
    return f"{one['mean']:+.1f} [{one['low']:.1f}, {one['high']:.1f}]"


def document(data: Mapping[str, Any], many: Mapping[str, Any]) -> str:
    """The tables of the text encoder. `many`: the result with more tasks, of which only costs are measured."""
    summary = data["summary"]
    return "\n".join(
        [
            _accuracy(summary),
            _estimates(summary["estimates"]),
            f"With training samples in place of held-out ones ({summary['training_samples']['targets']} targets):\n",
            _plain(summary["training_samples"]),
            _wrong(summary["wrong"]),
            f"Fine-tuning the last checkpoint instead ({STEPS} steps, learning rate {RATE:g}, not tuned), mean of "
            f"{summary['alternatives']['targets']} targets, T = 5:\n",
            _plain(summary["alternatives"]),
            _costs({"T = 5": summary["cost"], f"T = {MANY}": many["summary"]["cost"]}),
            common.origin(data),
        ]
    )


def _accuracy(summary: Mapping[str, Any]) -> str:
    rows = []
    for name, one in sorted(summary["accuracy"].items(), key=lambda pair: -pair[1]["mean"]):
        ahead = summary["adapt_ahead_of"].get(name)
        worst = min(mix[name] for mix in summary["by_mix"].values())
        rows.append(
            [NAMES.get(name, name), f"{one['mean']:.1f}", f"{worst:.1f}", "" if ahead is None else _signed(ahead)]
        )
    header = ["entry", "accuracy", "in its worst kind of mix", "adapt from labels is ahead by"]
    inputs, variation = summary["inputs"], summary["variation"]
    return (
        f"Accuracy over all classes, T = 5, mean of {summary['targets']} targets, with 95 % intervals:\n\n"
        f"{common.table(header, rows)}\n"
        f"From 50 unlabelled inputs in place of labels ({inputs['targets']} of the targets): "
        f"{inputs['inputs']['mean']:.1f}, from labels {inputs['labels']['mean']:.1f} there; the "
        f"difference is {_signed(inputs['behind'])}. Total variation of the shares to the true ones: "
        f"{variation['labels']:.2f} from labels, {variation['inputs']:.2f} from inputs.\n"
    )


def _estimates(by_samples: Mapping[str, Any]) -> str:
    rows = []
    for n, one in sorted(by_samples.items(), key=lambda pair: int(pair[0])):
        low, high = one["coverage_interval"]
        coverage = f"{100 * one['coverage']:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"
        signed = _signed(one["signed_error"])
        rows.append([n, str(one["targets"]), f"{one['truth']:.1f}", signed, coverage, f"{one['width']:.1f}"])
    header = ["held-out samples a task", "targets", "accuracy", "error", "90 % intervals that hold it", "their width"]
    return f"How true the estimates are. The error is the estimate less the accuracy:\n\n{common.table(header, rows)}"


def _plain(means: Mapping[str, float]) -> str:
    return common.table(
        ["entry", "accuracy"], [[name, f"{value:.1f}"] for name, value in means.items() if name != "targets"]
    )


def _wrong(by_mix: Mapping[str, Any]) -> str:
    names = [name for name in by_mix["0.0"] if name != "targets"]
    rows = [
        [title, str(by_mix[mix]["targets"]), *(f"{by_mix[mix][n]:.1f}" if n in by_mix[mix] else "" for n in names)]
        for mix, title in WRONGS.items()
        if mix in by_mix
    ]
    return (
        'Where the mix is not the one that was shown. "No guard": without the 5 % kept for all tasks:\n\n'
        f"{common.table(['the target', 'targets', *names], rows)}"
    )


def _costs(by_tasks: Mapping[str, Any]) -> str:
    header = ["", "present tasks", "targets", "merges", "forward passes", "seconds", "processor seconds"]
    keys = ["present", "targets", "merges", "forwards", "seconds", "processor_seconds"]
    rows = [[title, *(f"{one[key]:,.0f}" for key in keys)] for title, timed in by_tasks.items() for one in timed]
    return (
        "What one call costs that finds nothing done already, on one thread of forward passes:\n\n"
        f"{common.table(header, rows)}"
    )


def of_digits(data: Mapping[str, Any]) -> str:
    """The table of the digits."""
    summary = data["summary"]
    targets = summary["by_place"].values()
    rows = [
        [name, f"{one['mean']:.1f}", f"{min(target[name] for target in targets):.1f}"]
        for name, one in sorted(summary["accuracy"].items(), key=lambda pair: -pair[1]["mean"])
    ]
    ahead, error = summary["ahead_of_last"], summary["signed_error_of_estimates"]
    seeds = len({row["seed"] for row in data["rows"]})
    return "\n".join(
        [
            common.table(["entry", "accuracy", "at its worst target"], rows),
            f"{len(targets)} targets of two tasks, {seeds} training seeds, 20 labels each. Adapt is ahead of the last "
            f"checkpoint by {ahead['mean']:.1f} points [{ahead['low']:.1f}, {ahead['high']:.1f}]; where it gains "
            f"least, by {summary['least_ahead_of_last_at_a_place']:.1f} (mean over seeds). Its estimate less the "
            f"accuracy on the 125 test images of a target is {error['mean']:+.1f} [{error['low']:.1f}, "
            f"{error['high']:.1f}] points, and its 90 % interval holds that accuracy "
            f"{100 * summary['coverage']:.0f} % of the time (an accuracy on 125 images is uncertain too).\n",
            "Where something else wins: the last checkpoint with the log prior alone is better at "
            f"{summary['places_where_the_prior_alone_is_better']} of the {len(targets)} targets, by more than a point "
            f"at {summary['of_these_by_more_than_a_point']}, by {summary['most_behind_the_prior_alone']:.1f} at "
            "most.\n",
            common.origin(data),
        ]
    )


def limits(data: Mapping[str, Any]) -> str:
    """How the gain goes where the target is not the mix that was shown."""
    wrong = data["summary"]["wrong"]
    mixes = ("0.0", *map(str, DRIFT), "swapped")
    names = ("last", "last + fitted bias", "adapt")
    rows = [[WRONGS[mix], str(wrong[mix]["targets"]), *(f"{wrong[mix][name]:.1f}" for name in names)] for mix in mixes]
    behind = [WRONGS[mix] for mix in mixes if wrong[mix]["adapt"] < wrong[mix]["last"]]
    header = ["accuracy, %, where the target is", "targets", "last checkpoint", "last checkpoint, fitted bias", "adapt"]
    return (
        "Where the target is not what it showed. The more of it comes from elsewhere, the more of the gain is "
        f"lost:\n\n{common.table(header, rows)}\n"
        f"The last checkpoint, as it is, is better than adapt here: {'; '.join(behind) or 'nowhere'}. The text encoder "
        "with 5 tasks.\n"
    )


def written(page: str) -> str:
    """A page with the tables of the results between its marks."""
    first, many, digits = (
        json.loads((common.RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("adapt", "adapt_17", "adapt_digits")
    )
    return between_marks(between_marks(page, MARKS[0], document(first, many)), MARKS[1], of_digits(digits))


def between_marks(page: str, mark: str, text: str) -> str:
    """A page with `text` between two marks."""
    before, _, rest = page.partition(mark)
    _, _, after = rest.partition(mark)
    return f"{before}{mark}\n\n{text}\n{mark}{after}"


def limits_written(page: str) -> str:
    """docs/limits.md with its table of the results."""
    data = json.loads((common.RESULTS / "adapt.json").read_text(encoding="utf-8"))
    return between_marks(page, MARKS[0], limits(data))


def main() -> None:
    for file, write in ((PAGE, written), (LIMITS, limits_written)):
        file.write_text(write(file.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
