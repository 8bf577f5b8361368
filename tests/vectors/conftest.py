"""A module with one kernel, in a folder of its own."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numba
import pytest

from prefmerge.vectors import kernel_cache

SOURCE = """
from prefmerge.vectors.kernel_cache import kernel

@kernel
def add(x, y):
    return x + y
"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module with a kernel, in a process that has not spoken of trouble yet."""
    monkeypatch.setattr(kernel_cache, "_told", set())
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # what lies in __pycache__ is then ours alone
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "sums.py").write_text(SOURCE)
    return folder / "sums.py"


@pytest.fixture
def nowhere(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, with no folder that can be written but the one for temporary files, which is returned."""
    (source.parent / "__pycache__").write_text("a file where the folder would be")
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(source / "below"))
    temporary = tmp_path / "temporary"
    temporary.mkdir(mode=0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return temporary
