"""A content hash of a checkpoint that can be computed while it is streamed, in any order.

fingerprint = xxh3_128 over the tensors in order of name: name, dtype, shape, and xxh3_64 of every chunk of 65,536
elements, counted from the tensor's first. So it says nothing of shards, blocks or the order of reading, and a
tensor's chunks hash independently. Not cryptographic: it finds damage and mix-ups, not forgery (`sha256_files` does).
Cost: one reading at memory speed, 8 bytes per chunk. Not here: names of files and metadata; two checkpoints with
equal tensors have equal fingerprints.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xxhash

from prefmerge.checkpoints.protocol import Checkpoint, TensorInfo, reading

CHUNK = 65_536  # elements; part of the definition: another value gives other fingerprints
PREFIX = "xxh3-128:"


class Fingerprint:
    """Collects the chunk hashes of the given tensors. `aliases` (name -> name) need not be added: they hash as what
    they share."""

    def __init__(self, tensors: Iterable[TensorInfo], *, aliases: Mapping[str, str] | None = None) -> None:
        self._tensors = sorted(tensors, key=lambda info: info.name)
        self._sizes = {info.name: info.size for info in self._tensors}
        self._first: dict[str, int] = {}  # name -> the slot of its first chunk; the others follow
        given = (aliases or {}).items()
        shared = {name: of for name, of in given if name in self._sizes and of in self._sizes}
        slots = 0
        for name, size in self._sizes.items():
            if name not in shared:
                self._first[name] = slots
                slots += -(-size // CHUNK)
        for name, of in shared.items():
            self._first[name] = self._first[of]
        # A thread writes only the slots of the chunks it hashed, and hashing a chunk twice gives the same value: no
        # lock is needed.
        self._hashes = np.zeros(slots, "<u8")
        self._seen = bytearray(slots)

    def reach(self, tensor: str, start: int, stop: int) -> int | None:
        """How far to read from `start`, to `stop` or beyond, so that every chunk which begins in [start, stop) and was
        not hashed yet is whole. None where all of these were.

        Who reads a tensor in blocks of any size so hashes each chunk once.
        """
        first, last = self._first[tensor], (stop - 1) // CHUNK
        if 0 not in self._seen[first - (-start // CHUNK) : first + last + 1]:
            return None
        return stop if self._seen[first + last] else max(stop, min((last + 1) * CHUNK, self._sizes[tensor]))

    def add(self, tensor: str, stored: np.ndarray, start: int) -> None:
        """Hash every chunk that lies wholly in `stored`, the stored elements from `start` on. Safe to call from any
        thread.
        """
        first, size, stop = self._first[tensor], self._sizes[tensor], start + stored.size
        for i in range(-(-start // CHUNK), -(-stop // CHUNK)):
            end = min((i + 1) * CHUNK, size)
            if end > stop or self._seen[first + i]:  # a tensor that is read twice is hashed once
                continue
            chunk = stored if end - i * CHUNK == stored.size else stored[i * CHUNK - start : end - start]
            self._hashes[first + i] = xxhash.xxh3_64_intdigest(chunk.data)
            self._seen[first + i] = 1

    def add_missing(self, tensor: str, checkpoint: Checkpoint) -> None:
        """Read and hash the chunks of a tensor that no `add` has seen."""
        missing = self.missing(tensor)
        if missing:
            buffer = np.empty(CHUNK * checkpoint.tensors[tensor].dtype.itemsize, np.uint8)
            for start, stop in missing:
                self.add(tensor, checkpoint.read(tensor, start, stop, buffer), start)

    def missing(self, tensor: str) -> list[tuple[int, int]]:
        """The chunks of a tensor that no `add` has seen, as elements [start, stop)."""
        size = self._sizes[tensor]
        starts = (i * CHUNK for i, seen in enumerate(self._seen[self._slots(tensor)]) if not seen)
        return [(start, min(start + CHUNK, size)) for start in starts]

    def hashes(self, tensor: str) -> bytes:
        """The hashes of a tensor's chunks, for `take`. Raises ValueError while one is missing."""
        if not all(self._seen[self._slots(tensor)]):
            raise ValueError(f"the fingerprint lacks chunks of tensor {tensor!r}")
        return self._hashes[self._slots(tensor)].tobytes()

    def take(self, tensor: str, hashes: bytes) -> None:
        """Count the chunks of a tensor as added, with the hashes that they have."""
        self._hashes[self._slots(tensor)] = np.frombuffer(hashes, "<u8")
        self._seen[self._slots(tensor)] = b"\1" * (len(hashes) // 8)

    def _slots(self, tensor: str) -> slice:
        first = self._first[tensor]
        return slice(first, first - (-self._sizes[tensor] // CHUNK))

    def covered(self) -> bool:
        """Whether every chunk of every tensor was added."""
        return 0 not in self._seen

    def tensor_digests(self) -> dict[str, str]:
        """Each tensor's own hash, 16 hexadecimal digits: says which one differs where `hexdigest` says one does."""
        slots = {name: self._slots(name) for name in self._first}
        return {name: xxhash.xxh3_64_hexdigest(self._hashes[own].data) for name, own in slots.items()}

    def hexdigest(self) -> str:
        """`xxh3-128:` and 32 hexadecimal digits. Raises ValueError while a chunk is missing."""
        if not self.covered():
            missing = next(name for name in self._first if self.missing(name))
            raise ValueError(f"the fingerprint lacks chunks of tensor {missing!r}")
        digest, hashes = xxhash.xxh3_128(b"prefmerge content 1"), self._hashes.data
        for info in self._tensors:
            digest.update(_described(info))
            digest.update(hashes[self._slots(info.name)])
        return PREFIX + digest.hexdigest()


def _described(info: TensorInfo) -> bytes:
    name = info.name.encode("utf-8", "surrogatepass")
    head = f"{len(name)}:{info.dtype.code}:{len(info.shape)}:".encode()
    return head + name + struct.pack(f"<{len(info.shape)}Q", *info.shape)


def fingerprint_of(checkpoint: Checkpoint) -> Fingerprint:
    """The fingerprint of all tensors, covered; reads everything once. Raises CheckpointChanged."""
    fingerprint = Fingerprint(checkpoint.tensors.values(), aliases=checkpoint.aliases)
    with reading(checkpoint):
        for name in checkpoint.tensors:
            if name not in checkpoint.aliases:
                fingerprint.add_missing(name, checkpoint)
    return fingerprint


def content_fingerprint(checkpoint: Checkpoint) -> str:
    """`hexdigest` of all tensors; reads everything once."""
    return fingerprint_of(checkpoint).hexdigest()


def header_fingerprint(checkpoint: Checkpoint) -> str:
    """A hash of names, dtypes, shapes and file sizes, for a checkpoint that need not be read. Blind to the values."""
    digest = xxhash.xxh3_128(b"prefmerge header 1")
    for name in sorted(checkpoint.tensors):
        digest.update(_described(checkpoint.tensors[name]))
    for size in sorted(file.size for file in checkpoint.inputs):
        digest.update(struct.pack("<Q", size))
    return PREFIX + digest.hexdigest()


def _file_names(checkpoint: Checkpoint) -> list[str]:
    """Each weights file as its checkpoint names it: relative to the folder, so that shards in sub-folders keep
    names of their own; with their folders where those of several models would be called alike."""
    if checkpoint.path is None:
        return []
    home = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    files = checkpoint.files
    names = [path.relative_to(home).as_posix() if path.is_relative_to(home) else path.name for path in files]
    alike = len(set(names)) < len(names)
    return [f"{path.parent.name}/{path.name}" for path in files] if alike else names


def file_entries(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """[{"name", "bytes"}] of the weights files, as receipts list them."""
    pairs = zip(_file_names(checkpoint), checkpoint.inputs, strict=True)
    return [{"name": name, "bytes": file.size} for name, file in pairs]


def sha256_files(checkpoint: Checkpoint) -> dict[str, str]:
    """The SHA-256 of every weights file by its name, in hexadecimal; about 0.5 GB/s to 2 GB/s, hence only on
    request."""
    return {name: file.sha256() for name, file in zip(_file_names(checkpoint), checkpoint.inputs, strict=True)}
