"""What a merge of a large model takes, computed from what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import common, scale


def measured(few: float, many: float) -> dict[str, Any]:
    def one(tasks: int, seconds: float) -> dict[str, Any]:
        return {"tasks": tasks, "rows": [{"method": "magmax", "cold": False, "processor_seconds": {"median": seconds}}]}

    return {"model": "toy", "sets": [one(5, few), one(20, many)]}


def test_rates_give_back_what_was_measured():
    known = scale.rates(measured(2.0, 5.0))["magmax"]
    elements = 51_000  # about what the toy has: the ratio is what counts
    assert known.core_seconds(elements, 20) / known.core_seconds(elements, 5) == pytest.approx(2.5)
    assert scale.rates(measured(2.0, 1.9))["magmax"].per_task == 0.0  # noise makes no negative rate
    steep = scale.rates(measured(1.0, 50.0))["magmax"]
    assert steep.alone == 0.0
    assert steep.core_seconds(elements, 20) / known.core_seconds(elements, 20) == pytest.approx(10.0)


def test_what_limits_is_the_slower_of_cores_and_disk():
    laptop = scale.MACHINES[0]
    slow, fast = scale.Rate(1000.0, 0.0), scale.Rate(0.001, 0.0)
    cores, disk = scale.minutes(slow, laptop)
    assert cores == pytest.approx(70e9 * 1e-6 / 8 / 60)
    assert cores > disk
    assert disk == pytest.approx((21 * 140 + 140) / 3.0 / 60)
    assert scale.minutes(fast, laptop)[0] < disk


def test_the_page_is_made_from_the_result(tmp_path: Path):
    recorded = json.loads((common.RESULTS / "merge_speed.json").read_text())
    assert (common.ROOT / "docs" / "scale.md").read_text() == scale.page(recorded)
    scale.main(["--docs", str(tmp_path / "scale.md")])
    assert (tmp_path / "scale.md").read_text() == scale.page(recorded)
