"""What the demo shows: one table, one chart, and the command that does the same merge by hand.

Reads demo.json's object and computes nothing new. Colours are Okabe and Ito's, told apart in every common colour
blindness; hatching repeats them for print. Accuracies are in percent.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

PLACE_COLOUR, ALL_COLOUR = "#0072B2", "#E69F00"
TASK_COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442")


def merge_command(run: Path, preference: Path, out: Path) -> str:
    """The line that a user could type to make the demo's tunable merge again."""
    parts = ["prefmerge", "merge", "--run", str(run), "--prefer", f"@{preference}", "-o", str(out)]
    return " ".join(shlex.quote(part) for part in parts)


def label(row: Mapping[str, Any]) -> str:
    return row["model"] if row["scale"] is None else f"{row['model']}, scale {row['scale']:g}"


def noise(result: Mapping[str, Any]) -> float:
    """The largest standard error of an accuracy at the place, in points."""
    n = result["place"]["test_images"]
    return max(100 * math.sqrt(row["place"] * (1 - row["place"]) / n) for row in result["rows"])


def show(console: Console, result: Mapping[str, Any], folder: Path) -> None:
    """Print the table, what the preference did here and at all places, where the files are, and the command."""
    from rich.markup import escape
    from rich.table import Table

    place = result["place"]
    table = Table(title=f"Accuracy in %, ten classes. The place: {place['title']}", title_justify="left")
    table.add_column("model", no_wrap=True)
    for heading in ("scale", "at the place", "all digits", *(name.rsplit("-", 1)[1] for name in result["preference"])):
        table.add_column(heading, justify="right")
    best = max(row["place"] for row in result["rows"])
    for row in result["rows"]:
        cells = [f"{100 * a:.1f}" for a in (row["place"], row["all_digits"], *row["tasks"])]
        cells[0] = f"[bold]{cells[0]}[/bold]" if row["place"] == best else cells[0]
        table.add_row(
            row["model"],
            "" if row["scale"] is None else f"{row['scale']:g}",
            *cells,
            end_section=row["method"] in ("last", "tunable_magmax"),
        )
    console.print(table)
    console.print(
        f"{place['test_images']} test images at the place (standard error up to {noise(result):.1f} points), "
        f"{result['all_digits_images']} of all digits. Last columns: the digits of each task."
    )
    for line in verdicts(result):
        console.print(line)
    console.print(
        f"\nCheckpoints, merged models, receipts: {escape(str(folder))}   numbers: demo.json   chart: demo.png"
    )
    console.print("The same merge by hand:", style="bold")
    console.print(f"  {escape(result['command'])}", soft_wrap=True, highlight=False)


def verdicts(result: Mapping[str, Any]) -> list[str]:
    """Which model is best here; for each scale, what the preference did here and, with a survey, at all places."""
    best = max(row["place"] for row in result["rows"])
    lines = ["Best at the place: " + " and ".join(label(row) for row in result["rows"] if row["place"] == best) + "."]
    rows = {(row["method"], row["scale"]): row["place"] for row in result["rows"]}
    for (method, scale), accuracy in rows.items():
        rival = rows.get(("magmax", scale))
        if method != "tunable_magmax" or rival is None:
            continue
        gap = 100 * (accuracy - rival)
        what = (
            f"gains {gap:.1f} points on"
            if gap > 0
            else f"loses {-gap:.1f} points against"
            if gap < 0
            else "is level with"
        )
        line = f"At scale {scale:g} the preference {what} MAGMAX here"
        everywhere = [s for s in result["survey"] or [] if s["scale"] == scale]
        if everywhere:
            gaps = [round(100 * (s["tunable_magmax"] - s["magmax"]), 9) for s in everywhere]
            up, down = sum(g > 0 for g in gaps), sum(g < 0 for g in gaps)
            means = {
                key: 100 * sum(s[key] for s in everywhere) / len(gaps) for key in ("tunable_magmax", "magmax", "last")
            }
            line += (
                f"; over all {len(gaps)} such places it gains at {up} and loses at {down}, "
                f"with {means['tunable_magmax']:.1f} % against {means['magmax']:.1f} % "
                f"(the last model, unmerged: {means['last']:.1f} %)"
            )
        lines.append(line + ".")
    return lines


def draw(result: Mapping[str, Any], file: Path) -> None:
    """The chart: accuracies of every model, and who owns the elements of the two models that choose owners."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, owned = result["rows"], result["owned"]
    figure = Figure(figsize=(10, 0.62 * len(rows) + 3.4), layout="constrained")
    FigureCanvasAgg(figure)  # never the user's display
    upper, lower = figure.subplots(2, 1, height_ratios=[len(rows), 1.1 * len(owned) + 1])
    spots = range(len(rows))
    for offset, key, colour, hatch, text in (
        (-0.2, "place", PLACE_COLOUR, "", f"at the place ({result['place']['test_images']} images)"),
        (0.2, "all_digits", ALL_COLOUR, "//", f"on all ten digits ({result['all_digits_images']} images)"),
    ):
        values = [100 * row[key] for row in rows]
        n = result["place"]["test_images"] if key == "place" else result["all_digits_images"]
        errors = [math.sqrt(v * (100 - v) / n) for v in values]
        bars = upper.barh(
            [s + offset for s in spots],
            values,
            0.38,
            xerr=errors,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            label=text,
            error_kw={"lw": 1},
        )
        upper.bar_label(bars, labels=[f"{v:.0f}" for v in values], padding=4, fontsize=9)
    upper.set_yticks(list(spots), [label(row) for row in rows])
    upper.invert_yaxis()
    upper.set_xlim(0, 112)
    upper.set_xticks(range(0, 101, 20))
    upper.set_xlabel("accuracy among ten classes (%); lines: one standard error")
    upper.set_title(f"The place: {result['place']['title']}", loc="left", fontsize=11)
    upper.legend(loc="upper left", bbox_to_anchor=(0, -0.17 if len(rows) < 7 else -0.12), ncols=2, frameon=False)
    names = list(result["preference"])
    for spot, counts in enumerate(owned.values()):
        left = 0.0
        for name, count, colour in zip(names, counts, TASK_COLOURS, strict=True):
            width = 100 * count / sum(counts)
            text = f"digits {name.rsplit('-', 1)[1]}" if spot == 0 else None
            lower.barh(spot, width, 0.6, left=left, color=colour, edgecolor="white", label=text)
            if width >= 4:
                lower.text(left + width / 2, spot, f"{width:.0f}", ha="center", va="center", fontsize=9)
            left += width
    lower.set_yticks(range(len(owned)), list(owned))
    lower.invert_yaxis()
    lower.set_xlim(0, 112)
    lower.set_xticks(range(0, 101, 20))
    lower.set_xlabel("elements owned by each task's checkpoint (%)")
    lower.legend(loc="upper left", bbox_to_anchor=(0, -0.22), ncols=len(names), frameon=False)
    figure.savefig(file, dpi=130, metadata={"Software": None})
