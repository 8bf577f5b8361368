"""The comparison of two versions at toy size, and that it sees what differs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks import common, same_bytes

SOURCE = common.ROOT / "src"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A version whose method `last` gives half of the last task vector."""
    copy, read = tmp_path / "src", "self.tensors[tensor].read(last, start, stop, out)"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__", "base.safetensors"))
    file = copy / "prefmerge" / "methods" / "elementwise.py"
    before = file.read_text()
    assert before.count(read) == 1
    file.write_text(before.replace(read, f"{read}\n        out *= 0.5"))
    return copy


def test_a_version_is_the_same_as_itself(tmp_path: Path) -> None:
    result = tmp_path / "same.json"
    same_bytes.main([str(SOURCE), "--toy", "--result", str(result)])
    data = json.loads(result.read_text())
    assert data["counts"] == {"same": data["merges_compared"]}
    assert data["merges_compared"] > 60
    assert data["old"] == data["new"]


def test_a_version_that_merges_otherwise_is_seen(other: Path) -> None:
    data = same_bytes.run(other, SOURCE, ["last"], toy=True)
    assert data["counts"] == {"same": 1, "weights differ": 2}  # the same: mergekit's recipe, which is of another method
    assert data["differences"][0]["what"] == "problem of 1: --method last (block 65536)"


def test_receipts_and_refusals_are_counted() -> None:
    receipt: dict[str, Any] = {"run": {"seconds": 1}, "output": {"path": "a", "files": [{"bytes": 3}]}, "seed": 0}
    merged = {"code": 0, "weights": {"w": "0"}, "receipt": receipt}
    later = {**merged, "receipt": {**receipt, "run": {"seconds": 2}, "output": {"path": "b", "files": [{"bytes": 3}]}}}
    seeded = {**merged, "receipt": {**receipt, "seed": 1, "tensors": {"w": {"gap": 0, "owned": 1}}}}
    refused = {"code": 1, "said": "error: no\n"}
    old, new = [merged, merged, refused, merged, refused], [later, seeded, merged, refused, refused]
    data = same_bytes.compare(["a", "b", "c", "d", "e"], old, new)
    assert data["counts"] == {
        "receipts differ": 1,
        "refused by both": 1,
        "refused by the new": 1,
        "refused by the old": 1,
        "same": 1,
    }
    assert data["receipt_keys_that_differ"] == {"seed": 1, "tensors": 1}
    assert (data["merges_compared"], data["weights_that_differ"]) == (2, 0)
    assert data["differences"][0] == {"what": "c", "kind": "refused by the old", "said": "error: no"}
