"""The tables of `benchmarks.against_mergekit`: all of them for docs/speed.md, the short one for the README.

Each page keeps what it says outside of the marks. Not here: measuring.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks import common
from benchmarks.adapt_tables import between_marks
from benchmarks.layouts import counts

MARK = "<!-- made by benchmarks/against_mergekit.py -->"
HEADING = "## Speed and memory\n"  # in the README
OURS, THEIRS = "prefmerge", "mergekit"

Rows = Mapping[tuple[str, str], Mapping[str, Any]]


def placed(page: str, text: str) -> str:
    """A page with `text` between the marks: where they are, else below the heading, else at the end."""
    if MARK not in page and HEADING in page:
        page = page.replace(HEADING, f"{HEADING}\n{MARK}\n{MARK}\n", 1)
    elif MARK not in page:
        page = f"{page.rstrip()}\n\n{MARK}\n{MARK}\n"
    return between_marks(page, MARK, text)


def _by_method(measured: Mapping[str, Any], key: str = "rows") -> Rows:
    return {(row["method"], row["tool"]): row for row in measured[key]}


def _methods(measured: Mapping[str, Any], key: str = "rows") -> list[str]:
    return list(dict.fromkeys(row["method"] for row in measured[key]))


def times(rows: Rows, method: str, key: str) -> float | None:
    """mergekit's median or peak over prefmerge's; None without mergekit."""
    if (method, THEIRS) not in rows:
        return None
    ours, theirs = (rows[method, tool][key] for tool in (OURS, THEIRS))
    return theirs["median"] / ours["median"] if isinstance(ours, Mapping) else theirs / ours


def _ratio(rows: Rows, method: str, key: str) -> str:
    value = times(rows, method, key)
    return "" if value is None else f"{value:.1f}"


def share(row: Mapping[str, Any], key: str = "wrong") -> str:
    """Of the elements, in percent, with two digits that matter."""
    value = 100 * row[key] / row["elements"]
    if value == 0:
        return "0"
    return f"{value:.{max(0, 3 if value < 0.1 else 2 if value < 1 else 1 if value < 10 else 0)}f}"


def speed_table(measured: Mapping[str, Any]) -> str:
    """Time and memory in one format."""
    rows = _by_method(measured)
    lines = []
    for method in _methods(measured):
        for tool in (tool for of, tool in rows if of == method):
            row = rows[method, tool]
            wall, spent = row["seconds"], row["processor_seconds"]
            ratios = [
                _ratio(rows, method, key) for key in ("processor_seconds", "seconds", "anonymous_mb", "resident_mb")
            ]
            lines.append(
                [
                    f"{method}, {tool}",
                    f"{spent['median']:.1f}",
                    f"{spent['least']:.1f} - {spent['most']:.1f}",
                    f"{wall['median']:.1f}",
                    f"{wall['least']:.1f} - {wall['most']:.1f}",
                    f"{row['anonymous_mb']:.0f}",
                    f"{row['resident_mb']:.0f}",
                    " | ".join(ratios) if tool == THEIRS else " |  |  | ",
                ]
            )
    header = (
        measured["dtype"],
        *("CPU seconds", "spread", "wall seconds", "spread", "anonymous MB", "resident MB"),
        *("x CPU", "x wall", "x anonymous", "x resident"),
    )
    return common.table(header, lines)


def rounding_table(data: Mapping[str, Any]) -> str:
    """What differs from float64 rounded once, in percent of the elements."""
    lines = [
        [f"{row['method']}, {measured['dtype']}, {row['tool']}", share(row), share(row, "further")]
        for measured in data["sets"]
        for row in measured["rounding"]
    ]
    return common.table(("", "not the rounded result, %", "by more than one number, %"), lines)


def layouts_table(data: Mapping[str, Any]) -> str:
    """Right outputs of each tool for every layout, and what happens where one is not right."""
    tools = [tool for tool in (OURS, THEIRS) if tool in data["layouts"][0]]
    lines = []
    for layout in dict.fromkeys(row["layout"] for row in data["layouts"]):
        rows = [row for row in data["layouts"] if row["layout"] == layout]
        right = [f"{counts(rows, tool)['right']} of {len(rows)}" for tool in tools]
        bad = [(tool, row[tool]) for row in rows for tool in tools if row[tool]["outcome"] != "right"]
        first = f"{bad[0][0]}, {bad[0][1]['outcome']}: `{bad[0][1]['why'].replace('`', '')}`" if bad else ""
        lines.append([layout, *right, first])
    return common.table(("layout", *tools, "what happens"), lines)


def summary_of_layouts(data: Mapping[str, Any]) -> str:
    """One sentence for each tool."""
    sentences = []
    for tool in (tool for tool in (OURS, THEIRS) if tool in data["layouts"][0]):
        number = counts(data["layouts"], tool)
        sentences.append(
            f"{tool}: {number['right']} of {len(data['layouts'])} right, {number['wrong']} wrong without an error, "
            f"{number['refused']} refused."
        )
    return " ".join(sentences)


def of_what(data: Mapping[str, Any]) -> str:
    return f"{data['model']} ({data['elements'] / 1e6:.0f} M elements), T = {data['tasks']}"


def origin(data: Mapping[str, Any]) -> str:
    """Where the numbers come from, with mergekit's versions or why it is not there."""
    if data["mergekit"] is None:
        return f"{common.origin(data)} {data['note']}"
    names = ", ".join(f"{name} {number}" for name, number in data["mergekit"].items())
    return f"{common.origin(data)} mergekit's environment: {names}."


