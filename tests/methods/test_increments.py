"""`increments` against slow loops and laws, and the way to the last checkpoint in `tunable_magmax`."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import prefmerge
from prefmerge import merge_state_dicts
from prefmerge.checkpoints.dtypes import DTYPES, from_float32, from_float64, to_float32
from prefmerge.errors import MethodError, UsageError
from prefmerge.runs import FILE, Run, RunTask
from tests.methods.problems import gaussian, state_dicts


def by_hand(base: np.ndarray, tasks: list[np.ndarray], kept: list[Fraction]) -> np.ndarray:
    """theta_0 + sum lambda_t (theta_t - theta_{t-1}), element by element in exact fractions."""
    models = [base, *tasks]
    merged = []
    for p in range(base.size):
        rows = [Fraction(float(m.reshape(-1)[p])) for m in models]
        merged.append(rows[0] + sum(k * (b - a) for k, a, b in zip(kept, rows, rows[1:], strict=False)))
    return np.array([float(v) for v in merged])


@pytest.mark.parametrize(
    ("start", "boost", "drop", "scale"),
    [("1", "1", "0", 1), ("0.75", "2", "0", 1), ("1", "0", "0.5", 1), ("0.5", "2", "0.25", 0.5), ("0", "1", "0", 1.25)],
)
def test_is_the_sum_of_increments(start: str, boost: str, drop: str, scale: float):
    base, tasks = gaussian(4, 200)
    shares = [Fraction(7, 10), Fraction(1, 100), Fraction(0), Fraction(29, 100)]
    kept = [
        Fraction(scale) * (Fraction(start) + Fraction(boost) * s - (Fraction(drop) if s < Fraction(1, 50) else 0))
        for s in shares
    ]
    merged, _ = merge_state_dicts(
        base, tasks, method="increments", preference="0.7,0.01,0,0.29", start=start, boost=boost, drop=drop, scale=scale
    )
    expected = by_hand(base["w"], [t["w"] for t in tasks], kept)
    # Rounded once to float32: the float64 sum is off by 1e-15, half a unit in float32's last place is 6e-8 of a value.
    np.testing.assert_allclose(merged["w"], expected, rtol=6.1e-8, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_by_default_it_is_the_last_checkpoint_bit_for_bit(dtype: str, tmp_path: Path):
    rng = np.random.default_rng(1)
    kind = np.dtype(getattr(ml_dtypes, dtype)) if dtype == "bfloat16" else np.dtype(dtype)
    shapes = {"a.weight": (33, 7), "b": (5,), "scalar": (), "empty": (0, 2)}

    def model() -> dict[str, np.ndarray]:
        found = {name: np.asarray(rng.standard_normal(shape), kind) for name, shape in shapes.items()}
        found["b"][0] = -0.0
        found["tied"] = found["a.weight"]
        return found | {"frozen": np.ones(4, kind), "positions": np.arange(3), "head": np.asarray([1, 2], kind)}

    models = [model() for _ in range(4)]
    merged, receipt = merge_state_dicts(models[0], models[1:], method="increments", exclude=["head"])
    for name, values in models[-1].items():
        expected = models[0][name] if name in ("head", "positions") else values
        assert merged[name].dtype == expected.dtype
        assert merged[name].tobytes() == expected.tobytes(), name
    assert merged["tied"] is merged["a.weight"]
    assert receipt.to_json()["recipe"]["start"] == "1"
    assert receipt.to_json()["inputs"]["tasks"][0]["covers"] == "header"  # a checkpoint without a factor is not read


def test_float64_keeps_what_float32_cannot_hold():
    base = {"w": np.array([1.0, 2.0])}
    tasks = [{"w": np.array([1.0 + 1e-12, 2.0])}, {"w": np.array([1.0 + 3e-12, 2.5])}]
    merged, _ = merge_state_dicts(base, tasks, method="increments", preference="1,0", boost=1)
    np.testing.assert_allclose(merged["w"], [1.0 + 4e-12, 2.5], rtol=0, atol=1e-15)


@pytest.mark.parametrize("start", ["0.7", "1"])
def test_what_is_equal_in_all_checkpoints_stays_as_it_is(start: str):
    base, tasks = state_dicts(5)
    merged, _ = merge_state_dicts(base, tasks, method="increments", preference="0.5,0.3,0.2,0,0", start=start, boost=1)
    assert merged["untouched"].tobytes() == base["untouched"].tobytes()
    assert not np.array_equal(merged["deep.weight"], tasks[-1]["deep.weight"])


def test_task_vector_files_and_models_give_the_same(tmp_path: Path):
    base, tasks = gaussian(3, 400)
    paths = []
    for name, state in zip(("base", "a", "b", "c"), (base, *tasks), strict=True):
        paths.append(tmp_path / f"{name}.safetensors")
        save_file(state, paths[-1])
    vector = tmp_path / "b-vector.safetensors"
    prefmerge.merge(paths[0], [paths[2]], vector, method="last", as_task_vector=True)
    how: dict[str, Any] = {"method": "increments", "preference": "0.6,0.3,0.1", "boost": "1"}
    whole = prefmerge.merge(paths[0], paths[1:], tmp_path / "whole.safetensors", **how)
    mixed = prefmerge.merge(
        paths[0], [paths[1], vector, paths[3]], tmp_path / "mixed.safetensors", names=["a", "b", "c"], **how
    )
    a, b = (prefmerge.open_checkpoint(tmp_path / f"{n}.safetensors").raw("w") for n in ("whole", "mixed"))
    # The vector was rounded to float32 when it was written, so one unit in the last place may differ.
    np.testing.assert_allclose(a, b, rtol=2.4e-7)
    assert whole.to_json()["shares"] == mixed.to_json()["shares"]
    prefmerge.verify(tmp_path / "whole.safetensors", rerun=True)


def test_the_merged_task_vector_is_the_model_less_the_base(tmp_path: Path):
    base, tasks = gaussian(3, 300)
    how: dict[str, Any] = {"method": "increments", "preference": "0.6,0.3,0.1", "boost": "1"}
    model, _ = merge_state_dicts(base, tasks, **how)
    vector, _ = merge_state_dicts(base, tasks, as_task_vector=True, **how)
    # Two roundings to float32 of values up to 4: 2.4e-7 each.
    np.testing.assert_allclose(vector["w"], model["w"].astype(np.float64) - base["w"], rtol=0, atol=5e-7)


def test_rounds_once_to_bfloat16():
    # Just above the middle of two bfloat16 numbers by less than float32 can hold: rounding twice would go down.
    value = np.array([1 + 2**-8 + 2**-40, -(1 + 2**-8 + 2**-40), 1 + 2**-8, 1 + 3 * 2**-8 - 2**-40, 0.0, 1e300])
    stored = from_float64(value, DTYPES["BF16"])
    expected = [1 + 2**-7, -(1 + 2**-7), 1.0, 1 + 2**-7, 0.0, np.inf]
    np.testing.assert_array_equal(to_float32(stored, DTYPES["BF16"]), np.array(expected, np.float32))


def test_rounding_from_float64_agrees_with_float32_where_that_is_exact():
    rng = np.random.default_rng(0)
    values = rng.standard_normal(5000).astype(np.float32)
    for code in ("F32", "F16", "BF16", "F64"):
        dtype = DTYPES[code]
        expected = values.astype(np.float64) if code == "F64" else from_float32(values, dtype)
        np.testing.assert_array_equal(from_float64(values.astype(np.float64), dtype), expected)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"method": "increments"}, "method 'increments' looks at what each task changed after the one before it"),
        ({"toward_last": "0.5"}, "toward_last looks at what each task changed after the one before it"),
    ],
)
def test_refuses_checkpoints_that_were_trained_independently(how: dict[str, Any], told: str, tmp_path: Path):
    base, tasks = gaussian(2, 50)
    (tmp_path / "tasks").mkdir()
    for name, state in zip(("base", "tasks/a", "tasks/b"), (base, *tasks), strict=True):
        save_file(state, tmp_path / f"{name}.safetensors")
    listed = tuple(RunTask(name, f"tasks/{name}.safetensors") for name in "ab")
    run = Run(tmp_path, "independent", "base.safetensors", listed)
    (tmp_path / FILE).write_text(json.dumps(run.to_json()))
    paths = [tmp_path / f"tasks/{n}.safetensors" for n in "ab"]
    with pytest.raises(MethodError, match=told):
        prefmerge.plan(tmp_path / "base.safetensors", paths, **how)


def test_other_methods_do_not_take_its_settings():
    base, tasks = gaussian(2, 50)
    with pytest.raises(UsageError, match="--boost has no use with method magmax; it is for increments"):
        merge_state_dicts(base, tasks, method="magmax", boost="1")
    with pytest.raises(UsageError, match="--toward-last has no use with method increments; it is for tunable_magmax"):
        merge_state_dicts(base, tasks, method="increments", toward_last="0.5")
    with pytest.raises(MethodError, match="toward_last: expected a number from 0 to 1, found 2"):
        merge_state_dicts(base, tasks, toward_last="2")


@pytest.mark.parametrize("selection", ["paper", "optimal"])
def test_toward_last_goes_from_the_owners_value_to_the_last_one(selection: str):
    base, tasks = gaussian(4, 600)
    how: dict[str, Any] = {"preference": "0.6,0.4,0,0", "selection": selection, "scale": "1"}
    without, receipt = merge_state_dicts(base, tasks, **how)
    half, same = merge_state_dicts(base, tasks, toward_last="0.5", **how)
    whole, _ = merge_state_dicts(base, tasks, toward_last="1", **how)
    assert receipt.owned == same.owned == (360, 240, 0, 0)
    # Values of about 1 rounded to float32 three times: 6e-8 each.
    np.testing.assert_allclose(half["w"], (without["w"].astype(float) + tasks[-1]["w"]) / 2, rtol=0, atol=5e-7)
    np.testing.assert_array_equal(whole["w"], base["w"] + (tasks[-1]["w"] - base["w"]))


def test_toward_last_reaches_tensors_that_only_the_last_task_changed():
    base = {"w": np.zeros(100, np.float32), "late": np.zeros(10, np.float32)}
    tasks = [{"w": base["w"] + 1, "late": base["late"]}, {"w": base["w"] + 2, "late": base["late"] + 4}]
    merged, _ = merge_state_dicts(base, tasks, preference="1,0", selection="paper", toward_last="0.25", scale="1")
    np.testing.assert_array_equal(merged["late"], np.full(10, 1, np.float32))
    np.testing.assert_array_equal(merged["w"], np.full(100, 1.25, np.float32))
