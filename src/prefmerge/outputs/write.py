"""Writing a checkpoint: all of it with its receipt, or nothing.

    with create_output(target, tensors, metadata=..., kind="folder", force=False) as out:
        out.write(name, start, stored)      any block, any order, any thread
        out.publish(receipt)

The weights are written beside the target (`shards`). A folder is published by one rename or exchange. A file and its
receipt beside it are two names, which no rename moves together: the new receipt waits in the temporary folder while the
weights are renamed, and `find_receipt` takes the one whose fingerprint is that of the weights. An output has one writer
at a time, from the check of its target to the end; a second one is refused at once. With `resume` the folder beside the
target is called after a digest of what decides the bytes, and outlives whatever ends the writing; the next writer of
that target who does not ask for the very same, to resume it, removes it.
Cost: writing once, and one fsync per file. Not here: compression, formats other than safetensors; file systems without
locks, where two merges with --force at once may end with the weights of one and the receipt of the other.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Literal

import numpy as np

from prefmerge.checkpoints.names import WEIGHTS_NAME, index_name, output_name
from prefmerge.checkpoints.paths import expanded
from prefmerge.checkpoints.protocol import TensorInfo
from prefmerge.errors import DiskFull, OutputError, OutputExists, UsageError
from prefmerge.ground import atomic, disk, jsons, locks, store
from prefmerge.ground.words import listed
from prefmerge.outputs.receipts import HELD, RECEIPT, added_by_others, find_receipt, receipt_beside, settle
from prefmerge.outputs.refusals import reporting
from prefmerge.outputs.shards import Shard, ShardFiles, lay_out, write_all

SHOWN = 5  # files that a message names
MAX_SHARD_BYTES = 5_000_000_000  # Hugging Face's limit for one file

OutputKind = Literal["file", "folder"]
ReceiptBytes = bytes | Callable[[list[dict[str, Any]]], bytes]


# Endings of files that others write: a folder that is called so would be taken for one.
_FOREIGN = re.compile(
    r".*\.(pt|pth|bin|ckpt|pkl|pickle|tar|gz|zip|npz|npy|h5|hdf5|keras|gguf|ggml|onnx|msgpack|ot|safe-?tensors?|json|ya?ml|txt|html?)",
    re.IGNORECASE,
)


def kind_of(out: Path) -> OutputKind:
    """What is written at `out`: a file, or a folder. Raises UsageError for a name of what prefmerge does not write."""
    if str(out).startswith("-"):  # stdout, or a flag whose value is lacking
        raise UsageError(f"-o {out}: not a name for an output, which is a file or a folder. Give another name.")
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
    key: str | None = None,
    resume: bool = True,
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
    will add. `key`: a digest of what decides the values; then the folder is called after it, and with `resume` the
    files of an earlier writer that gave the same one, for this very layout, are there still, and stay when this one is
    interrupted.

    Raises OutputExists, OutputBusy, OutputError and DiskFull before anything is written.
    """
    target = Path(os.path.abspath(expanded(target)))
    began = time.time() if began is None else began
    if not target.name:
        raise OutputError(f"{target}: not a place for an output. Name a new {kind}.")
    with reporting(target):
        try:
            claim = locks.claim(target)
        except PermissionError:
            _check_target(target, kind, force, began)  # says more than that no lock can be made
            raise
    try:
        with reporting(target):
            if key is None or not resume:
                atomic.recover(target, lambda workspace: settle(target, workspace))
            else:  # which folder is this one's is known once the layout is
                _settle_all(target)
            _check_target(target, kind, force, began)
        pairs = metadata() if callable(metadata) else metadata
        limit = max_shard_bytes if kind == "folder" else None
        shards = lay_out(target, tensors, {"format": "pt", **pairs}, limit, weights_name, placed)
        needed = sum(shard.size for shard in shards) + beside_bytes
        key = None if key is None else _key(key, shards)
        with reporting(target):
            if key is not None:
                atomic.recover(target, keep=key)
                needed -= sum(map(_taken, (atomic.kept_folder(target, key) / HELD).rglob("*")))
            _check_space(target, claim.beside, needed, scratch_bytes)
            return Output(target, kind, force, shards, claim, began, weights_name, key, resume)
    except BaseException:
        claim.release()
        raise


