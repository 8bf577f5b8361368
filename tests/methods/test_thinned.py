"""Breadcrumbs and DELLA: what of a task vector is kept, and how large it then is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from prefmerge import merge_state_dicts
from prefmerge.errors import MethodError
from prefmerge.methods.keyed import GOLDEN, key
from tests.methods.problems import gaussian, state_dicts
from tests.oracles import methods as oracle

SHAPES: dict[str, tuple[int, ...]] = {
    "matrix": (6, 50),
    "wide": (4, 3, 5),
    "vector": (40,),
    "scalar": (),
    "thin": (9, 1),
}


def merged(base: Any, tasks: Any, **settings: Any) -> dict[str, np.ndarray]:
    return merge_state_dicts(base, tasks, **settings)[0]


def zeros_and_task(seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    task = {name: np.asarray(rng.standard_normal(shape), np.float32) for name, shape in SHAPES.items()}
    return {name: np.zeros_like(values) for name, values in task.items()}, task


# Breadcrumbs


def crumbs(tau: np.ndarray, density: float, gamma: float, rescale: bool) -> np.ndarray:
    """In the order of a sort, the last indices among equals first."""
    flat, size = tau.reshape(-1).astype(np.float64), tau.size
    keep = int(density * size)
    dropped = min(int(gamma * size), size - keep)
    order = sorted(range(size), key=lambda p: (-abs(flat[p]), p))
    result = np.zeros(size)
    for p in order[dropped : dropped + keep]:
        result[p] = flat[p]
    if rescale and np.abs(result).sum():
        result *= np.abs(flat).sum() / np.abs(result).sum()
    return result.reshape(tau.shape)


@pytest.mark.parametrize(("density", "gamma"), [(0.9, 0.01), (0.5, 0.2), (0.3, 0), (0.6, 0.9), (0.05, 0.5)])
@pytest.mark.parametrize("rescale", [False, True])
def test_breadcrumbs_of_one_task(density: float, gamma: float, rescale: bool):
    base, task = zeros_and_task()
    result = merged(base, [task], method="breadcrumbs", density=density, gamma=gamma, rescale=rescale)
    for name, tau in task.items():
        np.testing.assert_allclose(result[name], crumbs(tau, density, gamma, rescale), rtol=3e-7, err_msg=name)


@pytest.mark.parametrize("block", [3, 1 << 16])
def test_breadcrumbs_orders_equal_magnitudes_by_index(block: int):
    base, tasks = state_dicts(1)  # steps are multiples of 1/64
    how: dict[str, Any] = {"method": "breadcrumbs", "density": 0.4, "gamma": 0.3, "block": block}
    result = merged(base, tasks, **how)
    for name in ("deep.weight", "deep.bias"):
        kept = crumbs(tasks[0][name] - base[name], 0.4, 0.3, False)
        np.testing.assert_array_equal(result[name], base[name] + kept.astype(np.float32))


def test_equal_magnitudes_far_apart_keep_their_order():
    """More than a stretch of them: the first in the tensor are the largest."""
    size = 200_000
    base, task = {"w": np.zeros(size, np.float32)}, {"w": np.ones(size, np.float32)}
    result = merged(base, [task], method="breadcrumbs", density=0.5, gamma=0.1)["w"]
    assert not result[:20_000].any()
    assert result[20_000:120_000].all()
    assert not result[120_000:].any()


@pytest.mark.parametrize("normalize", [False, True])
def test_breadcrumbs_are_summed_as_the_oracle_does(normalize: bool):
    base, tasks = gaussian(3, 300)
    weights, densities, gammas = [1, 0.5, 2], [0.3, 0.6, 0.8], [0.2, 0.1, 0.05]
    taus = [task["w"] - base["w"] for task in tasks]
    rows = [crumbs(tau, d, g, False) for tau, d, g in zip(taus, densities, gammas, strict=True)]
    how: dict[str, Any] = {"weights": weights, "density": densities, "gamma": gammas, "normalize": normalize}
    total = sum(weight * row for weight, row in zip(weights, rows, strict=True)) / (3.5 if normalize else 1)
    result = merged(base, tasks, method="breadcrumbs", **how)["w"]
    np.testing.assert_allclose(result, base["w"] + total, rtol=0, atol=1e-6)
    elected = oracle.ties_vector(np.array(rows), weights, normalize)
    result = merged(base, tasks, method="breadcrumbs_ties", **how)["w"]
    np.testing.assert_allclose(result, base["w"] + elected, rtol=0, atol=1e-6)


# DELLA


def keep_probability(tau: np.ndarray, density: float, epsilon: float) -> np.ndarray:
    """Of every element, row by row: by loops over pairs."""
    rows = tau.reshape(tau.shape[0], -1) if tau.ndim > 1 else tau.reshape(1, -1)
    result = np.full(rows.shape, density)
    for row, values in zip(result, np.abs(rows), strict=True):
        for i, x in enumerate(values):
            rank = (values < x).sum() + ((values == x).sum() - 1) / 2
            if values.size > 1:
                row[i] = density - epsilon + 2 * epsilon * rank / (values.size - 1)
    return result.reshape(tau.shape)


def draws(tensor: str, task: int, size: int, seed: int = 0) -> np.ndarray:
    """The keyed numbers as parts of 1, by the formula of `keyed`."""
    numbers = []
    for p in range(size):
        z = (int(key(seed, tensor, "della", task)) + p * int(GOLDEN)) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        numbers.append(((z ^ (z >> 31)) >> 11) / 2**53)
    return np.array(numbers)


@pytest.mark.parametrize(("density", "epsilon"), [(0.5, 0.15), (0.8, 0.1), (0.3, 0)])
@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("block", [7, 1 << 16])
def test_della_of_one_task_is_the_oracles(density: float, epsilon: float, rescale: bool, block: int):
    base, task = zeros_and_task()
    task["vector"][5:9] = 0.25  # equals
    how: dict[str, Any] = {"density": density, "epsilon": epsilon, "rescale": rescale, "block": block}
    result = merged(base, [task], method="della_linear", **how)
    for name, tau in task.items():
        part = keep_probability(tau, density, epsilon)
        kept = draws(name, 0, tau.size).reshape(tau.shape) < part
        np.testing.assert_allclose(result[name], kept * tau / (part if rescale else 1), rtol=3e-7, err_msg=name)


def test_della_keeps_each_element_as_often_as_its_rank_says_and_is_unbiased():
    rng = np.random.default_rng(0)
    tau = rng.standard_normal(40).astype(np.float32)
    base, task = {"w": np.zeros(40, np.float32)}, {"w": tau}
    seeds = 600
    results = np.array(
        [merged(base, [task], method="della_linear", density=0.4, epsilon=0.3, seed=seed)["w"] for seed in range(seeds)]
    )
    part = keep_probability(tau, 0.4, 0.3)
    assert part.mean() == pytest.approx(0.4)
    assert (np.abs((results != 0).mean(axis=0) - part) < 5 * np.sqrt(part * (1 - part) / seeds)).all()
    spread = np.abs(tau) * np.sqrt((1 / part - 1) / seeds)
    assert (np.abs(results.mean(axis=0) - tau) < 5 * spread).all()


def test_a_row_longer_than_what_is_sorted_at_a_time_gives_the_same(monkeypatch: pytest.MonkeyPatch):
    base, tasks = gaussian(2, 5000)
    expected = merged(base, tasks, method="della", density=0.5)["w"]
    monkeypatch.setattr("prefmerge.methods.della.LONG", 100)
    assert merged(base, tasks, method="della", density=0.5, block=64, threads=2)["w"].tobytes() == expected.tobytes()


def test_without_dropping_they_are_plain_sums():
    base, tasks = gaussian(3, 500)
    how: dict[str, Any] = {"weights": [1, 0.5, -2], "scale": 0.7, "normalize": False}
    plain = merged(base, tasks, method="task_arithmetic", **how)["w"]
    elected = merged(base, tasks, method="ties", density=1, **how)["w"]
    for method, expected in (("linear", plain), ("", elected)):
        della = f"della_{method}".rstrip("_")
        np.testing.assert_array_equal(merged(base, tasks, method=della, density=1, **how)["w"], expected)
    for method, expected in (("breadcrumbs", plain), ("breadcrumbs_ties", elected)):
        np.testing.assert_array_equal(merged(base, tasks, method=method, density=1, **how)["w"], expected)


@pytest.mark.parametrize(("density", "epsilon"), [(0.9, 0.15), (0.1, 0.1)])
def test_a_probability_beyond_0_or_1_is_refused(density: float, epsilon: float):
    base, tasks = gaussian(1, 10)
    with pytest.raises(MethodError, match=r"both must lie between 0 and 1\. Give a smaller epsilon\.$"):
        merged(base, tasks, method="della", density=density, epsilon=epsilon)
