"""The names of what a target and the tasks can be compared by. Cost: none; nothing else is imported."""

from __future__ import annotations

from typing import Literal

FeatureKind = Literal["ot", "cosine", "mmd"]  # of embedded inputs
InputsKind = Literal["estimate", "ot", "cosine", "mmd"]  # how shares come from inputs
SimilarityKind = Literal["label", "ot", "cosine", "mmd"]
Solver = Literal["sinkhorn", "exact", "debiased"]  # of optimal transport
