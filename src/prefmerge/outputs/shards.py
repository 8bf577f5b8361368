"""The weights files of an output: which tensor lies where, and blocks written to their places.

    shards = lay_out(target, tensors, metadata, limit, weights_name, placed)
    files = ShardFiles(folder, shards, target)
    files.write(name, start, stored)      any block, any order, any thread

The layout is known before the first element: a safetensors header, then every tensor at its aligned offset; so a block
is one pwrite and the bytes depend on tensors, metadata and values alone. Files of this very layout that are there
already keep their content: what of it is good is for the caller to say. Cost: writing once. Not here: what becomes of
the folder (`write`).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath

import numpy as np

from prefmerge.checkpoints.input_file import most_open
from prefmerge.checkpoints.names import shard_names
from prefmerge.checkpoints.protocol import TensorInfo
from prefmerge.checkpoints.safetensors_file import encode_header
from prefmerge.ground import disk
from prefmerge.outputs.refusals import reporting

_FLAGS = os.O_RDWR | os.O_CLOEXEC


@dataclass(frozen=True)
class Shard:
    """One safetensors file to be: its name, first bytes, size in bytes, and each tensor's offset."""

    name: str
    header: bytes
    offsets: Mapping[str, int]
    size: int
    tensors: tuple[TensorInfo, ...]


def lay_out(
    target: Path,
    tensors: Sequence[TensorInfo],
    metadata: Mapping[str, str],
    limit: int | None,
    weights_name: str,
    placed: Mapping[str, str] | None,
) -> list[Shard]:
    """The files of an output: one called as the target (no limit), those of `placed`, or `weights_name` and its shards,
    filled in order of tensor names."""
    ordered = sorted(tensors, key=lambda info: info.name)
    for info, following in pairwise(ordered):
        if info.name == following.name:
            raise ValueError(f"tensor {info.name!r} is given twice")
    if limit is not None and placed is not None:
        files = sorted(set(placed.values()))
        inside = PurePosixPath(weights_name).parent
        of_file = {file: tuple(info for info in ordered if placed[info.name] == file) for file in files}
        return [
            Shard(str(inside / file), *encode_header(list(group), metadata), group) for file, group in of_file.items()
        ]
    groups: list[list[TensorInfo]] = [[]]
    filled = 0
    for info in ordered:
        if limit is not None and groups[-1] and filled + info.nbytes > limit:
            groups.append([])
            filled = 0
        groups[-1].append(info)
        filled += info.nbytes
    names = shard_names(weights_name, len(groups)) if limit is not None else [target.name]
    return [
        Shard(name, *encode_header(group, metadata), tuple(group)) for name, group in zip(names, groups, strict=True)
    ]


class ShardFiles:
    """The files of `shards` in `folder`, open for writing. `target`: the output that messages name. Of more shards than
    may be open at once, the others are opened when they are used.
    """

    def __init__(self, folder: Path, shards: Sequence[Shard], target: Path) -> None:
        self.folder, self.shards, self._target = folder, shards, target
        self.infos = {info.name: info for shard in shards for info in shard.tensors}
        self.home = {info.name: i for i, shard in enumerate(shards) for info in shard.tensors}
        self._written = dict.fromkeys(self.infos, 0)  # elements
        self._count = threading.Lock()
        self._fds: dict[int, int] = {}
        self._mapped: dict[int, np.ndarray] = {}
        try:
            kept = most_open()
            for i, shard in enumerate(shards):
                path = folder / shard.name
                path.parent.mkdir(parents=True, exist_ok=True)
                fd = self._fds[i] = os.open(path, _FLAGS | os.O_CREAT | os.O_NOFOLLOW, 0o666)
                if os.fstat(fd).st_size != shard.size or os.pread(fd, len(shard.header), 0) != shard.header:
                    os.ftruncate(fd, 0)
                    os.ftruncate(fd, shard.size)
                    write_all(fd, shard.header, 0)
                if i >= kept:
                    os.close(self._fds.pop(i))
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(shard.size for shard in self.shards)

    @contextlib.contextmanager
    def opened(self, shard: int) -> Iterator[int]:
        """A shard's descriptor."""
        kept = self._fds.get(shard)
        fd = os.open(self.folder / self.shards[shard].name, _FLAGS) if kept is None else kept
        try:
            yield fd
        finally:
            if kept is None:
                os.close(fd)

    def write(self, name: str, start: int, stored: np.ndarray) -> None:
        """Write the stored elements [start, start + len(stored)) of tensor `name`. Safe to call from any thread."""
        info = self.infos[name]
        if stored.dtype != info.dtype.storage or start < 0 or start + stored.size > info.size:
            raise ValueError(
                f"tensor {name!r} takes {info.size} elements of {info.dtype.storage}, "
                f"not elements {start} to {start + stored.size} of {stored.dtype}"
            )
        shard = self.home[name]
        block = np.ascontiguousarray(stored).reshape(-1).view(np.uint8)
        with reporting(self._target), self.opened(shard) as fd:
            write_all(fd, block.data, self.shards[shard].offsets[name] + start * info.dtype.itemsize)
        with self._count:
            self._written[name] += stored.size

    def is_there(self, name: str) -> None:
        """Count a tensor as written: its elements were in the file already."""
        with self._count:
            self._written[name] = self.infos[name].size

    def raw(self, name: str) -> np.ndarray:
        """What was written of tensor `name` so far (zeros elsewhere): all its elements, flat, read-only, without a
        copy."""
        info, shard = self.infos[name], self.home[name]
        with self._count:
            if shard not in self._mapped:
                while len(self._mapped) >= max(1, len(self._fds)):  # a map holds a descriptor too
                    del self._mapped[next(iter(self._mapped))]
                with self.opened(shard) as fd:
                    mapped = mmap.mmap(fd, self.shards[shard].size, access=mmap.ACCESS_READ)
                self._mapped[shard] = np.frombuffer(mapped, dtype=np.uint8)
            whole = self._mapped[shard]
        offset = self.shards[shard].offsets[name]
        return whole[offset : offset + info.nbytes].view(info.dtype.storage)

    def require_whole(self) -> None:
        """Raise ValueError when a tensor is not wholly written."""
        for name, info in self.infos.items():
            if self._written[name] < info.size:
                raise ValueError(f"tensor {name!r}: {self._written[name]} of {info.size} elements were written")

    def sync(self) -> None:
        """Have all files reach the disk."""
        for shard in range(len(self.shards)):
            with self.opened(shard) as fd:
                disk.sync(fd)

    def close(self) -> None:
        self._mapped.clear()
        while self._fds:
            os.close(self._fds.popitem()[1])  # an interrupted call may come again


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """pwrite until everything is written: one call takes 2 GiB at most."""
    rest = memoryview(data)
    while rest:
        done = os.pwrite(fd, rest, offset)
        rest, offset = rest[done:], offset + done
