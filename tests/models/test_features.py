"""Embeddings: the tower's in eval mode; from the cache the same bits, for the same weights and inputs only."""

# ruff: noqa: E402  (imports that need an extra come after asking for it)

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="encoders are torch's (extra train)")

from prefmerge.data.examples import Examples
from prefmerge.errors import EncoderError
from prefmerge.ground import caches
from prefmerge.models.features import cache_folder, cache_size, clear_cache, embed
from tests.models.stubs import D, E, ToyEncoder, toy_examples


@pytest.fixture
def examples() -> Examples:
    rng = np.random.default_rng(1)
    return toy_examples(rng.standard_normal((11, D)).astype(np.float32), [0] * 11)


def bits(found: np.ndarray) -> bytes:
    return found.tobytes()


@pytest.mark.parametrize("batch", [1, 3, 11, 256])
def test_embeddings_are_the_towers_in_eval_mode(examples: Examples, batch: int):
    encoder = ToyEncoder()
    encoder.tower.train()
    encoder.tower.second.eval()  # a part that its owner keeps in eval mode
    result = embed(encoder, examples, batch=batch)
    assert (result.shape, result.dtype) == ((11, E), np.float32)
    assert [m.training for m in (encoder.tower, encoder.tower.dropout, encoder.tower.second)] == [True, True, False]
    W1, b1, W2 = (p.detach().double().numpy() for p in encoder.tower.parameters())
    x = np.array(examples.read(range(11)), np.float64)
    # float32 sums of at most six terms near 1 against float64.
    assert result == pytest.approx(np.tanh(x @ W1.T + b1) @ W2.T, abs=1e-6)


