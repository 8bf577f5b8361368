"""Where the time of a merge goes: every kernel has its clock, and gives it back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import speed_aims, time_by_kernel
from prefmerge.merging import api  # noqa: F401  # its kernels' names are looked for
from prefmerge.vectors import kernels
from prefmerge.vectors.kernel_cache import Kernel


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
    assert isinstance(kernels.subtract, Kernel), "the kernels have their names back"


def test_a_clock_counts_what_a_kernel_takes() -> None:
    with time_by_kernel.clocked() as clocks:
        before = {name: clock.calls for name, clock in clocks.items()}
    assert set(before.values()) == {0}
    clock = time_by_kernel.Clock(lambda n: sum(range(n)))
    assert clock(100_000) == 4999950000
    assert clock.calls == 1
    assert clock.seconds > 0


def test_what_is_aimed_at_is_compared_with_the_largest_number_of_tasks() -> None:
    def row(method: str, times: float, seconds: float, memory: float) -> dict[str, Any]:
        spread = {"median": seconds}
        return {
            "method": method,
            "times_yardstick_processor": times,
            "processor_seconds": spread,
            "anonymous_mb": memory,
        }

    few = [row("magmax", 9, 2, 80), row("magmax, ten scales", 9, 8, 150)]
    start = {name: {"seconds": {"median": 0.25}} for name in speed_aims.START}
    sets = [{"tasks": 5, "rows": few}, {"tasks": 20, "rows": [row("magmax", 2.5, 4, 90)]}]
    page = speed_aims.render({"sets": sets, "start": start}, {"sets": [{"tasks": 5, "rows": [row("ties", 1, 1, 410)]}]})
    assert "| magmax, T = 20, CPU times the yardstick's | 1.5 | 2.5 |" in page
    assert "| magmax, ten scales, T = 5, CPU times one | 3 | 4.0 |" in page
    assert "| anonymous MB, the most of all rows of this page | 400 | 410 |" in page
    assert "| a merge of a tiny model, seconds | 0.3 | 0.25 |" in page
