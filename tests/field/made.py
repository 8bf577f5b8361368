"""Small checkpoints, and what the tests of cases from the field look at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from prefmerge import open_checkpoint
from prefmerge.errors import (
    CheckpointNotFound,
)

State = dict[str, np.ndarray]
LONGEST = 1500  # characters of a message


def state(seed: int, **more: np.ndarray) -> State:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal((6, 5)).astype(np.float32) for name in ("a.weight", "b.weight")} | more


def put(path: Path, tensors: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), path, metadata or {"format": "pt"})
    return path


def write(path: Path, content: Any = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def values(path: Path | str) -> State:
    checkpoint = open_checkpoint(path)
    return {name: checkpoint.raw(name).reshape(info.shape).copy() for name, info in checkpoint.tensors.items()}


def assert_is(path: Path | str, expected: Mapping[str, np.ndarray]) -> None:
    read = values(path)
    assert set(read) == set(expected)
    assert all(np.array_equal(read[name], expected[name]) for name in expected)


def message(path: Path, kind: type[Exception] = CheckpointNotFound) -> str:
    with pytest.raises(kind) as raised:
        open_checkpoint(path)
    assert len(str(raised.value)) <= LONGEST
    assert str(raised.value).startswith(str(path))
    return str(raised.value)


def note(path: Path) -> str:
    (only,) = open_checkpoint(path).notes
    return only


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
