"""A folder with checkpoints for recipe files."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("base", "cars", "birds", "digits"):
        (tmp_path / f"{name}.safetensors").touch()
    return tmp_path
