"""What every checkpoint looks like to the rest of prefmerge: named, flat, lazily read arrays.

A checkpoint maps tensor names to `TensorInfo` and hands out stretches of each tensor's stored elements as flat arrays.
Opening costs a header, and memory does not grow with the model. bfloat16 comes as its bits (uint16): NumPy has no such
type. Whoever has read a checkpoint's values calls `require_unchanged` before using them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from prefmerge.checkpoints.dtypes import Dtype
from prefmerge.checkpoints.input_file import InputFile


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Name, dtype and shape of one stored tensor. `size` counts elements, `nbytes` stored bytes."""

    name: str
    dtype: Dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


class Checkpoint(Protocol):
    """A model's tensors, opened and not yet read."""

    @property
    def name(self) -> str:
        """The file's stem, or the folder's name for `model.safetensors` and the like."""
        ...

    @property
    def path(self) -> Path | None:
        """Where the user said it is; None for a state dict in memory."""
        ...

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor, sorted by name."""
        ...

    @property
    def aliases(self) -> Mapping[str, str]:
        """Tied tensors: name -> the name (first in sorted order) that shares its whole storage. Both are in
        `tensors`."""
        ...

    @property
    def metadata(self) -> Mapping[str, str]:
        """The file's own string metadata (the first shard's for a folder); empty where the format has none."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided where the path alone does not say which weights are meant."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that holds weights, for fingerprints and for refusing to overwrite an input."""
        ...

    def file_of(self, tensor: str) -> str:
        """The name of the file that stores `tensor`, for messages."""
        ...

    @property
    def inputs(self) -> tuple[InputFile, ...]:
        """The open files behind `files`, in the same order."""
        ...

    def read(self, tensor: str, start: int, stop: int, buffer: np.ndarray | None = None) -> np.ndarray:
        """The stored elements [start, stop), flat, dtype `TensorInfo.dtype.storage`. Not to be written to. Safe to call
        from any thread.

        What a file holds is read into `buffer`, bytes (uint8), or into a new array where that is too small; what is in
        memory is handed out as it is. Raises CheckpointChanged where the file ends before.
        """
        ...

    def raw(self, tensor: str) -> np.ndarray:
        """All stored elements, flat, read-only: `read` of the whole tensor."""
        ...

    def close(self) -> None:
        """Let go of the files. The arrays handed out stay valid."""
        ...


STRETCH = 1 << 18  # elements; what is read at a time where whole tensors are gone through


def same_elements(one: Checkpoint, name: str, other: Checkpoint, called: str, *, bits: bool = False) -> bool:
    """Whether tensor `name` of one checkpoint and tensor `called` of another hold equal values; with `bits`, equal
    bits.
    """
    size = one.tensors[name].size
    if size != other.tensors[called].size:
        return False
    for start in range(0, size, STRETCH):
        a, b = (part.read(key, start, min(start + STRETCH, size)) for part, key in ((one, name), (other, called)))
        if not (np.array_equal(a.view(np.uint8), b.view(np.uint8)) if bits else np.array_equal(a, b)):
            return False
    return True


def require_unchanged(*checkpoints: Checkpoint) -> None:
    """Raise CheckpointChanged where a file is no longer what was opened."""
    for checkpoint in checkpoints:
        for file in checkpoint.inputs:
            file.check()


@contextmanager
def reading(*checkpoints: Checkpoint) -> Iterator[None]:
    """A block of code that reads these checkpoints. Raises CheckpointChanged at its end where a file has changed
    meanwhile, also in place of an error: what went wrong then is that a part of the values were others.
    """
    try:
        yield
    except Exception:  # whatever went wrong, a changed file is the reason to name
        require_unchanged(*checkpoints)
        raise
    require_unchanged(*checkpoints)
