"""How far is a merge from what it aims at?

A table and the attempts, for docs/speed.md. The aims were set before the kernels were written. Cost: none; it reads the
results of `merge_speed`, at whose largest T the times are compared in CPU seconds with the yardstick. Not here:
measuring.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks import common

TIMES = {  # rows of `merge_speed` -> how often the yardstick's CPU seconds they may take
    "tunable-magmax, alpha 1": 3,
    "tunable-magmax, alpha 2": 3,
    "tunable-magmax, alpha 0.5": 3,
    "tunable-magmax, optimal + step, alpha 1": 6,
    "magmax": 1.5,
    "average": 1.5,
    "task-arithmetic": 1.5,
    "ties": 4,
}
TEN = {  # rows of ten models -> the row of one of them
    "magmax, ten scales": "magmax",
    "ties, ten densities": "ties",
    "tunable-magmax, ten preferences": "tunable-magmax, alpha 1",
}
TEN_AIM = 3
MEMORY = 400  # MB, anonymous
START = {"prefmerge --help": 0.15, "a merge of a tiny model": 0.3}  # seconds
TRIED = """\
What was tried where an aim is missed, beside what is built in:

- *Keep each decoded task vector in memory for the readings that follow.* TIES and the optimal selection get a little
  faster, the paper's selection does not, and methods of one reading get slower: fresh memory costs as much as a read.
  A large matrix with its tasks does not fit the limit anyway. It is done where several models share one reading.
- *Read through memory maps, as the yardstick does.* A map saves the copy, but a file that is cut short while it is read
  then ends the process with a signal, and mapped pages count as the process's own where memory is limited. Reads into
  a small buffer stay in the cache of the processor.
- *Larger or smaller blocks.* Half, twice and four times the elements of a block give the same time or a longer one.
- *Lead each element to its rank by a table, in DELLA.* The search for a rank gets twice as fast in float32, but hardly
  in bfloat16, where many elements are equal and sorting and reading take the rest.

Where an earlier run has left the code of the kernels, it is linked and called without numba's front end
(`src/prefmerge/vectors/ready.py`). What is left of a start is the imports of Python, NumPy, pydantic, typer and rich.
"""


def render(data: Mapping[str, Any], billion: Mapping[str, Any]) -> str:
    """The section. `data`: of `merge_speed`; `billion`: of every method over a billion elements."""
    measured = max(data["sets"], key=lambda each: each["tasks"])
    rows = [
        [f"{name}, T = {measured['tasks']}, CPU times the yardstick's", f"{aim:g}", f"{times:.1f}"]
        for name, aim in TIMES.items()
        for times in _of(measured["rows"], name, "times_yardstick_processor")
    ]
    with_ten = next(each for each in data["sets"] if any(row["method"] in TEN for row in each["rows"]))
    for name, one in TEN.items():
        for seconds in _of(with_ten["rows"], name, "processor_seconds"):
            [alone] = _of(with_ten["rows"], one, "processor_seconds")
            times = seconds["median"] / alone["median"]
            rows.append([f"{name}, T = {with_ten['tasks']}, CPU times one", f"{TEN_AIM}", f"{times:.1f}"])
    every = [row["anonymous_mb"] for result in (data, billion) for each in result["sets"] for row in each["rows"]]
    rows.append(["anonymous MB, the most of all rows of this page", f"{MEMORY}", f"{max(every):.0f}"])
    for name, aim in START.items():
        start = data["start"][name]
        rows.append([f"{name}, seconds", f"{aim:g}", f"{start['seconds']['median']:.2f}"])
    table = common.table(["", "aim", "measured"], rows)
    return "\n".join(["## What is aimed at\n", table, TRIED])


def _of(rows: Iterable[Mapping[str, Any]], name: str, what: str) -> list[Any]:
    return [row[what] for row in rows if row["method"] == name]
