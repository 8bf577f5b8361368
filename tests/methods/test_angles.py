"""Methods that only need lengths and angles, against float64 loops over whole tensors."""

from __future__ import annotations

import itertools
import math
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest

from prefmerge import merge_state_dicts
from prefmerge.methods import elementary, products
from prefmerge.vectors.workspace import Workspace
from tests.methods.problems import Arrays, gaussian

SHAPES: dict[str, tuple[int, ...]] = {
    "matrix": (5, 7),
    "wide": (3, 4, 2),
    "vector": (9,),
    "scalar": (),
    "one": (1,),
    "empty": (0, 3),
    "no rows": (2, 0),
}
State = dict[str, np.ndarray]


def models(tasks: int, seed: int = 0, step: float = 0.3) -> tuple[State, list[State]]:
    rng = np.random.default_rng(seed)
    base = {name: np.asarray(rng.standard_normal(shape), np.float32) for name, shape in SHAPES.items()}
    changed = [
        {name: np.asarray(x + step * rng.standard_normal(x.shape), np.float32) for name, x in base.items()}
        for _ in range(tasks)
    ]
    return base, changed


def merged(base: State, tasks: list[State], **settings: Any) -> State:
    return merge_state_dicts(base, tasks, **settings)[0]


def close(result: np.ndarray, expected: np.ndarray) -> None:
    """Three roundings to float32 of values of about 1."""
    np.testing.assert_allclose(result, expected, rtol=0, atol=5e-7)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    lengths = math.sqrt(float((a * a).sum())) * math.sqrt(float((b * b).sum()))
    return max(-1.0, min(1.0, float((a * b).sum()) / lengths)) if lengths else 0.0


def arc(a: np.ndarray, b: np.ndarray, t: float, straight: float) -> np.ndarray:
    cos = cosine(a, b)
    if abs(cos) > straight:
        return (1 - t) * a + t * b
    angle = math.acos(cos)
    return (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)


@pytest.mark.parametrize("t", [0, 0.3, 1, 1.4])
@pytest.mark.parametrize("step", [0.3, 1e-3])  # a wide angle, and one that counts as none
def test_slerp(t: float, step: float):
    base, (task,) = models(1, step=step)
    result = merged(base, [task], method="slerp", t=t)
    for name, start in base.items():
        close(result[name], arc(start.astype(np.float64), task[name].astype(np.float64), t, 0.9995))


def test_slerp_to_a_tensor_of_zeros_is_at_right_angles():
    base, task = {"w": np.zeros(4, np.float32)}, {"w": np.array([1, 2, 3, 4], np.float32)}
    close(merged(base, [task], method="slerp", t=0.5)["w"], task["w"] * math.sqrt(0.5))
    close(merged(task, [base], method="slerp", t=0.5)["w"], task["w"] * math.sqrt(0.5))


def test_slerp_of_what_is_opposite_is_straight():
    base, task = {"w": np.array([1, 2], np.float32)}, {"w": np.array([-1, -2], np.float32)}
    close(merged(base, [task], method="slerp", t=0.25)["w"], base["w"] / 2)


def stock(base: np.ndarray, taus: list[np.ndarray]) -> np.ndarray:
    pairs = [cosine(a, b) for a, b in itertools.combinations(taus, 2)]
    cos, count = sum(pairs) / len(pairs), len(taus)
    below = 1 + (count - 1) * cos
    ratio = count * cos / below if abs(below) >= 1e-6 else 0.0
    return base + ratio * sum(taus) / count


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("filter_wise", [False, True])
@pytest.mark.parametrize("scale", [1, 0.5])
def test_model_stock(count: int, filter_wise: bool, scale: float):
    base, tasks = models(count)
    for task in tasks:  # so that they agree somewhat
        for name in task:
            task[name] = np.asarray(task[name] + np.float32(0.2) * np.sign(base[name]), np.float32)
    result = merged(base, tasks, method="model_stock", filter_wise=filter_wise, scale=scale)
    for name, start in base.items():
        rows = math.prod(start.shape[:-1]) if filter_wise and start.ndim > 1 else 1
        if not start.size:
            continue
        split = start.astype(np.float64).reshape(rows, -1)
        taus = [(task[name].astype(np.float64) - start).reshape(rows, -1) for task in tasks]
        expected = [row + scale * (stock(row, [tau[r] for tau in taus]) - row) for r, row in enumerate(split)]
        close(result[name], np.array(expected).reshape(start.shape))


