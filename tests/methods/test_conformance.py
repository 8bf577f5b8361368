"""What every registered method must do, and what must not change its bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from prefmerge import merge_state_dicts
from prefmerge.errors import MethodError
from prefmerge.methods import METHODS
from prefmerge.methods.parameters import DENSITY
from tests.methods.problems import gaussian, state_dicts

OPTIONS = {
    "tunable_magmax": [
        {},
        {"sequential": True},
        {"selection": "paper"},
        {"selection": "paper", "preference": "0.7,0.1,0,0.2"},
        {"selection": "paper", "scope": "model", "preference": "alpha:0.5"},
        {"selection": "optimal"},
        {"selection": "optimal", "scope": "model", "importance": "step"},
        {"selection": "printed", "passes": 3},
        {"selection": "released", "preference": "0,0.7,0,0.3"},
        {"selection": "paper", "strength": "0.5", "carry": "0.5", "importance": "step"},
        {"toward_last": "0.5", "selection": "optimal"},
    ],
    "increments": [{}, {"preference": "0.7,0.1,0,0.2", "start": "0.75", "boost": "2", "drop": "0.5"}],
    "ties": [{}, {"scope": "model"}, {"density": 0.5, "weights": [1, 2, 3, -1], "normalize": False}],
    "dare_linear": [{}, {"density": 0.25, "weights": [1, 2, 3, 4], "rescale": False, "normalize": True, "seed": 3}],
    "dare_ties": [{}, {"density": [0.9, 0.5, 1, 0.1], "weights": [1, 2, 3, -1], "normalize": True}],
    "breadcrumbs": [{}, {"density": 0.5, "gamma": 0.2, "weights": [1, 2, 3, -1], "rescale": True, "normalize": True}],
    "breadcrumbs_ties": [{}, {"density": [0.9, 0.5, 1, 0.1], "gamma": [0.3, 0, 0.1, 0.9], "rescale": True}],
    "della_linear": [{}, {"density": 0.3, "epsilon": 0.2, "weights": [1, 2, 3, 4], "rescale": False, "seed": 3}],
    "della": [{}, {"density": [0.8, 0.5, 1, 0.2], "epsilon": [0.1, 0.4, 0.3, 0], "weights": [1, 2, 3, -1]}],
    "linear": [{}, {"weights": [1, 2, 3, 4]}, {"normalize": False}],
    "task_arithmetic": [{}, {"weights": [0.5, 0, -1, 2]}],
    "slerp": [{}, {"t": 0.3}, {"t": 1.5}],
    "nuslerp": [
        {},
        {"weights": [1, 3], "nuslerp_flatten": False},
        {"weights": [2, 1], "nuslerp_flatten": False, "nuslerp_row_wise": True},
    ],
    "karcher": [{}, {"max_iter": 2, "tol": 0.1}],
    "model_stock": [{}, {"filter_wise": True}],
    "sce": [{}, {"select_topk": 0.3}],
    "opcm": [{}, {"alpha": 0.9}],
}
WHOLE: dict[str, dict[str, Any]] = {"slerp": {"t": 1}}  # what keeps all of a task
PARTLY = ("arcee_fusion", "passthrough")  # which take a part of any task, or none
CASES = [(method, options) for method in METHODS for options in OPTIONS.get(method, [{}])]
OWNED = ("tunable_magmax", "magmax", "max_abs", "random_mix", "last")  # of which every element is one task's
named = pytest.mark.parametrize(("method", "options"), CASES, ids=[f"{m}-{i}" for i, (m, _) in enumerate(CASES)])


def of(method: str, wanted: int) -> int:
    """So many tasks, or as near to it as the method merges."""
    one = METHODS[method]
    return max(one.fewest, wanted if one.most is None else min(wanted, one.most))


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and a[k].tobytes() == b[k].tobytes() for k in a
    )


@named
@pytest.mark.parametrize(("block", "threads"), [(1, 1), (7, 2), (4096, 3), (65536, 2)])
def test_the_same_bytes_for_every_block_size_and_thread_count(method: str, options: dict, block: int, threads: int):
    base, tasks = state_dicts(of(method, 4))
    expected, receipt = merge_state_dicts(base, tasks, method=method, threads=1, **options)
    found, other = merge_state_dicts(base, tasks, method=method, threads=threads, block=block, **options)
    assert same(expected, found)
    assert replace(receipt, run=other.run) == other


@named
def test_keeps_names_order_shapes_dtypes_and_what_no_task_changed(method: str, options: dict):
    base, tasks = state_dicts(of(method, 4))
    merged, receipt = merge_state_dicts(base, tasks, method=method, **options)
    assert list(merged) == list(base)
    assert all(merged[k].shape == base[k].shape and merged[k].dtype == base[k].dtype for k in base)
    if options.get("normalize", True) or method != "linear":  # a sum of models moves what no task changed, too
        assert merged["untouched"].tobytes() == base["untouched"].tobytes()
    assert merged["position_ids"].tobytes() == base["position_ids"].tobytes()
    assert receipt.elements.total == sum(v.size for v in base.values())


@named
def test_scale_zero_is_the_base(method: str, options: dict):
    if (options.get("normalize") is False and method == "linear") or method == "passthrough":
        return  # the base is then part of the sum, not only of the differences
    base, tasks = state_dicts(of(method, 4))
    merged, _ = merge_state_dicts(base, tasks, method=method, scale=0, **options)
    assert all(np.array_equal(merged[k], base[k]) for k in base)


@named
def test_scaling_all_deltas_by_a_power_of_two_scales_the_merged_vector(method: str, options: dict):
    if options.get("normalize") is False and method == "linear":
        return  # its merged vector has the base in it
    _, tasks = gaussian(of(method, 4), 500)
    base = {"w": np.zeros(500, np.float32)}
    small, _ = merge_state_dicts(base, tasks, method=method, scale=1, **options)
    large, _ = merge_state_dicts(base, [{"w": t["w"] * 4} for t in tasks], method=method, scale=1, **options)
    # Scaling by 4 is exact in float32, so every comparison and every rounding falls the same way.
    np.testing.assert_array_equal(large["w"], small["w"] * 4)


@named
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_number_formats_are_merged_as_float32_is(method: str, options: dict, dtype: type):
    """Of the same values: sums are those of float32, or of float64, and are rounded to the format at the end."""
    base, tasks = state_dicts(of(method, 4), step=1 / 8)
    half = [
        {name: x.astype(np.float16) if x.dtype == np.float32 else x for name, x in state.items()}
        for state in (base, *tasks)
    ]
    single, other = (
        [{name: x.astype(kind) if x.dtype == np.float16 else x for name, x in state.items()} for state in half]
        for kind in (np.float32, dtype)
    )
    expected, _ = merge_state_dicts(single[0], single[1:], method=method, **options)
    result, _ = merge_state_dicts(other[0], other[1:], method=method, **options)
    for name, values in base.items():
        if values.dtype == np.float32 and values.size:
            assert result[name].dtype == dtype
            narrow = np.float16 if dtype == np.float16 else np.float32
            # One in the last place: increments and passthrough round float64 once, not by way of float32.
            np.testing.assert_array_max_ulp(result[name].astype(narrow), expected[name].astype(narrow), maxulp=1)


@pytest.mark.parametrize("method", [m for m in METHODS if m not in PARTLY])
def test_one_task_at_scale_one_is_that_task_to_one_rounding(method: str):
    """And so are equal tasks, where a method needs several."""
    base, tasks = gaussian(1, 300)
    options: dict[str, Any] = WHOLE.get(method, {"density": 1} if METHODS[method].honours(DENSITY) else {})
    merged, _ = merge_state_dicts(base, tasks * of(method, 1), method=method, scale=1, **options)
    # A method over models gives the task itself; one over differences is a rounding away from it.
    expected = tasks[0]["w"] if method == "increments" else base["w"] + (tasks[0]["w"] - base["w"])
    np.testing.assert_array_equal(merged["w"], expected)


@pytest.mark.parametrize("method", OWNED)
def test_every_element_is_one_tasks_value_bit_for_bit(method: str):
    base, tasks = gaussian(5, 999)
    merged, receipt = merge_state_dicts(base, tasks, method=method, scale=0.3)
    candidates = np.stack([base["w"] + np.float32(0.3) * (t["w"] - base["w"]) for t in tasks])
    owners = candidates.view(np.uint32) == merged["w"].view(np.uint32)
    assert owners.any(axis=0).all()
    assert tuple(owners.sum(axis=1).tolist()) == receipt.owned


@pytest.mark.parametrize("method", [m for m, one in METHODS.items() if one.fewest > 1 or one.most])
def test_a_number_of_tasks_that_it_does_not_merge_is_refused(method: str):
    one = METHODS[method]
    for wrong, wanted in ((one.fewest - 1, one.fewest), ((one.most or 0) + 1, one.most)):
        if wrong and wanted:
            base, tasks = gaussian(wrong, 10)
            with pytest.raises(
                MethodError, match=rf"{method} merges .* {wanted} tasks? with the base, found {wrong}\."
            ):
                merge_state_dicts(base, tasks, method=method)


def test_seed_changes_draws_and_nothing_else():
    base, tasks = gaussian(4, 2000)
    first, _ = merge_state_dicts(base, tasks, selection="paper", seed=1)
    again, _ = merge_state_dicts(base, tasks, selection="paper", seed=1)
    other, receipt = merge_state_dicts(base, tasks, selection="paper", seed=2)
    assert same(first, again)
    assert not same(first, other)
    assert receipt.owned == (500,) * 4


def test_tensor_order_in_the_dict_changes_nothing():
    base, tasks = state_dicts(4)
    how: dict[str, Any] = {"selection": "paper", "scope": "model", "preference": "0.1,0.2,0.3,0.4"}
    backwards, _ = merge_state_dicts(dict(reversed(base.items())), tasks, **how)
    forwards, _ = merge_state_dicts(base, tasks, **how)
    assert same(forwards, {k: backwards[k] for k in forwards})


def test_relabelling_tasks_of_equal_magnitude_relabels_owners():
    rng = np.random.default_rng(3)
    magnitude = rng.random(400).astype(np.float32)
    base = {"w": np.zeros(400, np.float32)}
    signs = [rng.choice([-1, 1], 400).astype(np.float32) for _ in range(3)]
    tasks = [{"w": magnitude * s} for s in signs]
    shares = ["0.5", "0.3", "0.2"]
    _, receipt = merge_state_dicts(base, tasks, selection="paper", preference=",".join(shares))
    _, relabelled = merge_state_dicts(base, tasks[::-1], selection="paper", preference=",".join(shares[::-1]))
    assert receipt.owned == (200, 120, 80)
    assert relabelled.owned == (80, 120, 200)
