"""Where does the processor time of a merge go?

A ViT-B/16 visual tower (86.2 M elements) and T tasks, merged in this process by one thread, with a warm page cache,
after a first merge that loads the kernels. Every kernel is called through a clock, and so are the reads of the inputs,
their hash and the writes of the output; what is left is "everything else": Python, NumPy, the start of the merge and
its end. The clock costs about a microsecond a call. Writes `results/time_by_kernel.json`,
which `benchmarks.merge_speed --render-only --docs docs/speed.md` makes a section of.
Not here: whole processes, several threads, and the yardstick (`benchmarks.merge_speed`).

    python -m benchmarks.time_by_kernel --tasks 8
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from benchmarks import common
from benchmarks.make_checkpoints import LANGUAGE_MODELS, MODELS, make
from prefmerge.vectors.kernel_cache import Kernel

RESULT = common.RESULTS / "time_by_kernel.json"
HASH = "hash of the inputs (XXH3)"
CALLS: dict[str, tuple[Any, str]] = {  # what else has a clock: where it is looked up
    HASH: (xxhash, "xxh3_64_intdigest"),
    "reads of the inputs (preadv)": (os, "preadv"),
    "writes of the output (pwrite)": (os, "pwrite"),
}
SHOWN = 0.02  # of the whole: smaller parts are added up
PAPER = {"method": "tunable_magmax", "selection": "paper", "importance": "magnitude", "preference": "alpha:1"}
CASES: dict[str, dict[str, Any]] = {
    "magmax": {"method": "magmax"},
    "ties": {"method": "ties"},
    "tunable-magmax, paper": PAPER,
    "tunable-magmax, paper, scope model": {**PAPER, "scope": "model"},
    "tunable-magmax, optimal + step": {**PAPER, "selection": "optimal", "importance": "step", "sequential": True},
}


@dataclass
class Clock:
    """A kernel, and the thread's seconds in it."""

    kernel: Callable[..., Any]
    seconds: float = 0.0
    calls: int = 0

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        start = time.thread_time()
        try:
            return self.kernel(*arguments, **named)
        finally:
            self.seconds += time.thread_time() - start
            self.calls += 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self.kernel, name)


@contextmanager
def clocked() -> Iterator[dict[str, Clock]]:
    """Every kernel that a module of prefmerge has a name for, by module and name, with a clock in its place."""
    clocks: dict[str, Clock] = {}
    places: list[tuple[Any, str, Any]] = [(module, key, getattr(module, key)) for module, key in CALLS.values()]
    titles = list(CALLS)
    for name, module in list(sys.modules.items()):
        if name == "prefmerge" or name.startswith("prefmerge."):
            found = [(key, value) for key, value in vars(module).items() if isinstance(value, Kernel)]
            places += [(module, key, kernel) for key, kernel in found]
            titles += [f"{kernel.py_func.__module__}.{kernel.py_func.__name__}" for _, kernel in found]
    for title, (module, key, called) in zip(titles, places, strict=True):
        title = title.removeprefix("prefmerge.")
        setattr(module, key, clocks.setdefault(title, Clock(called)))
    try:
        yield clocks
    finally:
        for module, key, called in places:
            setattr(module, key, called)


def measure(base: Path, tasks: Sequence[Path], out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Seconds of the thread in each kernel, and in all."""
    import prefmerge

    def merged() -> float:
        start = time.process_time()
        prefmerge.merge(base, tasks, out, threads=1, force=True, **settings)
        return time.process_time() - start

    merged()
    with clocked() as clocks:
        seconds = merged()
    by_size = sorted((c for c in clocks.items() if c[1].calls), key=lambda c: -c[1].seconds)
    kernels = [{"kernel": name, "seconds": round(c.seconds, 4), "calls": c.calls} for name, c in by_size]
    return {"seconds": round(seconds, 4), "kernels": kernels}


def benchmark(workdir: Path, *, model: str, tasks: int) -> dict[str, Any]:
    """The whole result, ready to be written."""
    origin = common.provenance()
    base, made = make(workdir, model=model, tasks=tasks, dtype="float32")
    rows = [
        {"case": case, **measure(base, made, workdir / "merged.safetensors", settings)}
        for case, settings in CASES.items()
    ]
    return {"question": common.question(__doc__), **origin, "model": model, "tasks": tasks, "rows": rows}


def render(data: dict[str, Any]) -> str:
    """A section of docs/speed.md."""
    rows = []
    for row in data["rows"]:
        rest = row["seconds"] - sum(kernel["seconds"] for kernel in row["kernels"])
        large = [kernel for kernel in row["kernels"] if kernel["seconds"] >= SHOWN * row["seconds"]]
        small = sum(kernel["seconds"] for kernel in row["kernels"] if kernel not in large)
        parts = [(kernel["kernel"], kernel["seconds"], kernel["calls"]) for kernel in large]
        title = f"{row['case']}, {row['seconds']:.1f} s"
        for part, seconds, calls in (*parts, ("other kernels", small, ""), ("everything else", rest, "")):
            share = f"{100 * seconds / row['seconds']:.0f} %"
            rows.append([title, part, f"{seconds:.2f}", share, str(calls)])
            title = ""
    about = (
        f"{data['question']} Model: {data['model']}, float32, T = {data['tasks']}; one thread, in one process, after a "
        "first merge that loads the kernels. Reads are copies out of the page cache. Everything else is Python, NumPy, "
        "and the merge's start and end."
    )
    table = common.table(["Merge", "Part", "CPU seconds", "Share", "Calls"], rows)
    return "\n".join(["## Where the time goes\n", about + "\n", table, common.origin(data) + "\n"])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=common.question(__doc__))
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--model", choices=[*MODELS, *LANGUAGE_MODELS], default="vit-b-16")
    parser.add_argument("--workdir", type=Path, help="where the checkpoints are made; a temporary folder by default")
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.workdir) as scratch:
        common.write_result(options.result, benchmark(Path(scratch), model=options.model, tasks=options.tasks))


if __name__ == "__main__":
    main()
