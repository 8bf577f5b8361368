"""How long does a merge of 70 billion elements and twenty tasks take on a laptop, a server and eight nodes?

    CPU seconds = elements x (a + b T)      a and b from the measured merges of two numbers of tasks (`merge_speed`)
    disk seconds = bytes read and written / what the disk delivers
    wall seconds = the larger of the two, if cores and disks are used evenly

Computed, not measured: nothing here has run on such machines. Reads results/merge_speed.json and writes docs/scale.md.
Not here: mappings of tensors to nodes (`prefmerge.merging.on_ray`).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.make_checkpoints import shapes_of

ELEMENTS, TASKS, BYTES = 70_000_000_000, 20, 2  # bfloat16
LARGEST = 8192 * 28_672  # elements of the largest matrix of such a model; an embedding may be four times that
METHODS = {
    "magmax": "magmax",
    "task-arithmetic": "task-arithmetic",
    "ties": "ties",
    "tunable-magmax, alpha 1": "tunable-magmax, paper",
    "tunable-magmax, optimal + step, alpha 1": "tunable-magmax, optimal + step",
}


@dataclass(frozen=True)
class Machine:
    """What is assumed. `disk`: GB/s that all nodes together read."""

    name: str
    nodes: int
    cores: int
    memory: int  # GB of a node
    disk: float


MACHINES = (
    Machine("a laptop", 1, 8, 32, 3.0),
    Machine("a server", 1, 64, 512, 6.0),
    Machine("eight nodes with shared storage", 8, 32, 256, 20.0),
)


@dataclass(frozen=True)
class Rate:
    """CPU nanoseconds an element: `alone` and for each task."""

    alone: float
    per_task: float

    def core_seconds(self, elements: int, tasks: int) -> float:
        return elements * (self.alone + self.per_task * tasks) * 1e-9


def rates(data: Mapping[str, Any]) -> dict[str, Rate]:
    """The rate of each of METHODS that was measured warm with two numbers of tasks. No part of it is below 0."""
    elements = sum(math.prod(shape) for shape in shapes_of(data["model"]).values())
    few, many = (
        {row["method"]: row["processor_seconds"]["median"] for row in one["rows"] if not row["cold"]}
        for one in (data["sets"][0], data["sets"][-1])
    )
    first, last = data["sets"][0]["tasks"], data["sets"][-1]["tasks"]
    found: dict[str, Rate] = {}
    for name, title in METHODS.items():
        if name in few and name in many:
            per_task = max(0.0, (many[name] - few[name]) / (last - first))
            alone = few[name] - first * per_task
            if alone < 0:  # more than in proportion to the tasks, or noise: what the most tasks took, task by task
                alone, per_task = 0.0, many[name] / last
            found[title] = Rate(alone / elements * 1e9, per_task / elements * 1e9)
    return found


def read_gb() -> float:
    """GB of all inputs."""
    return (TASKS + 1) * ELEMENTS * BYTES / 1e9


def minutes(rate: Rate, machine: Machine) -> tuple[float, float]:
    """Of the cores, and of the disk, where every input is read once."""
    cores = rate.core_seconds(ELEMENTS, TASKS) / (machine.nodes * machine.cores)
    return cores / 60, (read_gb() + ELEMENTS * BYTES / 1e9) / machine.disk / 60


def page(data: Mapping[str, Any]) -> str:
    """docs/scale.md."""
    known = rates(data)
    together = (TASKS + 1) * LARGEST * BYTES / 1e9
    rows = []
    for title, rate in known.items():
        for machine in MACHINES:
            cores, disk = minutes(rate, machine)
            limit = "cores" if cores > disk else "disk"
            rows.append([f"{title}, on {machine.name}", *(f"{x:.0f}" for x in (cores, disk, max(cores, disk))), limit])
    per_element = [
        [title, f"{rate.alone:.1f}", f"{rate.per_task:.2f}", f"{rate.core_seconds(ELEMENTS, TASKS) / 60:.0f}"]
        for title, rate in known.items()
    ]
    assumed = [[one.name, str(one.nodes), str(one.cores), f"{one.memory}", f"{one.disk:g}"] for one in MACHINES]
    return f"""# Large models: what a merge takes

<!-- Made by `python -m benchmarks.scale --docs docs/scale.md` from `benchmarks/results/merge_speed.json`. -->

This page is **computed, not measured**. The rates come from merges of {data["model"]}, {data["dtype"]}, on
{data["hardware"]["cores"]} cores. The machines below are assumed, and so is that all their cores work at that rate.

## What it is to merge 70 billion elements

{TASKS} tasks and a base of {ELEMENTS / 1e9:.0f} billion elements in bfloat16 are {read_gb():,.0f} GB to read and
{ELEMENTS * BYTES / 1e9:.0f} GB to write. Memory does not grow with either number: a merge holds blocks, and one or
a few bytes for each element of the tensor it is at. `--max-memory` bounds it, and what is beyond goes to the disk
of the output.

A method that must know a tensor before it merges it reads that tensor more than once, mostly twice. The second
reading comes from the page cache where the
machine can keep all {TASKS + 1} versions of one tensor: {together:.0f} GB for the largest matrix of such a model.
So with {together:.0f} GB of free memory every input is read from the disk once. With less, such methods read the
largest tensors again.

## The rates

CPU nanoseconds for each element of the output: a part for the element, and a part for each task.

{common.table(["", "an element", "and for each task", "core minutes for 70 B, T = 20"], per_element)}
## Three machines

{common.table(["assumed", "nodes", "cores of each", "GB of each", "GB/s of the disks together"], assumed)}
Minutes, if every input is read once. The longer of the two is what to expect; the last column says which it is.

{common.table(["", "minutes of the cores", "of the disk", "in all", "limited by"], rows)}
The disk must deliver what the cores can take: {_wanted(known)}.

## How to run it

    prefmerge merge recipe.yaml -o merged/ --resume                # one machine; the same command goes on after a stop
    prefmerge merge recipe.yaml -o merged/ --ray auto              # a cluster of Ray over shared storage

Nodes share the tensors, so no node reads all of the inputs, and together they read them once. The bytes are those
of one machine. With `--scope model` each node reads its tensors more than once, to count before it merges; the nodes
send counts, not elements. [Limits](limits.md) says what is not possible.

{common.origin(data)}
"""


def _wanted(known: Mapping[str, Rate]) -> str:
    server = MACHINES[1]
    rate_of = {title: read_gb() / (rate.core_seconds(ELEMENTS, TASKS) / server.cores) for title, rate in known.items()}
    return "; ".join(f"{title} {gb:.1f} GB/s on {server.cores} cores" for title, gb in rate_of.items())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=common.question(__doc__), epilog="python -m benchmarks.scale")
    parser.add_argument("--result", type=Path, default=common.RESULTS / "merge_speed.json")
    parser.add_argument("--docs", type=Path, help="write the page into this file; else it is printed")
    options = parser.parse_args(arguments)
    text = page(json.loads(options.result.read_text(encoding="utf-8")))
    if options.docs:
        options.docs.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
