"""Task vectors from stored elements, one element after the other, from the definition of each number format."""

from __future__ import annotations

import math
import struct
from fractions import Fraction

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


def is_rounded(stored: np.generic, name: str, before: np.float32) -> bool:
    """Whether a finite element of 16 bits is the one of its format that is nearest to `before`, the even one of two."""
    bits, own = int(stored.view(np.uint16)), value(stored, name)
    if not (np.isfinite(own) and np.isfinite(before)):
        return False
    low, high = (value(np.uint16(b).view(stored.dtype), name) for b in (max(bits - 1, 0), bits + 1))
    if bits & 0x7FFF == 0:  # both zeros: what is nearer to zero than to the least number
        least = Fraction(float(value(np.uint16(1).view(stored.dtype), name)))
        return np.signbit(before) == bool(bits) and abs(Fraction(float(before))) <= least / 2
    a, b = abs(Fraction(float(own))), abs(Fraction(float(before)))
    below = abs(Fraction(float(low)))
    above = abs(Fraction(float(high))) if np.isfinite(high) else a + (a - below)  # as if the range went on
    if np.signbit(own) != np.signbit(before):
        return False
    return (a + below) / 2 <= b <= (a + above) / 2 if bits % 2 == 0 else (a + below) / 2 < b < (a + above) / 2


def vector(
    task: np.ndarray, task_format: str, base: np.ndarray, base_format: str, *, rounding: bool = False
) -> np.ndarray:
    """tau = float32(theta_t) - float32(theta_0), rounded to float32. `rounding`: 0 where that of the base to the task's
    format explains it.
    """
    none = np.float32(0)
    with np.errstate(all="ignore"):
        pairs = [(t, value(b, base_format)) for t, b in zip(task, base, strict=True)]
        return np.array(
            [none if rounding and is_rounded(t, task_format, b) else value(t, task_format) - b for t, b in pairs],
            np.float32,
        )


def model(base: np.ndarray, base_format: str, tau: np.ndarray, scale: np.float32) -> np.ndarray:
    """theta = theta_0 + scale * tau, each operation rounded to float32; theta_0 itself where tau is zero."""
    with np.errstate(all="ignore"):
        values = [value(b, base_format) for b in base]
        return np.array([b if t == 0 else b + scale * t for b, t in zip(values, tau, strict=True)], np.float32)