def test_model_stock_keeps_the_base_where_updates_are_opposite():
    base = {"w": np.array([1, 2, 3], np.float32)}
    tau = np.array([0.5, -0.25, 1], np.float32)
    tasks = [{"w": base["w"] + tau}, {"w": base["w"] - tau}]
    assert merged(base, tasks, method="model_stock")["w"].tobytes() == base["w"].tobytes()


def test_model_stock_of_small_updates_is_that_of_large_ones():
    """Lengths below 1e-3, whose products are below 1e-6."""
    base, tasks = models(3)
    base = {name: np.zeros_like(x) for name, x in base.items()}
    large = merged(base, tasks, method="model_stock")
    small = merged(base, [{n: x * np.float32(2**-20) for n, x in t.items()} for t in tasks], method="model_stock")
    assert all((small[name] * np.float32(2**20)).tobytes() == large[name].tobytes() for name in base)


def along(tensor: np.ndarray, how: dict[str, Any]) -> list[tuple[Any, ...]]:
    """The indices of the vectors of a tensor."""
    if how.get("nuslerp_flatten", True) or tensor.ndim < 2:
        return [(...,)]
    if how.get("nuslerp_row_wise"):
        return [(slice(None), *rest) for rest in np.ndindex(tensor.shape[1:])]
    return list(np.ndindex(tensor.shape[:-1]))


