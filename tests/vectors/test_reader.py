"""Reading task vectors from files: single elements are those of the blocks, wherever they lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from prefmerge import open_checkpoint
from prefmerge.checkpoints import CHUNK
from prefmerge.vectors.reader import TaskVectors
from prefmerge.vectors.reading import FAR, Input, Reading

SIZE = 3 * CHUNK + 17


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize("count", [0, 1, 40, 5000, SIZE])
@pytest.mark.parametrize("held", [False, True])
def test_gathered_elements_are_those_of_the_blocks(tmp_path: Path, dtype: type, count: int, held: bool):
    rng = np.random.default_rng(count)
    for name in ("base", "task"):
        save_file({"w": rng.standard_normal(SIZE).astype(dtype)}, tmp_path / f"{name}.safetensors")
    base, task = (Input.of(open_checkpoint(tmp_path / f"{name}.safetensors"), name) for name in ("base", "task"))
    deltas = TaskVectors.of(Reading.of(base, [task], hashed=True), base.checkpoint.tensors["w"], ("w",), held=held)
    whole = np.empty(SIZE, np.float32)
    deltas.read(0, 0, SIZE, whole)
    indices = np.sort(rng.choice(SIZE, count, replace=False))
    if count == 40:
        assert (np.diff(indices) > FAR).any()  # or the test does not skip anything
    out = np.empty(count, np.float32)
    deltas.gather(0, indices, out)
    assert out.tobytes() == whole[indices].tobytes()
