"""What is in a merged model and in the task vectors that it is made of. NumPy, no torch.

ownership.py     who owns what, per task and layer, from a receipt; a checkpoint's tensors
layer_types.py   layer norm, attention, MLP, ...: what a tensor is, from its name and shape
task_vectors.py  `measure`: one streamed reading of a base and its tasks
kernels.py       the loops over elements
measured.py      what was measured: sign conflicts, magnitudes, distributions, angles; JSON
inspecting.py    `prefmerge.inspect`: a merged model, or task vectors
findings.py      what the numbers say, a sentence each
figures.py       the pictures of the papers' analyses
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefmerge.analysis import figures, findings
from prefmerge.analysis.layer_types import LAYER_TYPES, layer_type
from prefmerge.analysis.measured import Measured, MeasuredPart, Signs, Spread
from prefmerge.analysis.ownership import By, Inventory, OwnedRow, Ownership, draw, layers, look, ownership

if TYPE_CHECKING:
    from prefmerge.analysis.task_vectors import measure

__all__ = [
    "LAYER_TYPES",
    "By",
    "Inventory",
    "Measured",
    "Ownership",
    "MeasuredPart",
    "OwnedRow",
    "Signs",
    "Spread",
    "draw",
    "figures",
    "findings",
    "layer_type",
    "layers",
    "look",
    "measure",
    "ownership",
]


def __getattr__(name: str) -> Any:
    if name == "measure":  # numba takes longer to import than a receipt to read
        from prefmerge.analysis.task_vectors import measure

        return measure
    raise AttributeError(f"module 'prefmerge.analysis' has no attribute {name!r}")
