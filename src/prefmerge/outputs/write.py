"""Writing a checkpoint: all of it with its receipt, or nothing.

    with create_output(target, tensors, metadata=..., kind="folder", force=False) as out:
        out.write(name, start, stored)      any block, any order, any thread
        out.publish(receipt)

The layout is known before the first element: a safetensors header, then every tensor at its aligned offset; so a
block is one pwrite and the bytes depend on tensors, metadata and values alone. A folder is published by one rename or
exchange. A file and its receipt beside it are two names, which no rename moves together: the new receipt waits in the
temporary folder while the weights are renamed, and `find_receipt` takes the one whose fingerprint is that of the
weights. An output has one writer at a time, from the check of its target to the end; a second one is refused at once.
Cost: writing once, and one fsync per file. Not here: compression, formats other than safetensors; file systems without
locks, where two merges with --force at once may end with the weights of one and the receipt of the other.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Literal

import numpy as np

from prefmerge.checkpoints.input_file import most_open
from prefmerge.checkpoints.names import WEIGHTS_NAME, index_name, output_name, shard_names
from prefmerge.checkpoints.paths import expanded
from prefmerge.checkpoints.protocol import TensorInfo
from prefmerge.checkpoints.safetensors_file import encode_header
from prefmerge.errors import DiskFull, OutputBusy, OutputError, OutputExists, UsageError
from prefmerge.ground import atomic, disk, jsons, locks
from prefmerge.ground.refused import remedy
from prefmerge.outputs.receipts import RECEIPT, find_receipt, receipt_beside, settle

_SHARD_FLAGS = os.O_RDWR | os.O_CLOEXEC
MAX_SHARD_BYTES = 5_000_000_000  # Hugging Face's limit for one file

OutputKind = Literal["file", "folder"]
ReceiptBytes = bytes | Callable[[list[dict[str, Any]]], bytes]


# Endings of files that others write: a folder that is called so would be taken for one.
_FOREIGN = re.compile(
    r".*\.(pt|pth|bin|ckpt|pkl|pickle|tar|gz|zip|npz|npy|h5|hdf5|keras|gguf|ggml|onnx|msgpack|ot|safe-?tensors?|json|ya?ml|txt)",
    re.IGNORECASE,
)


def kind_of(out: Path) -> OutputKind:
    """What is written at `out`: a file, or a folder. Raises UsageError for a name of what prefmerge does not write."""
    if out.suffix.lower() == ".safetensors":
        return "file"
    if _FOREIGN.fullmatch(out.name) and not out.is_dir():
        stem = out.name.partition(".")[0] or "merged"
        raise UsageError(
            f"-o {out}: prefmerge writes a .safetensors file or a folder, not {out.suffix}. Give for instance "
            f"-o {out.with_name(stem + '.safetensors')}, or -o {out.with_name(stem)} for a folder."
        )
    return "folder"


def create_output(
    target: str | Path,
    tensors: Sequence[TensorInfo],
    *,
    metadata: Mapping[str, str] | Callable[[], Mapping[str, str]],
    kind: OutputKind,
    force: bool,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    scratch_bytes: int = 0,
    began: float | None = None,
    weights_name: str = WEIGHTS_NAME,
    placed: Mapping[str, str] | None = None,
    beside_bytes: int = 0,
) -> Output:
    """Prepare to write `tensors` to `target`: a safetensors file, or a folder of one or more with an index.

    Everything is written beside the target; the target itself changes only in `Output.publish`. Missing parent
    folders are made, and taken back when nothing is published. `metadata` goes into every file, with `format: pt`
    added, without which transformers does not load one; it may be a call, which is made only if the target is free.
    `scratch_bytes` is what the caller will need on the same disk besides. What killed merges left is removed first.
    `began` (as time.time(), now by default) is when the caller set out: an output younger than that is another merge's.
    `weights_name` is what the weights of a folder are called when they are one file, and what the names of shards and
    index are made of; all lie in the sub-folder that it names, if any. `placed` names the file of each tensor of a
    folder, in that sub-folder; without it, files are filled up to `max_shard_bytes`. `beside_bytes` is what `add_file`
    will add.

    Raises OutputExists, OutputBusy, OutputError and DiskFull before anything is written.
    """
    target = Path(os.path.abspath(expanded(target)))
    began = time.time() if began is None else began
    if not target.name:
        raise OutputError(f"{target}: not a place for an output. Name a new {kind}.")
    with _reporting(target):
        try:
            claim = locks.claim(target)
        except PermissionError:
            _check_target(target, kind, force, began)  # says more than that no lock can be made
            raise
    try:
        with _reporting(target):
            atomic.recover(target, lambda workspace: settle(target, workspace))
            _check_target(target, kind, force, began)
        pairs = metadata() if callable(metadata) else metadata
        limit = max_shard_bytes if kind == "folder" else None
        shards = _lay_out(target, tensors, {"format": "pt", **pairs}, limit, weights_name, placed)
        with _reporting(target):
            _check_space(target, claim.beside, sum(shard.size for shard in shards) + beside_bytes, scratch_bytes)
            return Output(target, kind, force, shards, claim, began, weights_name)
    except BaseException:
        claim.release()
        raise


@contextlib.contextmanager
def _reporting(target: Path) -> Iterator[None]:
    """What the system refuses, as an OutputError that names the target."""
    try:
        yield
    except locks.Busy as error:
        who = f"another prefmerge merge {error.who}".rstrip()
        raise OutputBusy(
            f"{target}: {who} is writing this output. Wait until it has ended, or choose another output; "
            "--force does not take it over."
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"{target}: the disk is full. Free some space, or write to another disk.") from error
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise OutputExists(
                f"{target}: appeared while the merge was running. Choose another output, or give --force."
            ) from error
        way = f" {remedy(error)}".rstrip()
        raise OutputError(f"{target}: cannot be written ({error.strerror or error}).{way}") from error


def require_free(target: Path, kind: OutputKind, *, force: bool) -> None:
    """Raise OutputExists unless an output of this kind may be written at `target`, as it is now."""
    _check_target(Path(os.path.abspath(expanded(target))), kind, force, time.time())


def _check_target(target: Path, kind: OutputKind, force: bool, began: float) -> None:
    """Raise OutputExists unless `target` is free, or may be replaced by an output of this kind."""
    receipt = receipt_beside(target)
    if target.is_symlink():  # to replace it would surprise one user, to follow it another
        real = os.path.realpath(target)
        raise OutputExists(
            f"{target}: is a link to {real}, and prefmerge replaces no link. "
            f"Name {real} as the output, or remove the link."
        )
    if kind == "file" and receipt.is_symlink():
        raise OutputExists(f"{receipt}: a link is where the receipt goes. Remove it, or choose another output.")
    if kind == "file" and receipt.is_dir():
        raise OutputExists(f"{receipt}: a folder is where the receipt goes. Choose another output.")
    if not os.path.lexists(target):
        if kind == "file" and not force and os.path.lexists(receipt):
            raise OutputExists(
                f"{receipt}: already exists, where the receipt of {target.name} goes, though {target.name} does not. "
                "Choose another output, or overwrite it with --force."
            )
        return
    if kind == "folder" and not target.is_dir():
        raise OutputExists(
            f"{target}: a file is in the way of the output folder. Choose another output, or remove the file."
        )
    if kind == "file" and target.is_dir():
        raise OutputExists(
            f"{target}: a folder is in the way of the output file. "
            f"Name a file in it, for instance {target / 'merged.safetensors'}."
        )
    if kind == "file" and not target.is_file():
        raise OutputExists(f"{target}: neither a file nor a folder. Choose another output.")
    if kind == "folder" and not (target / RECEIPT).is_file() and any(target.iterdir()):
        raise OutputExists(
            f"{target}: {_how_it_came(target, began)} and holds no {RECEIPT}, so prefmerge did not make this folder "
            "and will not replace it, even with --force. Choose another output, or remove the folder yourself."
        )
    if not force:
        raise OutputExists(
            f"{target}: {_how_it_came(target, began)}. Choose another output, or overwrite it with --force."
        )


def _how_it_came(target: Path, began: float) -> str:
    """Whether an output was there before this merge began, in words."""
    if target.stat().st_ctime < began:  # a rename sets it
        return "already exists"
    if find_receipt(target) is not None:
        return "another prefmerge merge has written it meanwhile"
    return "appeared while the merge was running"


def _check_space(target: Path, folder: Path, output_bytes: int, scratch_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < output_bytes + scratch_bytes:
        scratch = f" and {_readable(scratch_bytes)} of scratch" if scratch_bytes else ""
        raise DiskFull(
            f"{target}: needs {_readable(output_bytes)}{scratch}, and {folder} has {_readable(free)} free. "
            "Free some space, or write to another disk."
        )


def _readable(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 10_000_000 else f"{count} bytes"


@dataclass(frozen=True)
class _Shard:
    """One safetensors file to be: its name, first bytes, size in bytes, and each tensor's offset."""

    name: str
    header: bytes
    offsets: Mapping[str, int]
    size: int
    tensors: tuple[TensorInfo, ...]


