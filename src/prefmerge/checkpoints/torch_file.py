"""A torch state dict in a .pt, .bin, .pth or .ckpt file, as a checkpoint. Needs the torch extra.

Loaded with `weights_only=True`, so no code of the file ever runs, and memory-mapped where the format allows (every
file since torch 1.6): opening costs the pickle, not the weights. Linux then says where in the file each tensor lies,
and it is read from there like any other. Elsewhere the map is used, after a look at the size of the file for every
block: the process still dies of a file that is cut short between that look and the reading. The prefixes `module.`
(DataParallel) and `_orig_mod.` (torch.compile) are removed when every tensor has them. Not here: which dict of the file
is meant (`state_dicts`), what may lie beside the tensors (`harmless`), whole pickled modules, TorchScript archives.
"""

from __future__ import annotations

import contextlib
import pickle
import pickletools
import re
import threading
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from prefmerge.checkpoints.harmless import stand_ins
from prefmerge.checkpoints.input_file import InputFile
from prefmerge.checkpoints.memory import StateDict, from_state_dict
from prefmerge.checkpoints.other_formats import what_it_is
from prefmerge.checkpoints.paths import name_of
from prefmerge.checkpoints.state_dicts import choose
from prefmerge.errors import CheckpointCorrupt, MissingExtra, UnsafePickle

PREFIXES = ("module.", "_orig_mod.")
_ZIP_MAGIC = b"PK\x03\x04"
_OLD_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the first pickle of a file from before torch 1.6
_PICKLE = b"\x80"  # how every pickle since protocol 2 begins, and torch writes no other
_OLD_PICKLES = 5  # its magic number, protocol, system, content, and the names of its storages
MOST_STEPS = 1_500_000  # of a pickle; a tensor takes about thirty
FEW_BYTES = 1 << 18  # a pickle of so many takes no time
_allowing = threading.Lock()  # what torch allows in pickles is one set for the whole process


def open_torch_file(
    path: str | Path, *, name: str | None = None, plain_names: bool = False, key: str | None = None
) -> StateDict:
    """Open the state dict in the file at `path`: the one under `key`, or the only one. `plain_names` keeps prefixes,
    for shards whose index has the names.

    Raises CheckpointNotFound, CheckpointCorrupt, UnsafePickle, UnsupportedDtype, and MissingExtra without torch.
    """
    path = Path(path)
    file = InputFile(path)
    try:
        start = file.read(0, 8)
        if start == b"version ":
            raise CheckpointCorrupt(
                f"{path}: is a Git LFS pointer, not the file it points to. Fetch the file itself with: git lfs pull"
            )
        if not start.startswith((_ZIP_MAGIC, _PICKLE)):
            said = what_it_is(path)
            if said is not None:
                raise CheckpointCorrupt(f"{path}: {said}")
        _refuse_endless(path)
        chosen = choose(str(path), _load(path, mapped=start.startswith(_ZIP_MAGIC)), key)
        opened = from_state_dict(
            chosen.tensors if plain_names else _without_prefixes(chosen.tensors),
            name=name or name_of(path),
            path=path if key is None else Path(f"{path}#{key}"),
            file=path,
            notes=(chosen.note,) if chosen.note else (),
        ).backed_by(file)
        file.check_path()
        return opened
    except BaseException:
        file.close()
        raise


def _load(path: Path, *, mapped: bool) -> Any:
    try:
        import torch
    except ModuleNotFoundError:
        raise MissingExtra(f"reading {path.name}", "torch") from None
    try:
        with _allowing, torch.serialization.safe_globals(list(stand_ins())), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # about pickles that it then refuses; the refusal is all a user needs to see
            return torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafePickle(_unsafe(path, str(error))) from None
    except Exception as error:  # torch raises whatever its parser trips over: KeyError, EOFError, RuntimeError, ...
        if "TorchScript" in str(error):
            raise UnsafePickle(_unsafe(path, "TorchScript archive")) from None
        fact = (str(error).splitlines() or [""])[0] or type(error).__name__
        fact = fact.partition(". ")[0]  # what follows is advice to switch off what keeps code from running
        raise CheckpointCorrupt(f"{path}: torch cannot read it ({fact}). Download or save the file again.") from None


def _refuse_endless(path: Path) -> None:
    """Raise CheckpointCorrupt where torch, whose reader of pickles is slow, would be at it for minutes."""
    steps = 0
    with contextlib.suppress(Exception):  # what cannot be parsed is torch's to refuse
        for pickled in _pickles(path):
            for _ in pickletools.genops(pickled):
                steps += 1
                if steps > MOST_STEPS:
                    break
    if steps > MOST_STEPS:
        raise CheckpointCorrupt(
            f"{path}: its pickle takes more than {MOST_STEPS:,} steps, many times what weights need. Save the tensors "
            "as safetensors, and give that."
        )


def _pickles(path: Path) -> Iterator[IO[bytes]]:
    """The pickles of a file, each from where it begins: `data.pkl` in an archive, else five, one behind the other."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            entry = next(one for one in archive.infolist() if one.filename.endswith("/data.pkl"))
            if entry.file_size > FEW_BYTES:
                with archive.open(entry) as pickled:
                    yield pickled
        return
    with path.open("rb") as file:
        for _ in range(_OLD_PICKLES):
            yield file


def is_torch_file(path: Path) -> bool:
    """Whether the content of a file, whatever it is called, is what torch saves."""
    with path.open("rb") as file:
        start = file.read(len(_OLD_MAGIC))
    if start == _OLD_MAGIC:
        return True
    if not start.startswith(_ZIP_MAGIC):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):  # the last: zipfile's, for newer archives
        return False


def _unsafe(path: Path, reason: str) -> str:
    if "TorchScript" in reason:
        fact, load = "is a TorchScript program", f"torch.jit.load({path.name!r}, map_location='cpu')"
    else:
        wanted = re.search(r"GLOBAL:?\s+(?:GLOBAL\s+)?([\w.]{1,100})", reason, re.IGNORECASE)
        fact = f"is a pickle that wants to run code{f' ({wanted.group(1)})' if wanted else ''}"
        load = f"torch.load({path.name!r}, map_location='cpu', weights_only=False)"
    return (
        f"{path}: {fact}; prefmerge loads tensors and nothing else. "
        f"If you trust the file, save its tensors where it was made:\n"
        f"  import torch\n"
        f"  def tensors(x):\n"
        f"      x = x.state_dict() if isinstance(x, torch.nn.Module) else x\n"
        f"      if isinstance(x, dict):\n"
        f"          x = {{k: tensors(v) for k, v in x.items()}}\n"
        f"          return {{k: v for k, v in x.items() if v is not None}} or None\n"
        f"      return x if isinstance(x, torch.Tensor) else None\n"
        f"  torch.save(tensors({load}), 'weights.pt')\n"
        f"and give prefmerge weights.pt."
    )


def _without_prefixes(tensors: dict[str, Any]) -> dict[str, Any]:
    for prefix in PREFIXES:
        if all(isinstance(key, str) and key.startswith(prefix) for key in tensors):
            return _without_prefixes({key.removeprefix(prefix): value for key, value in tensors.items()})
    return tensors
