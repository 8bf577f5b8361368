"""OPCM as it is published: one task after the other, the merged model scaled after each (Tang et al. 2025).

    U S V^T = M,   A = U^T tau V,   A_ij = 0 for i = j and for i, j < r,   r: the first index where the sum of singular
    values exceeds alpha of all;   M <- (lambda M + U A V^T) (mean length) / |lambda M + U A V^T|,   lambda: its inverse

Shapes: a tensor of each name for every task, float64. A direction counts where its singular value is above `TINY` of
the largest. Left out: which tensors are matrices.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

TINY = 1e-6

Vectors = Mapping[str, np.ndarray]


def cleaned(merged: np.ndarray, tau: np.ndarray, alpha: float) -> np.ndarray:
    """What of tau is new to the merged matrix."""
    u, s, vt = np.linalg.svd(merged, full_matrices=True)
    rank = int((s > TINY * s[0]).sum()) if s[0] > 0 else 0
    closed, total = 0, 0.0
    for value in s[:rank]:
        total += value
        if alpha < 1 and total > alpha * s[:rank].sum():
            break
        closed += 1
    inside = u.T @ tau @ vt.T
    for i in range(inside.shape[0]):
        for j in range(inside.shape[1]):
            if (i == j and i < rank) or (i < closed and j < closed):
                inside[i, j] = 0.0
    return u @ inside @ vt


def length(vectors: Vectors) -> float:
    return float(np.sqrt(sum((v**2).sum() for v in vectors.values())))


def merge(tasks: Sequence[Vectors], alpha: float, matrices: Collection[str]) -> dict[str, np.ndarray]:
    """The merged task vector."""
    merged, before, lengths = dict(tasks[0]), 1.0, [length(tasks[0])]
    for tau in tasks[1:]:
        lengths.append(length(tau))
        mean = sum(lengths) / len(lengths)
        added = {
            name: before * own + (cleaned(own, tau[name], alpha) if name in matrices else tau[name])
            for name, own in merged.items()
        }
        before = length(added) / mean
        merged = {name: values / before for name, values in added.items()}
    return merged
