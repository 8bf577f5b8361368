"""A folder with checkpoints for recipe files, and what a merge fills."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prefmerge.merging import engine


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("base", "cars", "birds", "digits"):
        (tmp_path / f"{name}.safetensors").touch()
    return tmp_path


@pytest.fixture
def filled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tensors that this process has filled since, by name."""
    names: list[str] = []
    ready = engine._Merge.ready  # pyright: ignore[reportPrivateUsage]

    def counted(self: Any, filling: Any) -> Any:
        names.append(filling.entry.name)
        return ready(self, filling)

    monkeypatch.setattr(engine._Merge, "ready", counted)  # pyright: ignore[reportPrivateUsage]
    return names
