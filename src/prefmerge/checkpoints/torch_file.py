"""A torch state dict in a .pt, .bin, .pth or .ckpt file, as a checkpoint. Needs the torch extra.

Loaded with `weights_only=True`, so no code of the file ever runs, and memory-mapped where the format allows (every
file since torch 1.6): opening costs the pickle, not the weights. Linux then says where in the file each tensor lies,
and it is read from there like any other. Elsewhere the map is used, after a look at the size of the file for every
block: the process still dies of a file that is cut short between that look and the reading. Tensors below `state_dict`,
`model_state_dict` or `model` are found, and the prefixes `module.` (DataParallel) and `_orig_mod.` (torch.compile) are
removed when every tensor has them. Not here: whole pickled modules, TorchScript archives, optimizer state.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefmerge.checkpoints.input_file import InputFile
from prefmerge.checkpoints.memory import StateDict, from_state_dict, is_torch_tensor
from prefmerge.checkpoints.protocol import name_of
from prefmerge.errors import CheckpointCorrupt, MissingExtra, UnsafePickle

WRAPPERS = ("state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "_orig_mod.")
_ZIP_MAGIC = b"PK\x03\x04"


def open_torch_file(path: str | Path, *, name: str | None = None, plain_names: bool = False) -> StateDict:
    """Open the state dict in the file at `path`. `plain_names` keeps prefixes, for shards whose index has the names.

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
        state = _find_state_dict(path, _load(path, mapped=start.startswith(_ZIP_MAGIC)))
        opened = from_state_dict(
            state if plain_names else _without_prefixes(state), name=name or name_of(path), path=path
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
        with warnings.catch_warnings():
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
        raise CheckpointCorrupt(f"{path}: torch cannot read it ({fact}). Download or save the file again.") from None


def _unsafe(path: Path, reason: str) -> str:
    if "TorchScript" in reason:
        fact, load = "is a TorchScript program", f"torch.jit.load({path.name!r}, map_location='cpu')"
    else:
        wanted = re.search(r"GLOBAL:?\s+(?:GLOBAL\s+)?([\w.]+)", reason, re.IGNORECASE)
        fact = f"is a pickle that wants to run code{f' ({wanted.group(1)})' if wanted else ''}"
        load = f"torch.load({path.name!r}, map_location='cpu', weights_only=False)"
    return (
        f"{path}: {fact}; prefmerge loads tensors and nothing else. "
        f"If you trust the file, export its state dict where it was made:\n"
        f"  import torch\n"
        f"  model = {load}\n"
        f"  torch.save(model.state_dict() if hasattr(model, 'state_dict') else model['state_dict'], 'weights.pt')\n"
        f"and give prefmerge weights.pt."
    )


def _find_state_dict(path: Path, loaded: Any) -> dict[str, Any]:
    """The tensors in what was loaded, unwrapped, without the plain values (an epoch, a learning rate) beside them."""
    for key in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping) and _holds_tensor(loaded[key]):
            return _find_state_dict(path, loaded[key])
    if not isinstance(loaded, Mapping):
        raise CheckpointCorrupt(
            f"{path}: holds a {type(loaded).__name__}, not a state dict. Save model.state_dict() with torch.save."
        )
    states: dict[str, Any] = {}
    for key, value in loaded.items():
        if is_torch_tensor(value):
            states[key] = value
        elif _holds_tensor(value):
            raise CheckpointCorrupt(
                f"{path}: {key!r} is a {type(value).__name__} with tensors inside; prefmerge reads one flat state dict "
                f"(alone, or under {', '.join(map(repr, WRAPPERS))}). Save model.state_dict() with torch.save."
            )
    if not states:
        keys = ", ".join(repr(key) for key in list(loaded)[:5])
        raise CheckpointCorrupt(
            f"{path}: holds no tensors (keys: {keys or 'none'}). Save model.state_dict() with torch.save."
        )
    return states


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_tensor, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(_holds_tensor, value))
    return is_torch_tensor(value)


def _without_prefixes(tensors: dict[str, Any]) -> dict[str, Any]:
    for prefix in PREFIXES:
        if all(isinstance(key, str) and key.startswith(prefix) for key in tensors):
            return _without_prefixes({key.removeprefix(prefix): value for key, value in tensors.items()})
    return tensors
