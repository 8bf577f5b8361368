"""Small checkpoints written by hand, for the tests of this folder: header and data as given, right or wrong."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prefmerge.checkpoints.dtypes import DTYPES, Dtype
from prefmerge.checkpoints.protocol import Checkpoint, TensorInfo
from prefmerge.outputs.write import OutputKind, create_output

BY_STORAGE: dict[np.dtype, Dtype] = {
    dtype.storage: dtype for dtype in DTYPES.values() if dtype.family != "other" and dtype.code != "BF16"
}


def write_raw(path: Path, header: object, data: bytes = b"") -> Path:
    """A safetensors file with this header (JSON, or bytes as they are) and these bytes of data, whether or not they
    agree."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(dtype: str, shape: list[Any], begin: int, end: int) -> dict[str, Any]:
    """What a header says of one tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> Path:
    """A correct file of arrays, laid out in the order given, without any padding: so tensors lie at odd offsets."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    data = b""
    for name, array in arrays.items():
        header[name] = entry(BY_STORAGE[array.dtype].code, list(array.shape), len(data), len(data) + array.nbytes)
        data += array.tobytes()
    return write_raw(path, header, data)


def info_of(name: str, array: np.ndarray) -> TensorInfo:
    return TensorInfo(name, BY_STORAGE[array.dtype], array.shape)


OURS = b'{"format": "prefmerge-receipt/1", "output": {}}'  # all that a writer reads of a receipt that it replaces


def save(
    target: Path, arrays: Mapping[str, np.ndarray], *, kind: OutputKind = "file", receipt: bytes = OURS, **options: Any
) -> Path:
    """`arrays` written with create_output, whole tensors at once."""
    options = {"metadata": {}, "force": False, **options}
    with create_output(target, [info_of(name, array) for name, array in arrays.items()], kind=kind, **options) as out:
        for name, array in arrays.items():
            out.write(name, 0, array.reshape(-1))
        out.publish(receipt)
    return target


def arrays_of(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Every tensor in its shape."""
    return {name: checkpoint.raw(name).reshape(info.shape) for name, info in checkpoint.tensors.items()}


def assert_same(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name in expected:
        assert found[name].dtype == expected[name].dtype, name
        assert found[name].shape == expected[name].shape, name
        assert found[name].tobytes() == expected[name].tobytes(), name


def a_model(seed: int = 0) -> dict[str, np.ndarray]:
    """Tensors of several formats, one 0-d, one empty, one of several fingerprint chunks."""
    rng = np.random.default_rng(seed)
    return {
        "embed.weight": rng.standard_normal((1000, 150)).astype(np.float32),
        "layer.bias": rng.standard_normal(7).astype(np.float16),
        "layer.empty": np.zeros((0, 4), dtype=np.float32),
        "layer.scale": np.array(rng.standard_normal(), dtype=np.float32),
        "layer.weight": rng.standard_normal((5, 7)).astype(np.float64),
        "mask": rng.integers(0, 2, 9).astype(bool),
        "position_ids": np.arange(11, dtype=np.int64)[None],
    }
