"""What does an element of a task vector cost, by pair of number formats: converted, subtracted, checked and hashed?

Processor time, one thread. *pass*: `vectors.kernels.subtract` over a block in memory, and the hash of the task's
elements. *NumPy*: the same in whole-array steps (convert both, subtract, look for what is not finite, hash), the
baseline. *read*: `TaskVectors.read` from files in the page cache, T = 4, every chunk read and hashed once, the base's
too. The vectors are compared with NumPy's first. Rows are measured in turn, run after run.
Not here: what a method does.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from benchmarks import common
from prefmerge.checkpoints import Dtype, TensorInfo, by_name, from_float32, open_checkpoint
from prefmerge.checkpoints.dtypes import to_float32
from prefmerge.outputs.write import create_output
from prefmerge.vectors import kernels
from prefmerge.vectors.kernels import operand
from prefmerge.vectors.reader import TaskVectors
from prefmerge.vectors.reading import Input, Reading
from prefmerge.vectors.workspace import BLOCK, spans

TASKS = 4
FORMATS = ("bfloat16", "float16", "float32", "float64")


def stored(dtype: Dtype, elements: int, seed: int) -> np.ndarray:
    return from_float32(np.random.default_rng(seed).standard_normal(elements, np.float32), dtype)


def save(folder: Path, name: str, dtype: Dtype, elements: int, seed: int) -> Path:
    """A safetensors file of one tensor."""
    path = folder / f"{dtype.name}-{name}.safetensors"
    if not path.exists():
        layout = [TensorInfo("w", dtype, (elements,))]
        with create_output(path, layout, metadata={}, kind="file", force=False) as output:
            output.write("w", 0, stored(dtype, elements, seed))
            output.publish(b"{}")
    return path


def in_steps(task: np.ndarray, of_task: Dtype, base: np.ndarray, of_base: Dtype) -> np.ndarray:
    """NumPy's way, hash included."""
    xxhash.xxh3_64_intdigest(task.view(np.uint8).data)
    tau = to_float32(task, of_task) - to_float32(base, of_base)
    assert np.isfinite(tau).all()
    return tau


def in_one_pass(task: np.ndarray, of_task: Dtype, base: np.ndarray, of_base: Dtype, out: np.ndarray) -> None:
    xxhash.xxh3_64_intdigest(task.view(np.uint8).data)
    finite, _ = kernels.subtract(operand(task, of_task), operand(base, of_base), out)
    assert finite


def from_files(base: Path, task: Path, out: np.ndarray) -> int:
    """Read everything once. Returns the elements of all tasks."""
    opened = [Input.of(open_checkpoint(path), path.stem) for path in (base, *[task] * TASKS)]
    reading = Reading.of(opened[0], opened[1:], hashed=True)
    reading.base.touched = True
    vectors = TaskVectors.of(reading, opened[0].checkpoint.tensors["w"], ["w"] * TASKS)
    for start, stop in spans(vectors.size, BLOCK):
        for t in range(TASKS):
            vectors.read(t, start, stop, out[: stop - start])
    for each in opened:
        each.checkpoint.close()
    return vectors.size * TASKS


def spent(work: Callable[[], int]) -> float:
    """Processor nanoseconds per element."""
    start = time.process_time()
    elements = work()
    return (time.process_time() - start) * 1e9 / elements


def repeated(times: int, block: Callable[[], object]) -> Callable[[], int]:
    def work() -> int:
        for _ in range(times):
            block()
        return times * BLOCK

    return work


def benchmark(workdir: Path, *, elements: int, runs: int, times: int) -> dict[str, Any]:
    origin, out = common.provenance(), np.empty(BLOCK, np.float32)
    works: dict[tuple[str, str], dict[str, Callable[[], int]]] = {}
    for pair in product(FORMATS, FORMATS):
        of_task, of_base = map(by_name, pair)
        task, base = stored(of_task, BLOCK, 1), stored(of_base, BLOCK, 0)
        in_one_pass(task, of_task, base, of_base, out)
        assert np.array_equal(out, in_steps(task, of_task, base, of_base)), f"{pair}: not what NumPy makes of it"
        paths = save(workdir, "base", of_base, elements, 0), save(workdir, "task", of_task, elements, 1)
        arguments = (task, of_task, base, of_base)
        works[pair] = {
            "pass": repeated(times, lambda arguments=arguments: in_one_pass(*arguments, out)),
            "numpy": repeated(times, lambda arguments=arguments: in_steps(*arguments)),
            "read": lambda paths=paths: from_files(*paths, out),
        }
    measured: dict[tuple[str, str], dict[str, list[float]]] = {pair: {} for pair in works}
    for _ in range(runs):
        for pair, ways in works.items():
            for way, work in ways.items():
                measured[pair].setdefault(way, []).append(spent(work))
    rows = [
        {"task": task, "base": base, **{way: common.spread(values) for way, values in measured[task, base].items()}}
        for task, base in measured
    ]
    return {"question": common.question(__doc__), **origin, "unit": "ns of processor an element", "rows": rows}


def render(data: dict[str, Any]) -> str:
    """A markdown table of the result: medians, and the least in brackets."""
    rows = [
        (
            row["task"],
            row["base"],
            *(f"{row[w]['median']:.2f} ({row[w]['least']:.2f})" for w in ("pass", "numpy", "read")),
        )
        for row in data["rows"]
    ]
    return common.table(("task", "base", "pass", "NumPy", "read"), rows) + "\n" + common.origin(data) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=common.question(__doc__), epilog="python -m benchmarks.read_vectors --runs 9"
    )
    parser.add_argument("--elements", type=int, default=1 << 23, help="of the tensor in the files")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--toy", action="store_true", help="one run of 70 k elements")
    parser.add_argument("--result", type=Path, default=common.RESULTS / "read_vectors.json")
    options = parser.parse_args(arguments)
    elements, runs, times = (70_000, 1, 1) if options.toy else (options.elements, options.runs, 100)
    with tempfile.TemporaryDirectory() as workdir:
        data = benchmark(Path(workdir), elements=elements, runs=runs, times=times)
    common.write_result(options.result, data)
    print(render(data))


if __name__ == "__main__":
    main()
