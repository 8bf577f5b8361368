"""The number formats of checkpoints, and the way from each to float32 and back.

float32 -> bfloat16 rounds to nearest, ties to even, on the bits; NumPy has no bfloat16. float16 is NumPy's own. A
finite float32 that rounds to infinity in the narrower format is an error, never a silent infinity. float64 is merged
in float32. The 8-bit floats and complex64 are carried as bytes and never computed with; formats with several elements
to a byte are not known here at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prefmerge.errors import UnsupportedDtype


@dataclass(frozen=True)
class Dtype:
    """One number format. `code` is safetensors' name for it, `storage` the NumPy dtype of its elements."""

    code: str
    name: str
    storage: np.dtype
    family: str  # "float" is merged; "integer" (bool too) is copied; "other" is copied when excluded, else refused

    @property
    def itemsize(self) -> int:
        return self.storage.itemsize


def _table() -> dict[str, Dtype]:
    rows = [
        ("F64", "float64", "<f8", "float"),
        ("F32", "float32", "<f4", "float"),
        ("F16", "float16", "<f2", "float"),
        ("BF16", "bfloat16", "<u2", "float"),
        ("I64", "int64", "<i8", "integer"),
        ("I32", "int32", "<i4", "integer"),
        ("I16", "int16", "<i2", "integer"),
        ("I8", "int8", "|i1", "integer"),
        ("U64", "uint64", "<u8", "integer"),
        ("U32", "uint32", "<u4", "integer"),
        ("U16", "uint16", "<u2", "integer"),
        ("U8", "uint8", "|u1", "integer"),
        ("BOOL", "bool", "|b1", "integer"),
        # Named as torch and ml_dtypes name them. Opened so that --exclude can copy them; nothing here computes with
        # them.
        ("F8_E4M3", "float8_e4m3fn", "|u1", "other"),
        ("F8_E5M2", "float8_e5m2", "|u1", "other"),
        ("F8_E8M0", "float8_e8m0fnu", "|u1", "other"),
        ("F8_E4M3FNUZ", "float8_e4m3fnuz", "|u1", "other"),
        ("F8_E5M2FNUZ", "float8_e5m2fnuz", "|u1", "other"),
        ("C64", "complex64", "<u8", "other"),
    ]
    return {code: Dtype(code, name, np.dtype(storage), family) for code, name, storage, family in rows}


DTYPES = _table()
FLOATS = tuple(d.name for d in DTYPES.values() if d.family == "float")


def by_name(name: str) -> Dtype:
    """The format called `name` ("bfloat16", or "BF16"). Raises UnsupportedDtype."""
    for dtype in DTYPES.values():
        if name in (dtype.name, dtype.code):
            return dtype
    usable = ", ".join(d.name for d in DTYPES.values() if d.family != "other")
    raise UnsupportedDtype(f"dtype {name!r} is not known; use one of {usable}.")


def require_mergeable(dtype: Dtype, *, file: str, tensor: str) -> None:
    """Raise UnsupportedDtype, with what to do about it, for a format that can only be copied."""
    if dtype.family == "other":
        raise UnsupportedDtype(
            f"{file}: tensor {tensor!r} is {dtype.name}, which prefmerge does not merge. "
            f"Convert it to one of {', '.join(FLOATS)} first, or copy it from the base with --exclude {tensor!r}."
        )


def to_float32(stored: np.ndarray, dtype: Dtype) -> np.ndarray:
    """The elements of a float format as float32, shape kept. No copy for float32, unless its file has it unaligned."""
    if dtype.code == "F32":
        return np.require(stored, requirements="A")
    if dtype.code == "BF16":
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype.family != "float":
        raise UnsupportedDtype(f"{dtype.name} is not a float format")
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinity, which the reader reports
        return stored.astype(np.float32)


def to_float(stored: np.ndarray, dtype: Dtype) -> np.ndarray:
    """The elements of a float format without loss: float64 for float64, float32 for the others."""
    return np.require(stored, requirements="A") if dtype.code == "F64" else to_float32(stored, dtype)


def rounds(task: Dtype, base: Dtype) -> bool:
    """Whether storing the base's values in the task's format may change them: it has 16 bits, of another kind."""
    return task.code in ("BF16", "F16") and task != base


def from_float64(values: np.ndarray, dtype: Dtype) -> np.ndarray:
    """float64 `values` rounded once, to nearest-even, in a float format, as its stored elements. Infinity where a value
    does not fit.
    """
    if dtype.code == "F64":
        return values
    with np.errstate(over="ignore"):
        if dtype.code != "BF16":
            return values.astype(dtype.storage)
        narrow = values.astype(np.float32)
    # To float32 and on would round twice. Rounded to odd first (the last bit set where anything was cut off), the
    # second rounding sees on which side of the middle the value was.
    back = narrow.astype(np.float64)
    bits = narrow.view(np.uint32)
    even = (back != values) & ((bits & np.uint32(1)) == 0) & np.isfinite(narrow)
    step = np.where(np.abs(back) < np.abs(values), 1, -1).astype(np.int64)
    odd = np.where(even, bits.astype(np.int64) + step, bits).astype(np.uint32)
    return from_float32(odd.view(np.float32), dtype)


def from_float32(values: np.ndarray, dtype: Dtype) -> np.ndarray:
    """float32 `values` rounded to nearest-even in a float format, as its stored elements. Infinity where a value does
    not fit."""
    if dtype.code == "F32":
        return values
    if dtype.code == "BF16":
        bits = values.view(np.uint32)
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        return rounded.astype(np.uint16)
    if dtype.family != "float":
        raise UnsupportedDtype(f"{dtype.name} is not a float format")
    with np.errstate(over="ignore"):  # the caller looks for infinities and raises DtypeOverflow with the tensor's name
        return values.astype(dtype.storage)
