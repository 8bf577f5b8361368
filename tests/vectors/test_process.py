"""What the command line keeps libraries from loading, and a process of somebody else does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

pytest.importorskip("scipy", reason="is what is not to be loaded")
PRODUCT = """
import sys
import numba, numpy as np
from prefmerge import merge
merge(sys.argv[1], [sys.argv[1]], sys.argv[2])
print(numba.njit(lambda a, b: np.dot(a, b))(np.ones((2, 3)), np.ones((3, 2)))[0, 0])
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for name in ("base", "task"):
        save_file({"w": np.full((4, 4), len(name), np.float32)}, tmp_path / f"{name}.safetensors")
    return tmp_path / "base.safetensors"


def test_a_merge_that_compiles_loads_no_linear_algebra(base: Path) -> None:
    files = [base, base.with_name("task.safetensors"), "-o", base.with_name("out.safetensors")]
    line = ["-X", "importtime", "-m", "prefmerge", "merge", *files, "--method", "last"]  # of few kernels
    env = os.environ | {"NUMBA_CACHE_DIR": str(base.with_name("empty"))}
    done = subprocess.run([sys.executable, *line], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    assert " numba" in done.stderr
    assert "scipy.linalg._fblas" not in done.stderr


def test_in_a_process_of_somebody_else_products_of_matrices_compile(base: Path) -> None:
    script = PRODUCT.replace("[sys.argv[1]]", "[sys.argv[1].replace('base', 'task')]")
    line = [sys.executable, "-c", script, str(base), str(base.with_name("out.safetensors"))]
    assert subprocess.check_output(line, text=True).strip() == "3.0"