def tables(data: Mapping[str, Any]) -> str:
    """The part of docs/speed.md."""
    parts = [
        "## Against mergekit\n",
        data["question"] + "\n",
        f"{of_what(data)}. Whole processes on the same files with the same recipe, by turns; medians and spread, the "
        "largest memory of all runs. CPU seconds are the number to trust: other programs ran on the machine, and wall "
        "seconds grow with them. *x* is mergekit's number over prefmerge's. Resident memory counts mapped pages of the "
        "inputs, anonymous memory does not. prefmerge waits until the output is on the disk and writes a receipt; "
        f"mergekit does neither. Weights: {data['weight']} for task_arithmetic and dare_ties, density "
        f"{data['density']}, slerp half-way from the base to one task. *mergekit, float32*: `dtype: float32` and "
        "`out_dtype: bfloat16` in the recipe, one run.\n",
        *(speed_table(measured) for measured in data["sets"]),
        "### Rounding\n",
        "Elements of the outputs above that are not the float64 result rounded once to the output's format, in one "
        "layer and the last norm. Where several elements are equal at ties' threshold, any choice among them is right. "
        "mergekit computes in the recipe's `dtype`: with bfloat16 it rounds at every step, and ties then elects other "
        "signs too. With `dtype: float32` and `out_dtype: bfloat16` it rounds once as well, and takes more memory.\n",
        rounding_table(data),
        "### Layouts\n",
        "Tiny models, saved by transformers, merged with linear, task_arithmetic and ties in float32. Right: the output "
        "loads in transformers, misses nothing, and is the float64 result to 2e-6. "
        f"{summary_of_layouts(data)} Some layouts that fail here work there with files of other versions of "
        "transformers: mergekit has a list of names for each architecture. mergekit-pytorch, which merges single files "
        "by the names in them, was not measured.\n",
        layouts_table(data),
        origin(data) + "\n",
    ]
    return "\n".join(parts)


def short_table(data: Mapping[str, Any]) -> str:
    """The part of the README: the first format."""
    measured = data["sets"][0]
    rows, compared = _by_method(measured), _by_method(measured, "rounding")
    tools = [tool for tool in (OURS, THEIRS) if (_methods(measured)[0], tool) in rows]
    lines = []
    for method in _methods(measured):
        cells = [method]
        cells += [f"{rows[method, tool]['processor_seconds']['median']:.1f}" for tool in tools]
        for key in ("anonymous_mb", "resident_mb"):
            cells += [f"{rows[method, tool][key]:.0f}" for tool in tools]
        cells += [f"{share(compared[method, tool])} %" if (method, tool) in compared else "" for tool in tools]
        lines.append(cells)
    what = ("CPU seconds", "anonymous MB", "resident MB", "wrongly rounded")
    header = [of_what(data) + f", {measured['dtype']}", *(f"{name}, {tool}" for name in what for tool in tools)]
    about = (
        "Whole processes on the same files with the same recipes. Wrongly rounded: not the float64 result rounded once. "
        f"Over {len(data['layouts'])} merges of tiny models of {len({row['layout'] for row in data['layouts']})} layouts: "
        f"{summary_of_layouts(data)} More, and how it was measured: [docs/speed.md](docs/speed.md).\n"
    )
    return "\n".join([common.table(header, lines), about, origin(data) + "\n"])
