"""A receipt: the JSON stays what it was, reading gives back what was written, and damage is named."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefmerge.errors import CheckpointCorrupt
from prefmerge.merging.receipt import Receipt
from tests.merging.receipts import CASES, GOLDEN, merged, written


def rounded(value: Any) -> Any:
    """Floats to nine digits: machines may differ beyond them."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {key: rounded(own) for key, own in value.items()}
    return [rounded(own) for own in value] if isinstance(value, list) else value


@pytest.mark.parametrize("case", CASES)
def test_a_kept_receipt_is_written_as_it_was_read_one_tensor_a_line(case: str) -> None:
    file = GOLDEN / f"{case}.json"  # of an earlier version, indented all the way
    text = Receipt.load(file).to_bytes().decode()
    assert json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n" == file.read_text()
    lines = text.splitlines()
    for name, tensor in json.loads(text)["tensors"].items():
        own = f"  {json.dumps(name, ensure_ascii=False)}: {json.dumps(tensor, ensure_ascii=False)}"
        assert own in lines or f"{own}," in lines


@pytest.mark.parametrize("case", CASES)
def test_a_merge_writes_the_receipt_that_it_wrote_before(case: str, tmp_path: Path) -> None:
    now, before = json.loads(written(case, tmp_path)), json.loads((GOLDEN / f"{case}.json").read_text())
    for entry in (before["inputs"]["base"], *before["inputs"]["tasks"]):  # earlier versions wrote whole paths
        if entry["path"] is not None:
            entry["path"] = os.path.relpath(entry["path"], "/made/out" if case == "folder" else "/made")
    beside = ["README.md", "config.json", "tokenizer.json"] if case == "folder" else None  # earlier ones lack the key
    assert now["output"].pop("beside", None) == beside
    assert list(now) == list(before)
    assert list(now["run"]) == [key for key in before["run"] if key != "host"]
    del now["run"], before["run"]
    assert json.dumps(rounded(now), indent=1) == json.dumps(rounded(before), indent=1)  # the order of keys too


def test_reading_gives_what_merging_gave(tmp_path: Path) -> None:
    receipt = merged("whole_model", tmp_path)
    again = Receipt.load(tmp_path / "out.safetensors.receipt.json")
    assert again == receipt
    assert again.tasks == ("cars", "birds", "digits")
    assert again.owned == again.totals.asked == (30, 18, 11)
    assert again.tensors["copy.weight"].tied_to == "b.weight"
    assert again.data == again.to_json()
    receipt.save(tmp_path / "saved.json")
    assert Receipt.load(tmp_path / "saved.json") == receipt


def test_what_was_added_is_read_back() -> None:
    data = json.loads((GOLDEN / "average.json").read_text())
    data["added"] = {"b.weight": [0.5, -1.25]}
    receipt = Receipt.from_json(data)
    assert receipt.added == {"b.weight": (0.5, -1.25)}
    assert receipt.to_json()["added"] == data["added"]


def test_unknown_keys_of_a_later_version_do_no_harm() -> None:
    data = json.loads((GOLDEN / "default.json").read_text())
    data["later"] = data["totals"]["later"] = 1
    assert Receipt.from_json(data) == Receipt.load(GOLDEN / "default.json")


def remove(*keys: str) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        for key in keys[:-1]:
            data = data[key]
        del data[keys[-1]]

    return change


def put(value: Any, *keys: str) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        for key in keys[:-1]:
            data = data[key]
        data[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (remove("totals"), "totals: Field required"),
        (remove("totals", "owned"), "totals.owned: Field required"),
        (remove("recipe", "method"), "recipe.method: Field required"),
        (put(18, "recipe", "method"), "recipe.method: expected the name of a method"),
        (remove("inputs", "base", "path"), "inputs.base.path: Field required"),
        (put("many", "tensors", "b.weight", "owned"), "tensors.b.weight.owned: Input should be a valid tuple"),
        (put("lost", "tensors", "b.weight", "role"), "tensors.b.weight.role: Input should be 'merged', "),
        (put([1, 2], "tensors", "b.weight", "owned"), "tensors.b.weight.owned: 2 entries for 3 tasks"),
        (put([[1], [2]], "totals", "passes"), "totals.passes.0: 1 entries for 3 tasks"),
        (put(["1"], "shares"), "shares: 1 entries for 3 tasks"),
        (put([], "inputs", "tasks"), "inputs.tasks: 0 entries for 3 tasks"),
    ],
)
def test_damage_is_named_with_file_and_key(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], problem: str
) -> None:
    data = json.loads((GOLDEN / "default.json").read_text())
    change(data)
    file = tmp_path / "receipt.json"
    file.write_text(json.dumps(data))
    with pytest.raises(CheckpointCorrupt, match=re.escape(f"{file}: the receipt is damaged: {problem}")) as caught:
        Receipt.load(file)
    assert str(caught.value).endswith(". Merge again to have one.")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "not a readable receipt: "),
        ("[]", "not a receipt that this version reads: expected format 'prefmerge-receipt/1', found 'list'."),
        ('{"format": "x"}', "not a receipt that this version reads: expected format 'prefmerge-receipt/1', found 'x'."),
    ],
)
def test_what_is_no_receipt(tmp_path: Path, content: str, problem: str) -> None:
    file = tmp_path / "receipt.json"
    file.write_text(content)
    with pytest.raises(CheckpointCorrupt, match=re.escape(f"{file}: {problem}")):
        Receipt.load(file)
