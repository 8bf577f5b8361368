"""Bars as SVG that fit any width: lengths are percentages, texts keep their size. Behind each is its table of numbers.

    bars      one bar a row, with an interval where there is one
    stacks    one bar a row, cut among the tasks; what no task has stays empty

A screen reader hears a title and a sentence and finds the table. The parts of a stack have the number of their task in
them, so colour alone says nothing. Cost: about 300 bytes for each part of a bar. Not here: other pictures, which
matplotlib draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prefmerge.report.markup import Html, name, shortened, tag, together
from prefmerge.report.parts import details

ROW, BAR, TOP = 42, 14, 20  # pixels: of a row, of its bar, and above its bar
MOST_ROWS = 60  # of one chart; the table has all
CHARACTERS, BROAD = 34, 90  # of a name that stands beside a number on a phone, and elsewhere
COLOURS = 8  # tasks with a colour that anybody can tell from the others
NARROWEST = 5.0  # % of the width that holds a task's number


@dataclass(frozen=True)
class Bar:
    """A row: its name, a value and the ends of its interval as fractions (None: not known), and `told`, the words."""

    name: str
    value: float | None
    told: str
    low: float | None = None
    high: float | None = None
    ours: bool = False


@dataclass(frozen=True)
class StackedBar:
    """A row: its name, a fraction for each task, and `told`, the words for their sum."""

    name: str
    parts: tuple[float, ...]
    told: str


def bars(
    id: str, title: str, said: str, rows: Sequence[Bar], numbers: Html, *, most: float = 1.0, opened: bool = False
) -> Html:
    """A bar a row. `id`: of this chart on its page. `said`: the chart in a sentence. `most`: the value of a whole bar.
    `numbers`: the table behind it, `opened` where it is there without being asked for.
    """
    drawn: list[Html] = []
    for i, row in enumerate(rows[:MOST_ROWS]):
        drawn += _row(i, row.name, row.told, row.ours)
        if row.value is not None:
            kind = "fill ours" if row.ours else "fill"
            drawn.append(_rect(i, 0.0, _percent(row.value, most), kind))
        if row.low is not None and row.high is not None:
            low, high = _percent(row.low, most), _percent(row.high, most)
            drawn.append(_rect(i, low, high - low, "span", height=2))
    return _figure(id, title, said, drawn, len(rows), Html(), numbers, opened)


def stacks(
    id: str,
    title: str,
    said: str,
    tasks: Sequence[str],
    rows: Sequence[StackedBar],
    numbers: Html,
    *,
    most: float = 1.0,
    opened: bool = False,
    form: Callable[[float], str] = lambda part: f"{100 * part:.1f} %",
) -> Html:
    """A bar a row, cut among the tasks. `form`: a part in words. `opened`: the table is there unasked."""
    drawn: list[Html] = []
    for i, row in enumerate(rows[:MOST_ROWS]):
        drawn += _row(i, row.name, row.told, False)
        start = 0.0
        for t, part in enumerate(row.parts):
            width = _percent(part, most)
            if width > 0:
                told = f"{t + 1} {shortened(tasks[t], CHARACTERS)}: {form(part)}"
                drawn.append(_rect(i, start, width, *_colour(t, len(tasks)), told=told))
                if width >= NARROWEST:
                    middle, y = f"{start + width / 2:.3f}%", i * ROW + TOP + BAR - 3
                    drawn.append(tag("text", t + 1, x=middle, y=y, text_anchor="middle", class_="number"))
            start += width
    return _figure(id, title, said, drawn, len(rows), key(tasks), numbers, opened)


def key(tasks: Sequence[str]) -> Html:
    """Which number and which colour a task has."""
    items: list[Html] = []
    for t, one in enumerate(tasks):
        kind, fill = _colour(t, len(tasks))
        square = tag(
            "svg",
            tag("rect", width="100%", height="100%", rx=3, class_=kind, fill=fill),
            tag("text", t + 1, x="50%", y=15, text_anchor="middle", class_="number"),
            width=22,
            height=20,
            aria_hidden="true",
        )
        items.append(tag("li", square, tag("span", f"{t + 1}:", class_="unseen"), name(one)))
    return tag("ul", *items, class_="key")


def _figure(
    id: str, title: str, said: str, drawn: Sequence[Html], rows: int, above: Html, numbers: Html, opened: bool = False
) -> Html:
    shown = min(rows, MOST_ROWS)
    if not shown:
        return numbers
    picture = tag(
        "svg",
        tag("title", title, id=f"{id}-title"),
        tag("desc", said, id=f"{id}-said"),
        *drawn,
        role="img",
        aria_labelledby=f"{id}-title {id}-said",
        width="100%",
        height=shown * ROW,
        class_="chart",
    )
    rest = tag("p", f"The first {shown} of {rows}. The table has all.", class_="hint told") if rows > shown else Html()
    caption = tag("figcaption", tag("b", title), " ", said)
    return together(
        tag("figure", caption, above, picture, rest), numbers if opened else details("The numbers", numbers)
    )


def _row(i: int, called: str, told: str, ours: bool) -> list[Html]:
    y = i * ROW + TOP - 6
    kind = "label ours" if ours else "label"
    short, long = shortened(called, CHARACTERS), shortened(called, BROAD)
    names = [(short, kind)] if short == long else [(short, f"{kind} narrow"), (long, f"{kind} broad")]
    return [
        *(tag("text", one, x=0, y=y, class_=shown) for one, shown in names),
        tag("text", told, x="100%", y=y, text_anchor="end", class_=f"value{' ours' * ours}"),
        _rect(i, 0.0, 100.0, "track"),
    ]


def _rect(
    i: int, start: float, width: float, kind: str | None, fill: str | None = None, *, height: int = BAR, told: str = ""
) -> Html:
    y = i * ROW + TOP + (BAR - height) // 2
    inside = {"x": f"{start:.3f}%", "y": y, "width": f"{width:.3f}%", "height": height, "class_": kind, "fill": fill}
    if not told:
        return tag("rect", **inside)
    return tag("g", tag("title", told), tag("rect", **inside))


def _colour(task: int, tasks: int) -> tuple[str | None, str | None]:
    """The class and the fill of a task's parts."""
    if tasks <= COLOURS:
        return f"t{task}", None
    return None, f"hsl({round(360 * task / tasks)} 55% 45%)"


def _percent(value: float, most: float) -> float:
    return min(100.0, max(0.0, 100 * value / most)) if most > 0 else 0.0
