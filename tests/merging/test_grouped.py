"""Receipts of thousands of tensors: groups lose nothing, hold what is common once, and damage is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefmerge.errors import CheckpointCorrupt
from prefmerge.merging import grouped
from prefmerge.merging.receipt import Receipt
from tests.merging.receipts import CASES, GOLDEN

COUNTS = st.lists(st.integers(0, 3), min_size=2, max_size=2)
TENSORS = st.fixed_dictionaries(
    {"shape": st.sampled_from([[4], [2, 2], [1]]), "dtype": st.sampled_from(["float32", "bfloat16"])},
    optional={
        "role": st.sampled_from(["merged", "copied"]),
        "owned": COUNTS,
        "gap": st.sampled_from([0.0, -0.0, 1e-9, float("inf")]),
        "xxh3": st.text("0123456789abcdef", min_size=16, max_size=16),
    },
).map(lambda tensor: {"role": "merged", **tensor})


def whole(data: Any) -> dict[str, Any]:
    return grouped.whole(data, "prefmerge-receipt/1")


@settings(deadline=None)  # a busy machine may stop for longer
@given(st.dictionaries(st.text(max_size=5), TENSORS, max_size=12))
def test_groups_lose_nothing(tensors: dict[str, Any]) -> None:
    receipt = {"format": "prefmerge-receipt/1", "totals": {}, "tensors": tensors, "notes": []}
    again = whole(json.loads(json.dumps(grouped.grouped(receipt))))
    assert {key: _sorted(value) for key, value in again["tensors"].items()} == {
        key: _sorted(value) for key, value in tensors.items()
    }
    assert list(again["tensors"]) == list(tensors)
    assert again.keys() == receipt.keys()
    assert again["format"] == receipt["format"]


def _sorted(tensor: dict[str, Any]) -> str:
    return json.dumps(tensor, sort_keys=True)  # 0 and -0.0 differ


def test_what_tensors_have_in_common_is_said_once() -> None:
    def tensor(i: int, **own: Any) -> dict[str, Any]:
        return {"shape": [16], "dtype": "float32", "role": "merged", "asked": [8, 8], "xxh3": f"{i:016x}"} | own

    receipt = {"format": "f", "tensors": {"a": tensor(1), "b": tensor(2), "c": tensor(3, asked=[9, 7])}, "notes": []}
    assert grouped.grouped(receipt) == {
        "format": "prefmerge-receipt/2",
        "groups": [{"shape": [16], "dtype": "float32", "role": "merged", "asked": [8, 8]}],
        "tensors": {
            "a": {"group": 0, "xxh3": f"{1:016x}"},
            "b": {"group": 0, "xxh3": f"{2:016x}"},
            "c": {"group": 0, "asked": [9, 7], "xxh3": f"{3:016x}"},
        },
        "notes": [],
    }


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_receipt_is_read_from_groups(case: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    receipt = Receipt.load(GOLDEN / f"{case}.json")
    plain = receipt.to_json()
    monkeypatch.setattr(grouped, "MANY", 1)
    (tmp_path / "receipt.json").write_bytes(receipt.to_bytes())
    assert json.loads(receipt.to_bytes())["format"] == "prefmerge-receipt/2"
    assert Receipt.load(tmp_path / "receipt.json", folder=GOLDEN).to_json() == plain


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data.pop("groups"), "groups: expected a list"),
        (lambda data: data.update(groups={}), "groups: expected a list"),
        (lambda data: data.update(tensors=[]), "tensors: expected an object"),
        (lambda data: data["groups"].clear(), "group: expected the number of one of 0 groups"),
        (lambda data: data["groups"].__setitem__(0, 3), r"groups\.0: expected an object of at most 32 keys"),
        (lambda data: data["groups"][0].update(dict.fromkeys(map(str, range(32)))), r"groups\.0: expected an object"),
        (lambda data: data["groups"][0].pop("shape"), r"tensors\..*\.shape: Field required"),
        (lambda data: data["tensors"].update(x={"group": -1}), r"tensors\.x\.group: expected the number"),
        (lambda data: data["tensors"].update(x={"group": True}), r"tensors\.x\.group: expected the number"),
        (lambda data: data["tensors"].update(x=7), r"tensors\.x\.group: expected the number"),
        (lambda data: data["tensors"].update(x={}), r"tensors\.x\.group: expected the number"),
    ],
)
def test_damage_is_named(
    damage: Callable[[dict[str, Any]], Any], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(grouped, "MANY", 1)
    data = json.loads(Receipt.load(GOLDEN / "default.json").to_bytes())
    damage(data)
    (tmp_path / "receipt.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointCorrupt, match=rf"receipt\.json: the receipt is damaged: .*{said}"):
        Receipt.load(tmp_path / "receipt.json")


def test_zero_and_minus_zero_are_not_common() -> None:
    tensors = {name: {"shape": [1], "role": "merged", "gap": gap} for name, gap in (("a", 0.0), ("b", -0.0))}
    again = whole(grouped.grouped({"format": "f", "tensors": tensors}))
    assert str(again["tensors"]) == str(tensors)
