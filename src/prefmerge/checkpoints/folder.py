"""A folder of weights, and any path that a user may name: which files make up the checkpoint.

In a folder, in transformers' order: model.safetensors, its index, pytorch_model.bin, its index; otherwise the one
file (or index) that can hold weights: diffusers and open_clip have their own names. A whole file beside shards of the
same name is one checkpoint too many, and the user chooses. An index is {"weight_map":
{tensor: file}}; it must name what the files really hold, no more, and no less but for a tied head. Shards say
themselves what they hold: without their index they are read too. Symlinks are followed, as a Hugging Face cache is made
of them; the names in an index must stay inside the folder. Opening costs the headers of all shards. Not here: which
folder is meant (`layouts`), LoRA adapters (`adapter`), hub ids (`hub`), GGUF, TensorFlow and Flax weights.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, final

import numpy as np

from prefmerge.checkpoints.input_file import NO_FILE, InputFile
from prefmerge.checkpoints.layouts import LONGEST, Meant, file_names, is_weights, meant
from prefmerge.checkpoints.names import INDEX_SUFFIX, TORCH_SUFFIXES, indexed, is_index
from prefmerge.checkpoints.other_formats import what_it_is
from prefmerge.checkpoints.paths import expanded, name_of, split_key
from prefmerge.checkpoints.protocol import Checkpoint, TensorInfo
from prefmerge.checkpoints.safetensors_file import SafetensorsFile
from prefmerge.checkpoints.torch_file import is_torch_file, open_torch_file
from prefmerge.errors import CheckpointCorrupt, CheckpointNotFound
from prefmerge.ground import jsons
from prefmerge.ground.brief import brief
from prefmerge.ground.words import listed

WELL_KNOWN = tuple(
    name + suffix
    for name in ("model.safetensors", "pytorch_model.bin", "diffusion_pytorch_model.safetensors")
    for suffix in ("", INDEX_SUFFIX)
)
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})((?:\.\w+)+)")
# Names that libraries give to what is tied: they write one of the two, and some of them index both.
_TIED = re.compile(
    r"(.*\.)?(lm_head|embed_tokens|word_embeddings|wte|shared)\.weight|(model\.)?(embed_out|proj_out|output)\.weight"
    r"|(.*\.)?(predictions|lm_head)\.decoder\.(weight|bias)"
)
_MAY_BE_TIED_TO = re.compile(r"embed|wte|shared|lm_head|output")


@final
@dataclass(frozen=True, eq=False)
class Folder:
    """A folder of one or more weight files: a `Checkpoint`. `parts` maps the name of each file to its checkpoint;
    `index` is the file that places the tensors in them, where there is one. `module` is the sub-folder that all of them
    lie in, empty for the folder itself; `others` are the sub-folders with weights of other modules."""

    __repr__ = brief

    name: str
    path: Path
    tensors: Mapping[str, TensorInfo]
    aliases: Mapping[str, str]
    parts: Mapping[str, Checkpoint]
    _home: Mapping[str, str]
    index: Path | None = None
    notes: tuple[str, ...] = ()
    module: str = ""
    others: tuple[str, ...] = ()

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
    try:
        return _opened(path, name)
    except OSError as error:  # names that are too long, folders that one may not enter
        what = path if error.filename is None else os.fsdecode(error.filename)
        raise CheckpointNotFound(f"{what}: cannot be read ({error.strerror or error}).") from error


def _opened(path: str | Path, name: str | None) -> Checkpoint:
    path, key = split_key(expanded(path))
    if path.is_dir():
        if key is not None:
            raise CheckpointNotFound(f"{path}#{key}: {path} is a folder. Name the file in it that has {key!r}.")
        return _open_folder(path, name or name_of(path))
    if not path.exists():
        raise CheckpointNotFound(f"{path}: no such file or folder.{_hub_hint(path)}")
    if not path.is_file():
        raise CheckpointNotFound(f"{path}: {NO_FILE}")
    if is_index(path.name):
        return _open_index(path, path, name or name_of(path))
    return _open_file(path, name, plain_names=False, key=key)


def _hub_hint(path: Path) -> str:
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) and not path.parent.exists():
        return (
            f" If it is a model of the Hugging Face hub, download it first: hf download {path} --local-dir {path.name}"
        )
    return ""


def _open_file(path: Path, name: str | None, *, plain_names: bool, key: str | None = None) -> Checkpoint:
    if path.stem == "adapter_model":
        raise CheckpointNotFound(_adapter(path))
    return open_weights(path, name=name, plain_names=plain_names, key=key)


def open_weights(path: Path, *, name: str | None, plain_names: bool = False, key: str | None = None) -> Checkpoint:
    """Open one file of tensors, whatever they belong to."""
    suffix = path.suffix.lower()
    if suffix == ".safetensors" or (suffix not in TORCH_SUFFIXES and _starts_as_safetensors(path)):
        if key is not None:
            raise CheckpointNotFound(
                f"{path}#{key}: {path.name} is a safetensors file, which holds tensors and no dicts. Leave #{key} out."
            )
        return SafetensorsFile.open(path, name=name)
    if suffix in TORCH_SUFFIXES or is_torch_file(path):
        return open_torch_file(path, name=name, plain_names=plain_names, key=key)
    said = what_it_is(path)
    if said is not None:
        raise CheckpointNotFound(f"{path}: {said}")
    raise CheckpointNotFound(
        f"{path}: not a checkpoint that prefmerge can read. "
        f"It reads .safetensors, {', '.join(TORCH_SUFFIXES)}, what torch.save wrote under any name, and folders."
    )


def _starts_as_safetensors(path: Path) -> bool:
    """Whether a file, whatever it is called, begins with a header: blobs of a Hugging Face cache have no suffix."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and int.from_bytes(start[:8], "little") < path.stat().st_size and start[8:] == b"{"


def _adapter(path: Path) -> str:
    return (
        f"{path}: a LoRA adapter, not a whole model. It can be a task beside its base. Where a model is needed, "
        f"make one first: prefmerge merge BASE {path} --method last -o merged"
    )


def _open_folder(given: Path, name: str) -> Checkpoint:
    where = meant(given)
    folder = where.folder / where.module
    chosen = next((folder / known for known in WELL_KNOWN if (folder / known).is_file()), None) or _only_candidate(
        folder
    )
    if not is_index(chosen.name):
        chosen = _file_or_shards(chosen)
    if is_index(chosen.name):
        return _placed(_open_index(where.folder, chosen, name), where)
    if _SHARD.fullmatch(chosen.name) and not chosen.with_name(chosen.name + INDEX_SUFFIX).is_file():
        return _placed(_open_shards(where.folder, chosen, name), where)
    part = _open_file(chosen, name, plain_names=False)
    home = dict.fromkeys(part.tensors, chosen.name)
    return _placed(
        Folder(name, where.folder, part.tensors, part.aliases, {chosen.name: part}, home, notes=part.notes), where
    )


def _placed(opened: Folder, where: Meant) -> Folder:
    beside = any((where.folder / where.module / f"adapter_model.{kind}").is_file() for kind in ("safetensors", "bin"))
    notes = (
        ("the LoRA adapter beside the model is not read; for both give them apart, MODEL+ADAPTER",) if beside else ()
    )
    return replace(opened, notes=(*where.notes, *notes, *opened.notes), module=where.module, others=where.others)


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
    """The one file or index in `folder` that can hold the weights; the first of shards. Raises CheckpointNotFound for
    none and for several."""
    names = file_names(folder)
    if "adapter_config.json" in names or any(name.startswith("adapter_model.") for name in names):
        raise CheckpointNotFound(_adapter(folder))
    several = candidates(names)
    if len(several) > 1:
        more = ", ..." if len(several) > 10 else ""
        raise CheckpointNotFound(
            f"{folder}: several checkpoints: {', '.join(several[:10])}{more}. "
            f"Name the one you mean, for instance {folder / several[0]}."
        )
    return folder / several[0]


def candidates(names: Sequence[str]) -> list[str]:
    """Of the files in a folder those that can be its checkpoint: a whole file, an index, or the first of shards."""
    weights = [name for name in names if is_weights(name)]
    preferred = [name for name in weights if ".safetensors" in name.lower()] or weights
    several = _whole(preferred) or [name for name in weights if is_index(name)]
    if not any(map(is_index, several)):
        several = sorted({*several, *_first_shards(preferred)})
    if len(several) == 2 and several[1] == several[0] + INDEX_SUFFIX:
        return several[:1]  # of one name: who opens it looks whether they are one checkpoint
    return several


def shards_of(name: str, names: Sequence[str]) -> list[str]:
    """Of the files in a folder the shards of the checkpoint that `name` stands for (a whole file, an index or one of
    the shards), by what they are called.
    """
    shards = {one: shard for one in names if (shard := _SHARD.fullmatch(one))}
    if name in shards:
        return [one for one, shard in shards.items() if shard.group(1, 3, 4) == shards[name].group(1, 3, 4)]
    whole = indexed(name) if is_index(name) else name
    own = [one for one, shard in shards.items() if shard[1] + shard[4] == whole]
    if own or not is_index(name):
        return own
    suffix = whole[whole.rindex(".") :]  # an index may call its shards what it likes
    return [one for one in names if one.endswith(suffix) and is_weights(one)]


def _whole(names: list[str]) -> list[str]:
    """Those that are no shards, or the first."""
    return [name for name in names if not (shard := _SHARD.fullmatch(name)) or shard[3] == "00001"]


def _first_shards(names: list[str]) -> list[str]:
    """Of each set of shards the first that is there."""
    firsts: dict[tuple[str, ...], str] = {}
    for name in names:
        shard = _SHARD.fullmatch(name)
        if shard is not None and shard[3] != "00001":
            firsts.setdefault((shard[1], shard[3], shard[4]), name)
    return list(firsts.values())


def _open_shards(path: Path, first: Path, name: str) -> Folder:
    """Shards whose index is not there: what they hold is in them, and their names say how many there are."""
    shard = _SHARD.fullmatch(first.name)
    assert shard is not None
    count = int(shard[3])
    there = set(file_names(first.parent))
    files = [f"{shard[1]}-{i:05}-of-{shard[3]}{shard[4]}" for i in range(1, count + 1)]
    missing = [file for file in files if file not in there]
    if missing:
        raise CheckpointCorrupt(
            f"{first.parent}: {count - len(missing)} of {count} shards are there, without an index; lacking: "
            f"{listed(missing, 3)}. Download them too."
        )
    parts = {file: _open_file(first.with_name(file), name, plain_names=True) for file in files}
    home: dict[str, str] = {}
    for file, part in parts.items():
        for tensor in part.tensors:
            if tensor in home:
                raise CheckpointCorrupt(
                    f"{first.parent}: tensor {tensor!r} is in {home[tensor]} and in {file}, and no index says which is "
                    "meant. Download the shards again, with their index."
                )
            home[tensor] = file
    tensors = {tensor: parts[home[tensor]].tensors[tensor] for tensor in sorted(home)}
    aliases = {alias: of for part in parts.values() for alias, of in part.aliases.items()}
    note = f"{count} shards without an index are read as they are"
    return Folder(name, path, tensors, aliases, parts, home, notes=(note,))


def _read_index(index: Path) -> dict[str, str]:
    """tensor -> file name, from an index whose names all stay in its folder."""
    try:
        content: Any = jsons.foreign(index)
    except (OSError, ValueError) as error:
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
    left_out = _tied_and_not_there(index, placed, parts)
    placed = {tensor: file for tensor, file in placed.items() if tensor not in left_out}
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
    lacking = listed(left_out, 3, form=lambda tensor: repr(tensor[:LONGEST]))
    note = f"{index.name} lists {lacking}, which no shard holds: taken for tied to the embeddings"
    notes = (note,) if left_out else ()
    return Folder(name, path, dict(sorted(tensors.items())), aliases, parts, placed, index, notes)


def _tied_and_not_there(index: Path, placed: Mapping[str, str], parts: Mapping[str, Checkpoint]) -> list[str]:
    """The tensors that an index lists and no shard holds: tied heads may be, others may not. Raises
    CheckpointCorrupt."""
    lacking = [tensor for tensor, file in placed.items() if tensor not in parts[file].tensors]
    held = {tensor for part in parts.values() for tensor in part.tensors}
    untied = _is_untied(index.parent / "config.json") or not any(map(_MAY_BE_TIED_TO.search, held))
    for tensor in lacking:
        if tensor in held or untied or not _TIED.fullmatch(tensor):
            raise CheckpointCorrupt(
                f"{index}: places tensor {tensor!r} in {placed[tensor]}, which does not hold it. Download both again."
            )
    return lacking


def _is_untied(config: Path) -> bool:
    """Whether a model's configuration says that its head and its embeddings are two."""
    content: Any = jsons.peek(config)
    return isinstance(content, dict) and content.get("tie_word_embeddings") is False
