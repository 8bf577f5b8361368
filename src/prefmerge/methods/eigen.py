"""Eigenvalues and eigenvectors of a symmetric matrix, the same bits on every machine.

    G = V diag(values) V^T,   values in descending order, V^T V = 1

LAPACK's last bits depend on the processor, the library and the number of its threads; those of a merge must not. So:
reflections make G tridiagonal, QL steps with implicit shifts make that diagonal, and the rotations and reflections that
did it, applied to the identity, give V (Golub and Van Loan, Matrix Computations, section 8.3). Every sum has one order,
and threads share out whole columns. Values are right to about 1e-16 of the largest.

Shapes: K rows and columns, float64. Cost: about 9 K^3 operations, two to three times the time of LAPACK on one thread
(K = 1024: 0.7 s), and two more K x K matrices. Not here: matrices that are not symmetric.
"""

from __future__ import annotations

import math

import numpy as np

from prefmerge.errors import MethodError
from prefmerge.vectors.kernel_cache import kernel
from prefmerge.vectors.workspace import Workspace, spans

WIDE = 64  # columns that are turned together: with 1024 rows half a MiB, which a core's own cache holds
ROTATIONS = 1 << 16  # kept before they are applied
STEPS = 60  # for one eigenvalue; two are usual
EPSILON = 2.0**-52


def eigen(matrix_KK: np.ndarray, work: Workspace, *, steps: int = STEPS) -> tuple[np.ndarray, np.ndarray]:
    """The eigenvalues, shape (K,), and the eigenvectors, the columns of a (K, K). `matrix_KK` is overwritten. Raises
    MethodError where an eigenvalue takes more than so many steps, which no finite matrix was seen to do.
    """
    size = len(matrix_KK)
    diagonal, beside, factors = np.zeros(size), np.zeros(size), np.zeros(size)
    tridiagonal(matrix_KK, diagonal, beside, factors)
    least = EPSILON / 16 * max(np.abs(diagonal).max(initial=0.0), np.abs(beside).max(initial=0.0))
    turned_KK = work.allocate(size * size, np.float64).reshape(size, size)
    turned_KK[:] = 0
    np.fill_diagonal(turned_KK, 1)
    tiles, state = spans(size, WIDE), np.zeros(2, np.int64)
    cosines, sines = np.empty(max(ROTATIONS, size)), np.empty(max(ROTATIONS, size))
    rows = np.empty(cosines.size, np.int64)
    while state[0] < size:
        count = ql_steps(diagonal, beside, least, steps, state, cosines, sines, rows)
        if count < 0:
            raise MethodError(
                f"the singular values of a matrix with a side of {size} were not found in {steps} steps each. This is "
                "a bug of prefmerge, or the matrix holds numbers of very different size: use another method."
            )
        found = (cosines[:count], sines[:count], rows[:count])
        work.map(lambda tile, found=found: turn(turned_KK, *tile, *found), tiles)
    order = np.argsort(-diagonal, kind="stable")
    vectors_KK = work.allocate(size * size, np.float64).reshape(size, size)
    for low, high in tiles:
        vectors_KK[:, low:high] = turned_KK[order[low:high]].T
    work.map(lambda tile: reflect(matrix_KK, factors, vectors_KK, *tile), tiles)
    return diagonal[order], vectors_KK


@kernel
def tridiagonal(matrix, diagonal, beside, factors):
    """Make a symmetric matrix tridiagonal: reflection k, 1 - factors[k] u u^T, leaves of row k the diagonal and what is
    beside it. Its u is kept in that row, right of the diagonal. What a reflection changes is written while the next
    one looks at it.
    """
    size = matrix.shape[0]
    v, w, sums = np.zeros(size), np.zeros(size), np.zeros(size)
    for k in range(size):
        for j in range(k, size):
            matrix[k, j] -= v[k] * w[j] + w[k] * v[j]
        diagonal[k] = matrix[k, k]
        if k + 1 == size:
            break
        u = matrix[k, k + 1 :]
        first, rest = u[0], 0.0
        for j in range(1, u.size):
            rest += u[j] * u[j]
        factor, beside[k] = 0.0, first
        if rest > 0.0:
            beside[k] = math.sqrt(first * first + rest)
            if first > 0.0:
                beside[k] = -beside[k]
            u[0] = first - beside[k]
            factor = 2.0 / (u[0] * u[0] + rest)
        factors[k] = factor
        vs, ws, ps = v[k + 1 :], w[k + 1 :], sums[k + 1 :]
        ps[:] = 0.0
        for i in range(u.size):
            row, a, b, c = matrix[k + 1 + i, k + 1 :], vs[i], ws[i], u[i] * factor
            for j in range(row.size):
                value = row[j] - (a * ws[j] + b * vs[j])
                row[j] = value
                ps[j] += c * value
        along = 0.0
        for i in range(u.size):
            along += ps[i] * u[i]
        along *= factor / 2.0
        for i in range(u.size):
            vs[i] = u[i] if factor > 0.0 else 0.0
            ws[i] = ps[i] - along * vs[i]