WAYS: list[dict[str, Any]] = [
    {},
    {"nuslerp_row_wise": True},
    {"nuslerp_flatten": False},
    {"nuslerp_flatten": False, "nuslerp_row_wise": True},
]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("weights", [[1, 3], [0.4, -0.1], [1, -1]])
def test_nuslerp(how: dict[str, Any], weights: list[float]):
    base, tasks = models(2)
    t = weights[1] / sum(weights) if sum(weights) else 0.5
    between = merged(base, tasks, method="nuslerp", weights=weights, **how)
    of_models = merged(tasks[0], tasks[1:], method="nuslerp", base_weight=weights[0], weights=weights[1:], **how)
    for name, start in base.items():
        first, second = (task[name].astype(np.float64) for task in tasks)
        expected, mixed = start.astype(np.float64), first.copy()
        for i in along(start, how):
            expected[i] += arc(first[i] - start[i], second[i] - start[i], t, 1 - 1e-15)
            mixed[i] = arc(first[i], second[i], t, 1 - 1e-15)
        np.testing.assert_allclose(between[name], expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(of_models[name], mixed, rtol=1e-6, atol=1e-6)


def on_the_sphere(vectors: list[np.ndarray], steps: int = 200) -> np.ndarray:
    """Their Karcher mean at their mean length."""
    lengths = [math.sqrt(float((x * x).sum())) for x in vectors]
    units = [x / length for x, length in zip(vectors, lengths, strict=True) if length]
    mean = np.add.reduce(units)
    mean = mean / np.sqrt((mean * mean).sum())
    for _ in range(steps):
        logs = np.zeros_like(mean)
        for unit in units:
            angle = math.acos(cosine(mean, unit))
            logs = logs + (angle / math.sin(angle) if angle > 1e-7 else 1) * (unit - math.cos(angle) * mean)
        size = math.sqrt(float((logs * logs).sum())) / len(units)
        if size < 1e-12:
            break
        mean = math.cos(size) * mean + math.sin(size) / size * logs / len(units)
        mean = mean / np.sqrt((mean * mean).sum())
    return mean * sum(lengths) / len(vectors)


@pytest.mark.parametrize("step", [1.0, 0.3, 1e-4])
@pytest.mark.parametrize("with_base", [0, 1])
def test_karcher(step: float, with_base: int):
    base, tasks = models(3, step=step)
    how: dict[str, Any] = {"max_iter": 100, "tol": "1e-9", "base_weight": with_base}
    result = merged(base, tasks, method="karcher", **how)
    for name, start in base.items():
        if start.size > 1:  # numbers alone may be opposite
            several = [*[start] * with_base, *(task[name] for task in tasks)]
            close(result[name], on_the_sphere([x.astype(np.float64) for x in several]))


def test_karcher_of_opposite_and_of_zero_vectors_is_a_number():
    x = np.array([1, 2, -3], np.float32)
    base = {"w": x + 1, "z": np.zeros(3, np.float32)}
    result = merged(base, [{"w": x, "z": x}, {"w": -x, "z": base["z"]}], method="karcher")
    assert np.isfinite(result["w"]).all()
    close(result["z"], x / 2)  # its direction, at the mean length
    same = merged(base, [base, {"w": base["w"], "z": base["z"].copy()}], method="karcher")
    assert all(same[name].tobytes() == base[name].tobytes() for name in base)


@pytest.mark.parametrize(("method", "count"), [("slerp", 1), ("nuslerp", 2), ("karcher", 3), ("model_stock", 3)])
def test_a_tensor_of_many_stretches_is_the_same_for_every_block_and_thread(method: str, count: int):
    base, tasks = gaussian(count, 150_001)
    expected = merged(base, tasks, method=method)["w"]
    assert merged(base, tasks, method=method, block=1000, threads=3)["w"].tobytes() == expected.tobytes()


# What they are made of


@pytest.mark.parametrize("width", [1, 3, 64, 200_000])
@pytest.mark.parametrize("threads", [1, 3])
def test_products_of_rows_and_columns(width: int, threads: int):
    rng = np.random.default_rng(1)
    tau_TP = rng.standard_normal((2, 400_000 // width * width)).astype(np.float32)
    exact = tau_TP.astype(np.float64).reshape(2, -1, width)
    with Workspace(threads=threads, block=100) as work:
        read = products.base_and_tasks(Arrays(tau_TP), work)  # type: ignore[arg-type]
        rows = products.over_rows(read, 3, tau_TP.shape[1], width, work, lambda gram: gram)
        columns = products.over_columns(read, 3, tau_TP.shape[1], width, work, lambda gram: gram)
    np.testing.assert_allclose(rows[:, 1:, 1:], np.einsum("irw,jrw->rij", exact, exact), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(columns[:, 1:, 1:], np.einsum("irw,jrw->wij", exact, exact), rtol=1e-9, atol=1e-9)
    assert not rows[:, 0].any()  # the base of these arrays is zero


def test_functions_from_sums_and_quotients_are_right_to_a_few_units_in_the_last_place():
    rng = np.random.default_rng(0)
    for x in [*rng.uniform(-20, 20, 2000).tolist(), 0.0, math.pi, math.pi / 2]:
        assert abs(elementary.sine(x) - math.sin(x)) < 1e-15
    for x in [*rng.uniform(-1, 1, 2000).tolist(), -1.0, 0.0, 1.0, 1 - 1e-12, 1e-9 - 1]:
        assert math.isclose(elementary.arc_cosine(x), math.acos(x), rel_tol=2e-15, abs_tol=1e-300)
    for x in [*rng.uniform(-690, 50, 2000).tolist(), *rng.uniform(-1, 1, 500).tolist(), 0.0]:
        assert math.isclose(elementary.exponential(x), math.exp(x), rel_tol=2e-15)
    assert elementary.exponential(-1000.0) == 0
    for x in [*np.exp(rng.uniform(-300, 300, 2000)).tolist(), *rng.uniform(0.9, 1.1, 500).tolist()]:
        assert math.isclose(elementary.logarithm(x), math.log(x), rel_tol=2e-15)
    with localcontext() as context:
        context.prec = 60
        for d in [*rng.uniform(-0.99, 5, 300).tolist(), *(10 ** rng.uniform(-12, 0, 300)).tolist(), 0.0]:
            exact = (1 + Decimal(d)) * (1 + Decimal(d)).ln() - Decimal(d)
            assert math.isclose(elementary.divergence(d), float(exact), rel_tol=1e-11)
