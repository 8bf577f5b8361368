"""The tables of `benchmarks.against_mergekit`: all of them for docs/speed.md, the short one for the README.

Each page keeps what it says outside of the marks. Not here: measuring.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks import common, in_float64
from benchmarks.adapt_tables import between_marks
from benchmarks.layouts import counts
from benchmarks.mergekit_recipes import OURS, THEIRS

MARK = "<!-- made by benchmarks/against_mergekit.py -->"
HEADING = "## Speed and memory"  # in the README
MEASURES = ("processor_seconds", "seconds", "anonymous_mb", "resident_mb")

Row = Mapping[str, Any]


def placed(page: str, text: str, heading: str | None = None) -> str:
    """A page with `text` between the marks: where they are, else below the heading, else at the end.

    Raises ValueError where neither marks nor the heading are there.
    """
    if MARK not in page and heading is None:
        page = f"{page.rstrip()}\n\n{MARK}\n{MARK}\n"
    elif MARK not in page:
        if f"{heading}\n" not in page:
            raise ValueError(f"The page has neither the marks {MARK} nor the heading {heading!r}.")
        page = page.replace(f"{heading}\n", f"{heading}\n\n{MARK}\n{MARK}\n", 1)
    return between_marks(page, MARK, text)


def _by_method(rows: Iterable[Row]) -> dict[str, dict[str, Row]]:
    """{method: {tool: row}}, in the order of the rows."""
    methods: dict[str, dict[str, Row]] = {}
    for row in rows:
        methods.setdefault(row["method"], {})[row["tool"]] = row
    return methods


def times(row: Row, ours: Row, key: str) -> float:
    """A tool's median or peak over prefmerge's."""
    first, second = row[key], ours[key]
    return first["median"] / second["median"] if isinstance(first, Mapping) else first / second


def share(row: Row, key: str = "wrong") -> str:
    """Of the elements, in percent, with two digits that matter."""
    value = 100 * row[key] / row["elements"]
    if 0 < value < 0.001:
        return "< 0.001"
    return f"{value:.{0 if value >= 10 or not value else 1 if value >= 1 else 2 if value >= 0.1 else 3}f}"


def speed_table(measured: Row) -> str:
    """Time and memory in one format."""
    lines = []
    for method, rows in _by_method(measured["rows"]).items():
        for tool, row in rows.items():
            wall, spent = row["seconds"], row["processor_seconds"]
            lines.append(
                [
                    f"{method}, {tool}",
                    *(f"{spent['median']:.1f}", f"{spent['least']:.1f} - {spent['most']:.1f}"),
                    *(f"{wall['median']:.1f}", f"{wall['least']:.1f} - {wall['most']:.1f}"),
                    *(f"{row['anonymous_mb']:.0f}", f"{row['resident_mb']:.0f}"),
                    *("" if tool == OURS else f"{times(row, rows[OURS], key):.1f}" for key in MEASURES),
                ]
            )
    header = (
        measured["dtype"],
        *("CPU seconds", "spread", "wall seconds", "spread", "anonymous MB", "resident MB"),
        *("x CPU", "x wall", "x anonymous", "x resident"),
    )
    return common.table(header, lines)


def rounding_table(part: Row) -> str:
    """What differs from float64 rounded once, in percent of the elements."""
    lines = [
        [
            f"{row['dtype']}, changes of {row['step']:g}: {row['method']}, {row['tool']}",
            *(share(row), share(row, "further")),
        ]
        for row in part["rows"]
    ]
    return common.table(("", "not the rounded result, %", "by more than one number, %"), lines)


def tools_of(part: Row) -> list[str]:
    return [tool for tool in (OURS, THEIRS) if tool in part["rows"][0]]


def layouts_table(part: Row) -> str:
    """Right outputs of each tool for every layout, and what happens where one is not right."""
    tools, lines = tools_of(part), []
    for layout in dict.fromkeys(row["layout"] for row in part["rows"]):
        rows = [row for row in part["rows"] if row["layout"] == layout]
        right = [f"{counts(rows, tool)['right']} of {len(rows)}" for tool in tools]
        bad = [(tool, row[tool]) for row in rows for tool in tools if row[tool]["outcome"] != "right"]
        first = f"{bad[0][0]}, {bad[0][1]['outcome']}: `{bad[0][1]['why'].replace('`', '')}`" if bad else ""
        lines.append([layout, *right, first])
    return common.table(("layout", *tools, "what happens"), lines)


def summary_of_layouts(part: Row) -> str:
    """One sentence for each tool."""
    outcomes = {tool: counts(part["rows"], tool) for tool in tools_of(part)}
    number = len(part["rows"])
    return " ".join(
        f"{tool}: {of['right']} of {number} right, {of['wrong']} wrong without an error, {of['refused']} refused."
        for tool, of in outcomes.items()
    )


def of_what(part: Row) -> str:
    return f"{part['model']} ({part['elements'] / 1e6:.0f} M elements), T = {part['tasks']}"


def origin(part: Row) -> str:
    """Where the numbers come from, with mergekit's versions or why it is not there."""
    if part["mergekit"] is None:
        return f"{common.origin(part)} {part['note']}\n"
    names = ", ".join(f"{name} {number}" for name, number in part["mergekit"].items())
    return f"{common.origin(part)} mergekit's environment: {names}.\n"