@kernel
def ql_steps(diagonal, beside, least, steps, state, cosines, sines, rows):
    """QL steps on a tridiagonal matrix until it is diagonal or the rotations fill their arrays. `state`: from which row
    on it is not diagonal, and how many steps that row has had. What is beside the diagonal counts as zero from `least`
    down. Returns how many rotations there are, each of `rows[i]` and the next; -1 after `steps` for one row.
    """
    size, count = diagonal.size, 0
    at, tried = state[0], state[1]
    while at < size:
        end = at
        while end + 1 < size and abs(beside[end]) > max(least, EPSILON * (abs(diagonal[end]) + abs(diagonal[end + 1]))):
            end += 1
        if end == at:
            at, tried = at + 1, 0
            continue
        if count + end - at > cosines.size:
            break
        if tried == steps:
            return -1
        tried += 1
        half = (diagonal[at + 1] - diagonal[at]) / (2.0 * beside[at])
        root = math.sqrt(half * half + 1.0)
        bulge = diagonal[end] - diagonal[at] + beside[at] / (half + (root if half >= 0.0 else -root))
        sine, cosine, moved = 1.0, 1.0, 0.0
        split = False
        for i in range(end - 1, at - 1, -1):
            out, kept = sine * beside[i], cosine * beside[i]
            length = math.sqrt(out * out + bulge * bulge)
            beside[i + 1] = length
            if length == 0.0:
                diagonal[i + 1] -= moved
                split = True
                break
            sine, cosine = out / length, bulge / length
            before = diagonal[i + 1] - moved
            turned = (diagonal[i] - before) * sine + 2.0 * cosine * kept
            moved = sine * turned
            diagonal[i + 1] = before + moved
            bulge = cosine * turned - kept
            cosines[count], sines[count], rows[count] = cosine, sine, i
            count += 1
        beside[end] = 0.0
        if not split:
            diagonal[at] -= moved
            beside[at] = bulge
    state[0], state[1] = at, tried
    return count


@kernel
def turn(matrix, low, high, cosines, sines, rows):
    """Apply rotations to the columns from `low` to `high`: each to a row and the next. In a copy, because rows that lie
    a power of two apart drive one another out of the cache.
    """
    tile = matrix[:, low:high].copy()
    for r in range(rows.size):
        cosine, sine = cosines[r], sines[r]
        first, second = tile[rows[r]], tile[rows[r] + 1]
        for j in range(first.size):
            a, b = first[j], second[j]
            first[j] = cosine * a - sine * b
            second[j] = sine * a + cosine * b
    matrix[:, low:high] = tile


@kernel
def reflect(reflections, factors, matrix, low, high):
    """Apply the reflections of `tridiagonal`, the last first, to the columns from `low` to `high`."""
    sums, tile = np.empty(high - low), matrix[:, low:high].copy()
    for k in range(factors.size - 2, -1, -1):
        if factors[k] == 0.0:
            continue
        sums[:] = 0.0
        for i in range(k + 1, factors.size):
            row, u = tile[i], reflections[k, i]
            for j in range(sums.size):
                sums[j] += u * row[j]
        for i in range(k + 1, factors.size):
            row, u = tile[i], reflections[k, i] * factors[k]
            for j in range(sums.size):
                row[j] -= u * sums[j]
    matrix[:, low:high] = tile
