"""A Hugging Face folder, and any path that a user may name: which files make up the checkpoint.

In a folder, in transformers' order: model.safetensors, its index, pytorch_model.bin, its index; otherwise the one
file (or index) that can hold weights: diffusers and open_clip have their own names. A whole file beside shards of the
same name is one checkpoint too many, and the user chooses. An index is {"weight_map":
{tensor: file}}; it must name what the files really hold, no less and no more. Symlinks are followed, as a
Hugging Face cache is made of them; the names in an index must stay inside the folder. Opening costs the headers of
all shards. Not here: LoRA adapters, hub ids, GGUF, TensorFlow and Flax weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, final

import numpy as np

from prefmerge.checkpoints.input_file import InputFile
from prefmerge.checkpoints.names import INDEX_SUFFIX, TORCH_SUFFIXES, indexed, is_index
from prefmerge.checkpoints.protocol import Checkpoint, TensorInfo, name_of
from prefmerge.checkpoints.safetensors_file import SafetensorsFile
from prefmerge.checkpoints.torch_file import open_torch_file
from prefmerge.errors import CheckpointCorrupt, CheckpointNotFound
from prefmerge.ground.words import listed

WELL_KNOWN = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_SHARD = re.compile(r".+-(\d{5})-of-(\d{5})(?:\.\w+)+")
_TRAINING_STATE = re.compile(r"(optimizer|scheduler|scaler|training_args|rng_state|random_states).*", re.IGNORECASE)


@final
@dataclass(frozen=True, eq=False)
class Folder:
    """A folder of one or more weight files: a `Checkpoint`. `parts` maps the name of each file to its checkpoint;
    `index` is the file that places the tensors in them, where there is one."""

    name: str
    path: Path
    tensors: Mapping[str, TensorInfo]
    aliases: Mapping[str, str]
    parts: Mapping[str, Checkpoint]
    _home: Mapping[str, str]
    index: Path | None = None

    @property
    def metadata(self) -> Mapping[str, str]:
        return next(iter(self.parts.values())).metadata

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(path for part in self.parts.values() for path in part.files)

    def file_of(self, tensor: str) -> str:
        return self._home[tensor]

    @property
    def inputs(self) -> tuple[InputFile, ...]:
        return tuple(file for part in self.parts.values() for file in part.inputs)

    def read(self, tensor: str, start: int, stop: int, buffer: np.ndarray | None = None) -> np.ndarray:
        return self.parts[self._home[tensor]].read(tensor, start, stop, buffer)

    def raw(self, tensor: str) -> np.ndarray:
        return self.parts[self._home[tensor]].raw(tensor)

    def close(self) -> None:
        for part in self.parts.values():
            part.close()


def open_checkpoint(path: str | Path, *, name: str | None = None) -> Checkpoint:
    """Open the checkpoint at `path`: a safetensors or torch file, a Hugging Face folder, or an index of shards.

        checkpoint = prefmerge.open_checkpoint("base.safetensors")
        checkpoint.tensors["visual.proj"].shape

    `name` is what messages and receipts call it: the file's stem, or the folder's name, when not given. Only headers
    are read. Raises CheckpointNotFound, CheckpointCorrupt, UnsupportedDtype, UnsafePickle, MissingExtra.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return _open_folder(path, name or name_of(path))
    if not path.exists():
        raise CheckpointNotFound(f"{path}: no such file or folder.{_hub_hint(path)}")
    if is_index(path.name):
        return _open_index(path, path, name or name_of(path))
    return _open_file(path, name, plain_names=False)


def _hub_hint(path: Path) -> str:
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) and not path.parent.exists():
        return (
            f" If it is a model of the Hugging Face hub, download it first: hf download {path} --local-dir {path.name}"
        )
    return ""


def _open_file(path: Path, name: str | None, *, plain_names: bool) -> Checkpoint:
    if path.stem == "adapter_model":
        raise CheckpointNotFound(_adapter(path))
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return SafetensorsFile.open(path, name=name)
    if suffix in TORCH_SUFFIXES:
        return open_torch_file(path, name=name, plain_names=plain_names)
    with path.open("rb") as file:  # blobs of a Hugging Face cache have no suffix
        start = file.read(9)
    if len(start) == 9 and int.from_bytes(start[:8], "little") < path.stat().st_size and start[8:] == b"{":
        return SafetensorsFile.open(path, name=name)
    if start.startswith(b"PK\x03\x04") and not suffix:
        return open_torch_file(path, name=name, plain_names=plain_names)
    raise CheckpointNotFound(
        f"{path}: not a checkpoint that prefmerge can read. "
        f"It reads .safetensors, {', '.join(TORCH_SUFFIXES)} and Hugging Face folders."
    )


def _adapter(path: Path) -> str:
    return (
        f"{path}: a LoRA adapter, not a whole model. Merge it into its base first: "
        "peft.PeftModel.from_pretrained(base, folder).merge_and_unload().save_pretrained('merged')."
    )


def _open_folder(folder: Path, name: str) -> Checkpoint:
    chosen = next((folder / known for known in WELL_KNOWN if (folder / known).is_file()), None) or _only_candidate(
        folder
    )
    if not is_index(chosen.name):
        chosen = _file_or_shards(chosen)
    if is_index(chosen.name):
        return _open_index(folder, chosen, name)
    part = _open_file(chosen, name, plain_names=False)
    return Folder(
        name, folder, part.tensors, part.aliases, {chosen.name: part}, dict.fromkeys(part.tensors, chosen.name)
    )


