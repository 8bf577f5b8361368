"""Unions of Unigram tokenizers, as T5's and XLM-R's are: pieces with scores, whose places are their ids."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefmerge.errors import CheckpointMismatch
from tests.golden.make_vocabularies import save_model
from tests.merging.test_vocabularies import EMBEDDINGS, edit, merged, weights

tokenizers = pytest.importorskip("tokenizers", reason="reads what was made")

SPACE = "▁"
LETTERS = [(letter, -6.0 - i / 10) for i, letter in enumerate("abcdefghinorst")]
BASE = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), (SPACE, -3.0), (f"{SPACE}the", -2.5), ("cat", -4.0), *LETTERS]
NEW = [(f"{SPACE}dog", -3.5), ("bird", -3.75)]
CARS = [*BASE[:3], *NEW[:1], *[(piece, score - 0.5) for piece, score in BASE[:2:-1]]]  # another order, other scores
BIRDS = [*BASE, *NEW, ("<extra_id_0>", 0.0)]
TEXTS = ["the cat", "the dog sees a bird", "bird cat dog", "no tea and an orange ghost"]


def unigram(pieces: Sequence[tuple[str, float]], special: Sequence[str] = ("<pad>", "</s>", "<unk>")) -> dict[str, Any]:
    """A tokenizer.json as T5's, without its table of characters. `special` beyond the pieces: added tokens behind."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    names = [piece for piece, _ in pieces]
    at = {token: names.index(token) for token in special if token in names}
    at |= {token: len(names) + i for i, token in enumerate(one for one in special if one not in names)}
    metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True}
    end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": place, "content": token, **plain} for token, place in sorted(at.items(), key=lambda p: p[1])
        ],
        "normalizer": {"type": "NFKC"},
        "pre_tokenizer": metaspace,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [text, end],
            "pair": [text, end],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [at["</s>"]], "tokens": ["</s>"]}},
        },
        "decoder": metaspace,
        "model": {
            "type": "Unigram",
            "unk_id": names.index("<unk>"),
            "vocab": [list(one) for one in pieces],
            "byte_fallback": False,
        },
    }


@pytest.fixture
def models(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    extra = ("<pad>", "</s>", "<unk>", "<extra_id_0>")
    save_model(tmp_path / "base", rng, unigram(BASE), len(BASE) + 4)  # with rows to spare
    save_model(tmp_path / "cars", rng, unigram(CARS, ("<pad>", "</s>", "<unk>", "<mask>")), len(CARS) + 1)
    save_model(tmp_path / "birds", rng, unigram(BIRDS, extra), len(BIRDS))
    return tmp_path


def opened(folder: Path) -> Any:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def scores(folder: Path) -> dict[str, float]:
    return dict(json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])


def test_a_union_has_the_base_s_scores_and_new_pieces_with_their_own(models: Path) -> None:
    out = merged(models, tokenizer="union")
    made, at = opened(out), opened(out).get_vocab()
    assert {token: at[token] for token in opened(models / "base").get_vocab()} == opened(models / "base").get_vocab()
    assert sorted(at.values()) == list(range(len(BASE) + 4))
    # Words in order of model and id, then added tokens.
    assert sorted(at, key=lambda token: at[token])[len(BASE) :] == [f"{SPACE}dog", "bird", "<mask>", "<extra_id_0>"]
    own = scores(out)
    assert {piece: own[piece] for piece, _ in BASE} == dict(BASE)
    assert own[f"{SPACE}dog"] == -3.5
    assert own["bird"] == -3.75
    assert min(own.values()) == min(score for _, score in BASE)
    assert made.encode("the dog<mask>bird").tokens == [f"{SPACE}the", f"{SPACE}dog", "<mask>", SPACE, "bird", "</s>"]


@pytest.mark.parametrize("name", ["base", "cars", "birds"])
def test_texts_go_there_and_back_also_by_the_tokens_that_they_had(models: Path, name: str) -> None:
    out, old = opened(merged(models, tokenizer="union")), opened(models / name)
    for text in TEXTS:
        before = old.encode(text)
        moved = [out.token_to_id(token) for token in before.tokens]
        assert out.decode(moved) == old.decode(before.ids) == text
        assert out.decode(out.encode(text).ids) == text
    if name == "base":
        assert out.encode("the cat").ids == old.encode("the cat").ids
        assert out.encode("the xcat").tokens == old.encode("the xcat").tokens  # with what is unknown


