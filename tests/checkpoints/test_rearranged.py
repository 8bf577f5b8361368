"""Rows of other vocabularies, read through a map: against the whole arrays, with nothing whole in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from prefmerge.checkpoints import Checkpoint, from_state_dict
from prefmerge.checkpoints.rearranged import MEAN, PADDING, TOGETHER, ZERO, Rearranged, RowMap

WIDTH = 5
NAME = "embed_tokens.weight"


def models(dtypes: tuple[str, ...] = ("float32", "float16"), rows: int = 40) -> list[Checkpoint]:
    rng = np.random.default_rng(1)
    return [
        from_state_dict({NAME: rng.normal(size=(rows, WIDTH)).astype(dtype), "w": np.ones(3, np.float32)}, name=str(i))
        for i, dtype in enumerate(dtypes)
    ]


def drawn(rows: int, out: int, seed: int) -> RowMap:
    rng = np.random.default_rng(seed)
    source = rng.choice([0, 1, ZERO, MEAN, PADDING], out, p=[0.4, 0.3, 0.1, 0.1, 0.1]).astype(np.int16)
    own = rng.integers(-1, rows, (2, out)).astype(np.int32)
    own[0, source == MEAN] = rng.integers(0, rows, int((source == MEAN).sum()))
    return RowMap(source, rng.integers(0, rows, out).astype(np.int32), own)


def expected(given: list[Checkpoint], of: RowMap) -> np.ndarray:
    """The definition, row by row, in float64; rounded once to the first model's format."""
    whole = [one.raw(NAME).reshape(-1, WIDTH).astype(np.float64) for one in given]
    made = np.zeros((len(of), WIDTH), np.float64)
    for i, (source, row) in enumerate(zip(of.source, of.row, strict=True)):
        if source >= 0:
            made[i] = whole[source][row]
        elif source == MEAN:
            having = [whole[m][of.own[m, i]] for m in range(2) if of.own[m, i] >= 0]
            made[i] = np.sum(having, axis=0) / len(having)
    dtype = given[0].tensors[NAME].dtype.storage
    tokens = made[of.source != PADDING].astype(dtype)
    made[of.source == PADDING] = tokens.astype(np.float64).mean(axis=0)
    return made.astype(dtype)


@pytest.mark.parametrize("dtypes", [("float32", "float16"), ("float16", "float32"), ("float64", "float32")])
@pytest.mark.parametrize("seed", range(4))
def test_every_stretch_is_what_the_definition_says(dtypes: tuple[str, ...], seed: int) -> None:
    given, of = models(dtypes), drawn(40, 33, seed)
    made = Rearranged(given[0], of, {NAME: [(one, NAME) for one in given]})
    assert made.tensors[NAME].shape == (33, WIDTH)
    right = expected(given, of).reshape(-1)
    np.testing.assert_array_equal(made.raw(NAME), right)
    rng = np.random.default_rng(seed)
    buffer = np.empty(1 << 12, np.uint8)
    for start, stop in np.sort(rng.integers(0, right.size + 1, (40, 2)), axis=1).tolist():
        np.testing.assert_array_equal(made.read(NAME, start, stop, buffer), right[start:stop])
    np.testing.assert_array_equal(made.raw("w"), np.ones(3, np.float32))
    assert made.donors == [given[1]]


def test_who_gives_no_row_is_no_giver() -> None:
    given = models()
    at = np.arange(40, dtype=np.int32)
    of = RowMap(np.zeros(40, np.int16), at[::-1].copy(), np.stack([at, at]))
    assert Rearranged(given[0], of, {NAME: [(given[0], NAME), None]}).donors == []
    assert not of.is_identity(0, 40)
    assert RowMap(np.zeros(40, np.int16), at, np.stack([at, at])).is_identity(0, 40)
    assert not RowMap(np.zeros(40, np.int16), at, np.stack([at, at])).is_identity(0, 41)


class Counting:
    """A checkpoint that notes how much is asked of it at once."""

    def __init__(self, given: Checkpoint) -> None:
        self.given, self.most = given, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.given, name)

    def read(self, tensor: str, start: int, stop: int, buffer: np.ndarray | None = None) -> np.ndarray:
        self.most = max(self.most, stop - start)
        return self.given.read(tensor, start, stop, buffer)


@pytest.mark.parametrize("order", ["random", "reversed", "even first"])
def test_an_embedding_is_never_read_whole(order: str) -> None:
    rows, block = 60_000, 4096
    counting: Any = Counting(models(("float32",), rows)[0])
    at = np.arange(rows, dtype=np.int32)
    row = {
        "random": np.random.default_rng(2).permutation(rows).astype(np.int32),
        "reversed": at[::-1].copy(),
        "even first": np.concatenate([at[::2], at[1::2]]),
    }[order]
    of = RowMap(np.where(at < rows - 5, 0, PADDING).astype(np.int16), row, row[None])
    made = Rearranged(counting, of, {NAME: [(counting, NAME)]})
    for start in range(0, rows * WIDTH, block):
        made.read(NAME, start, min(start + block, rows * WIDTH))
    assert counting.most <= max(TOGETHER, 1 << 18) < rows * WIDTH