def _key(values: str, shards: Sequence[Shard]) -> str:
    """What an output's folder is called after: everything that decides its bytes."""
    return store.digest([values, [[shard.name, shard.header.hex()] for shard in shards]])


def _taken(path: Path) -> int:
    """The bytes of the disk that a file takes."""
    return path.lstat().st_blocks * 512


def _settle_all(target: Path) -> None:
    """Finish what killed merges had begun at the target, and leave what they left beside it."""
    atomic.restore(target)
    for workspace in atomic.work_folders(target):
        settle(target, workspace)


def tidy(target: Path, *, leave: bool = False) -> None:
    """Finish what a merge that was killed at its very end had yet to do at an output that is there, and remove what it
    left. `leave`: remove nothing, as a merge that resumes may take it. Raises OutputBusy, OutputError.
    """
    target = Path(os.path.abspath(expanded(target)))
    if not (atomic.work_folders(target) or locks.lock_file(target).exists()):
        return
    with reporting(target), locks.claim(target):
        if leave:
            _settle_all(target)
        else:
            atomic.recover(target, lambda workspace: settle(target, workspace))


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
    if kind == "folder" and any(target.iterdir()):
        _refuse_to_lose(target)
    if not force:
        raise OutputExists(
            f"{target}: {_how_it_came(target, began)}. Choose another output, or overwrite it with --force."
        )


def _refuse_to_lose(folder: Path) -> None:
    """Raise OutputExists where a folder that is to be replaced holds what no merge wrote."""
    others = added_by_others(folder)
    if others is None:
        raise OutputExists(
            f"{folder}: its {RECEIPT} was not written by prefmerge, or is damaged, so nobody knows which of its files "
            "are yours. It will not be replaced, even with --force. Choose another output, or remove the folder "
            "yourself."
        )
    if others:
        raise OutputExists(
            f"{folder}: holds what the merge before did not write, and --force would remove it: "
            f"{listed(others, SHOWN, form=_printable)}. Move it out of the folder, or choose another output."
        )


def _printable(name: str) -> str:
    return name if name.isprintable() else ascii(name)


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


