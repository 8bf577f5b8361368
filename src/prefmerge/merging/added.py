"""What is added to some tensors of a merge before they are written, such as a target's prior to a classifier's bias.

    written = merged + added,   in float32, of the merged elements in the output's number format, then rounded to it

So merging again without it and adding the receipt's numbers gives the same bytes. Shapes: flat, one number for each
element of the tensor. Cost: that of these tensors. Not here: what to add.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from prefmerge.checkpoints import TensorInfo
from prefmerge.checkpoints.dtypes import from_float32, to_float32
from prefmerge.errors import CheckpointMismatch, DtypeOverflow
from prefmerge.merging.sinks import Sink

Added = Mapping[str, np.ndarray]  # tensor -> float32, flat


class Adding:
    """A sink that adds on the way to another. Raises CheckpointMismatch where a tensor is not there or of another
    size.
    """

    def __init__(self, sink: Sink, layout: Sequence[TensorInfo], added: Added) -> None:
        self._sink, self._layout = sink, {info.name: info for info in layout}
        self._added = {name: np.asarray(values, np.float32).reshape(-1) for name, values in added.items()}
        for name, values in self._added.items():
            info = self._layout.get(name)
            if info is None or info.size != values.size or info.dtype.family != "float":
                there = "there is none" if info is None else f"it has shape {info.shape} of {info.dtype.name}"
                raise CheckpointMismatch(
                    f"tensor {name!r}: {values.size} numbers are to be added, and {there} in the base. Give the base "
                    "that they were made for."
                )

    def write(self, name: str, start: int, stored: np.ndarray) -> None:
        if name in self._added:
            dtype, added = self._layout[name].dtype, self._added[name][start : start + stored.size]
            stored = from_float32(to_float32(stored, dtype) + added, dtype)
            if not np.isfinite(to_float32(stored, dtype)).all():
                raise DtypeOverflow(
                    f"tensor {name!r}: the merged values and what is added to them do not fit {dtype.name}. Write a "
                    "wider format (--dtype float32)."
                )
        self._sink.write(name, start, stored)


def entries(added: Added) -> dict[str, list[float]]:
    """For the receipt: each float32 as the number that reads back as itself."""
    return {name: np.asarray(values, np.float32).reshape(-1).tolist() for name, values in added.items()}


def note(added: Added) -> str:
    """One sentence for the receipt."""
    named = ", ".join(f"{name!r} ({np.size(values)} numbers)" for name, values in added.items())
    return f"added to the merged values: {named}; the numbers are in the receipt, under `added`."
