"""Models whose tokenizers only SentencePiece reads: rows of one token are merged with one another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefmerge import plan
from prefmerge.checkpoints import open_checkpoint
from prefmerge.errors import CheckpointMismatch
from prefmerge.outputs.tokenizer import ids_in, tokenizer_files
from tests.golden.make_vocabularies import MERGES, WORDS, save_model, tokenizer_json
from tests.merging.test_vocabularies import EMBEDDINGS, HEAD, LINEAR, TASKS, merged, weights
from tests.outputs.pieces import model_file

BASE = ["<unk>", "<s>", "</s>", *(f"▁{letter}" for letter in "abcdefgh")]


def save(place: Path, pieces: list[str], rows: int, seed: int, added: dict[str, int] | None = None) -> None:
    save_model(place, np.random.default_rng(seed), tokenizer_json(WORDS, MERGES, []), rows)
    (place / "tokenizer.json").unlink()
    (place / "tokenizer.model").write_bytes(model_file(pieces))
    decoder = {str(at): {"content": token} for token, at in (added or {}).items()}
    config = {"tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": decoder}
    (place / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """cars has the words in another order; birds has two tokens more, one a piece, one added, and a row to spare."""
    shuffled = [*BASE[:3], *(BASE[3 + i] for i in np.random.default_rng(1).permutation(8))]
    save(tmp_path / "base", BASE, 11, 0)
    save(tmp_path / "cars", shuffled, 11, 1)
    save(tmp_path / "birds", [*BASE, "▁bird"], 14, 2, {"<pad>": 12})
    return tmp_path


def ids(folder: Path) -> dict[str, int]:
    return ids_in(tokenizer_files(open_checkpoint(folder)))


@pytest.mark.parametrize("source", ["base", "cars", "birds"])
def test_rows_of_one_token_are_merged(models: Path, source: str) -> None:
    out = merged(models, tokenizer=source, **LINEAR)
    known = {name: ids(models / name) for name in ("base", *TASKS)}
    assert ids(out) == known[source]
    for file in ("tokenizer.model", "tokenizer_config.json"):
        assert (out / file).read_bytes() == (models / source / file).read_bytes()
    state = {name: weights(models / name) for name in ("base", *TASKS)}
    made = weights(out)
    for tensor in (EMBEDDINGS, HEAD):
        for token, at in ids(out).items():
            rows = {name: state[name][tensor][own[token]].astype(float) for name, own in known.items() if token in own}
            first = rows.get("base", rows["birds"])
            expected = first + sum(
                weight * (rows.get(name, first) - first) for name, weight in zip(TASKS, LINEAR["weights"], strict=True)
            )
            np.testing.assert_allclose(made[tensor][at], expected, rtol=0, atol=1e-6, err_msg=token)


def test_a_union_that_one_model_has_is_that_model_s(models: Path) -> None:
    out, named = merged(models, tokenizer="union"), merged(models, "named", tokenizer="birds")
    assert (out / "tokenizer.model").read_bytes() == (models / "birds" / "tokenizer.model").read_bytes()
    assert (out / "model.safetensors").read_bytes() == (named / "model.safetensors").read_bytes()
    with plan(models / "base", [models / task for task in TASKS], tokenizer="union") as planned:
        told = " ".join(planned.to_json()["notes"])
    assert "the vocabulary is the union of all models', which birds has: 13 tokens, 13 rows" in told
    assert "the tokens of base, cars, birds are those of a file of SentencePiece and those added to it" in told


def test_a_union_that_none_has_is_refused_with_what_to_do(models: Path) -> None:
    save(models / "cars", [*BASE, "▁car"], 12, 1)
    with pytest.raises(CheckpointMismatch) as caught:
        merged(models, tokenizer="union")
    assert str(caught.value) == (
        "the tokenizer of cars has 1 word that the base's lacks ('▁car'), and a union needs a tokenizer.json of each; "
        "base has none. Save it with transformers (AutoTokenizer.from_pretrained(..).save_pretrained(..)), which "
        "writes one."
    )
    assert not (models / "out").exists()


def test_a_token_more_is_refused_with_what_to_do(models: Path) -> None:
    asked: dict[str, Any] = {"source": "base", "tokens": {"<new>": {"source": {"kind": "zero"}}}}
    with pytest.raises(CheckpointMismatch, match=r"tokens are to be added \('<new>'\), and the tokenizer of base has"):
        merged(models, tokenizer=asked)


def test_tokens_of_a_tokenizer_json_and_of_pieces_are_the_same(models: Path) -> None:
    """Rows to spare stay what they were, as with two files of one kind."""
    for name in ("base", "cars"):
        save(models / name, BASE, 16, 5 + len(name))
    whole = {"model": {"type": "BPE", "vocab": {piece: at for at, piece in enumerate(BASE)}}}
    tokens = [{"id": at, "content": BASE[at], "special": True} for at in range(3)]
    (models / "base" / "tokenizer.json").write_text(json.dumps({**whole, "added_tokens": tokens}), encoding="utf-8")
    plain = merged(models, "plain", ["cars"])
    again = merged(models, "again", ["cars"], tokenizer="union")
    assert (plain / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda content: content[:-1], "it is no file of SentencePiece, or was cut off"),
        (lambda content: b"IQ== 0\n", "it is no file of SentencePiece"),
        (lambda content: b"", "it has no pieces"),
    ],
)
def test_a_damaged_file_is_one_message(models: Path, damage: Any, why: str) -> None:
    file = models / "cars" / "tokenizer.model"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(CheckpointMismatch) as caught:
        merged(models, tokenizer="base")
    assert (
        f"cars: {models / 'cars'} has a tokenizer, but no tokenizer.json that says which tokens it has, and its "
        in (str(caught.value))
    )
    assert f"tokenizer.model does not say it either: {why}" in str(caught.value)


def test_the_same_file_and_other_rows(models: Path) -> None:
    """An added token that only one model has."""
    save(models / "cars", BASE, 12, 1, {"<pad>": 11})
    out = merged(models, tasks=["cars"], tokenizer="union")
    assert weights(out)[EMBEDDINGS].shape[0] == 12
    assert ids(out)["<pad>"] == 11
    np.testing.assert_array_equal(weights(out)[EMBEDDINGS][11], weights(models / "cars")[EMBEDDINGS][11])
