"""A content hash of a checkpoint that can be computed while it is streamed, in any order.

fingerprint = xxh3_128 over the tensors in order of name: name, dtype, shape, and xxh3_64 of every chunk of 65,536
elements, counted from the tensor's first. So it says nothing of shards, blocks or the order of reading, and a
tensor's chunks hash independently. Not cryptographic: it finds damage and mix-ups, not forgery (`sha256_files` does).
Cost: one reading at memory speed, 8 bytes per chunk. Left out: names of files and metadata; two checkpoints with
equal tensors have equal fingerprints.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xxhash

from prefmerge.checkpoints.protocol import Checkpoint, TensorInfo

CHUNK = 65_536  # elements; part of the definition: another value gives other fingerprints
PREFIX = "xxh3-128:"


class Fingerprint:
    """Collects the chunk hashes of the given tensors. `aliases` (name -> name) need not be added: they hash as what
    they share."""

    def __init__(self, tensors: Iterable[TensorInfo], *, aliases: Mapping[str, str] | None = None) -> None:
        self._tensors = sorted(tensors, key=lambda info: info.name)
        self._chunks: dict[str, np.ndarray] = {}  # name -> uint64 hash per chunk
        self._seen: dict[str, np.ndarray] = {}  # name -> bool per chunk
        # A thread writes only the slots of the chunks it hashed, and hashing a chunk twice gives the same value: no
        # lock is needed.
        for info in self._tensors:
            count = -(-info.size // CHUNK)
            self._chunks[info.name] = np.zeros(count, dtype="<u8")
            self._seen[info.name] = np.zeros(count, dtype=bool)
        for name, shared in (aliases or {}).items():
            if name in self._chunks and shared in self._chunks:
                self._chunks[name], self._seen[name] = self._chunks[shared], self._seen[shared]

    def add(self, tensor: str, raw: np.ndarray, start: int, stop: int) -> None:
        """Hash every chunk whose first element lies in [start, stop). `raw` holds all stored elements of the tensor,
        flat.

        Blocks that partition a tensor so hash each chunk once, whatever their size. Safe to call from any thread.
        """
        chunks, seen = self._chunks[tensor], self._seen[tensor]
        first, last = -(-start // CHUNK), min(-(-stop // CHUNK), len(chunks))
        for i in range(first, last):
            if seen[i]:  # a tensor that is read twice is hashed once
                continue
            chunks[i] = xxhash.xxh3_64_intdigest(raw[i * CHUNK : (i + 1) * CHUNK].view(np.uint8).data)
            seen[i] = True

    def add_missing(self, tensor: str, raw: np.ndarray) -> None:
        """Hash the chunks of a tensor that no `add` has seen."""
        for i in np.flatnonzero(~self._seen[tensor]).tolist():
            self.add(tensor, raw, i * CHUNK, (i + 1) * CHUNK)

    def covered(self) -> bool:
        """Whether every chunk of every tensor was added."""
        return all(bool(seen.all()) for seen in self._seen.values())

    def tensor_digests(self) -> dict[str, str]:
        """Each tensor's own hash, 16 hexadecimal digits: says which one differs where `hexdigest` says one does."""
        return {name: xxhash.xxh3_64_hexdigest(chunks.tobytes()) for name, chunks in self._chunks.items()}

    def hexdigest(self) -> str:
        """`xxh3-128:` and 32 hexadecimal digits. Raises ValueError while a chunk is missing."""
        if not self.covered():
            missing = next(name for name, seen in self._seen.items() if not seen.all())
            raise ValueError(f"the fingerprint lacks chunks of tensor {missing!r}")
        digest = xxhash.xxh3_128(b"prefmerge content 1")
        for info in self._tensors:
            digest.update(_described(info))
            digest.update(self._chunks[info.name].tobytes())
        return PREFIX + digest.hexdigest()


def _described(info: TensorInfo) -> bytes:
    name = info.name.encode("utf-8", "surrogatepass")
    head = f"{len(name)}:{info.dtype.code}:{len(info.shape)}:".encode()
    return head + name + struct.pack(f"<{len(info.shape)}Q", *info.shape)


def fingerprint_of(checkpoint: Checkpoint) -> Fingerprint:
    """The fingerprint of all tensors, covered; reads everything once."""
    fingerprint = Fingerprint(checkpoint.tensors.values(), aliases=checkpoint.aliases)
    for info in checkpoint.tensors.values():
        if info.name not in checkpoint.aliases:
            fingerprint.add(info.name, checkpoint.raw(info.name), 0, info.size)
    return fingerprint


def content_fingerprint(checkpoint: Checkpoint) -> str:
    """`hexdigest` of all tensors; reads everything once."""
    return fingerprint_of(checkpoint).hexdigest()


def header_fingerprint(checkpoint: Checkpoint) -> str:
    """A hash of names, dtypes, shapes and file sizes, for a checkpoint that need not be read. Blind to the values."""
    digest = xxhash.xxh3_128(b"prefmerge header 1")
    for name in sorted(checkpoint.tensors):
        digest.update(_described(checkpoint.tensors[name]))
    for size in sorted(path.stat().st_size for path in checkpoint.files):
        digest.update(struct.pack("<Q", size))
    return PREFIX + digest.hexdigest()


def _file_names(checkpoint: Checkpoint) -> list[str]:
    """Each weights file as its checkpoint names it: relative to the folder, so that shards in sub-folders stay
    apart."""
    if checkpoint.path is None:
        return []
    home = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    return [path.relative_to(home).as_posix() for path in checkpoint.files]


def file_entries(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """[{"name", "bytes"}] of the weights files, as receipts list them."""
    pairs = zip(_file_names(checkpoint), checkpoint.files, strict=True)
    return [{"name": name, "bytes": path.stat().st_size} for name, path in pairs]


def sha256_files(checkpoint: Checkpoint) -> dict[str, str]:
    """The SHA-256 of every weights file by its name, in hexadecimal; about 0.5 GB/s to 2 GB/s, hence only on
    request."""
    digests: dict[str, str] = {}
    for name, path in zip(_file_names(checkpoint), checkpoint.files, strict=True):
        with path.open("rb") as file:
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests
