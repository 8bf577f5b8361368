"""Heads as files, without torch: those of runs, and those that were adapted to a target.

    logits = scale <e / |e|, w_c> + bias_c

prefmerge-head/1: `head.weight` (C, E), rows of unit norm. prefmerge-head/2: rows of any norm, and `head.bias` (C): the
log prior and the fitted bias of a target; `scale` has the temperature in it. A reader of /1 refuses /2, whose rows
alone would answer differently. Cost: one small file. Not here: making a head (`heads`, `prefmerge.target`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prefmerge.errors import RunError

FORMATS = ("prefmerge-head/1", "prefmerge-head/2")
_ABOUT = "prefmerge"  # the entry of the metadata; one, because safetensors orders several differently each time


@dataclass(frozen=True, eq=False)
class FrozenHead:
    """`rows` (C, E) float32; `bias` (C,) float32, or None; `scale` multiplies the cosines."""

    rows: np.ndarray
    scale: float
    classes: tuple[str, ...]
    kind: str
    bias: np.ndarray | None = None

    def logits(self, units: np.ndarray) -> np.ndarray:
        """(N, C) of embeddings of unit norm (N, E)."""
        cosines = self.scale * (units @ self.rows.T.astype(np.float64))
        return cosines if self.bias is None else cosines + self.bias

    def to_bytes(self) -> bytes:
        """The safetensors file: format 2 with a bias, else format 1."""
        from safetensors.numpy import save

        about = {
            "format": FORMATS[0 if self.bias is None else 1],
            "scale": float(self.scale),
            "kind": self.kind,
            "classes": list(self.classes),
        }
        tensors = {"head.weight": np.ascontiguousarray(self.rows, np.float32)}
        if self.bias is not None:
            tensors["head.bias"] = np.ascontiguousarray(self.bias, np.float32)
        return save(tensors, {_ABOUT: json.dumps(about, ensure_ascii=False)})


def read_head(file: Path) -> FrozenHead:
    """The head in a file of either format. Raises RunError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            about = json.loads((opened.metadata() or {}).get(_ABOUT, "{}"))
            if about.get("format") not in FORMATS:
                raise RunError(
                    f"{file}: no head: its metadata says format {about.get('format')!r}, expected "
                    f"{' or '.join(map(repr, FORMATS))}. Give the head.safetensors of a run of `prefmerge finetune`, "
                    "or of an output of `prefmerge adapt`."
                )
            rows = opened.get_tensor("head.weight")
            bias = opened.get_tensor("head.bias") if about["format"] == FORMATS[1] else None
        head = FrozenHead(rows, float(about["scale"]), tuple(about["classes"]), str(about["kind"]), bias)
    except FileNotFoundError:
        raise RunError(
            f"{file}: no such file, expected a run's head. `prefmerge finetune` writes it before the first task."
        ) from None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file}: cannot be read as a head: {error}. Take it from the run again.") from error
    if rows.ndim != 2 or len(rows) != len(head.classes) or (bias is not None and bias.shape != (len(rows),)):
        raise RunError(f"{file}: rows of shape {rows.shape} for {len(head.classes)} classes do not match.")
    return head