def test_training_goes_on_after_it(examples: Examples):
    class Remembers(torch.nn.Module):
        """As towers do that compute a table of positions once."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(D, E))
            self.table: Any = None

        def forward(self, x: Any) -> Any:
            self.table = torch.ones(E) * 2 if self.table is None else self.table
            return (x @ self.weight) * self.table

    encoder = ToyEncoder()
    encoder.tower = Remembers()  # pyright: ignore[reportAttributeAccessIssue]
    embed(encoder, examples)
    encoder.tower(**encoder.prepare(examples.read([0]))).sum().backward()


@pytest.mark.parametrize("batch", [2, 256])
def test_the_cache_gives_the_same_bits_without_encoding(examples: Examples, tmp_path: Path, batch: int):
    encoder = ToyEncoder()
    plain = embed(encoder, examples, batch=batch)
    first = embed(encoder, examples, batch=batch, cache=tmp_path)
    assert encoder.prepared == 22
    again = embed(ToyEncoder(), examples, batch=batch, cache=tmp_path)
    assert encoder.prepared == 22
    assert bits(plain) == bits(first) == bits(again)
    again += 1  # what is handed out belongs to the caller
    assert bits(embed(encoder, examples, batch=batch, cache=tmp_path)) == bits(plain)


def other_weights() -> ToyEncoder:
    encoder = ToyEncoder()
    with torch.no_grad():
        encoder.tower.second.weight[0, 0] += 1e-6
    return encoder


def same_bytes_other_dtype() -> ToyEncoder:
    encoder = ToyEncoder()
    state = encoder.state()
    encoder.state = lambda: {  # pyright: ignore[reportAttributeAccessIssue]
        name: tensor.contiguous().view(torch.int32) for name, tensor in state.items()
    }
    return encoder


class Subclass(ToyEncoder):
    pass


@pytest.mark.parametrize(
    "other",
    [
        other_weights,
        same_bytes_other_dtype,
        Subclass,
        lambda: ToyEncoder(preprocessing="224 pixels"),
        lambda: ToyEncoder(dropout=0.1),  # another architecture over the same weights
    ],
)
def test_another_model_is_another_key(examples: Examples, tmp_path: Path, other: Any):
    embed(ToyEncoder(), examples, cache=tmp_path)
    encoder = other()
    result = embed(encoder, examples, cache=tmp_path)
    assert encoder.prepared == 11
    assert bits(result) == bits(embed(encoder, examples))


def test_an_encoder_that_does_not_say_its_preprocessing_is_not_cached(examples: Examples, tmp_path: Path):
    encoder = ToyEncoder(preprocessing="")
    for _ in range(2):
        embed(encoder, examples, cache=tmp_path)
    assert encoder.prepared == 22
    assert list(tmp_path.iterdir()) == []


def test_a_merged_model_is_encoded_anew(examples: Examples, tmp_path: Path):
    """The case that a cache must not get wrong: weights that change behind one encoder."""
    encoder, merged = ToyEncoder(0), ToyEncoder(1)
    embed(encoder, examples, cache=tmp_path)
    merged.save(tmp_path / "merged")
    encoder.load(tmp_path / "merged")
    assert bits(embed(encoder, examples, cache=tmp_path)) == bits(embed(merged, examples))


def test_other_inputs_ids_order_and_batch_are_other_keys(examples: Examples, tmp_path: Path):
    def encoded(of: Examples, batch: int = 256) -> int:
        encoder = ToyEncoder()
        result = embed(encoder, of, batch=batch, cache=tmp_path)
        assert bits(result) == bits(embed(ToyEncoder(), of, batch=batch))
        return encoder.prepared

    x = np.array(examples.read(range(11)))
    changed = x.copy()
    changed[4, 2] += 1e-3
    assert encoded(examples) == 11
    assert encoded(toy_examples(changed, [0] * 11)) == 11
    assert encoded(examples.take(range(11)[::-1])) == 11
    assert encoded(toy_examples(x, [0] * 11, prefix="other")) == 11
    assert encoded(examples, batch=5) == 11
    assert encoded(examples.take([2, 3])) == 2
    assert encoded(toy_examples(x, [1] * 11)) == 0  # labels have no part in it


def only_file(folder: Path) -> Path:
    (file,) = folder.glob("*.features")
    return file


@pytest.mark.parametrize("damage", ["empty", "cut", "a bit", "longer", "another's", "a folder"])
def test_a_damaged_file_is_encoded_and_written_anew(examples: Examples, tmp_path: Path, damage: str):
    wanted = embed(ToyEncoder(), examples, cache=tmp_path)
    file = only_file(tmp_path)
    content = file.read_bytes()
    if damage == "a folder":
        file.unlink()
        file.mkdir()
    else:
        embed(ToyEncoder(), examples.take([0]), cache=tmp_path / "other")
        flipped = bytearray(content)
        flipped[40] ^= 1
        damaged = {
            "empty": b"",
            "cut": content[:-4],
            "a bit": bytes(flipped),
            "longer": content + b"\0",
            "another's": only_file(tmp_path / "other").read_bytes(),
        }
        file.write_bytes(damaged[damage])
    encoder = ToyEncoder()
    if damage == "a folder":
        with pytest.warns(UserWarning, match=r"\.features: the features cannot be kept \(.*encoded again next time"):
            result = embed(encoder, examples, cache=tmp_path)
    else:
        result = embed(encoder, examples, cache=tmp_path)
        assert file.read_bytes() == content
    assert encoder.prepared == 11
    assert bits(result) == bits(wanted)


def test_a_write_that_is_killed_leaves_what_was_there(
    examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        embed(ToyEncoder(), examples, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_said_and_done_without(examples: Examples, tmp_path: Path):
    (tmp_path / "cache").write_text("a file where the folder would be")
    with pytest.warns(UserWarning, match="cannot be kept"):
        result = embed(ToyEncoder(), examples, cache=tmp_path / "cache")
    assert bits(result) == bits(embed(ToyEncoder(), examples))


def test_progress(examples: Examples, tmp_path: Path):
    for wanted in ([(4, 11), (8, 11), (11, 11)], [(11, 11)]):
        seen: list[tuple[int, int]] = []
        embed(
            ToyEncoder(),
            examples,
            batch=4,
            cache=tmp_path,
            progress=lambda done, of, seen=seen: seen.append((done, of)),
        )
        assert seen == wanted


def test_no_example(tmp_path: Path):
    encoder = ToyEncoder()
    result = embed(encoder, toy_examples(np.zeros((0, D), np.float32), []), cache=tmp_path)
    assert (result.shape, result.dtype, encoder.prepared) == ((0, E), np.float32, 0)


def test_a_tower_that_diverged_is_named(examples: Examples):
    encoder = ToyEncoder()
    with torch.no_grad():
        encoder.tower.second.weight[1, 1] = float("nan")
    encoder.tower.train()
    with pytest.raises(EncoderError, match=r"toy: the embedding of sample 'sample-0' holds NaN or infinity\. Did the"):
        embed(encoder, examples, batch=4)
    assert encoder.tower.training


def test_a_tower_of_another_width(examples: Examples):
    encoder = ToyEncoder()
    encoder.width = 3
    with pytest.raises(EncoderError, match=r"toy: the tower gives shape \(4, 4\) for 4 inputs; expected \(4, 3\)"):
        embed(encoder, examples, batch=4)


def test_what_reading_raises_comes_through():
    def read(at: Any) -> Any:
        raise OSError("cannot read 7.jpg")

    broken = Examples(ids=("a",), labels=np.zeros(1, np.int64), read=read, fingerprint=lambda at: "")
    with pytest.raises(OSError, match=r"cannot read 7\.jpg"):
        embed(ToyEncoder(), broken)


def test_batches_of_nothing(examples: Examples):
    with pytest.raises(ValueError, match="batch is 0; it must be at least 1"):
        embed(ToyEncoder(), examples, batch=0)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PREFMERGE_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine" / "features"
    monkeypatch.delenv("PREFMERGE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(caches.sys, "platform", "linux")
    assert cache_folder() == tmp_path / ".cache" / "prefmerge" / "features"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "prefmerge" / "features"
    monkeypatch.setattr(caches.sys, "platform", "darwin")
    assert cache_folder() == tmp_path / "Library" / "Caches" / "prefmerge" / "features"


def test_size_and_clearing_touch_features_only(examples: Examples, tmp_path: Path):
    assert cache_size(tmp_path / "nowhere") == clear_cache(tmp_path / "nowhere") == 0
    embed(ToyEncoder(0), examples, cache=tmp_path)
    embed(ToyEncoder(1), examples, cache=tmp_path)
    left_behind = tmp_path / f".{'0' * 32}.features.prefmerge-0123456789ab.tmp"
    left_behind.write_bytes(b"123")
    (tmp_path / "beef.features").write_text("not ours")
    (tmp_path / "notes.txt").write_text("not ours")
    size = 2 * (16 + 4 * 11 * E) + 3
    assert cache_size(tmp_path) == clear_cache(tmp_path) == size
    assert sorted(file.name for file in tmp_path.iterdir()) == ["beef.features", "notes.txt"]


def test_texts_are_read_by_length_and_come_back_in_their_own_order(monkeypatch: pytest.MonkeyPatch):
    """A batch is padded to its longest text: long ones belong together."""
    texts = ["ccc", "a", "dddd", "bb", "a"]

    class Lengths(ToyEncoder):
        def prepare(self, inputs: Any, augmentation: Any = None, seeds: Any = None) -> dict[str, Any]:
            seen.append([len(text) for text in inputs])
            return super().prepare([np.full(D, len(text), np.float32) for text in inputs])

    seen: list[list[int]] = []
    encoder = Lengths()
    encoder.kind = "text"
    examples = Examples(tuple("abcde"), np.zeros(5, np.int64), lambda at: [texts[i] for i in at], lambda at: "")
    result = embed(encoder, examples, batch=2)
    assert seen == [[4, 3], [2, 1], [1]]
    encoder.kind = "image"
    # Matrix products of other sizes round otherwise; neighbours here differ by 1e-2.
    assert np.allclose(result, embed(encoder, examples, batch=1), atol=1e-6)
