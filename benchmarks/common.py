"""What the benchmarks share: whole processes measured from outside, where and on what they ran, results on disk.

Time is wall time in seconds; memory is the largest value seen in /proc (Linux), in bytes: anonymous (RssAnon, what
--max-memory bounds) and resident (VmHWM, with the mapped pages of the inputs). Polled every 4 ms, so a peak shorter
than that can be missed. Not here: anything of prefmerge.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
POLL = 0.004  # seconds between looks at a running process
WIDTH = 160  # characters of a line of a result

# The command line in this interpreter, whether or not the script is on the PATH.
PREFMERGE = [sys.executable, "-m", "prefmerge"]


@dataclass(frozen=True)
class Measured:
    """One run of a process. Wall and processor seconds (user and system, all threads); bytes."""

    seconds: float
    processor: float
    anonymous: int
    resident: int


def run_measured(command: Sequence[str]) -> Measured:
    """Run to the end. Raises RuntimeError with what the process said when it fails."""
    anonymous = resident = 0
    with tempfile.TemporaryFile("w+") as said:  # a pipe that nobody reads would stop the process when full
        start, spent = time.perf_counter(), _children_seconds()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, cwd=ROOT, env=as_installed())
        while process.poll() is None:
            memory = _memory(process.pid)
            anonymous, resident = max(anonymous, memory.get("RssAnon", 0)), max(resident, memory.get("VmHWM", 0))
            time.sleep(POLL)
        seconds, processor = time.perf_counter() - start, _children_seconds() - spent
        said.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {said.read().strip()}")
    return Measured(seconds, processor, anonymous, resident)


def as_installed() -> dict[str, str]:
    """The environment, in which modules are kept compiled as those of an installed package are."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _memory(pid: int) -> dict[str, int]:
    """The memory lines of /proc/PID/status in bytes; empty when the process has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    fields = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): int(value) * 1024 for name, value, _ in fields}


def question(docstring: str | None) -> str:
    """The first paragraph of a benchmark's docstring, on one line."""
    return " ".join((docstring or "").partition("\n\n")[0].split())


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least, most and number of runs."""
    return {
        "median": round(statistics.median(values), 4),
        "least": round(min(values), 4),
        "most": round(max(values), 4),
        "runs": len(values),
    }


def provenance() -> dict[str, Any]:
    """Commit, versions and hardware: what the numbers are numbers of."""
    return {
        "commit": commit_of(ROOT),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {"python": platform.python_version()}
        | {name: _version(name) for name in ("prefmerge", "numpy", "numba", "safetensors")},
        "hardware": {
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
            "system": f"{platform.system()} {platform.machine()}",
            "load": round(os.getloadavg()[0], 1),  # before the run: other people's processes slow ours
        },
    }


def commit_of(folder: Path) -> str:
    """The commit of a work tree, with `+changes` where its sources differ from it; `unknown` outside a repository."""
    asked = [
        ["git", "rev-parse", "--short=12", "HEAD"],
        ["git", "status", "--porcelain", "--", ":(top)src", ":(top)benchmarks/*.py"],
    ]
    head, changes = (
        subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False) for command in asked
    )
    return head.stdout.strip() + ("+changes" if changes.stdout.strip() else "") if head.returncode == 0 else "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "source"


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def drop_from_cache(paths: Sequence[Path]) -> None:
    """Ask the kernel to forget the pages of these files (no root needed for pages that are clean)."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def write_result(path: Path, data: dict[str, Any]) -> None:
    """One row on one line: a list of numbers is never broken, all else where it is wider than WIDTH."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_text(data) + "\n", encoding="utf-8")


def as_text(value: Any, depth: int = 0) -> str:
    """JSON that `json.loads` reads as the same value."""
    flat = json.dumps(value)
    numbers = isinstance(value, list) and not any(isinstance(part, dict | list | str) for part in value)
    if not value or not isinstance(value, dict | list) or numbers or depth + len(flat) <= WIDTH:
        return flat
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    keys = [f"{json.dumps(key)}: " for key in value] if isinstance(value, dict) else [""] * len(value)
    parts = value.values() if isinstance(value, dict) else value
    inner = " " * (depth + 1)
    lines = [f"{inner}{key}{as_text(part, depth + 1)}" for key, part in zip(keys, parts, strict=True)]
    return f"{opening}\n" + ",\n".join(lines) + f"\n{' ' * depth}{closing}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table; the first column to the left, numbers to the right."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows)) + "\n"


def origin(data: Mapping[str, Any]) -> str:
    """One sentence under a generated table: where its numbers come from."""
    versions = ", ".join(f"{name} {number}" for name, number in data["versions"].items())
    hardware = data["hardware"]
    machine = f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_gb']} GB, load {hardware['load']}"
    return f"Commit {data['commit']}, {data['date']}; {machine} at the start; {versions}."
