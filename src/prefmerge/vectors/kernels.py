"""The loops between stored elements and task vectors, compiled: one pass over a block for any pair of number formats.

    tau = float32(theta_t) - float32(theta_0)          subtract
    the same, 0 where rounding explains it             subtract_rounded
    tau, as it is stored                               convert
    theta = theta_0 + scale * tau                      finish
    theta, rounded to 16 bits                          narrow
    tau += scaling * (left right)                      add_product

Each operation is rounded to float32, to nearest-even; bfloat16 and float16 widen without loss, float64 rounds once, as
NumPy does. What is asked of every value (is it finite, is any not zero) comes from the same pass: the largest of the
patterns without their sign answers both. Stored elements come as `operand` gives them, so that their type says their
format. Cost: 0.15 to 0.6 ns an element in cached memory. Not here: hashing, which a library does faster than a compiled
loop here could; the payload of a NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from prefmerge.checkpoints.dtypes import Dtype
from prefmerge.errors import UnsupportedDtype
from prefmerge.vectors import kernel_cache, ready
from prefmerge.vectors.kernel_cache import kernel

MAGNITUDE = np.uint32(0x7FFFFFFF)  # the pattern of a float32 without its sign
INFINITE = np.uint32(0x7F800000)  # patterns of magnitudes from here on are infinity and NaN
SUMMED = 1024  # elements of a product that are summed together, in the first-level cache
INFINITE_OF_16_BITS = {"BF16": np.uint32(0x7F80), "F16": np.uint32(0x7C00)}  # the same, by code of the format


def operand(stored: np.ndarray, dtype: Dtype) -> np.ndarray:
    """Stored elements, flat, as the kernels take them: aligned, and float16 as the integers of its bits (int16), which
    bfloat16's (uint16) are not. Raises UnsupportedDtype.
    """
    if dtype.family != "float":
        raise UnsupportedDtype(f"{dtype.name} is not a float format")
    if not stored.flags.aligned:  # memory that somebody else laid out
        stored = stored.copy()
    return stored.view(np.int16) if dtype.code == "F16" else stored


def compiled() -> bool | None:
    """Whether a merge has been run on this machine with this version, so that the kernels need not be compiled now.

    None where they cannot be kept, so that every run compiles them.
    """
    ready.usable()  # loads LLVM, before threads take their part of a memory that may be limited
    return kernel_cache.kept(subtract)


def _from_float32(x):
    return x


def _from_float64(x):
    return np.float32(x)


def _from_bfloat16(x):
    return np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)


def _from_float16(x):
    bits = np.uint32(x)
    sign = np.uint32((bits & np.uint32(0x8000)) << np.uint32(16))
    magnitude = np.uint32((bits & np.uint32(0x7FFF)) << np.uint32(13))
    # The exponent's bias goes from 15 to 127; the largest one, of infinity and NaN, becomes the largest again.
    more = np.uint32(224 << 23) if magnitude >= np.uint32(0x7C00 << 13) else np.uint32(112 << 23)
    normal = np.uint32(magnitude + more)
    # Below the least normal number the bits count units of 2^-24: put behind a one, they are what is left without it.
    # No subnormal float32 occurs, on which some processors are slow.
    small = np.float32(np.uint32(magnitude + np.uint32(113 << 23)).view(np.float32) - np.float32(2.0**-14))
    wide = np.float32(small).view(np.uint32) if magnitude < np.uint32(0x400 << 13) else normal
    return np.uint32(wide | sign).view(np.float32)


def widen(x: Any) -> Any:
    """One stored element as float32; inside kernels compiled for its type."""
    return {np.float32: _from_float32, np.float64: _from_float64, np.uint16: _from_bfloat16}.get(
        type(x), _from_float16
    )(x)


def _to_bfloat16(x, like):
    bits = np.float32(x).view(np.uint32)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


def _to_float16(x, like):
    bits = np.float32(x).view(np.uint32)
    sign = np.uint32((bits >> np.uint32(16)) & np.uint32(0x8000))
    magnitude = np.uint32(bits & MAGNITUDE)
    even = np.uint32((magnitude >> np.uint32(13)) & np.uint32(1))
    # The exponent's bias goes from 127 to 15. What is beyond the largest number is kept from wrapping round below.
    biased = np.uint32(max(magnitude, np.uint32(112 << 23)) - np.uint32(112 << 23))
    normal = np.uint32((biased + np.uint32(0xFFF) + even) >> np.uint32(13))
    # Added to a half, whose last bit counts 2^-24 as a subnormal's does, the sum is rounded where it must be.
    half = np.float32(np.uint32(magnitude).view(np.float32) + np.float32(0.5))
    small = np.uint32(np.float32(half).view(np.uint32) - np.uint32(0x3F000000))
    wide = small if magnitude < np.uint32(113 << 23) else normal
    if magnitude >= np.uint32(0x477FF000):  # half-way from the largest number to the next
        wide = np.uint32(0x7C00) if magnitude <= INFINITE else np.uint32(0x7E00)
    return np.int16(np.uint16(wide | sign))


def narrowed(x: Any, like: Any) -> Any:
    """A float32 as an element of the type of `like`, rounded to nearest-even; inside kernels compiled for the type."""
    return (_to_bfloat16 if type(like) is np.uint16 else _to_float16)(x, like)


@kernel_cache.before_compiling
def _say_what_formats_are() -> None:
    """Tell numba what `widen` and `narrowed` are for elements of each type."""
    from numba import types
    from numba.extending import overload

    widened = {
        types.float32: _from_float32,
        types.float64: _from_float64,
        types.uint16: _from_bfloat16,
        types.int16: _from_float16,
    }
    narrow_ones = {types.uint16: _to_bfloat16, types.int16: _to_float16}

    @overload(widen)
    def _widen(x):
        return widened.get(x)

    @overload(narrowed)
    def _narrowed(x, like):
        return narrow_ones.get(like)


@kernel
def narrow(values, out, infinite):
    """out = values, float32, rounded to the 16 bits of a format whose infinity has the pattern `infinite`. Returns
    whether all are finite.
    """
    top = np.uint32(0)
    for i in range(out.size):
        x = narrowed(values[i], out[i])
        out[i] = x
        top = max(top, np.uint32(np.uint32(x) & np.uint32(0x7FFF)))
    return top < infinite


@kernel
def subtract(task, base, out):
    """out = task - base. Returns (every value finite, any value not zero)."""
    top = np.uint32(0)
    for i in range(out.size):
        x = np.float32(widen(task[i]) - widen(base[i]))
        out[i] = x
        top = max(top, np.uint32(np.float32(x).view(np.uint32) & MAGNITUDE))
    return top < INFINITE, top != np.uint32(0)


@kernel
def subtract_rounded(task, base, out):
    """`subtract` for a task of 16 bits over a base of another format: 0 where the task holds the base's value rounded
    to its own format.
    """
    top = np.uint32(0)
    for i in range(out.size):
        b, t = widen(base[i]), widen(task[i])
        finite = np.uint32(np.float32(t).view(np.uint32) & MAGNITUDE) < INFINITE  # infinity explains nothing
        x = np.float32(0) if finite and narrowed(b, task[i]) == task[i] else np.float32(t - b)
        out[i] = x
        top = max(top, np.uint32(np.float32(x).view(np.uint32) & MAGNITUDE))
    return top < INFINITE, top != np.uint32(0)


@kernel
def convert(stored, out):
    """out = stored, as float32. Returns (every value finite, any value not zero)."""
    top = np.uint32(0)
    for i in range(out.size):
        x = widen(stored[i])
        out[i] = x
        top = max(top, np.uint32(np.float32(x).view(np.uint32) & MAGNITUDE))
    return top < INFINITE, top != np.uint32(0)


@kernel
def survey(stored):
    """(every value finite as float32, any value not zero)."""
    top = np.uint32(0)
    for i in range(stored.size):
        top = max(top, np.uint32(np.float32(widen(stored[i])).view(np.uint32) & MAGNITUDE))
    return top < INFINITE, top != np.uint32(0)


@kernel
def finish(base, tau, scale, out):
    """out = base + scale * tau, each operation rounded to float32; where tau is 0 the base keeps its bits (-0.0 too).
    Returns whether all are finite.
    """
    top = np.uint32(0)
    for i in range(out.size):
        t = tau[i]
        b = widen(base[i])
        x = b if t == np.float32(0) else np.float32(b + np.float32(scale * t))
        out[i] = x
        top = max(top, np.uint32(np.float32(x).view(np.uint32) & MAGNITUDE))
    return top < INFINITE


@kernel
def add_product(left, right, scaling, start, out):
    """out += scaling * (left right), of the product's elements from `start` on, in order of rows. Rounded once."""
    columns = right.shape[1]
    total = np.empty(SUMMED)
    done = 0
    while done < out.size:
        row, column = (start + done) // columns, (start + done) % columns
        count = min(columns - column, out.size - done, SUMMED)
        added, values = total[:count], out[done : done + count]
        added[:] = 0.0
        for k in range(right.shape[0]):
            factor, other = np.float64(left[row, k]), right[k, column : column + count]
            for j in range(count):
                added[j] += factor * np.float64(other[j])
        for j in range(count):
            values[j] = np.float32(np.float64(values[j]) + scaling * added[j])
        done += count
