"""How fast could any merge be on this machine? Read every input once through memory maps on all cores, then write one
output and fsync it.

    yardstick = seconds to sum all input bytes (64-bit words, stretches of 8 MiB, one thread per core)
              + seconds to write and fsync a file as large as the base

Every merge must read its inputs and write its output, so times are given as multiples of this, measured in the same
run. Cost: one reading. Not here: opening, checking, starting Python.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import common

STRETCH = 1 << 23  # bytes per task given to a thread; large against the cost of handing it out


@dataclass(frozen=True)
class Yardstick:
    """Seconds."""

    read: float
    write: float
    processor: float  # seconds of all cores, for both

    @property
    def total(self) -> float:
        return self.read + self.write


def measure(inputs: Sequence[Path], output: Path, *, threads: int | None = None) -> Yardstick:
    """One run; `output` is written with the size of the first input and removed."""
    start, spent = time.perf_counter(), time.process_time()
    maps = [np.memmap(path, np.uint8, "r") for path in inputs]
    stretches = [(data, at) for data in maps for at in range(0, data.size, STRETCH)]
    with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0))) as pool:
        total = sum(pool.map(_sum, stretches))
    read = time.perf_counter() - start
    assert total > 0, "checkpoints of zeros were never written"
    write = _write(output, inputs[0].stat().st_size)
    return Yardstick(read, write, time.process_time() - spent)


def _sum(stretch: tuple[np.ndarray, int]) -> int:
    data, at = stretch
    part = data[at : at + STRETCH]
    words = part[: part.size - part.size % 8].view(np.uint64)
    return int(words.sum(dtype=np.uint64))


def _write(output: Path, nbytes: int) -> float:
    data = np.random.default_rng(0).bytes(STRETCH)
    start = time.perf_counter()
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        left = nbytes
        while left:
            left -= os.write(file, data[:left])
        os.fsync(file)
    finally:
        os.close(file)
    seconds = time.perf_counter() - start
    output.unlink()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Read every input once, write one output.",
        epilog="python -m benchmarks.yardstick /data/vit/*.safetensors",
    )
    parser.add_argument("inputs", type=Path, nargs="+")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    results = [measure(options.inputs, options.inputs[0].with_name("yardstick.tmp")) for _ in range(options.runs)]
    nbytes = sum(path.stat().st_size for path in options.inputs)
    reading = common.spread([r.read for r in results])
    speed = nbytes / 1e9 / reading["median"]
    writing = common.spread([r.write for r in results])
    print(f"read {nbytes / 1e9:.2f} GB in {reading}, {speed:.1f} GB/s; write {writing}")


if __name__ == "__main__":
    main()
