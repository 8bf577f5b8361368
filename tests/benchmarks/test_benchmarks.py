"""Each benchmark at toy size, so that it cannot rot; and that what it checks before measuring can fail."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from benchmarks import common, merge_speed, optimal_gap, read_vectors, yardstick
from benchmarks.make_checkpoints import make
from tests.benchmarks.in_process import measured_here


def test_a_process_is_measured() -> None:
    allocate = "import time; data = bytearray(60_000_000); sum(range(3_000_000)); time.sleep(0.2)"
    measured = common.run_measured([sys.executable, "-c", allocate])
    assert 60e6 < measured.anonymous < 120e6
    assert measured.resident >= measured.anonymous
    assert 0.2 < measured.seconds < 20
    assert 0.02 < measured.processor < measured.seconds - 0.1


def test_a_process_that_fails_says_what_it_said() -> None:
    with pytest.raises(RuntimeError, match="out of luck"):
        common.run_measured([sys.executable, "-c", "import sys; sys.exit('out of luck')"])


def test_the_yardstick_reads_every_byte_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "data"
    np.arange(3 * yardstick.STRETCH // 16, dtype=np.uint64).tofile(path)  # one stretch and a half
    whole = np.memmap(path, np.uint8, "r")
    parts = [yardstick._sum((whole, at)) for at in (0, yardstick.STRETCH)]
    count = whole.size // 8
    assert sum(parts) == count * (count - 1) // 2
    result = yardstick.measure([path], tmp_path / "out")
    assert result.total == result.read + result.write > 0
    assert list(tmp_path.iterdir()) == [path]


def test_cases_have_the_shares_they_ask_for() -> None:
    shares = {case.name: case.shares(4) for case in merge_speed.cases(4, cold=True)}
    assert [float(s) for s in shares["tunable-magmax, alpha 2"] or []] == pytest.approx(
        [8 / 15, 4 / 15, 2 / 15, 1 / 15]
    )
    assert [float(s) for s in shares["tunable-magmax, a target of two tasks"] or []] == [0.8, 0, 0.2, 0]
    assert shares["ties"] is None


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """merge_speed's result at toy size, and its rendered page."""
    folder = tmp_path_factory.mktemp("speed")
    result, docs = folder / "merge_speed.json", folder / "speed.md"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(common, "run_measured", measured_here(1))
        merge_speed.main(["--toy", "--cold", "--workdir", str(folder), "--result", str(result), "--docs", str(docs)])
    assert sorted(folder.iterdir()) == [result, docs], "the checkpoints are removed"
    return json.loads(result.read_text()), docs.read_text()


def test_merge_speed_at_toy_size(toy: tuple[dict[str, Any], str]) -> None:
    data, page = toy
    assert [measured["tasks"] for measured in data["sets"]] == [3]
    for measured in data["sets"]:
        assert len(measured["rows"]) == len(merge_speed.cases(3, cold=True))
        for row in measured["rows"]:
            assert row["seconds"]["median"] > 0
            assert row["times_yardstick"] > 0
            assert row["resident_mb"] >= row["anonymous_mb"] > 5
            assert row["method"] in page
    assert {"commit", "date", "versions", "hardware"} <= data.keys()
    assert data["hardware"]["cores"] >= 1


def test_the_check_before_measuring_can_fail(tmp_path: Path) -> None:
    base, tasks = make(tmp_path, model="toy", tasks=2)
    chosen = {case.name: case for case in merge_speed.cases(2, cold=False)}
    for case in (chosen["tunable-magmax, alpha 2"], chosen["tunable-magmax, alpha 1, scope model"], chosen["magmax"]):
        out = tmp_path / "merged.safetensors"
        measured_here(0)(merge_speed.command(case, base, tasks, out))
        merge_speed.check(case, base, tasks, out)
        tensors, receipt = load_file(out), merge_speed.receipt_of(out)
        tensors["visual.proj"][0, 0] += 1
        save_file(tensors, out)
        with pytest.raises(AssertionError, match=r"visual\.proj"):
            merge_speed.check(case, base, tasks, out)
        if case.shares(2):
            receipt["tensors"]["visual.proj"]["owned"][0] -= 1
            receipt["totals"]["owned"][0] -= 1
            receipt["elements"]["merged"] -= 1
            Path(f"{out}.receipt.json").write_text(json.dumps(receipt))
            with pytest.raises(AssertionError, match="misses its budgets"):
                merge_speed.check(case, base, tasks, out)


def test_optimal_gap_at_toy_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "run_measured", measured_here(0))
    result = tmp_path / "optimal_gap.json"
    optimal_gap.main(["--toy", "--workdir", str(tmp_path), "--result", str(result)])
    data = json.loads(result.read_text())
    assert [(row["scope"], row["prefer"]) for row in data["rows"]] == [
        ("tensor", "0.8,0,0.2,0"),
        ("model", "0.8,0,0.2,0"),
    ]
    assert all(0 <= row["optimal"]["gap"] < 1e-6 and row["retained_ratio"] >= 1 for row in data["rows"])
    assert "a target of two tasks" in capsys.readouterr().out


def test_a_result_has_one_row_on_one_line(tmp_path: Path) -> None:
    row = {"name": "a" * 60, "numbers": [1.5, None, True], "none": [], "empty": {}}
    data = {"question": "é\n", "rows": [row, row, row], "wide": list(range(200))}
    common.write_result(tmp_path / "r.json", data)
    text = (tmp_path / "r.json").read_text()
    assert json.loads(text) == data
    assert text.splitlines()[3:5] == [f"  {json.dumps(row)},"] * 2
    assert text.splitlines()[-2] == f' "wide": {json.dumps(data["wide"])}'
    assert text.count("\n") == 2 + 1 + 5 + 1
    for recorded in common.RESULTS.glob("*.json"):
        assert recorded.read_text() == common.as_text(json.loads(recorded.read_text())) + "\n"


def test_docs_are_generated_from_the_results() -> None:
    page, _, _ = (common.ROOT / "docs" / "speed.md").read_text().partition("\n<!-- made by ")
    assert page == merge_speed.page(common.RESULTS / "merge_speed.json")


def test_merge_speed_keeps_what_others_wrote_below(tmp_path: Path) -> None:
    page, others = tmp_path / "speed.md", "\n<!-- made by another -->\n\ntables\n"
    page.write_text("stale\n" + others)
    merge_speed.main(["--render-only", "--docs", str(page)])
    assert page.read_text() == merge_speed.page(common.RESULTS / "merge_speed.json") + others


def test_read_vectors_at_toy_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = tmp_path / "read_vectors.json"
    read_vectors.main(["--toy", "--result", str(result)])
    data = json.loads(result.read_text())
    assert {(row["task"], row["base"]) for row in data["rows"]} == {
        (task, base) for task in read_vectors.FORMATS for base in read_vectors.FORMATS
    }
    assert all(row[way]["median"] > 0 for row in data["rows"] for way in ("pass", "numpy", "read"))
    assert "| bfloat16 | float32 |" in capsys.readouterr().out
