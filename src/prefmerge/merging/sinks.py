"""Where merged blocks go: memory, an output, or on to either of them with their hash.

    values -> rounded(values, dtype) -> sink.write(name, start, stored)

A sink takes blocks of stored elements in any order and from any thread. Memory: `MemorySink` holds the whole model, the
others hold nothing. Not here: what writes files (`outputs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from prefmerge.checkpoints import Dtype, Fingerprint, TensorInfo
from prefmerge.checkpoints.dtypes import FLOATS, by_name, from_float32, from_float64, to_float32
from prefmerge.errors import DtypeOverflow
from prefmerge.vectors import kernels
from prefmerge.vectors.workspace import Workspace


def rounded(values: np.ndarray, dtype: Dtype, name: str, start: int, *, finite: bool | None = None) -> np.ndarray:
    """`values`, float32 or float64, of tensor `name` from element `start` on as stored elements. `finite`: whether
    they are, where that is known. Raises DtypeOverflow.
    """
    infinite = kernels.INFINITE_OF_16_BITS.get(dtype.code)
    if values.dtype == np.float32 and infinite is not None:
        stored = np.empty(values.size, dtype.storage)
        fits = kernels.narrow(values, kernels.operand(stored, dtype), infinite)
    else:
        stored = (from_float64 if values.dtype == np.float64 else from_float32)(values, dtype)
        fits = kernels.survey(kernels.operand(stored, dtype))[0] if finite is None else finite
    if not fits:
        worst = int(np.flatnonzero(~np.isfinite(to_float32(stored, dtype)))[0])
        wide = _formats_that_hold(float(values[worst]))
        advice = f"Write a wider format (--dtype {' or '.join(wide)}), or use" if wide else "Use"
        raise DtypeOverflow(
            f"tensor {name!r}: the merged value {values[worst]:g} at element {start + worst} does not fit "
            f"{dtype.name}. {advice} a smaller --scale."
        )
    return stored


def _formats_that_hold(value: float) -> list[str]:
    """The number formats in which a value stays finite; float64 where no other is."""
    with np.errstate(over="ignore"):
        formats = sorted(map(by_name, FLOATS), key=lambda one: one.itemsize)
        holding = [one.name for one in formats if np.isfinite(to_float32(from_float64(np.array([value]), one), one))[0]]
    return holding or (["float64"] if np.isfinite(value) else [])


class Sink(Protocol):
    """Where merged blocks go."""

    def write(self, name: str, start: int, stored: np.ndarray) -> None:
        """Take the stored elements from `start` on. Called from any thread."""
        ...


class MemorySink:
    """Collects the output as flat stored arrays."""

    def __init__(self, layout: Sequence[TensorInfo]) -> None:
        self.arrays = {info.name: np.empty(info.size, info.dtype.storage) for info in layout}

    def write(self, name: str, start: int, stored: np.ndarray) -> None:
        self.arrays[name][start : start + stored.size] = stored

    def raw(self, name: str) -> np.ndarray:
        """What was written of a tensor."""
        return self.arrays[name]


class Readable(Sink, Protocol):
    """A sink that has what was written."""

    def raw(self, name: str) -> np.ndarray:
        """All elements of a tensor, flat."""
        ...


class HashedSink:
    """Hands blocks on to a sink and hashes them while they are in the cache. Where blocks are shorter than the chunks
    that are hashed, `hash_rest` takes these from the sink.
    """

    def __init__(self, sink: Readable, layout: Sequence[TensorInfo]) -> None:
        self._sink, self._layout = sink, layout
        self.fingerprint = Fingerprint(layout)

    def write(self, name: str, start: int, stored: np.ndarray) -> None:
        self._sink.write(name, start, stored)
        self.fingerprint.add(name, stored, start)

    def hash_rest(self, work: Workspace) -> None:
        """Hash what no block held whole."""
        chunks = [(info.name, *chunk) for info in self._layout for chunk in self.fingerprint.missing(info.name)]
        work.map(
            lambda chunk: self.fingerprint.add(chunk[0], self._sink.raw(chunk[0])[slice(*chunk[1:])], chunk[1]), chunks
        )
