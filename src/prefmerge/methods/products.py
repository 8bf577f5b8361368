"""Scalar products between vectors of one tensor: over all of it, over its rows, or over its columns.

    G[r, i, j] = sum over the elements of row r of v_i v_j

Sums are float64, over fixed stretches of elements in fixed lanes, and the stretches are added in their order: no block
size and no number of threads changes a bit. Shapes: K vectors, R rows, hence (R, K, K). Cost: one reading of the
vectors, K stretches per thread, and what `made` keeps of each row. Not here: what angles and lengths decide.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from prefmerge.methods.protocol import Deltas
from prefmerge.vectors.kernel_cache import kernel
from prefmerge.vectors.workspace import Workspace, spans

STRETCH = 1 << 15  # elements
LANES = 16
MOST = 1 << 19  # products held at a time

ReadVector = Callable[[int, int, int, np.ndarray], None]  # (vector, start, stop, float64 to fill)
OfRows = Callable[[np.ndarray], np.ndarray]  # of G (R, K, K), something with R rows


def base_and_tasks(deltas: Deltas, work: Workspace) -> ReadVector:
    """Vector 0 is the base, vector t + 1 the task vector of task t."""

    def read(vector: int, start: int, stop: int, out: np.ndarray) -> None:
        if vector == 0:
            out[:] = deltas.base(start, stop)
            return
        tau = work.buffer("products-tau", stop - start)
        deltas.read(vector - 1, start, stop, tau)
        out[:] = tau

    return read


def over_rows(read: ReadVector, vectors: int, size: int, width: int, work: Workspace, made: OfRows) -> np.ndarray:
    """`made` of every row of `width` elements, one after the other."""

    def products(span: tuple[int, int], row: int) -> np.ndarray:
        start, stop = span
        values_KP = _values(read, vectors, start, stop, work)
        gram_RKK = np.empty(((stop - start) // row, vectors, vectors))
        row_products(values_KP, row, gram_RKK)
        return gram_RKK

    if width <= STRETCH:
        rows = max(1, min(STRETCH // width, MOST // vectors**2))
        groups = spans(size, rows * width)
        parts = work.map(lambda span: made(products(span, width)), groups)
    else:
        parts = []
        for start, _ in spans(size, width):
            stretches = [(start + low, start + high) for low, high in spans(width, STRETCH)]
            grams = work.map(lambda span: products(span, span[1] - span[0]), stretches)
            parts.append(made(functools.reduce(np.add, grams)))
    return np.concatenate(parts) if parts else made(np.empty((0, vectors, vectors)))


def over_columns(read: ReadVector, vectors: int, size: int, width: int, work: Workspace, made: OfRows) -> np.ndarray:
    """`made` of every column of a matrix with rows of `width` elements: element p belongs to column p % width."""
    rows = max(1, STRETCH // width)

    def products(span: tuple[int, int]) -> np.ndarray:
        low, high = span
        gram_RKK = np.zeros((high - low, vectors, vectors))
        for start in range(0, size, rows * width):
            stop = min(start + rows * width, size)
            if high - low < width:  # one row at a time, of which this is a part
                start, stop = start + low, start + high
            column_products(_values(read, vectors, start, stop, work), gram_RKK)
        return made(gram_RKK)

    return np.concatenate(work.map(products, spans(width, STRETCH)))


def _values(read: ReadVector, vectors: int, start: int, stop: int, work: Workspace) -> np.ndarray:
    values_KP = work.buffer("products", (vectors, stop - start), np.float64)
    for vector in range(vectors):
        read(vector, start, stop, values_KP[vector])
    return values_KP


@kernel
def row_products(values_KP, width, gram_RKK):
    """The products of all pairs of vectors, row by row. Each lane adds every 16th element."""
    lanes = np.empty(LANES)
    for r in range(gram_RKK.shape[0]):
        start, stop = r * width, (r + 1) * width
        whole = start + (stop - start) // LANES * LANES
        for i in range(values_KP.shape[0]):
            for j in range(i + 1):
                lanes[:] = 0.0
                for first in range(start, whole, LANES):
                    for lane in range(LANES):
                        lanes[lane] += values_KP[i, first + lane] * values_KP[j, first + lane]
                for p in range(whole, stop):
                    lanes[p - whole] += values_KP[i, p] * values_KP[j, p]
                total = 0.0
                for lane in range(LANES):
                    total += lanes[lane]
                gram_RKK[r, i, j] = total
                gram_RKK[r, j, i] = total


@kernel
def column_products(values_KP, gram_RKK):
    """Add the products of all pairs of vectors to those of their column."""
    columns = gram_RKK.shape[0]
    for first in range(0, values_KP.shape[1], columns):
        for c in range(columns):
            for i in range(values_KP.shape[0]):
                for j in range(values_KP.shape[0]):
                    gram_RKK[c, i, j] += values_KP[i, first + c] * values_KP[j, first + c]


@kernel
def spread(of_rows, start, width, columns, out):
    """out = what the row of each element has, or its column, from element `start` on."""
    for p in range(out.size):
        out[p] = of_rows[(start + p) % width if columns else (start + p) // width]
