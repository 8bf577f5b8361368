"""Embeddings that the user made: .npy (N, E), or .npz with an array for each task.

Cost: all of them in memory. Not here: what is done with them (`prefmerge.target.prefer`).
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prefmerge.errors import DataError
from prefmerge.ground.words import quoted
from prefmerge.target.given.files import there

EMBEDDED = (".npy", ".npz")
_SHOWN = 5  # names that a message lists


def read_embeddings(path: Path, names: Sequence[str], what: str, shared: bool = True) -> list[np.ndarray]:
    """Embeddings (N, E) for each of the T tasks out of one file: an array by the name of each task; or, where it may be
    `shared`, one for all.

    Raises DataError naming file and array.
    """
    arrays = _arrays(path, what)
    if len(names) == 1 and names[0] not in arrays and len(arrays) == 1:
        shared = True
    if shared and len(arrays) == 1 and not set(arrays) & set(names):
        name, array = next(iter(arrays.items()))
        return [_checked(array, f"{path}{f': array {name!r}' if name else ''}")] * len(names)
    lacking = next((name for name in names if name not in arrays), None)
    if lacking is not None:
        has = quoted([name for name in arrays if name], _SHOWN) or "one without a name"
        raise DataError(
            f"{path}: there is no array for task {lacking!r}; it holds {has}. Expected {what}: an .npz with an array "
            f"named after each task{', or one array for all' if shared else ''}."
        )
    return [_checked(arrays[name], f"{path}: array {name!r}") for name in names]


def embedding_names(path: Path) -> tuple[str, ...]:
    """The names of the arrays in an .npz, in its order: those of the tasks."""
    return tuple(_arrays(path, "embeddings of the tasks' samples"))


def _arrays(path: Path, what: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz by name, or that of an .npy, which has none."""
    path = there(path, what)
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"": loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{path}: cannot be read as .npy or .npz: {reason}.") from error


def _checked(array: np.ndarray, where: str) -> np.ndarray:
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise DataError(
            f"{where}: has shape {array.shape} and type {array.dtype}; expected numbers of shape (samples, width)."
        )
    if not array.size:
        raise DataError(f"{where}: holds no embeddings: its shape is {array.shape}.")
    if not np.isfinite(array).all():
        raise DataError(f"{where}: holds NaN or infinity.")
    return array
