"""What every checkpoint looks like to the rest of prefmerge: named, flat, lazily read arrays.

A checkpoint maps tensor names to `TensorInfo` and hands out each tensor's stored elements as one flat array, without a
copy where the storage allows (a memory map). Nothing is read before `raw` is indexed, so opening costs a header and
memory does not grow with the model. bfloat16 comes as its bits (uint16): NumPy has no such type.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from prefmerge.checkpoints.dtypes import Dtype


@dataclass(frozen=True)
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
    def files(self) -> tuple[Path, ...]:
        """Every file that holds weights, for fingerprints and for refusing to overwrite an input."""
        ...

    def file_of(self, tensor: str) -> str:
        """The name of the file that stores `tensor`, for messages."""
        ...

    def raw(self, tensor: str) -> np.ndarray:
        """All stored elements, flat, shape (size,), read-only, dtype `TensorInfo.dtype.storage`. Safe to call from
        any thread.

        Not always aligned: safetensors files of old writers put tensors at odd offsets, and a map cannot be moved. A
        kernel that was compiled for aligned arrays takes `np.require(block, requirements="A")`, which copies such a
        block and no other.
        """
        ...

    def close(self) -> None:
        """Let go of the files. The arrays handed out stay valid until they are collected."""
        ...


# File stems that say what a file is and not whose: the folder's name tells two such checkpoints apart.
_ANONYMOUS = re.compile(
    r"(diffusion_)?(open_clip_)?(pytorch_)?(model|weights|checkpoint|state_dict)(-\d{5}-of-\d{5})?", re.IGNORECASE
)


def name_of(path: Path) -> str:
    """What a user would call the checkpoint at `path`: the file's stem, or its folder's name when the stem is `model`
    and the like."""
    path = Path(path).absolute()
    stem = path.name.removesuffix(".index.json") if path.name.endswith(".index.json") else path.name
    stem = Path(stem).stem
    if not path.is_dir() and not _ANONYMOUS.fullmatch(stem):
        return stem
    folder = path if path.is_dir() else path.parent
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        return folder.parent.parent.name.rsplit("--", 1)[
            -1
        ]  # a Hugging Face cache: snapshots/ holds revisions, not names
    return folder.resolve().name or stem