def _lay_out(
    target: Path,
    tensors: Sequence[TensorInfo],
    metadata: Mapping[str, str],
    limit: int | None,
    weights_name: str,
    placed: Mapping[str, str] | None,
) -> list[_Shard]:
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
            _Shard(str(inside / file), *encode_header(list(group), metadata), group) for file, group in of_file.items()
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
        _Shard(name, *encode_header(group, metadata), tuple(group)) for name, group in zip(names, groups, strict=True)
    ]


class Output:
    """A checkpoint that is being written; made by `create_output`. Leaving its `with` block unpublished removes every
    trace."""

    def __init__(
        self,
        target: Path,
        kind: OutputKind,
        force: bool,
        shards: list[_Shard],
        claim: locks.Claim,
        began: float,
        weights_name: str,
    ) -> None:
        self.target = target
        self.kind: OutputKind = kind
        self._force = force
        self._shards = shards
        self._module = shards[0].name.rpartition("/")[0]  # the sub-folder of the weights, empty for the target
        own = PurePosixPath(weights_name).name
        self._index = str(PurePosixPath(self._module) / index_name(output_name(own, in_folder=True)))
        self._infos = {info.name: info for shard in shards for info in shard.tensors}
        self._home = {info.name: i for i, shard in enumerate(shards) for info in shard.tensors}
        self._written = dict.fromkeys(self._infos, 0)  # elements
        self._count = threading.Lock()
        self._companions: set[str] = set()
        self._fds: dict[int, int] = {}  # of the shards that stay open, the first of them
        self._mapped: dict[int, np.ndarray] = {}
        self._claim = claim
        self._began = began
        self._stranded = False
        self._workspace = atomic.make_work_folder(target)
        try:
            (self._workspace.path / self._module).mkdir(parents=True, exist_ok=True)
            kept = most_open()
            for i, shard in enumerate(shards):
                fd = os.open(self._workspace.path / shard.name, _SHARD_FLAGS | os.O_CREAT | os.O_EXCL, 0o666)
                self._fds[i] = fd
                os.ftruncate(fd, shard.size)
                _write_all(fd, shard.header, 0)
                if i >= kept:
                    os.close(self._fds.pop(i))
        except BaseException:
            self.discard()
            raise

    @property
    def files(self) -> list[dict[str, Any]]:
        """[{"name", "bytes"}] of the weights files, as the receipt lists them."""
        return [{"name": shard.name, "bytes": shard.size} for shard in self._shards]

    @contextlib.contextmanager
    def _opened(self, shard: int) -> Iterator[int]:
        """A shard's descriptor. Of more shards than may be open at once, the others are opened when they are used."""
        kept = self._fds.get(shard)
        fd = os.open(self._workspace.path / self._shards[shard].name, _SHARD_FLAGS) if kept is None else kept
        try:
            yield fd
        finally:
            if kept is None:
                os.close(fd)

    def write(self, name: str, start: int, stored: np.ndarray) -> None:
        """Write the stored elements [start, start + len(stored)) of tensor `name`. Safe to call from any thread."""
        info = self._infos[name]
        if stored.dtype != info.dtype.storage or start < 0 or start + stored.size > info.size:
            raise ValueError(
                f"tensor {name!r} takes {info.size} elements of {info.dtype.storage}, "
                f"not elements {start} to {start + stored.size} of {stored.dtype}"
            )
        shard = self._home[name]
        block = np.ascontiguousarray(stored).reshape(-1).view(np.uint8)
        with _reporting(self.target), self._opened(shard) as fd:
            _write_all(fd, block.data, self._shards[shard].offsets[name] + start * info.dtype.itemsize)
        with self._count:
            self._written[name] += stored.size

    def raw(self, name: str) -> np.ndarray:
        """What was written of tensor `name` so far (zeros elsewhere): all its elements, flat, read-only, without a
        copy."""
        info, shard = self._infos[name], self._home[name]
        with self._count:
            if shard not in self._mapped:
                while len(self._mapped) >= max(1, len(self._fds)):  # a map holds a descriptor too
                    del self._mapped[next(iter(self._mapped))]
                with self._opened(shard) as fd:
                    mapped = mmap.mmap(fd, self._shards[shard].size, access=mmap.ACCESS_READ)
                self._mapped[shard] = np.frombuffer(mapped, dtype=np.uint8)
        offset = self._shards[shard].offsets[name]
        return self._mapped[shard][offset : offset + info.nbytes].view(info.dtype.storage)

    def add_file(self, name: str, data: bytes | Path) -> None:
        """Put a file beside the weights of a folder: bytes, or a copy of a file. `name` may have folders in it."""
        path = PurePosixPath(name)
        if self.kind != "folder":
            raise ValueError("only a folder takes files beside its weights")
        taken = {RECEIPT, self._index, *self._companions, *(shard.name for shard in self._shards)}
        if path.is_absolute() or ".." in path.parts or not path.parts or name in taken:
            raise ValueError(f"{name!r} is not a name for a file beside the weights, or is taken")
        with _reporting(self.target):
            place = self._workspace.path / path
            place.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(data, Path):
                shutil.copyfile(data, place)
            else:
                _write_file(place, data)
        self._companions.add(name)

    def publish(self, receipt: ReceiptBytes) -> None:
        """Make everything durable and put it at the target in one step. `receipt` is JSON, or makes it from `files`.

        Raises OutputExists when something appeared at the target meanwhile, ValueError when a tensor is not wholly
        written. Without `force` nothing that is there is ever replaced.
        """
        for name, info in self._infos.items():
            if self._written[name] < info.size:
                raise ValueError(f"tensor {name!r}: {self._written[name]} of {info.size} elements were written")
        content = receipt if isinstance(receipt, bytes) else receipt(self.files)
        with _reporting(self.target):
            for shard in range(len(self._shards)):
                with self._opened(shard) as fd:
                    disk.sync(fd)
            place = self._workspace.path / (RECEIPT if self.kind == "folder" else receipt_beside(self.target).name)
            _write_file(place, content, durable=True)
            _check_target(self.target, self.kind, self._force, self._began)
            if self.kind == "folder":
                self._publish_folder()
            else:
                self._publish_file()
        self.discard()

    def _publish_folder(self) -> None:
        work = self._workspace.path
        if len(self._shards) > 1:
            index = {
                "metadata": {"total_size": sum(info.nbytes for info in self._infos.values())},
                "weight_map": {
                    name: PurePosixPath(self._shards[shard].name).name for name, shard in sorted(self._home.items())
                },
            }
            _write_file(
                work / self._index,
                jsons.encoded(index, indent=2, ascii=False),
                durable=True,
            )
        folders = {work, *(work / parent for parent in PurePosixPath(self._index).parents)}
        for name in self._companions:
            disk.sync_path(work / name)
            folders.update(work / parent for parent in PurePosixPath(name).parents)
        for folder in sorted(folders, reverse=True):
            disk.sync_path(folder)
        if self._force and os.path.lexists(self.target):
            old = atomic.replace_folder(work, self.target)
            disk.sync_path(self.target.parent)
            disk.remove(old)
        else:
            atomic.rename_new(work, self.target)
            disk.sync_path(self.target.parent)

    def _publish_file(self) -> None:
        work, target = self._workspace.path, self.target
        receipt = receipt_beside(target)
        put = os.replace if self._force else atomic.rename_new
        old = work / f"{target.name}.old"
        disk.sync_path(work)
        replaces = os.path.lexists(target)
        if replaces:
            with contextlib.suppress(OSError):  # without hard links there is no way back, only forward
                os.link(target, old)
        try:
            put(work / target.name, target)
            disk.sync_path(target.parent)
            put(work / receipt.name, receipt)
        except BaseException:
            if disk.names(target, self._fds[0]) and (work / receipt.name).exists():
                try:
                    if replaces:
                        os.replace(old, target)
                    else:
                        os.rename(target, work / target.name)
                except OSError:
                    self._stranded = True  # the weights stay, and so must the receipt, for `find_receipt`
            raise
        disk.sync_path(target.parent)

    def discard(self) -> None:
        """Remove every trace but an output that was published, and release the target."""
        self._close()
        if self._stranded:
            self._workspace.release()
        else:
            self._workspace.discard()
        self._claim.release()

    def _close(self) -> None:
        self._mapped.clear()
        while self._fds:
            os.close(self._fds.popitem()[1])  # an interrupted call may come again

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


def _write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """pwrite until everything is written: one call takes 2 GiB at most."""
    rest = memoryview(data)
    while rest:
        done = os.pwrite(fd, rest, offset)
        rest, offset = rest[done:], offset + done


def _write_file(path: Path, data: bytes, *, durable: bool = False) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        _write_all(fd, data, 0)
        if durable:
            disk.sync(fd)
    finally:
        os.close(fd)
