"""What float32 says of an element is what float64 says of it, and what is kept in memory changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from prefmerge.methods import Settings, kernels, largest, optimal, settling
from prefmerge.methods.protocol import Rule
from prefmerge.methods.tunable import TunableMagmax
from prefmerge.preference import Preference
from prefmerge.vectors.workspace import Workspace
from tests.methods.problems import Arrays

SIZE, TASKS = 5000, 6


@pytest.mark.parametrize("kind", ["walk", "ties", "far prices", "tiny", "zeros"])
@pytest.mark.parametrize("step", [True, False])
def test_a_block_is_settled_as_its_elements_are_one_by_one(kind: str, step: bool):
    rng = np.random.default_rng(3)
    tau_QB = np.cumsum(rng.standard_normal((TASKS, SIZE)), axis=0).astype(np.float32)
    if kind == "ties":
        tau_QB = np.round(tau_QB * 2) / 2
    if kind == "tiny":
        tau_QB *= np.float32(1e-42)
    if kind == "zeros":
        tau_QB[:, 100:] = 0
    own_P, before_P = np.arange(TASKS), np.arange(TASKS) - 1 if step else np.full(TASKS, -1)
    rms_P = np.full(TASKS, 1e-42 if kind == "tiny" and step else 1.5 if step else 1, np.float32)
    scale = 1e-42 if kind == "tiny" and not step else 1.0
    price_P = rng.random(TASKS) * (1e9 if kind == "far prices" else scale)
    bound_PP = price_P[:, None] - price_P[None, :] + 0.1 * rng.random((TASKS, TASKS)) * scale
    np.fill_diagonal(bound_PP, -np.inf)
    places, noise = (own_P, before_P, rms_P, price_P, bound_PP, np.arange(TASKS) + 3, np.uint64(77)), 1e-9
    owner, merged, settled_P = np.full(SIZE, kernels.FREE), np.zeros(SIZE, np.float32), np.zeros(TASKS, np.int64)
    owner[::9] = 200  # somebody's already
    free, listed = np.flatnonzero(owner == kernels.FREE), np.empty(SIZE, np.int64)
    again, values, counts, left = owner.copy(), merged.copy(), settled_P.copy(), np.empty(SIZE, np.int64)
    total, count = settling.settle(tau_QB, *places, 0, noise, owner, merged, settled_P, listed)
    rows = np.ascontiguousarray(tau_QB[:, free].T)
    other, number = settling.settle_rows(rows, *places, free, noise, again, values, counts, left)
    assert owner.tobytes() == again.tobytes()
    assert merged.tobytes() == values.tobytes()
    assert settled_P.tolist() == counts.tolist()
    assert listed[:count].tolist() == free[left[:number]].tolist()
    assert total == pytest.approx(other, rel=1e-12)  # the same terms in another order
    assert (merged[::9] == 0).all()
    assert settled_P.sum() > 0 or kind == "zeros" or scale < noise


@pytest.mark.parametrize("importance", ["magnitude", "step"])
def test_without_memory_the_same_elements_get_the_same_values(importance: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(optimal, "ROWS", 1 << 15)
    monkeypatch.setattr(optimal, "SAMPLE", 1 << 13)
    rng = np.random.default_rng(0)
    deltas = Arrays(np.cumsum(rng.standard_normal((TASKS, 30_000)), axis=0).astype(np.float32))
    shares = Preference.parse("alpha:0.8").shares("abcdef")
    how = Settings(TASKS, shares=shares, values={"selection": "optimal", "importance": importance})

    def merged(rule: Rule, work: Workspace) -> bytes:
        out = np.full(deltas.size, np.nan, np.float32)
        for start in range(0, deltas.size, 7000):
            stop = min(start + 7000, deltas.size)
            rule.block(0, start, stop, out[start:stop], work)
        return out.tobytes()

    with Workspace() as work, Workspace(memory=0) as poor, Workspace(block=100, threads=2) as small:
        rules = [TunableMagmax().prepare([deltas], how, one) for one in (work, poor, small)]
        before = deltas.readings
        first = merged(rules[0], work)
        assert deltas.readings == before  # the values were kept
        assert merged(rules[1], poor) == merged(rules[2], small) == first
        assert deltas.readings > before  # and here they were not
    assert rules[0].report == rules[1].report == rules[2].report


@pytest.mark.parametrize("keep", [1, 3000, 70_000, 150_000])
@pytest.mark.parametrize("memory", [0, 1 << 30])
def test_a_first_block_that_says_nothing_of_the_others_changes_no_cut(keep: int, memory: int):
    rng = np.random.default_rng(1)
    values = rng.standard_normal(200_000).astype(np.float32)
    values[: largest.STRETCH] *= np.float32(1e-3)
    values[-50_000:] = np.round(values[-50_000:] * 16) / 16  # and many equals

    def read(tensor: int, start: int, stop: int, out: np.ndarray) -> None:
        out[:] = values[start:stop]

    with Workspace(memory=memory) as work:
        (cut,) = largest.cuts([values.size], read, [keep], work)
        kept = values.copy()
        cut.trim(kept, 0, 0, read, work)
    assert cut.value == np.sort(np.abs(values))[-keep]
    assert np.count_nonzero(kept) == keep
    last = np.flatnonzero((np.abs(values) == np.float32(cut.value)) & (kept == 0))
    earlier = np.flatnonzero((np.abs(values) == np.float32(cut.value)) & (kept != 0))
    assert not last.size or earlier.max() < last.min()  # the first of equals are kept