def _speed(part: Row) -> Sequence[str]:
    return [
        f"{of_what(part)}. Medians and spread; the largest memory of all runs. CPU seconds are the number to trust: "
        "other programs ran on the machine, and wall seconds grow with them. *x* is that number over prefmerge's. "
        "Resident memory counts mapped pages of the inputs, anonymous memory does not. The start of Python and the "
        "imports are in all numbers. prefmerge waits until the output is on the disk, and writes a receipt. "
        f"task_arithmetic and dare_ties: weight {in_float64.WEIGHT}; ties and dare_ties: density {in_float64.DENSITY}; "
        "slerp: half-way from the base to one task. *mergekit, float32*: `dtype: float32` and `out_dtype: bfloat16` "
        "in the recipe, one run.\n",
        *(speed_table(measured) for measured in part["sets"]),
        origin(part),
    ]


def _rounding(part: Row) -> Sequence[str]:
    return [
        "### Rounding\n",
        "Elements of an output that are not the float64 result rounded once to the output's format. "
        f"{of_what(part)}, one layer of Qwen2's shapes. Where several elements are equal at ties' threshold, any "
        "choice among them is right. Weights have a standard deviation of 0.02; the larger the tasks' changes, the "
        "more there is to round. With `dtype: bfloat16`, as in most published recipes, mergekit computes linear in "
        "float32 and rounds once too, but task_arithmetic and ties in bfloat16. With `dtype: float32` and "
        "`out_dtype: bfloat16` it computes all of them in float32, with the time and memory above. In float32 "
        "prefmerge sums in float64, but task vectors are float32, so that some elements are rounded twice.\n",
        rounding_table(part),
        origin(part),
    ]


def _layouts(part: Row) -> Sequence[str]:
    return [
        "### Layouts\n",
        "Tiny models, saved by transformers, merged with linear, task_arithmetic and ties in float32. Right: the "
        "output loads in transformers, misses nothing, and is the float64 result to 2e-6. "
        f"{summary_of_layouts(part)} mergekit has a list of names for each architecture, so some layouts that fail "
        "here may work with files that other versions of transformers have saved. Its second program "
        "mergekit-pytorch, which merges single files by the names in them, was not measured.\n",
        layouts_table(part),
        origin(part),
    ]


def tables(data: Row) -> str:
    """The part of docs/speed.md."""
    sections = {"speed": _speed, "rounding": _rounding, "layouts": _layouts}
    parts = [line for name, section in sections.items() if name in data for line in section(data[name])]
    return "\n".join(["## Against mergekit\n", data["question"] + "\n", *parts])


def short_table(data: Row) -> str:
    """The part of the README: the first format."""
    part, rounding, layouts = (data[name] for name in ("speed", "rounding", "layouts"))
    measured = part["sets"][0]
    compared = _by_method(row for row in rounding["rows"] if row["dtype"] == measured["dtype"])  # the larger changes
    step = max(row["step"] for row in rounding["rows"])
    tools, lines = [], []
    for method, rows in _by_method(measured["rows"]).items():
        tools = [tool for tool in (OURS, THEIRS) if tool in rows]
        of_method = compared.get(method, {})
        lines.append(
            [
                method,
                *(f"{rows[tool]['processor_seconds']['median']:.1f}" for tool in tools),
                *(f"{rows[tool]['anonymous_mb']:.0f}" for tool in tools),
                *(f"{rows[tool]['resident_mb']:.0f}" for tool in tools),
                *(f"{share(of_method[tool])} %" if tool in of_method else "" for tool in tools),
            ]
        )
    what = ("CPU seconds", "anonymous MB", "resident MB", "wrongly rounded")
    header = (f"{of_what(part)}, {measured['dtype']}", *(f"{name}, {tool}" for name in what for tool in tools))
    kinds = len({row["layout"] for row in layouts["rows"]})
    about = (
        "Whole processes on the same files with the same recipes. Wrongly rounded: not the float64 result rounded "
        f"once, where tasks change weights by about {step:g}. Tiny models of {kinds} layouts, three methods each: "
        f"{summary_of_layouts(layouts)} How it was measured, and more: [docs/speed.md](docs/speed.md).\n"
    )
    return "\n".join([common.table(header, lines), about, origin(part)])