def _file_or_shards(file: Path) -> Path:
    """The file itself, or its index where that counts it among its shards. Raises CheckpointNotFound where the shards
    beside it are other files: it, or they, are a leftover, and nothing says which.
    """
    index = file.with_name(file.name + INDEX_SUFFIX)
    shards: list[str] = []
    with suppress(CheckpointCorrupt, OSError):  # what is no index leads to no other weights
        shards = sorted(set(_read_index(index).values()))
    if shards and not any((file.parent / shard).is_file() for shard in shards):
        return file  # an index of nothing that is there is the leftover
    if shards:
        if shards == [file.name]:
            return file
        if file.name in shards:
            return index
        other, beside = str(index), f"{index.name}, whose weights are in {listed(shards, 1)}"
    else:
        shards = sorted(
            path.name
            for path in file.parent.glob(f"*-of-*{file.suffix}")
            if _SHARD.fullmatch(path.name) and path.name.startswith(f"{file.stem}-")
        )
        if not shards:
            return file
        other, beside = f"the index of the shards, {index.name}", listed(shards, 1)
    raise CheckpointNotFound(
        f"{file.parent}: two checkpoints: {file.name}, and {beside}. "
        f"Give the one you mean, {file} or {other}, or move the other away."
    )


def _only_candidate(folder: Path) -> Path:
    """The one file or index in `folder` that can hold the weights. Raises CheckpointNotFound for none and for
    several."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))
    if "adapter_config.json" in names or any(name.startswith("adapter_model.") for name in names):
        raise CheckpointNotFound(_adapter(folder))
    shards: list[str] = []
    for suffixes in ((".safetensors",), TORCH_SUFFIXES):
        candidates: list[str] = []
        for name in names:
            whole = indexed(name)
            if not whole.lower().endswith(suffixes) or _TRAINING_STATE.fullmatch(name):
                continue
            shard = _SHARD.fullmatch(name)
            if shard and shard.group(2) != "00001":
                shards.append(name)
            else:
                candidates.append(name)
        if len(candidates) == 2 and candidates[1] == candidates[0] + INDEX_SUFFIX:
            return folder / candidates[0]  # of one name: the caller looks whether they are one checkpoint
        if len(candidates) > 1:
            more = ", ..." if len(candidates) > 10 else ""
            raise CheckpointNotFound(
                f"{folder}: several checkpoints: {', '.join(candidates[:10])}{more}. "
                f"Name the one you mean, for instance {folder / candidates[0]}."
            )
        if candidates:
            return folder / candidates[0]
    if shards:
        raise CheckpointCorrupt(
            f"{folder}: {len(shards)} shards ({shards[0]}, ...) and no {INDEX_SUFFIX} file. Download the index too."
        )
    holds = f"It holds {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" if names else "It is empty"
    raise CheckpointNotFound(
        f"{folder}: no checkpoint in this folder. {holds}; expected {WELL_KNOWN[0]} or another weights file."
    )


def _read_index(index: Path) -> dict[str, str]:
    """tensor -> file name, from an index whose names all stay in its folder."""
    try:
        content: Any = json.loads(index.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointCorrupt(f"{index}: not JSON ({error}). Download it again.") from None
    placed = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(placed, dict) or not placed or not all(isinstance(file, str) for file in placed.values()):
        raise CheckpointCorrupt(f"{index}: has no weight_map that names a file for each tensor. Download it again.")
    for tensor, file in placed.items():
        parts = PurePosixPath(file).parts
        if not parts or file.startswith("/") or ".." in parts or "\\" in file or "\0" in file:
            raise CheckpointCorrupt(
                f"{index}: places tensor {tensor!r} in {file!r}, outside its folder. "
                "Shards lie beside their index; do not trust this checkpoint."
            )
    return placed


def _open_index(path: Path, index: Path, name: str) -> Folder:
    placed = _read_index(index)
    parts: dict[str, Checkpoint] = {}
    for file in sorted(set(placed.values())):
        shard = index.parent / file
        if not shard.is_file():
            wanted = sum(1 for home in placed.values() if home == file)
            raise CheckpointCorrupt(
                f"{index}: names the shard {file} for {wanted} tensors, and it is not there. Download it too."
            )
        parts[file] = _open_file(shard, name, plain_names=True)
    for tensor, file in placed.items():
        if tensor not in parts[file].tensors:
            raise CheckpointCorrupt(
                f"{index}: places tensor {tensor!r} in {file}, which does not hold it. Download both again."
            )
    tensors: dict[str, TensorInfo] = {}
    aliases: dict[str, str] = {}
    for file, part in parts.items():
        stray = list(islice((tensor for tensor in part.tensors if placed.get(tensor) != file), 5))
        if stray:
            raise CheckpointCorrupt(
                f"{index}: its shard {file} holds {', '.join(map(repr, stray))}, which the index places "
                f"{'nowhere' if stray[0] not in placed else 'in ' + placed[stray[0]]}. "
                "Download the index and the shards again, of one revision."
            )
        tensors.update(part.tensors)
        aliases.update(part.aliases)
    return Folder(name, path, dict(sorted(tensors.items())), aliases, parts, placed, index)
