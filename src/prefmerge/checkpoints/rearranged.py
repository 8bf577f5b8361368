"""A checkpoint whose embeddings have the rows of another vocabulary.

    row i = row `row[i]` of model `source[i]`        the model's own, or another's where it lacks the token
          = 0                                        ZERO: what no model has; of a task vector, what its model lacks
          = the mean of the models' own rows         MEAN
          = the mean of all rows with a token        PADDING: rows that have no token

Nobody holds an embedding: rows are gathered from the files as they are asked for, so that memory does not grow with the
vocabulary. Means are summed in float64, in order, and rounded once to the model's own number format. Tensors without
rows of tokens are read straight through. Cost: a read for each row that does not follow the one before it; for PADDING
one reading of the tensor. Not here: which rows these are (`merging.vocabulary`).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import final

import numpy as np

from prefmerge.checkpoints.dtypes import Dtype, from_float32, from_float64, to_float
from prefmerge.checkpoints.input_file import InputFile
from prefmerge.checkpoints.protocol import STRETCH, Checkpoint, TensorInfo
from prefmerge.ground.brief import brief

ZERO, MEAN, PADDING = -1, -2, -3  # in the place of a model's number
FAR = 4096  # elements between two rows, beyond which each is read for itself
TOGETHER = 1 << 16  # elements that are read at once where rows lie close

Giver = tuple[Checkpoint, str]  # a model, and what it calls a tensor


@dataclass(frozen=True, eq=False)
class RowMap:
    """Where the rows of one model come from. `source` and `row` have an entry for each row of the output, `own` one for
    each model and row: the model's own row, -1 where it has none.
    """

    source: np.ndarray
    row: np.ndarray
    own: np.ndarray

    def __len__(self) -> int:
        return len(self.source)

    def is_identity(self, model: int, rows: int) -> bool:
        """Whether nothing moves in a model of so many rows."""
        same = len(self) == rows and bool((self.source == model).all())
        return same and bool((self.row == np.arange(rows)).all())


@final
class Rearranged:
    """A `Checkpoint`: `original` with rows moved in some tensors. `parts`: for each of these, by its name, what every
    model calls it; None where a model has none.
    """

    __repr__ = brief

    def __init__(self, original: Checkpoint, rows: RowMap, parts: Mapping[str, Sequence[Giver | None]]) -> None:
        self.original, self.rows, self._parts = original, rows, parts
        self.moved = frozenset(parts)
        self.tensors: Mapping[str, TensorInfo] = {
            name: replace(info, shape=with_rows(info.shape, len(rows))) if name in parts else info
            for name, info in original.tensors.items()
        }
        self.aliases = original.aliases
        self._padding: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return self.original.name

    @property
    def path(self) -> Path | None:
        return self.original.path

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.original.metadata

    @property
    def notes(self) -> tuple[str, ...]:
        return self.original.notes

    @property
    def files(self) -> tuple[Path, ...]:
        return self.original.files

    @property
    def inputs(self) -> tuple[InputFile, ...]:
        return self.original.inputs

    @property
    def donors(self) -> list[Checkpoint]:
        """The other models whose rows are read."""
        used = set(np.unique(self.rows.source).tolist())
        mean = self.rows.source == MEAN
        used |= set(np.flatnonzero((self.rows.own[:, mean] >= 0).any(axis=1)).tolist()) if mean.any() else set()
        rows = [parts[i] for parts in self._parts.values() for i in used if i >= 0]
        given = {id(part[0]): part[0] for part in rows if part is not None}
        return [checkpoint for checkpoint in given.values() if checkpoint is not self.original]

    def file_of(self, tensor: str) -> str:
        return self.original.file_of(tensor)

    def read(self, tensor: str, start: int, stop: int, buffer: np.ndarray | None = None) -> np.ndarray:
        if tensor not in self.moved:
            return self.original.read(tensor, start, stop, buffer)
        info = self.tensors[tensor]
        width = info.size // max(1, len(self.rows))
        if stop <= start or not width:
            return np.empty(0, info.dtype.storage)
        first, last = start // width, -(-stop // width)
        nbytes = (last - first) * width * info.dtype.itemsize
        space = buffer if buffer is not None and buffer.nbytes >= nbytes else np.empty(nbytes, np.uint8)
        out = space[:nbytes].view(info.dtype.storage).reshape(-1, width)
        self._fill(tensor, first, last, out)
        return out.reshape(-1)[start - first * width : stop - first * width]

    def raw(self, tensor: str) -> np.ndarray:
        if tensor not in self.moved:
            return self.original.raw(tensor)
        elements = self.read(tensor, 0, self.tensors[tensor].size)
        elements.flags.writeable = False
        return elements

    def close(self) -> None:
        self.original.close()

    def _fill(self, tensor: str, first: int, last: int, out: np.ndarray) -> None:
        """out = rows [first, last) of a tensor."""
        source, row = self.rows.source[first:last], self.rows.row[first:last]
        dtype = self.tensors[tensor].dtype
        for model in np.unique(source).tolist():
            at = np.flatnonzero(source == model)
            if model == ZERO:
                out[at] = np.zeros(1, out.dtype)
            elif model == PADDING:
                out[at] = self._mean_of_all(tensor, out.shape[1])
            elif model == MEAN:
                out[at] = self._means(tensor, first + at, out.shape[1])
            else:
                stored, own = self._rows(tensor, model, row[at], out.shape[1])
                out[at] = _converted(stored, own, dtype)

    def _rows(self, tensor: str, model: int, rows: np.ndarray, width: int) -> tuple[np.ndarray, Dtype]:
        """These rows as a model stores them, in its number format."""
        part = self._parts[tensor][model]
        assert part is not None  # whoever made the map has seen to it
        checkpoint, name = part
        dtype = checkpoint.tensors[name].dtype
        order = np.argsort(rows, kind="stable")
        wanted = rows[order].astype(np.int64)
        group = wanted // max(1, TOGETHER // width)
        apart = ((np.diff(wanted) - 1) * width > FAR) | (np.diff(group) != 0)
        if len(wanted) and bool((np.diff(wanted) == 1).all()):
            apart[:] = False  # they follow one another: one reading, as long as the block is
        stored = np.empty((len(rows), width), dtype.storage)
        places, numbers = order.tolist(), wanted.tolist()
        for low, high in pairwise([0, *(np.flatnonzero(apart) + 1).tolist(), len(wanted)]):
            begin, end = numbers[low] * width, (numbers[high - 1] + 1) * width
            if high - low == 1:
                stored[places[low]] = checkpoint.read(name, begin, end)
            else:
                stretch = checkpoint.read(name, begin, end).reshape(-1, width)
                stored[order[low:high]] = stretch[wanted[low:high] - numbers[low]]
        return stored, dtype

    def _means(self, tensor: str, at: np.ndarray, width: int) -> np.ndarray:
        """Rows `at` as the means over the models that have them."""
        total, count = np.zeros((len(at), width)), np.zeros((len(at), 1))
        for model, own in enumerate(self.rows.own):
            having = np.flatnonzero(own[at] >= 0)
            if having.size:
                stored, dtype = self._rows(tensor, model, own[at[having]], width)
                total[having] += to_float(stored, dtype)
                count[having] += 1
        return from_float64(total / count, self.tensors[tensor].dtype)

    def _mean_of_all(self, tensor: str, width: int) -> np.ndarray:
        """The mean of the rows that have a token, by whole stretches so that no block decides its rounding."""
        with self._lock:
            if tensor not in self._padding:
                dtype, total = self.tensors[tensor].dtype, np.zeros(width)
                tokens, step = np.flatnonzero(self.rows.source != PADDING), max(1, STRETCH // width)
                for start in range(0, len(self.rows), step):
                    stop = min(start + step, len(self.rows))
                    having = tokens[(tokens >= start) & (tokens < stop)] - start
                    rows = np.zeros((stop - start, width), dtype.storage)
                    for low, high in _runs(having):
                        self._fill(tensor, start + low, start + high, rows[low:high])
                    total += to_float(rows[having], dtype).sum(axis=0, dtype=np.float64)
                self._padding[tensor] = from_float64(total / max(1, len(tokens)), dtype)
            return self._padding[tensor]


def original(checkpoint: Checkpoint) -> Checkpoint:
    """What the user gave: a checkpoint without its rows moved."""
    return checkpoint.original if isinstance(checkpoint, Rearranged) else checkpoint


def with_rows(shape: tuple[int, ...], rows: int) -> tuple[int, ...]:
    """The shape of a tensor with so many rows. A bias of shape (1, vocabulary) has them along its last axis."""
    return (1, rows) if len(shape) == 2 and shape[0] == 1 else (rows, *shape[1:])


def _runs(at: np.ndarray) -> list[tuple[int, int]]:
    """Ascending numbers as stretches [low, high)."""
    if not at.size:
        return []
    cuts = np.flatnonzero(np.diff(at) != 1) + 1
    return [(int(part[0]), int(part[-1]) + 1) for part in np.split(at, cuts)]


def _converted(stored: np.ndarray, own: Dtype, dtype: Dtype) -> np.ndarray:
    if own == dtype:
        return stored
    values = to_float(stored, own)
    return from_float64(values, dtype) if values.dtype == np.float64 else from_float32(values, dtype)
