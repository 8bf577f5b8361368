from __future__ import annotations

import numpy as np
import pytest

from prefmerge.checkpoints import by_name, from_float32, to_float32
from prefmerge.errors import UnsupportedDtype


@pytest.mark.parametrize("name", ["float64", "float32", "float16", "bfloat16"])
def test_every_value_of_a_narrow_format_survives(name: str) -> None:
    dtype = by_name(name)
    stored = np.arange(65536, dtype=np.uint16) if dtype.itemsize == 2 else np.linspace(-1, 1, 999, dtype=np.float32)
    stored = stored.view(dtype.storage) if dtype.itemsize == 2 else stored.astype(dtype.storage)
    values = to_float32(stored, dtype)
    finite = np.isfinite(values)
    assert finite.sum() > 900
    assert from_float32(values[finite], dtype).tobytes() == stored[finite].tobytes()


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        (1.0, 0x3F80),
        (1 + 2**-8, 0x3F80),  # half way: to even, down
        (1 + 3 * 2**-8, 0x3F82),  # half way: to even, up
        (1 + 2**-8 + 2**-20, 0x3F81),  # above half way
        (-0.0, 0x8000),
        (3.4e38, 0x7F80),  # beyond the largest bfloat16, 3.39e38: infinity, which the writer reports
        (np.float32(2**-149), 0x0000),
    ],
)
def test_bfloat16_rounds_to_nearest_even(value: float, bits: int) -> None:
    assert from_float32(np.array([value], dtype=np.float32), by_name("BF16")).tolist() == [bits]


def test_what_does_not_fit_becomes_infinity_without_a_warning() -> None:
    assert np.isinf(from_float32(np.array([1e6], np.float32), by_name("float16"))).all()
    assert np.isinf(to_float32(np.array([1e300]), by_name("float64"))).all()


def test_names() -> None:
    assert by_name("F16") is by_name("float16")
    with pytest.raises(UnsupportedDtype, match="dtype 'fp16' is not known; use one of float64, float32"):
        by_name("fp16")
    for name in ("int64", "float8_e4m3fn"):
        with pytest.raises(UnsupportedDtype, match=f"{name} is not a float format"):
            to_float32(np.zeros(1, by_name(name).storage), by_name(name))
        with pytest.raises(UnsupportedDtype, match=f"{name} is not a float format"):
            from_float32(np.zeros(1, np.float32), by_name(name))
