"""A folder with tiny checkpoints under the names that the help texts use, and a way to call the command line in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from prefmerge.cli import app

RECIPE = """\
merge_method: tunable_magmax
base_model: base.safetensors
models:
  - model: cars.safetensors
  - model: birds.safetensors
parameters:
  prefer: cars=0.3,birds=0.7
  scale: 0.5
"""


def tensors(seed: int) -> dict[str, np.ndarray]:
    """Two blocks, a head, a scalar and an integer buffer."""
    rng = np.random.default_rng(seed)
    shapes = {"layers.0.w": (10, 10), "layers.1.w": (50,), "head.w": (4, 2), "scale": ()}
    floats = {name: np.asarray(rng.standard_normal(shape), np.float32) for name, shape in shapes.items()}
    return {**floats, "ids": np.arange(3)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "seen.csv").write_text("label\nsedan\nsedan\nvan\nowl\n")
    (tmp_path / "counts.json").write_text('{"cars": {"sedan": 30, "van": 30}, "birds": {"owl": 20, "jay": 20}}')
    for seed, name in enumerate(("base", "cars", "birds")):
        save_file(tensors(seed), tmp_path / f"{name}.safetensors")
        (tmp_path / name).mkdir()
        save_file(tensors(seed), tmp_path / name / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "base" / "config.json").write_text('{"model_type": "tiny"}')
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Result:
    """What a call did: exit code, stdout, stderr, and the exception that no command line should let through."""

    def __init__(self, line: str) -> None:
        found = CliRunner().invoke(app, line.split(), prog_name="prefmerge")
        self.code, self.stdout, self.stderr = found.exit_code, found.stdout, found.stderr
        self.exception = None if isinstance(found.exception, SystemExit) else found.exception


@pytest.fixture
def call(folder: Path) -> Callable[[str], Result]:
    return Result
