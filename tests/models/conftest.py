"""Tiny models of every kind, made once; and copies to change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from tests.models.tiny import MAKERS

    root = tmp_path_factory.mktemp("models")
    return {name: make(root / name) for name, make in MAKERS.items()}


@pytest.fixture
def copied(folders: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """The same, to be broken."""
    return {name: Path(shutil.copytree(folder, tmp_path / "models" / name)) for name, folder in folders.items()}
