"""Where the time of a merge goes: every kernel has its clock, and gives it back."""

from __future__ import annotations

import json
from pathlib import Path

from numba.core.dispatcher import Dispatcher

from benchmarks import time_by_kernel
from prefmerge.merging import api  # noqa: F401  # its kernels' names are looked for
from prefmerge.vectors import kernels


def test_at_toy_size(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    time_by_kernel.main(["--model", "toy", "--tasks", "3", "--workdir", str(tmp_path), "--result", str(result)])
    data = json.loads(result.read_text())
    assert [row["case"] for row in data["rows"]] == list(time_by_kernel.CASES)
    for row in data["rows"]:
        named = {kernel["kernel"]: kernel["calls"] for kernel in row["kernels"]}
        assert named["vectors.kernels.subtract"] >= 3 * 25, "each task vector is formed in it"
        assert named[time_by_kernel.HASH] >= 4, "each input is hashed"
        assert 0 <= sum(kernel["seconds"] for kernel in row["kernels"]) <= row["seconds"]
        assert row["case"] in time_by_kernel.render(data)
    assert isinstance(kernels.subtract, Dispatcher), "the kernels have their names back"


def test_a_clock_counts_what_a_kernel_takes() -> None:
    with time_by_kernel.clocked() as clocks:
        before = {name: clock.calls for name, clock in clocks.items()}
    assert set(before.values()) == {0}
    clock = time_by_kernel.Clock(lambda n: sum(range(n)))
    assert clock(100_000) == 4999950000
    assert clock.calls == 1
    assert clock.seconds > 0