def test_each_row_is_that_of_its_piece(models: Path) -> None:
    out = merged(models, tokenizer="union", method="task_arithmetic", weights=[0.6, 0.7])
    base, cars, birds = (_rows(models / name) for name in ("base", "cars", "birds"))
    made = _rows(out)
    for piece in base:
        expected = base[piece] + 0.6 * (cars[piece] - base[piece]) + 0.7 * (birds[piece] - base[piece])
        np.testing.assert_allclose(made[piece], expected, atol=1e-6)
    np.testing.assert_array_equal(made["<mask>"], cars["<mask>"])
    np.testing.assert_array_equal(made["bird"], birds["bird"])


def _rows(folder: Path) -> dict[str, np.ndarray]:
    state = weights(folder)[EMBEDDINGS]
    return {token: state[at] for token, at in opened(folder).get_vocab().items()}


def test_an_added_token_of_the_base_keeps_its_id_among_the_words(models: Path) -> None:
    """As [MASK] of DeBERTa, which stands behind the pieces."""
    edit(models / "base" / "tokenizer.json", lambda _: unigram(BASE, ("<pad>", "</s>", "<unk>", "<sep>")))
    out = merged(models, tokenizer="union")
    at, own = opened(out).get_vocab(), scores(out)
    assert at["<sep>"] == len(BASE)
    assert at[f"{SPACE}dog"] == len(BASE) + 1
    assert own["<sep>"] == min(score for _, score in BASE)
    assert opened(out).encode("a<sep>dog").tokens == [SPACE, "a", "<sep>", f"{SPACE}dog", "</s>"]


def test_transformers_loads_it_and_files_of_sentencepiece_are_left_out(models: Path) -> None:
    transformers = pytest.importorskip("transformers")
    for file in ("spiece.model", "sentencepiece.bpe.model"):
        (models / "base" / file).write_bytes(b"\n\x0e")
    out = merged(models, tokenizer="union")
    assert not list(out.glob("*.model"))
    loaded = transformers.AutoTokenizer.from_pretrained(out)
    assert loaded.get_vocab() == opened(out).get_vocab()
    coded = loaded("the dog sees a bird")["input_ids"]
    assert loaded.decode(coded, skip_special_tokens=True) == "the dog sees a bird"


def _with(part: str, value: Any) -> Callable[[Any], Any]:
    return lambda whole: {**whole, part: value}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_with("normalizer", {"type": "NFC"}), "the two normalise texts in different ways (their normalizers differ)"),
        (_with("pre_tokenizer", None), "the two split texts in different ways (their pre_tokenizers differ)"),
        (_with("decoder", None), "the two spell words in different ways (their decoders differ)"),
        (
            lambda whole: {**whole, "model": {**whole["model"], "byte_fallback": True}},
            "that of birds spells unknown characters in bytes (byte_fallback), that of base does not",
        ),
        (
            lambda whole: {**whole, "model": {**whole["model"], "type": "WordLevel"}},
            "they are of two kinds: Unigram and WordLevel",
        ),
    ],
)
def test_tokenizers_that_read_texts_in_different_ways_are_refused(
    models: Path, change: Callable[[Any], Any], message: str
) -> None:
    edit(models / "birds" / "tokenizer.json", change)
    with pytest.raises(CheckpointMismatch) as error:
        merged(models, tokenizer="union", tasks=["birds"])
    assert message in str(error.value)
    assert str(error.value).startswith("the tokenizer of birds has 2 words that the base's lacks ('▁dog', 'bird')")
    assert not (models / "out").exists()


def test_a_gap_among_the_ids_is_refused(models: Path) -> None:
    def moved(whole: Any) -> Any:
        token = {**whole["added_tokens"][0], "id": len(BASE) + 2, "content": "<far>"}
        return {**whole, "added_tokens": [*whole["added_tokens"], token]}

    edit(models / "base" / "tokenizer.json", moved)
    with pytest.raises(CheckpointMismatch, match=f"base has no token with id {len(BASE)}, and words are to be added"):
        merged(models, tokenizer="union")
