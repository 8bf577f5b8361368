"""Adds to a merged matrix what of another is new to it.

    M = U diag(sigma) V^T,   A = U^T tau V,   r: the most with sigma_1 + .. + sigma_r <= alpha sum sigma
    M <- M + tau - sum over (i <= r and j <= r) or i = j of A_ij u_i v_j^T

U is never formed. With G = M^T M = V diag(sigma^2) V^T and u_i = M v_i / sigma_i the last sum is M B,

    B = sum over the same (i, j) of (v_i^T M^T tau v_j) / sigma_i^2  v_i v_j^T

so all that is K x K comes from two products, M^T M and M^T tau, and the N rows of M are read twice: K is the smaller
side, a wide matrix is taken as its transpose. A direction with sigma_i <= TINY sigma_1 is none of M's: an SVD has any
vectors there, and what it says of them is rounding.

Sums are float64, in the order of the rows; the merged matrix stays float32, as the tasks are. So no block size, number
of threads or machine changes a bit (`eigen`). Cost: 6 N K^2 + 20 K^3 operations (1024 x 1024: 1.3 s of one thread,
30,000 x 1024: 11 s, 2048 x 2048: 12 s), five K x K matrices of float64 (40 MB for K = 1024, 670 MB for 4096). Not here:
which tensors are matrices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prefmerge.methods.eigen import eigen
from prefmerge.vectors.kernel_cache import kernel
from prefmerge.vectors.workspace import Workspace, spans

TINY = 1e-6  # of the largest singular value: their squares are known to 1e-16 of its square, and float32 to 6e-8
PANEL = 1 << 17  # numbers of a few rows that are float64 at a time
COLUMNS = 256  # of a product that one thread makes
TILE = 256  # columns of a product that are made while their factors lie in the cache


def add_new(merged_NM: np.ndarray, tau_NM: np.ndarray, alpha: float, work: Workspace) -> None:
    """Add to `merged_NM`, float32, what of `tau_NM` is new to it. Shapes: any two sides, none of them 0."""
    tall = merged_NM.shape[0] >= merged_NM.shape[1]
    merged_NK, tau_NK = (merged_NM, tau_NM) if tall else (merged_NM.T, tau_NM.T)
    known_KK = _known(merged_NK, tau_NK, alpha, work)
    if known_KK is None:
        merged_NM += tau_NM
        return
    size = len(known_KK)

    def add(span: tuple[int, int]) -> None:
        first, last = span
        ours_KP = _filled("opcm-turned", merged_NK[first:last].T, work)
        new_PK = work.buffer("opcm-new", (last - first, size), np.float64)
        new_PK[:] = 0
        product(ours_KP, 0, known_KK, new_PK)
        np.subtract(tau_NK[first:last], new_PK, out=new_PK)
        new_PK += merged_NK[first:last]
        merged_NK[first:last] = new_PK

    work.map(add, _panels(merged_NK))


def _known(merged_NK: np.ndarray, tau_NK: np.ndarray, alpha: float, work: Workspace) -> np.ndarray | None:
    """B; None where nothing is merged yet."""
    size = merged_NK.shape[1]

    def matrix(rows: int, columns: int = size) -> np.ndarray:
        made = work.allocate(rows * columns, np.float64).reshape(rows, columns)
        made[:] = 0
        return made

    gram_KK, cross_KK = matrix(size), matrix(size)

    def products(span: tuple[int, int]) -> None:
        low, high = span
        for first, last in _panels(merged_NK):
            ours_PK = _filled("opcm-merged", merged_NK[first:last], work)
            theirs_PK = _filled("opcm-task", tau_NK[first:last], work)
            product(ours_PK, low, ours_PK, gram_KK[low:high])
            product(ours_PK, low, theirs_PK, cross_KK[low:high])

    work.map(products, spans(size, COLUMNS))
    squares_K, vectors_KK = eigen(gram_KK, work)
    if squares_K[0] <= 0:
        return None
    kept = int(np.count_nonzero(squares_K > TINY**2 * squares_K[0]))
    within = np.cumsum(np.sqrt(squares_K[:kept]))
    block = int(np.count_nonzero(within <= alpha * within[-1]))
    rows_RK = matrix(kept)
    rows_RK[:] = vectors_KK[:, :kept].T

    across_RK = matrix(kept)  # V^T M^T tau
    _multiply(vectors_KK, cross_KK, across_RK, work)
    own_R = np.empty(kept)
    row_products(across_RK, rows_RK, own_R)
    among_BB = matrix(block, block)
    _multiply(np.ascontiguousarray(across_RK[:block].T), np.ascontiguousarray(vectors_KK[:, :block]), among_BB, work)
    among_BB /= squares_K[:block, None]
    across_RK[:] = rows_RK
    across_RK *= (own_R / squares_K[:kept])[:, None]
    across_RK[:block] = 0
    _multiply(np.ascontiguousarray(among_BB.T), rows_RK[:block], across_RK[:block], work)
    gram_KK[:] = 0
    _multiply(rows_RK, across_RK, gram_KK, work)
    return gram_KK


def _multiply(a_KI: np.ndarray, b_KJ: np.ndarray, out_IJ: np.ndarray, work: Workspace) -> None:
    """out += the first len(out) rows of a^T b."""
    work.map(
        lambda span: product(a_KI, span[0], b_KJ, out_IJ[span[0] : span[1]]),
        spans(len(out_IJ), COLUMNS),
    )


def _panels(matrix_NK: np.ndarray) -> Sequence[tuple[int, int]]:
    rows, columns = matrix_NK.shape
    return spans(rows, max(8, min(256, PANEL // columns)))


def _filled(name: str, values: np.ndarray, work: Workspace) -> np.ndarray:
    made = work.buffer(name, values.shape, np.float64)
    made[:] = values
    return made


@kernel
def product(a, first, b, out):
    """out[i, j] += sum over k of a[k, first + i] b[k, j], one k after the other."""
    whole = b.shape[0] // 4 * 4
    for low in range(0, out.shape[1], TILE):
        high = min(low + TILE, out.shape[1])
        for k in range(0, whole, 4):
            b0, b1, b2, b3 = b[k, low:high], b[k + 1, low:high], b[k + 2, low:high], b[k + 3, low:high]
            for i in range(out.shape[0]):
                a0, a1, a2, a3 = a[k, first + i], a[k + 1, first + i], a[k + 2, first + i], a[k + 3, first + i]
                row = out[i, low:high]
                for j in range(row.size):
                    row[j] = (((row[j] + a0 * b0[j]) + a1 * b1[j]) + a2 * b2[j]) + a3 * b3[j]
        for k in range(whole, b.shape[0]):
            b0 = b[k, low:high]
            for i in range(out.shape[0]):
                a0, row = a[k, first + i], out[i, low:high]
                for j in range(row.size):
                    row[j] += a0 * b0[j]


@kernel
def row_products(a, b, out):
    """The scalar product of each row of a with that of b."""
    for i in range(out.size):
        total = 0.0
        for j in range(a.shape[1]):
            total += a[i, j] * b[i, j]
        out[i] = total
