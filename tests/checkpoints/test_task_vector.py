from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prefmerge.checkpoints import base_fingerprint, is_task_vector, open_checkpoint, task_vector_metadata
from prefmerge.errors import CheckpointCorrupt
from prefmerge.outputs.write import OutputKind
from tests.checkpoints.files import save


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_round_trip(tmp_path: Path, kind: OutputKind) -> None:
    arrays = {"a": np.zeros(30, np.float32), "b": np.ones(30, np.float32)}
    path = save(
        tmp_path / "tv.safetensors",
        arrays,
        kind=kind,
        metadata=task_vector_metadata("xxh3-128:00"),
        max_shard_bytes=100,
    )
    checkpoint = open_checkpoint(path)
    assert is_task_vector(checkpoint)
    assert base_fingerprint(checkpoint) == "xxh3-128:00"


def test_a_model_is_none(tmp_path: Path) -> None:
    assert not is_task_vector(open_checkpoint(save(tmp_path / "m.safetensors", {"a": np.zeros(3)})))


def test_without_its_base(tmp_path: Path) -> None:
    path = save(tmp_path / "tv.safetensors", {"a": np.zeros(3)}, metadata={"prefmerge.kind": "task_vector"})
    with pytest.raises(CheckpointCorrupt, match=r"tv.safetensors: a task vector whose metadata names no base"):
        base_fingerprint(open_checkpoint(path))
