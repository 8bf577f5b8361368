"""The pieces of a file of SentencePiece, what lies over them, and files that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prefmerge.outputs.sentence_pieces import LARGEST, NoPieces, file_of_pieces, ids_of_pieces, pieces_in
from prefmerge.outputs.tokenizer import ids_in
from tests.outputs.pieces import field, model_file, varint

PIECES = ["<unk>", "<s>", "</s>", "▁", "▁the", "cat", "ß", "<0x0A>", "x" * 300]


def folder(place: Path, pieces: list[str] = PIECES, name: str = "tokenizer.model", **files: Any) -> dict[str, Path]:
    """The files of a tokenizer. `files`: JSON, by the name without its ending."""
    place.mkdir(exist_ok=True)
    (place / name).write_bytes(model_file(pieces))
    for file, value in files.items():
        (place / f"{file}.json").write_text(json.dumps(value), encoding="utf-8")
    return {path.name: path for path in place.iterdir() if path.name != "config.json"}


def ids(files: dict[str, Path]) -> dict[str, int]:
    path = file_of_pieces(files)
    assert path is not None
    return ids_of_pieces(path, files)


def test_the_pieces_in_their_order():
    assert pieces_in(model_file(PIECES)) == PIECES


def test_fields_in_another_order_and_unknown_ones_are_passed_over():
    entry = field(3, 0, varint(1)) + field(200, 1, b"8 bytes.") + field(1, 2, b"old") + field(1, 2, b"new")
    assert pieces_in(field(5, 2, b"\xff") + field(1, 2, entry) + field(99, 0, varint(1 << 60))) == ["new"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it has no pieces"),
        (b"\n\x0e", "was cut off"),
        (model_file(PIECES)[:-3], "was cut off"),
        (b"abc", "it is no file of SentencePiece"),
        (b"IQ== 0\nIg== 1\n", "it has no pieces"),  # of tiktoken
        (b'{"model": {}}', "it is no file of SentencePiece"),
        (b"\xff" * 40, "it is no file of SentencePiece"),
        (b"\x00\x01", "it is no file of SentencePiece"),
        (field(1, 0, b"\x01"), "it is no file of SentencePiece"),
        (field(1, 2, field(1, 2, b"\xff\xfe")), "its piece 0 is no UTF-8"),
        (model_file(["a", "b", "a"]), "its piece 'a' is there twice"),
        (field(7, 0, b"\x01") * 100, "it is no file of SentencePiece"),
        (field(1, 2, field(7, 0, b"\x01") * 100), "it is no file of SentencePiece"),
    ],
)
def test_what_is_no_such_file(content: bytes, why: str):
    with pytest.raises(NoPieces, match=why):
        pieces_in(content)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path):
    files = folder(tmp_path)
    with (tmp_path / "tokenizer.model").open("r+b") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(NoPieces, match=f"it cannot be read .*more than {LARGEST:,} bytes"):
        ids(files)


def test_added_tokens_lie_over_the_pieces(tmp_path: Path):
    decoder = {"0": {"content": "<unk>"}, "5": {"content": "dog"}, "10": {"content": "<pad>"}, "x": {"content": "no"}}
    files = folder(tmp_path, added_tokens={"<mask>": 9}, tokenizer_config={"added_tokens_decoder": decoder})
    expected = {piece: at for at, piece in enumerate(PIECES) if piece != "cat"}
    assert ids(files) == expected | {"<mask>": 9, "dog": 5, "<pad>": 10}
    assert ids_in(files) == ids(files)


def test_t5_has_extra_tokens_behind_the_pieces(tmp_path: Path):
    files = folder(tmp_path, name="spiece.model", tokenizer_config={"extra_ids": 3}, config={"model_type": "t5"})
    known = ids(files)
    assert [known[f"<extra_id_{i}>"] - len(PIECES) for i in range(3)] == [2, 1, 0]
    own = {"extra_ids": 3, "tokenizer_class": "T5Tokenizer", "added_tokens_decoder": {"9": {"content": "<extra_id_0>"}}}
    assert ids(folder(tmp_path, name="spiece.model", tokenizer_config=own))["<extra_id_0>"] == 9
    assert "<extra_id_1>" not in ids(folder(tmp_path, name="spiece.model", tokenizer_config=own))
    assert len(ids(folder(tmp_path / "plain", name="spiece.model", config={"model_type": "t5"}))) == len(PIECES) + 100


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": {"tokenizer_class": "PegasusTokenizerFast"}},
        {"config": {"model_type": "xlm-roberta"}},
        {"added_tokens": {"<s>": 0}},
    ],
)
def test_models_that_number_tokens_otherwise_are_refused(tmp_path: Path, files: dict[str, Any]):
    given = folder(tmp_path, **files)
    with pytest.raises(NoPieces, match=r"number their tokens otherwise|'<s>' is its piece 1, and beside it"):
        ids(given)
    assert ids_in(given) == {}


def test_other_files_say_it_first(tmp_path: Path):
    files = folder(tmp_path, vocab={"a": 0}, added_tokens={"<pad>": 1})
    assert ids_in(files) == {"a": 0, "<pad>": 1}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "vocab.txt").write_text("a\nb\n")
    (tmp_path / "other" / "added_tokens.json").write_text('{"<pad>": 2}')
    plain = {path.name: path for path in (tmp_path / "other").iterdir()}
    assert ids_in(plain) == {"a": 0, "b": 1, "<pad>": 2}
