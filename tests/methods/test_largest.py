"""The k largest magnitudes of a scope against sorting them all: counted or sorted, in one section or several."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefmerge.methods import largest
from prefmerge.methods.largest import SomeMagnitudes, find_cuts
from prefmerge.vectors.workspace import Workspace

VALUES = st.sampled_from([0.0, -0.0, 1e-45, 1.0, -1.0, np.nextafter(np.float32(1), 2), 2.0, -3.5, 3.4e38])
TENSORS = st.lists(st.lists(VALUES, max_size=12), min_size=1, max_size=4)


def survivors(tensors: list[np.ndarray], keep: int) -> list[np.ndarray]:
    """The k largest of all; of equals those of the first tensor and the first index."""
    flat = np.concatenate(tensors)
    order = sorted(range(flat.size), key=lambda i: (-abs(float(flat[i])), i))
    kept = np.zeros_like(flat)
    kept[order[:keep]] = flat[order[:keep]]
    return np.split(kept, np.cumsum([tensor.size for tensor in tensors])[:-1])


def cut(tensors: list[np.ndarray], keeps: list[int], sections: int, block: int) -> list[list[np.ndarray]]:
    """What `find_cuts` leaves of the tensors for every k, trimmed block by block."""
    parts = [list(part) for part in np.array_split(np.arange(len(tensors)), sections)]

    def reader_of(part: list[int]) -> largest.Read:
        def read(tensor: int, start: int, stop: int, out: np.ndarray) -> None:
            out[:] = tensors[part[tensor]][start:stop]

        return read

    with Workspace() as work:
        asked = [SomeMagnitudes([tensors[i].size for i in part], reader_of(part), work) for part in parts]

        def ask(question, /, *given, each=None):
            ones = [()] * len(asked) if each is None else [(one,) for one in each]
            return [question(section, *one, *given) for section, one in zip(asked, ones, strict=True)]

        find_cuts(keeps, sum(tensor.size for tensor in tensors), ask)
        found: list[list[np.ndarray]] = []
        for n in range(len(keeps)):
            trimmed = [tensor.copy() for tensor in tensors]
            for section, part in zip(asked, parts, strict=True):
                for own, i in enumerate(part):
                    for start in range(0, trimmed[i].size, block):
                        values = trimmed[i][start : start + block]
                        section.cuts[n].trim(values, own, start, reader_of(part), work)
            found.append(trimmed)
    return found


@pytest.mark.parametrize("few", [0, largest.FEW], ids=["counted", "sorted"])
@settings(deadline=None)
@given(TENSORS, st.lists(st.floats(0, 1), min_size=1, max_size=2), st.integers(1, 3), st.sampled_from([3, 100]))
def test_the_largest_survive(few: int, values: list[list[float]], parts: list[float], sections: int, block: int):
    tensors = [np.array(one, np.float32) for one in values]
    elements = sum(tensor.size for tensor in tensors)
    keeps = [round(part * elements) for part in parts]
    with mock.patch.object(largest, "FEW", few):
        found = cut(tensors, keeps, sections, block)
    for keep, trimmed in zip(keeps, found, strict=True):
        for got, expected in zip(trimmed, survivors(tensors, keep), strict=True):
            np.testing.assert_array_equal(got, expected)


def test_both_ways_agree_where_one_begins() -> None:
    """A scope of one value more than is sorted, and of as many: the first values of both are the same."""
    values = np.random.default_rng(0).integers(-60, 60, largest.FEW + 1).astype(np.float32)
    for size in (largest.FEW, largest.FEW + 1):
        tensors = [values[:size]]
        for keep in (0, 1, 100, size - 1, size):
            (found,) = cut(tensors, [keep], 1, 1 << 16)
            np.testing.assert_array_equal(found[0], survivors(tensors, keep)[0])
