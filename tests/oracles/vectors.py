"""Task vectors from stored elements, one element after the other, from the definition of each number format."""

from __future__ import annotations

import math
import struct

import numpy as np


def value(stored: np.generic, name: str) -> np.float32:
    """One stored element as float32, rounded to nearest-even where float32 holds less."""
    if name == "float32":
        return np.float32(stored)
    if name == "bfloat16":  # the upper half of a float32
        return np.float32(struct.unpack("<f", struct.pack("<HH", 0, int(stored)))[0])
    if name == "float16":
        (bits,) = struct.unpack("<H", stored.tobytes())
        sign = -1.0 if bits >> 15 else 1.0
        exponent, fraction = (bits >> 10) & 31, bits & 1023
        if exponent == 31:
            return np.float32(sign * (math.nan if fraction else math.inf))
        if exponent == 0:
            return np.float32(sign * fraction * 2.0**-24)
        return np.float32(sign * (1 + fraction / 1024) * 2.0 ** (exponent - 15))
    assert name == "float64"
    with np.errstate(over="ignore", under="ignore"):
        return np.float32(stored)


def vector(task: np.ndarray, task_format: str, base: np.ndarray, base_format: str) -> np.ndarray:
    """tau = float32(theta_t) - float32(theta_0), rounded to float32."""
    with np.errstate(all="ignore"):
        pairs = zip(task, base, strict=True)
        return np.array([value(t, task_format) - value(b, base_format) for t, b in pairs], np.float32)


def model(base: np.ndarray, base_format: str, tau: np.ndarray, scale: np.float32) -> np.ndarray:
    """theta = theta_0 + scale * tau, each operation rounded to float32; theta_0 itself where tau is zero."""
    with np.errstate(all="ignore"):
        values = [value(b, base_format) for b in base]
        return np.array([b if t == 0 else b + scale * t for b, t in zip(values, tau, strict=True)], np.float32)
