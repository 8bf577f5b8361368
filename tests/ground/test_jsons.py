"""JSON files: the bytes of Python's own writer, and refusals of what other readers would refuse or misread."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefmerge.ground import atomic, jsons

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)


@given(VALUES, st.sampled_from([None, 1, 2]), st.booleans())
def test_what_is_written_is_read_back(value: Any, indent: int | None, ascii: bool):
    content = jsons.encoded(value, indent=indent, ascii=ascii)
    assert jsons.decoded(content) == value
    assert content == (json.dumps(value, indent=indent, ensure_ascii=ascii) + "\n").encode()
    assert jsons.decoded(b"\xef\xbb\xbf" + content) == value  # as some editors save it


@given(VALUES)
def test_laid_out_is_the_same_value_in_lines(value: Any):
    text = jsons.laid_out(value)
    assert json.loads(text) == value
    assert json.dumps(json.loads(text)) == json.dumps(value)


def test_laid_out_by_hand():
    value = {"format": "x/1", "rows": [[1, 2], [], {"a": [3]}], "empty": {}}
    assert jsons.laid_out(value) == (
        '{\n "format": "x/1",\n "rows": [\n  [1, 2],\n  [],\n  {\n   "a": [3]\n  }\n ],\n "empty": {}\n}'
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1, {"a": -float("inf")}]])
def test_nan_and_infinity_are_refused_unless_asked_for(value: Any, tmp_path: Path):
    (tmp_path / "x.json").write_text("old")
    with pytest.raises(ValueError, match="not JSON compliant"):
        jsons.write(tmp_path / "x.json", value)
    assert (tmp_path / "x.json").read_text() == "old"
    content = jsons.encoded(value, nan=True)
    with pytest.raises(jsons.NotJson, match=r"(NaN|-?Infinity) is no JSON number"):
        jsons.decoded(content)
    assert repr(jsons.decoded(content, nan=True)) == repr(value)
    with pytest.raises(ValueError, match="not JSON compliant"):
        jsons.laid_out(value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' is there twice"),
        (b"[1,", "Expecting value"),
        (b"", "Expecting value"),
        (b"{} {}", "Extra data"),
        (b'"\xff"', "is no UTF-8 text; save it as UTF-8"),
        (b"[" * 100_000, "it is nested too deeply"),
        (b"1" * 10_000, "Exceeds the limit"),
    ],
)
def test_what_is_no_json_is_said(content: bytes, message: str, tmp_path: Path):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(jsons.NotJson, match=message):
        jsons.read(tmp_path / "x.json")


def test_halves_of_pairs_are_escaped():
    """A path that is not UTF-8."""
    assert jsons.encoded("caf\udce9 é", ascii=False) == b'"caf\\udce9 \xc3\xa9"\n'
    assert jsons.decoded(jsons.encoded("caf\udce9 é", ascii=False)) == "caf\udce9 é"


def test_a_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "x.json"
    jsons.write(file, {"a": 1})
    with pytest.raises(FileExistsError):
        jsons.write(file, {"a": 2}, replace=False)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "sync", full)
    with pytest.raises(OSError, match="No space left"):
        jsons.write(file, {"a": 2})
    assert jsons.read(file) == {"a": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["x.json"]
    with pytest.raises(FileNotFoundError):
        jsons.read(tmp_path / "none.json")
