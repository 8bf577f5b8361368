"""Sums of floats are the same under every Python: from 3.12 on the built-in `sum` gives back what rounding loses, so
methods add with `math.fsum`, NumPy or their kernels.
"""

from __future__ import annotations

import pkgutil
from builtins import sum as built_in
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import prefmerge.methods
from prefmerge import merge
from prefmerge.methods import METHODS

SIZE = 3 * 65_536 + 7  # elements: several stretches, whose sums are added up
FEW = {"slerp": 1, "arcee_fusion": 1, "nuslerp": 2, "passthrough": 0}  # tasks, of methods that take so many
MORE: dict[str, dict[str, Any]] = {
    "breadcrumbs": {"density": 0.7, "gamma": 0.1, "rescale": True},
    "breadcrumbs_ties": {"density": 0.7, "gamma": 0.1, "rescale": True},
    "linear": {"weights": [0.1, 0.7, 0.3]},
    "nuslerp": {"weights": [0.1, 0.7]},
    "tunable_magmax": {"importance": "step", "sequential": True},
}


def strict(values: Iterable[Any], start: Any = 0) -> Any:
    """The built-in `sum`, but of floats nothing."""
    listed = [start, *values]
    assert not any(isinstance(value, float) for value in listed), "sums of floats: math.fsum"
    return built_in(listed[1:], start)


@pytest.mark.parametrize("method", METHODS)
def test_no_method_adds_floats_with_the_built_in(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"{name}.safetensors" for name in ("base", "t1", "t2", "t3")][: 1 + FEW.get(method, 3)]
    for seed, path in enumerate(paths):
        values = np.random.default_rng(seed).standard_normal((SIZE // 13, 13)).astype(np.float32)
        save_file({"w": values, "b": values[:13, 0]}, path)
    for module in pkgutil.iter_modules(prefmerge.methods.__path__, "prefmerge.methods."):
        monkeypatch.setattr(import_module(module.name), "sum", strict, raising=False)
    merge(paths[0], paths[1:], tmp_path / "out.safetensors", threads=1, method=method, **MORE.get(method, {}))
