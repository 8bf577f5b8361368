"""Samples of features drawn for tests, and what every test of similarities needs."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

NAMES = ("cars", "birds", "digits")


@st.composite
def two_samples(draw: st.DrawFn, least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """A task's sample and the target's, of a few whole-numbered points: many coincide."""
    width = draw(st.integers(1, 3))
    sizes = draw(st.integers(least, 6)), draw(st.integers(least, 6))
    number = st.integers(-3, 3)
    x, y = (draw(st.lists(st.tuples(*[number] * width), min_size=n, max_size=n)) for n in sizes)
    return np.array(x, float).reshape(-1, width), np.array(y, float).reshape(-1, width)


def gaussians(seed: int, rows: tuple[int, int] = (40, 25), width: int = 6) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Features of three tasks and, by each task's encoder, of one target that resembles the first most."""
    rng = np.random.default_rng(seed)
    tasks = [rng.standard_normal((rows[0], width)) + 1 for _ in NAMES]
    away = 2 * np.eye(width)[0]
    target = [rng.standard_normal((rows[1], width)) + 1 + t * away for t in range(len(NAMES))]
    return tasks, target