class Output:
    """A checkpoint that is being written; made by `create_output`. Leaving its `with` block unpublished removes every
    trace."""

    def __init__(
        self,
        target: Path,
        kind: OutputKind,
        force: bool,
        shards: list[Shard],
        claim: locks.Claim,
        began: float,
        weights_name: str,
        key: str | None,
        resume: bool,
    ) -> None:
        self.target = target
        self.kind: OutputKind = kind
        self._force = force
        self.shards = shards
        self.key = key  # of what decides the bytes, where the folder is called after it
        self._resume = key is not None and resume
        self._module = shards[0].name.rpartition("/")[0]  # the sub-folder of the weights, empty for the target
        own = PurePosixPath(weights_name).name
        self._index = str(PurePosixPath(self._module) / index_name(output_name(own, in_folder=True)))
        self._companions: set[str] = set()
        self._weights: ShardFiles | None = None
        self._claim = claim
        self._began = began
        self._stranded = self._published = False
        self._workspace = atomic.make_work_folder(target) if key is None else atomic.keep_work_folder(target, key)
        self._home = self._workspace.path if key is None else self._workspace.path / HELD
        try:
            (self._home / self._module).mkdir(parents=True, exist_ok=True)
            if key is not None:
                self._remove_others()
            self._weights = ShardFiles(self._home, shards, target)
        except BaseException:
            self.discard()
            raise

    def _remove_others(self) -> None:
        """Remove what an interrupted writer put beside the weights: it is made again."""
        weights = {self._home / shard.name for shard in self.shards}
        for path in sorted(self._home.rglob("*"), reverse=True):
            if path not in weights and not any(path in one.parents for one in weights):
                disk.remove(path)

    def look_again(self) -> None:
        """Open the weights files anew, as others may have written to them."""
        self.weights.close()
        self._weights = ShardFiles(self._home, self.shards, self.target)

    @property
    def pieces(self) -> Path:
        """The folder for what a later writer must know of the values that are there; of an output with a key."""
        return self._workspace.path / "pieces"

    @property
    def weights(self) -> ShardFiles:
        """The weights files."""
        assert self._weights is not None, "an output has its files from the start"
        return self._weights

    @property
    def files(self) -> list[dict[str, Any]]:
        """[{"name", "bytes"}] of the weights files, as the receipt lists them."""
        return [{"name": shard.name, "bytes": shard.size} for shard in self.shards]

    @property
    def beside(self) -> tuple[str, ...]:
        """The files beside the weights of a folder, but for the receipt: what was added, and the index of shards."""
        return tuple(sorted({*self._companions, *([self._index] if len(self.shards) > 1 else [])}))

    def write(self, name: str, start: int, stored: np.ndarray) -> None:
        """Write the stored elements [start, start + len(stored)) of tensor `name`. Safe to call from any thread."""
        self.weights.write(name, start, stored)

    def raw(self, name: str) -> np.ndarray:
        """What was written of tensor `name` so far (zeros elsewhere): all its elements, flat, read-only, without a
        copy."""
        return self.weights.raw(name)

    def add_file(self, name: str, data: bytes | Path) -> None:
        """Put a file beside the weights of a folder: bytes, or a copy of a file. `name` may have folders in it."""
        path = PurePosixPath(name)
        if self.kind != "folder":
            raise ValueError("only a folder takes files beside its weights")
        taken = {RECEIPT, self._index, *self._companions, *(shard.name for shard in self.shards)}
        if path.is_absolute() or ".." in path.parts or not path.parts or name in taken:
            raise ValueError(f"{name!r} is not a name for a file beside the weights, or is taken")
        with reporting(self.target):
            place = self._home / path
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
        self.weights.require_whole()
        content = receipt if isinstance(receipt, bytes) else receipt(self.files)
        with reporting(self.target):
            self.weights.sync()
            place = self._home / (RECEIPT if self.kind == "folder" else receipt_beside(self.target).name)
            _write_file(place, content, durable=True)
            _check_target(self.target, self.kind, self._force, self._began)
            if self.kind == "folder":
                self._publish_folder()
            else:
                self._publish_file()
        self._published = True
        self.discard()

    def _publish_folder(self) -> None:
        work = self._home
        if len(self.shards) > 1:
            places = [(name, self.shards[shard].name) for name, shard in sorted(self.weights.home.items())]
            index = {
                "metadata": {"total_size": sum(info.nbytes for info in self.weights.infos.values())},
                "weight_map": {name: PurePosixPath(file).name for name, file in places},
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
            old = atomic.replace_folder(work, self.target, aside=self._workspace.path.with_suffix(".old"))
            disk.sync_path(self.target.parent)
            disk.remove(old)
        else:
            atomic.rename_new(work, self.target)
            disk.sync_path(self.target.parent)

    def _publish_file(self) -> None:
        work, target = self._home, self.target
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
            with self.weights.opened(0) as fd:
                in_place = disk.names(target, fd)
            if in_place and (work / receipt.name).exists():
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
        """Remove every trace but an output that was published and pieces to resume from, and release the target."""
        if self._weights is not None:
            self._weights.close()
        if self._stranded or (self._resume and not self._published):
            self._workspace.release()
        else:
            self._workspace.discard()
        self._claim.release()

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


def _write_file(path: Path, data: bytes, *, durable: bool = False) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        write_all(fd, data, 0)
        if durable:
            disk.sync(fd)
    finally:
        os.close(fd)
