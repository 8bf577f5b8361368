"""The way between two vectors along a circle, from their scalar products.

    factors: sin((1 - t) phi) / sin(phi) of the first, sin(t phi) / sin(phi) of the second
             1 - t and t where they are straight

Arrays have one entry for each pair. Not here: what counts as straight.
"""

from __future__ import annotations

import numpy as np

from prefmerge.methods.elementary import arc_cosine, sine
from prefmerge.vectors.kernel_cache import kernel


def cosines(first: np.ndarray, both: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The cosines of the angles, from the products of the first with itself, of both, and of the second with itself; 0
    where one is zero.
    """
    lengths = np.sqrt(np.maximum(first, 0)) * np.sqrt(np.maximum(second, 0))
    quotient = np.divide(both, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return np.clip(quotient, -1.0, 1.0)


def arc_factors(cosine: np.ndarray, t: float, straight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The factors of the first and of the second vector."""
    first, second = np.empty_like(cosine), np.empty_like(cosine)
    _fill(cosine, t, straight, first, second)
    return first, second


@kernel
def _fill(cosine, t, straight, first, second):
    for r in range(cosine.size):
        if straight[r]:
            first[r], second[r] = 1.0 - t, t
        else:
            phi = arc_cosine(cosine[r])
            whole = sine(phi)
            first[r], second[r] = sine((1.0 - t) * phi) / whole, sine(t * phi) / whole
