"""The checkpoints that benchmarks are run on: the shapes of CLIP's visual tower, valid files, the same bytes for one
seed, and steps of the right size.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from benchmarks.make_checkpoints import DTYPES, encoded, make, shapes_of


def test_vit_b_16_has_the_elements_of_clips_visual_tower() -> None:
    shapes = shapes_of("vit-b-16")
    assert sum(math.prod(shape) for shape in shapes.values()) == 86_192_640  # the released model's count
    assert len(shapes) == 152
    assert shapes["visual.conv1.weight"] == (768, 3, 16, 16)
    assert shapes["visual.positional_embedding"] == (197, 768)


def test_billion_has_a_billion_elements() -> None:
    assert sum(math.prod(shape) for shape in shapes_of("billion").values()) > 10**9


def digests(paths: list[Path]) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def test_same_seed_same_bytes_whatever_the_threads_and_number_of_tasks(tmp_path: Path) -> None:
    base, tasks = make(tmp_path / "a", model="toy", tasks=3, threads=1)
    again, fewer = make(tmp_path / "b", model="toy", tasks=2, threads=4)
    other, _ = make(tmp_path / "c", model="toy", tasks=1, seed=1)
    assert digests([base, *tasks[:2]]) == digests([again, *fewer])
    assert digests([base]) != digests([other])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_files_are_read_by_safetensors_and_walk_by_small_heavy_tailed_steps(tmp_path: Path, dtype: str) -> None:
    base, tasks = make(tmp_path, model="toy", tasks=2, dtype=dtype)
    before, first, second = (load_file(path) for path in (base, *tasks))
    shapes = shapes_of("toy")
    assert {name: array.shape for name, array in before.items()} == shapes
    assert before["visual.proj"].dtype == dtype
    assert 0.9 < before["visual.ln_pre.weight"].mean() < 1.1
    if dtype == "float32":
        name = "visual.transformer.resblocks.0.mlp.c_fc.weight"
        assert abs(before[name].std() - 0.02) < 0.001
        step, walked = second[name] - first[name], second[name] - before[name]
        assert 0.5e-4 < step.std() < 4e-4
        assert np.mean((step / step.std()) ** 4) > 6  # a Gaussian has 3
        assert walked.std() > step.std()
        assert np.corrcoef(walked.ravel(), step.ravel())[0, 1] > 0.3


def test_bfloat16_rounds_to_nearest_even() -> None:
    values = np.array(
        [1.0, 1.00390625, 1.01171875, -3.1415927], np.float32
    )  # 1 + 1/256 and 1 + 3/256 lie halfway between two bfloat16
    bits = np.frombuffer(encoded(values, "bfloat16"), "<u2")
    assert bits.tolist() == [0x3F80, 0x3F80, 0x3F82, 0xC049]
    assert DTYPES["bfloat16"] == ("BF16", 2)
