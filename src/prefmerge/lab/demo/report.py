"""What the demo shows: one table, one chart, what the user gained, and the commands that do it by hand.

Reads demo.json's object and computes nothing new but differences, whose standard error is that of paired images:
sd(right_a - right_b) / sqrt(n). Colours are Okabe and Ito's, distinct in every common colour blindness. Accuracies
are in percent. Not here: what `adapt` tried, which its own report.html shows.
"""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

JudgedModel = tuple[Mapping[str, Any], str]  # a row of demo.json, and which head: "without_prior" or "with_prior"

ADAPT, OTHER, ESTIMATE = "#56B4E9", "#C4C9D0", "#D55E00"


def adapt_command(run: Path, option: str, given: Path, out: Path) -> str:
    """The line that a user could type to make one of the demo's models again."""
    parts = ["prefmerge", "adapt", "--run", str(run), option, str(given), "-o", str(out)]
    return " ".join(shlex.quote(part) for part in parts)


def show(console: Console, result: Mapping[str, Any], folder: Path) -> None:
    """Print the table, what was gained, where the files are, and the commands."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    place = result["place"]
    console.print(
        f"\nAccuracy in % among ten classes, on {place['test_images']} test images of the target, not used before:"
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("model", no_wrap=True)
    for heading in ("as it is", "with the prior", "its own estimate"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in result["rows"]:
        ours = row["method"] == "adapt"
        cells = [f"{100 * row[head]['place']:.1f}" for head in ("without_prior", "with_prior")]
        table.add_row(row["model"], *cells, _estimate(row), style="bold" if ours else None)
    console.print(table)
    console.print("")
    for line in verdicts(result):
        console.print(escape(line))
    console.print(f"\nChart: {escape(str(folder / 'demo.png'))}   numbers: demo.json   Do it by hand:")
    for line in result["commands"]:
        console.print(f"  {escape(line)}", soft_wrap=True, highlight=False)


def verdicts(result: Mapping[str, Any]) -> list[str]:
    """What each model of `adapt` gained and costs, whether its estimate was right, and whether something else wins."""
    rows = result["rows"]
    last = next(row for row in rows if row["method"] == "last")
    ours = [row for row in rows if row["method"] == "adapt"]
    others: list[JudgedModel] = [
        (row, head) for row in rows if row["method"] != "adapt" for head in ("without_prior", "with_prior")
    ]
    best = max(others, key=_accuracy)
    lines: list[str] = []
    for row in ours:
        gap, error = _ahead((row, "with_prior"), (last, "without_prior"))
        than = f"{abs(gap):.1f} points {'more' if gap > 0 else 'less'} than" if gap else "as much as"
        line = (
            f"{row['model'].capitalize()}: {100 * _accuracy((row, 'with_prior')):.1f} %, {than} the last checkpoint "
            f"{_error(gap, error)}."
        )
        if row["estimate"] is not None:
            inside = row["estimate"]["low"] <= row["with_prior"]["place"] <= row["estimate"]["high"]
            line += f" The truth is {'inside' if inside else 'outside'} the interval of its estimate."
        if row["chosen"] == "last checkpoint":
            line += " It kept the last checkpoint: all of the change is the head's."
        lines.append(line)
    top = max(ours, key=lambda row: _accuracy((row, "with_prior")))
    gap, error = _ahead((top, "with_prior"), best)
    if gap < 0:
        lines.append(f"Something else wins: {_name(best)} has {-gap:.1f} points more {_error(gap, error)}.")
    elif gap == 0:
        lines.append(f"Something else is as good: {_name(best)}.")
    else:
        lines.append(f"Next best: {_name(best)}, {gap:.1f} points less {_error(gap, error)}.")
    there, everywhere = (100 * one["all_digits"] for one in (top["with_prior"], last["without_prior"]))
    if there < everywhere:
        lines.append(
            f"The price: {there:.1f} % over all ten digits alike, where the last checkpoint has {everywhere:.1f} %. "
            "Use it at the target only."
        )
    return lines


def draw(result: Mapping[str, Any], file: Path) -> None:
    """The chart: a bar for every model as one would use it, and on `adapt`'s the estimate that it gave."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = result["rows"]
    figure = Figure(figsize=(9, 0.55 * len(rows) + 2), layout="constrained")
    FigureCanvasAgg(figure)  # never the user's display
    axes = figure.subplots()
    spots = range(len(rows))
    ours = [row["method"] == "adapt" for row in rows]
    values = [
        100 * row["with_prior" if mine else "without_prior"]["place"] for row, mine in zip(rows, ours, strict=True)
    ]
    bars = axes.barh(spots, values, 0.7, color=[ADAPT if mine else OTHER for mine in ours])
    axes.bar_label(bars, [f"{value:.1f}" for value in values], label_type="center", fontsize=11)
    for text, mine in zip(axes.texts, ours, strict=True):
        text.set_fontweight("bold" if mine else "normal")
    prior = [(spot, 100 * row["with_prior"]["place"]) for spot, row in zip(spots, rows, strict=True) if not ours[spot]]
    axes.plot([x for _, x in prior], [y for y, _ in prior], "o", color="black", markersize=6, label="with the prior")
    estimated = [(spot, row["estimate"]) for spot, row in zip(spots, rows, strict=True) if row.get("estimate")]
    if estimated:
        centres = [100 * one["value"] for _, one in estimated]
        ends = [
            [100 * (one["value"] - one["low"]) for _, one in estimated],
            [100 * (one["high"] - one["value"]) for _, one in estimated],
        ]
        axes.errorbar(
            centres,
            [spot for spot, _ in estimated],
            xerr=ends,
            fmt="D",
            color=ESTIMATE,
            capsize=4,
            label="its own estimate",
        )
    axes.set_yticks(list(spots), [row["model"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 101)
    axes.set_xlabel(f"accuracy on {result['place']['test_images']} test images of the target (%), ten classes")
    last = next(value for row, value in zip(rows, values, strict=True) if row["method"] == "last")
    best = max(value for value, mine in zip(values, ours, strict=True) if mine)
    axes.set_title(
        f"adapt: {best:.1f} % at the target, the last checkpoint {last:.1f} %",
        loc="left",
        fontsize=14,
        fontweight="bold",
    )
    figure.legend(loc="outside lower right", ncols=2, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=130, metadata={"Software": None})


def _accuracy(model: JudgedModel) -> float:
    row, head = model
    return row[head]["place"]


def _ahead(one: JudgedModel, other: JudgedModel) -> tuple[float, float]:
    """By how many points one model is better than another on the same images, and the standard error."""
    right, theirs = (row[head]["right"] for row, head in (one, other))
    gaps = [int(a) - int(b) for a, b in zip(right, theirs, strict=True)]
    return 100 * statistics.fmean(gaps), 100 * statistics.pstdev(gaps) / math.sqrt(len(gaps))


def _error(gap: float, error: float) -> str:
    return f"(standard error {error:.1f}{'' if abs(gap) > 2 * error else ', no clear difference'})"


def _name(model: JudgedModel) -> str:
    row, head = model
    return f"{row['model']} {'as it is' if head == 'without_prior' else 'with the prior'}"


def _estimate(row: Mapping[str, Any]) -> str:
    one = row.get("estimate")
    return "" if one is None else f"{100 * one['value']:.1f} [{100 * one['low']:.1f}, {100 * one['high']:.1f}]"
