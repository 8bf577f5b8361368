"""The drawings of docs/selection.md, from merges that are made for them: `python -m pages.drawings`.

Every owner, count and price is taken from a merge and its receipt. Which stage took an element follows from its owner
(`stages`), and is compared with what the receipt counted. Merges give the same bytes on every machine, so the
drawings do too, and a test makes them again. Cost: a second. Not here: shapes and colours (`svg`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import prefmerge
from pages.svg import Drawing
from prefmerge.merging.receipt import Receipt

FOLDER = Path(__file__).parents[1] / "docs" / "selection"
SHARES = ("0.2", "0.3", "0.5")
SEED = 65  # of the ten elements: chosen so that every step of the algorithm has something to do
ELEMENTS = 10
COLUMN, ROW = 46, 34  # units
LEFT, TOP = 112, 64


@dataclass(frozen=True)
class Merged:
    """A merge: magnitudes (T, P), the owner of each element, the receipt."""

    values: np.ndarray
    owners: tuple[int, ...]
    receipt: Receipt

    @property
    def retained(self) -> float:
        """The importance that it keeps: the sum of |tau_owner(p)[p]|."""
        return float(sum(self.values[t][p] for p, t in enumerate(self.owners)))


@dataclass(frozen=True)
class Stage:
    """One stage of Algorithm 1: the elements that were candidates, and those that the task took."""

    name: str
    task: int
    candidates: frozenset[int]
    taken: frozenset[int]


def ten() -> np.ndarray:
    """Three task vectors of ten elements: 30 different numbers from 10 to 99."""
    numbers = random.Random(SEED).sample(range(10, 100), 3 * ELEMENTS)
    return np.array(numbers, np.float32).reshape(3, ELEMENTS)


def many(tasks: int, elements: int) -> np.ndarray:
    """Magnitudes of normal draws: tasks of one size."""
    draws = random.Random(0)
    return np.array([[abs(draws.gauss(0, 1)) for _ in range(elements)] for _ in range(tasks)], np.float32)


def merged(values: np.ndarray, shares: Sequence[str], **given: str) -> Merged:
    """Merge task vectors over a base of zeros."""
    tasks = [{"w": row} for row in values]
    base = {"w": np.zeros(values.shape[1], np.float32)}
    method = {"method": "magmax"} if given.get("method") == "magmax" else {"preference": list(shares), **given}
    how = {} if "method" in method else {"importance": "magnitude"}
    out, receipt = prefmerge.merge_state_dicts(base, tasks, scale=1.0, **method, **how)  # pyright: ignore[reportArgumentType]
    owners = tuple(int(np.flatnonzero(values[:, p] == out["w"][p])[0]) for p in range(values.shape[1]))
    return Merged(values, owners, receipt)


def records(values: np.ndarray, taking_part: Sequence[int]) -> list[set[int]]:
    """For each element the tasks that are records of it: no earlier one that takes part is larger."""
    return [
        {t for t in taking_part if all(values[t][p] >= values[u][p] for u in taking_part if u < t)}
        for p in range(values.shape[1])
    ]


def stages(one: Merged, law: str) -> list[Stage]:
    """What each stage did. A stage whose candidates fit takes them all, and one that overflows fills its task: so all
    that it owns and had not yet was taken there. Raises ValueError where the receipt counts otherwise.
    """
    asked = one.receipt.totals.asked or ()
    free, left, found = set(range(len(one.owners))), list(asked), list[Stage]()
    counted = []
    for number in (1, 2):
        everyone = [t for t, n in enumerate(asked) if n > 0]
        hungry = [t for t in everyone if left[t]]
        record = records(one.values, hungry if law == "paper" else everyone)
        counts = [0] * len(asked)
        for t in reversed(hungry if law == "paper" else everyone):
            candidates = frozenset(p for p in free if t in record[p])
            taken = frozenset(p for p in candidates if one.owners[p] == t)
            found.append(Stage(f"pass {number}, task {t + 1}", t, candidates, taken))
            counts[t] = len(taken)
            left[t] -= len(taken)
            free -= taken
        counted.append(tuple(counts))
    for t in (t for t, n in enumerate(left) if n):
        taken = frozenset(p for p in free if one.owners[p] == t)
        found.append(Stage(f"rest, task {t + 1}", t, frozenset(free), taken))
        free -= taken
    rest = tuple(n for n in left)
    if (tuple(counted), rest) != (one.receipt.totals.passes, one.receipt.totals.random):
        raise ValueError(f"the receipt counts {one.receipt.totals}, the stages {counted} and {rest}")
    return found


def _grid(title: str, description: str, rows: int, notes: int = 0) -> Drawing:
    drawing = Drawing(LEFT + COLUMN * ELEMENTS + 108, TOP + ROW * rows + 16 + 22 * notes, title, description)
    drawing.text(12, 26, title, "strong")
    for p in range(ELEMENTS):
        drawing.text(LEFT + COLUMN * (p + 0.5), TOP - 10, str(p + 1), "soft small middle")
    drawing.text(12, TOP - 10, "element", "soft small")
    return drawing


def _cell(drawing: Drawing, row: int, p: int, words: str, classes: str, strong: bool = False) -> None:
    x, y = LEFT + COLUMN * p, TOP + ROW * row
    drawing.rect(x + 2, y + 2, COLUMN - 4, ROW - 4, classes)
    drawing.text(x + COLUMN / 2, y + ROW / 2 + 5, words, f"middle{' strong' if strong else ''}")


def _label(drawing: Drawing, row: int, words: str, right: str = "") -> None:
    drawing.text(12, TOP + ROW * (row + 0.5) + 5, words, "small")
    drawing.text(LEFT + COLUMN * ELEMENTS + 10, TOP + ROW * (row + 0.5) + 5, right, "small")


def _table(title: str, description: str, one: Merged, shown: np.ndarray, right: Sequence[str]) -> Drawing:
    """A row for each task; the owner of each element in its colour."""
    drawing = _grid(title, description, len(shown))
    for t, row in enumerate(shown):
        _label(drawing, t, f"task {t + 1}", right[t])
        for p, value in enumerate(row):
            owns = one.owners[p] == t
            _cell(drawing, t, p, f"{value:.0f}", f"task{t + 1}" if owns else "cell", owns)
    return drawing


def draw_magmax() -> Drawing:
    one = merged(ten(), SHARES, method="magmax")
    counts = list(one.receipt.owned or ())
    return _table(
        "MAGMAX: the largest change wins",
        "Ten elements and how much each of three tasks changed them. The task of the largest change owns the element: "
        f"{counts[0]}, {counts[1]} and {counts[2]} of ten.",
        one,
        one.values,
        [f"owns {n}" for n in counts],
    )


def draw_records() -> Drawing:
    values = ten()
    record = records(values, range(3))
    drawing = _grid("Records: as large as all tasks before", "Cells in colour are records of their task.", 3)
    for t, row in enumerate(values):
        _label(drawing, t, f"task {t + 1}", f"{sum(t in one for one in record)} records")
        for p, value in enumerate(row):
            _cell(drawing, t, p, f"{value:.0f}", f"task{t + 1}" if t in record[p] else "cell", t in record[p])
    return drawing


def draw_passes() -> Drawing:
    one = merged(ten(), SHARES, selection="paper")
    asked = list(one.receipt.totals.asked or ())
    walked = stages(one, "paper")
    title = f"Budgets {asked[0]}, {asked[1]} and {asked[2]}: pass by pass"
    drawing = _grid(
        title, "Each stage from top to bottom: the candidates, and which of them the task takes.", len(walked) + 1, 1
    )
    for row, stage in enumerate(walked):
        number = len(stage.candidates)
        _label(drawing, row, stage.name, f"takes {len(stage.taken)} of {number}")
        for p in range(ELEMENTS):
            words = f"{one.values[stage.task][p]:.0f}"
            if p in stage.taken:
                _cell(drawing, row, p, words, f"task{stage.task + 1}", True)
            elif p in stage.candidates:
                _cell(drawing, row, p, words, "turned")
    _label(drawing, len(walked), "owner")
    for p, owner in enumerate(one.owners):
        _cell(drawing, len(walked), p, str(owner + 1), f"task{owner + 1}", True)
    y = TOP + ROW * (len(walked) + 1) + 22
    drawing.text(12, y, "In colour: taken. Dashed: a candidate that was turned away, by a draw.", "soft small")
    return drawing


def draw_prices() -> Drawing:
    one = merged(ten(), SHARES, selection="optimal")
    prices = [float(price or 0) for price in one.receipt.tensors["w"].prices or ()]
    shown = one.values - np.array(prices, np.float32)[:, None]
    right = [f"{-price:+.0f}" if round(price) else "price 0" for price in prices]
    return _table(
        f"Optimal: with {-prices[1]:.0f} more for task 2 and {-prices[2]:.0f} more for task 3",
        "The same table, each row less its price. The largest number of each column is its owner's, and each task owns "
        "exactly its budget.",
        one,
        shown,
        right,
    )


def draw_line() -> Drawing:
    """Two tasks: a price moves the border between their elements."""
    values = many(2, 150)
    even, asked = merged(values, ("0.5", "0.5"), method="magmax"), merged(values, ("0.8", "0.2"), selection="optimal")
    prices = [float(price or 0) for price in asked.receipt.tensors["w"].prices or ()]
    shift = prices[1] - prices[0]
    drawing = Drawing(
        600, 346, "Two tasks: a price moves the border", "150 elements by how much each of two tasks changed them."
    )
    largest, side = float(values.max()) * 1.02, 250
    for left, one, by, words in ((20, even, 0.0, "MAGMAX"), (320, asked, shift, "budgets 80 % and 20 %, optimal")):
        counts = list(one.receipt.owned or ())
        drawing.text(left, 26, words, "strong")
        drawing.text(left, 44, f"task 1 owns {counts[0]}, task 2 owns {counts[1]}", "soft small")
        top = 58
        drawing.rect(left - 8, top - 8, side + 16, side + 16)
        for p, owner in enumerate(one.owners):
            x, y = (float(values[t][p]) / largest * side for t in (0, 1))
            drawing.dot(left + x, top + side - y, 4.5 if owner else 3.5, f"task{owner + 1} line")
        start, end = max(0.0, by), min(largest, largest + by)
        ends = [(left + (v - by) / largest * side, top + side - v / largest * side) for v in (start, end)]
        drawing.line(*ends[0], *ends[1], "line dash")
        drawing.text(left - 8, top + side + 26, "right: change by task 1; up: by task 2", "soft small")
    return drawing


def draw_second_pass() -> Drawing:
    """What each step assigns, by selection, in a merge of 4,000 elements and four tasks."""
    values, shares = many(4, 4000), ("0.1", "0.2", "0.3", "0.4")
    best = merged(values, shares, selection="optimal").retained
    drawing = Drawing(
        640, 196, "What each step assigns: 4,000 elements, four tasks", "Bars: elements by step, for three selections."
    )
    drawing.text(12, 26, drawing.title, "strong")
    left, wide = 92, 380
    for i, law in enumerate(("printed", "paper", "optimal")):
        one = merged(values, shares, selection=law)
        totals, y = one.receipt.totals, 44 + 36 * i
        steps = [(sum(n), f"task{k + 1}") for k, n in enumerate(totals.passes or ())]
        steps += [(sum(totals.random or ()), "chance")] if law != "optimal" else [(len(one.owners), "task3")]
        drawing.text(12, y + 20, law, "small")
        x = float(left)
        for number, classes in steps:
            part = wide * number / len(one.owners)
            if number:
                drawing.rect(x, y, part, 28, classes)
                if part > 40:
                    drawing.text(x + part / 2, y + 19, f"{number:,}", "small middle")
            x += part
        drawing.text(left + wide + 10, y + 20, f"keeps {100 * one.retained / best:.1f} %", "small")
    for x, classes, words in (
        (92, "task1", "pass 1"),
        (180, "task2", "pass 2"),
        (268, "chance", "rest, by chance"),
        (412, "task3", "by prices"),
    ):
        drawing.rect(x, 160, 18, 18, classes)
        drawing.text(x + 24, 174, words, "small")
    return drawing


def drawings() -> dict[str, Drawing]:
    """Every drawing by the name of its file."""
    return {
        "magmax.svg": draw_magmax(),
        "records.svg": draw_records(),
        "passes.svg": draw_passes(),
        "prices.svg": draw_prices(),
        "border.svg": draw_line(),
        "second-pass.svg": draw_second_pass(),
    }


if __name__ == "__main__":
    for name, drawing in drawings().items():
        drawing.save(FOLDER / name)
