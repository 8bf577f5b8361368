"""Imports point one way, and the core stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "prefmerge"
# From the bottom of the design's list to its top: a module may import from its own row and the rows before it.
LAYERS = [
    "errors",
    "version",
    "plotting",
    "runs",
    "preference",
    "checkpoints",
    "methods",
    "merging",
    "similarity",
    "analysis",
    "targets",
    "continual",
    "search",
    "prefer",
    "experiment",
    "demo",
    "cli",
    "__main__",
]


def layer_of(module: str) -> int | None:
    parts = module.split(".")
    return LAYERS.index(parts[1]) if parts[0] == "prefmerge" and len(parts) > 1 and parts[1] in LAYERS else None


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_one_way(path: Path):
    relative = path.relative_to(SOURCE.parent).with_suffix("")
    own = layer_of(".".join(relative.parts))
    if own is None:
        assert path == SOURCE / "__init__.py", f"{relative} belongs to no layer; add it to LAYERS at its place"
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            layer = layer_of(name)
            assert layer is None or layer <= own, f"{relative} imports {name}, which lies above it"


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_loads_nothing_heavy():
    loaded = python("import sys, prefmerge, prefmerge.cli; print(*sorted(sys.modules))").split()
    assert not {"numpy", "numba", "pydantic", "torch", "transformers", "matplotlib"} & set(loaded)


def test_merging_safetensors_needs_no_torch(tmp_path: Path):
    python(
        f"""
        import sys
        for name in ("torch", "transformers", "matplotlib", "sklearn", "scipy"):
            sys.modules[name] = None  # an import of it fails, as where it is not installed
        import numpy as np
        from safetensors.numpy import save_file
        import prefmerge
        rng = np.random.default_rng(0)
        for name in ("base", "a", "b"):
            save_file({{"w": rng.standard_normal((8, 8)).astype(np.float32)}}, r"{tmp_path}/" + name + ".safetensors")
        from prefmerge.cli import main
        sys.argv = ["prefmerge", "merge", r"{tmp_path}/base.safetensors", r"{tmp_path}/a.safetensors",
                    r"{tmp_path}/b.safetensors", "-o", r"{tmp_path}/out", "--prefer", "0.8,0.2"]
        try:
            main()
        except SystemExit as done:
            assert not done.code, done.code
        assert prefmerge.verify(r"{tmp_path}/out")
        try:
            prefmerge.open_checkpoint(r"{tmp_path}/x.pt")
        except prefmerge.PrefmergeError:
            pass
        """
    )
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert (tmp_path / "out" / "receipt.json").is_file()
