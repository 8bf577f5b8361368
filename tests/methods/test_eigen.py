"""Eigenvalues and eigenvectors against LAPACK's, and the same bits however the work is cut."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from prefmerge.errors import MethodError
from prefmerge.methods import eigen as module
from prefmerge.methods.eigen import eigen
from prefmerge.vectors.workspace import Workspace


def gram(size: int, rank: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((rank, size))
    return rows.T @ rows


MATRICES: dict[str, Callable[[], np.ndarray]] = {
    "one": lambda: np.array([[3.0]]),
    "two": lambda: np.array([[1.0, 2.0], [2.0, -5.0]]),
    "full": lambda: gram(90, 200),
    "low rank": lambda: gram(70, 5),
    "zeros": lambda: np.zeros((6, 6)),
    "identity": lambda: np.eye(9),
    "repeated": lambda: np.diag([1.0, 4.0, 1.0, 4.0, 0.0, 4.0]),
    "graded": lambda: gram(40, 40) * np.outer(x := 2.0 ** -np.arange(40), x),
    "tiny": lambda: gram(30, 30) * 2.0**-280,
    "large": lambda: gram(30, 30) * 2.0**250,
    "split": lambda: np.block([[gram(8, 9), np.zeros((8, 7))], [np.zeros((7, 8)), gram(7, 7, 1)]]),
}


@pytest.mark.parametrize("name", MATRICES)
def test_is_right(name: str):
    matrix = MATRICES[name]()
    with Workspace() as work:
        values, vectors = eigen(matrix.copy(), work)
    expected = np.linalg.eigvalsh(matrix)[::-1]
    most = max(np.abs(expected).max(), 1e-300)
    np.testing.assert_allclose(values / most, expected / most, rtol=0, atol=1e-14)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(len(matrix)), rtol=0, atol=1e-13)
    np.testing.assert_allclose((vectors * values) @ vectors.T / most, matrix / most, rtol=0, atol=1e-13)


def test_no_cut_of_the_work_changes_a_bit(monkeypatch: pytest.MonkeyPatch):
    matrix = gram(150, 150)
    with Workspace() as work:
        values, vectors = eigen(matrix.copy(), work)
    monkeypatch.setattr(module, "WIDE", 7)
    monkeypatch.setattr(module, "ROTATIONS", 1)
    with Workspace(threads=3, memory=0) as work:
        again, others = eigen(matrix.copy(), work)
        assert work.spilled
    assert (again.tobytes(), others.tobytes()) == (values.tobytes(), vectors.tobytes())


def test_a_power_of_two_scales_exactly():
    matrix = gram(40, 40)
    with Workspace() as work:
        values, vectors = eigen(matrix.copy(), work)
        larger, same = eigen(matrix * 16, work)
    assert (larger / 16).tobytes() == values.tobytes()
    assert same.tobytes() == vectors.tobytes()


def test_says_where_it_does_not_come_to_an_end():
    with Workspace() as work, pytest.raises(MethodError, match="a side of 20 were not found in 1 steps each"):
        eigen(gram(20, 20), work, steps=1)
