"""One safetensors file, as reader and as layout for writers.

The format: 8 bytes of little-endian header length n, n bytes of JSON {name: {dtype, shape, data_offsets}} with an
optional `__metadata__` of strings, then the tensors, row-major and gapless; offsets count from the end of the header.
https://github.com/huggingface/safetensors#format

Opening reads and checks the header, O(tensors). Every claim of the header is checked here, for a message that names
file and tensor; the safetensors library then has the last word, so that nothing passes here which others refuse. Not
here: formats that pack several elements into a byte (F4, F6).
"""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, final

import numpy as np
from safetensors import SafetensorError, safe_open

from prefmerge.checkpoints.dtypes import DTYPES
from prefmerge.checkpoints.input_file import InputFile, fill
from prefmerge.checkpoints.other_formats import what_it_is
from prefmerge.checkpoints.paths import name_of
from prefmerge.checkpoints.protocol import TensorInfo
from prefmerge.errors import CheckpointCorrupt, UnsupportedDtype
from prefmerge.ground.brief import brief
from prefmerge.shown import value

MOST_DIMENSIONS = 64
SLACK = 100_000  # brackets or commas that may be there whatever the size of a header
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
METADATA_KEY = "__metadata__"


@final
@dataclass(frozen=True, eq=False)
class SafetensorsFile:
    """An open safetensors file: a `Checkpoint`. `offsets` are bytes from the start of the file."""

    __repr__ = brief

    name: str
    path: Path
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    offsets: Mapping[str, int]
    _file: InputFile

    @classmethod
    def open(cls, path: str | Path, *, name: str | None = None) -> SafetensorsFile:
        """Check the header of the file at `path` and map it. Raises CheckpointNotFound, CheckpointCorrupt,
        UnsupportedDtype."""
        path = Path(path)
        file = InputFile(path)
        try:
            text, start = _read_header(path, file)
            tensors, offsets, metadata = _check_header(path, _parse(path, text), start, file.size)
            _ask_library(path, text, file.size)
        except BaseException:
            file.close()
            raise
        return cls(name or name_of(path), path, tensors, metadata, offsets, file)

    @property
    def aliases(self) -> Mapping[str, str]:
        """Always empty: two tensors of one file never share bytes."""
        return {}

    @property
    def notes(self) -> tuple[str, ...]:
        """Always empty: nothing had to be decided."""
        return ()

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def inputs(self) -> tuple[InputFile, ...]:
        return (self._file,)

    def file_of(self, tensor: str) -> str:
        return self.path.name

    def read(self, tensor: str, start: int, stop: int, buffer: np.ndarray | None = None) -> np.ndarray:
        storage = self.tensors[tensor].dtype.storage
        return fill(self._file, self.offsets[tensor] + start * storage.itemsize, stop - start, storage, buffer)

    def raw(self, tensor: str) -> np.ndarray:
        elements = self.read(tensor, 0, self.tensors[tensor].size)
        elements.flags.writeable = False
        return elements

    def close(self) -> None:
        self._file.close()


def _corrupt(path: Path, fact: str, step: str = "Download or save the file again.") -> NoReturn:
    raise CheckpointCorrupt(f"{path}: {fact}. {step}")


def _read_header(path: Path, file: InputFile) -> tuple[bytes, int]:
    """The header's JSON, and the offset in the file at which the tensors start."""
    first, size = file.read(0, 8), file.size
    if first.startswith(b"version "):
        _corrupt(path, "is a Git LFS pointer, not the file it points to", "Fetch the file itself with: git lfs pull")
    if len(first) < 8:
        _corrupt(path, f"truncated: {size} bytes, and a safetensors file starts with 8 bytes of header length")
    length = struct.unpack("<Q", first)[0]
    if length > size - 8:
        said = what_it_is(path)
        if said is not None:
            raise CheckpointCorrupt(f"{path}: {said}")
        _corrupt(
            path,
            f"truncated, or not a safetensors file: it announces a header of {length} bytes and holds {size - 8} more",
        )
    if length > MAX_HEADER_BYTES:
        _corrupt(path, f"announces a header of {length} bytes; the format allows {MAX_HEADER_BYTES}")
    return file.read(8, length), 8 + length


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    # A tensor takes 50 bytes and more, three brackets and a few commas. A header of nothing else takes gigabytes.
    if text.count(b"[") + text.count(b"{") > len(text) // 12 + SLACK or text.count(b",") > len(text) // 8 + SLACK:
        _corrupt(path, "its header holds more lists and numbers than tensors need")
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_object_without_duplicates)
    except _DuplicateNameError as error:
        _corrupt(path, f"its header lists {error.args[0]!r} twice")
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        _corrupt(path, f"its header is not JSON ({error})")
    if not isinstance(header, dict):
        _corrupt(path, f"its header is a JSON {type(header).__name__}, not an object of tensors")
    return header


class _DuplicateNameError(Exception):
    """A JSON object with one key twice, of which json.loads would silently keep the last."""


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _DuplicateNameError(key[:200])
            seen.add(key)
    return entries


def _is_count(number: Any) -> bool:
    return type(number) is int and 0 <= number < 1 << 63


def _check_header(
    path: Path, header: dict[str, Any], start: int, size: int
) -> tuple[dict[str, TensorInfo], dict[str, int], dict[str, str]]:
    """Tensors sorted by name, their offsets in the file, and the metadata, once everything the header says is
    consistent."""
    metadata = header.pop(METADATA_KEY, None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        _corrupt(path, f"its {METADATA_KEY} is not an object of strings")
    tensors: dict[str, TensorInfo] = {}
    spans: list[tuple[int, int, str]] = []
    for name in sorted(header):
        info, begin, end = _check_entry(path, name, header[name])
        tensors[name] = info
        spans.append((begin, end, name))
    spans.sort()
    position, previous = 0, ""
    for begin, end, name in spans:
        if begin < position:
            _corrupt(
                path,
                f"its header lies: tensor {name!r} starts at byte {begin}, before {previous!r} ends at {position}",
            )
        if begin > position:
            _corrupt(path, f"its header lies: bytes {position} to {begin}, before tensor {name!r}, belong to no tensor")
        position, previous = end, name
    if position > size - start:
        _corrupt(path, f"truncated: its tensors take {position} bytes and it holds {size - start}")
    if position < size - start:
        _corrupt(path, f"its header lies: its tensors take {position} bytes and it holds {size - start}")
    return tensors, {name: start + begin for begin, _, name in spans}, metadata


def _check_entry(path: Path, name: str, entry: Any) -> tuple[TensorInfo, int, int]:
    """One tensor of the header, and its bytes [begin, end) counted from the end of the header."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        _corrupt(path, f"its header gives tensor {name!r} no dtype, shape and data_offsets")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not all(map(_is_count, shape)) or len(shape) > MOST_DIMENSIONS:
        _corrupt(path, f"its header gives tensor {name!r} the shape {value(shape)}")
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(map(_is_count, offsets))
        or offsets[0] > offsets[1]
    ):
        _corrupt(path, f"its header gives tensor {name!r} the data_offsets {value(offsets)}")
    if not isinstance(code, str) or code not in DTYPES:
        raise UnsupportedDtype(
            f"{path}: tensor {name!r} has dtype {value(code)}, which prefmerge cannot read. "
            "Convert the checkpoint to float32, float16 or bfloat16 first."
        )
    # Before any arithmetic with it. Two sizes below 2^63 are no more than that.
    if len(shape) > 2 and sum(size.bit_length() for size in shape) > 128 and 0 not in shape:
        _corrupt(path, f"its header gives tensor {name!r} the shape {value(shape)}, more than any file holds")
    info = TensorInfo(name, DTYPES[code], tuple(shape))
    begin, end = offsets
    if end - begin != info.nbytes:
        _corrupt(
            path,
            f"its header lies: tensor {name!r}, {info.dtype.name} of shape {info.shape}, "
            f"needs {info.nbytes} bytes and is given {end - begin}",
        )
    return info, begin, end


def _ask_library(path: Path, text: bytes, size: int) -> None:
    """Show the library the header that was read, in a sparse file of the same size: it maps what it opens, and a map of
    a file that someone cuts short ends the process.
    """
    try:
        with tempfile.TemporaryFile(prefix="prefmerge-") as stand_in:  # without a name, so no kill leaves it
            stand_in.write(struct.pack("<Q", len(text)) + text)
            stand_in.truncate(size)
            stand_in.flush()
            _opens(path, f"/dev/fd/{stand_in.fileno()}")
    except OSError:  # no room for it, or no files of this size
        _opens(path, path)


def _opens(path: Path, place: str | Path) -> None:
    try:
        with safe_open(place, framework="numpy"):
            pass
    except SafetensorError as error:
        _corrupt(path, f"the safetensors library refuses it ({error})")


def encode_header(tensors: Iterable[TensorInfo], metadata: Mapping[str, str]) -> tuple[bytes, dict[str, int], int]:
    """The first bytes of a file that holds `tensors`, each tensor's offset in that file, and the size of the whole
    file.

    Tensors go from wide to narrow elements, then by name, and spaces round the header up to 8 bytes: so every tensor
    is aligned.
    """
    header: dict[str, Any] = {METADATA_KEY: dict(sorted(metadata.items()))} if metadata else {}
    relative: dict[str, int] = {}
    position = 0
    for info in sorted(tensors, key=lambda info: (-info.dtype.itemsize, info.name)):
        header[info.name] = {
            "dtype": info.dtype.code,
            "shape": list(info.shape),
            "data_offsets": [position, position + info.nbytes],
        }
        relative[info.name] = position
        position += info.nbytes
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(
            f"{len(relative)} tensors need a header of {len(text)} bytes; the format allows {MAX_HEADER_BYTES}"
        )
    start = 8 + len(text)
    return (
        struct.pack("<Q", len(text)) + text,
        {name: start + offset for name, offset in relative.items()},
        start + position,
    )
