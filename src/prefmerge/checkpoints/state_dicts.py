"""Which of the dicts in a file of torch is the state dict that is meant.

    {"a": tensor}                                the dict itself
    {"state_dict": {...}, "epoch": 3}            what is under a usual name
    {"net": {...}, "optimizer": {...}}           the only dict of tensors that is no state of a training, with a note
    {"model": {...}, "ema": {...}}               an error that lists them; `path.pt#ema` chooses
    {"model": {"vit": {...}, "head": {...}}}     likewise; `path.pt#model.vit`

Cost: one look at each object in the containers of the file. Not here: loading it, and the names of tensors.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prefmerge.checkpoints.harmless import ForgottenArray
from prefmerge.checkpoints.memory import is_torch_tensor
from prefmerge.errors import CheckpointCorrupt, CheckpointNotFound
from prefmerge.ground.words import counted, listed

USUAL = ("state_dict", "model_state_dict", "model")
# Names of what a training keeps beside the weights, tensors in it or not.
_OF_A_TRAINING = re.compile(
    r"optim|sched|scaler|callback|criterion|metric|hparam|hyper_?param|config|random_state|history"
    r"|(^|_)(amp|args|cfg|loops?|loss(es)?|meta(data)?|rng|sampler)($|_)",
    re.IGNORECASE,
)
_SAVE = "Save model.state_dict() with torch.save."
TOP = "."  # after #: the tensors of this dict and of none in it
SHOWN = 8
LONGEST = 60  # characters of a key that a message shows


@dataclass(frozen=True)
class Chosen:
    """`tensors`: the state dict. `note`: what was decided, empty where nothing was."""

    tensors: dict[str, Any]
    note: str


@dataclass(frozen=True)
class _Candidate:
    path: tuple[str, ...]
    tensors: dict[Any, Any]
    inside: Mapping[Any, Any]  # the whole dict

    @property
    def key(self) -> str:
        return ".".join(self.path) or TOP

    @property
    def usual(self) -> bool:
        return all(key in USUAL for key in self.path)

    @property
    def numbers_only(self) -> bool:
        """Whether it may be a few measures: no tensor of more than one element."""
        return all(tensor.numel() <= 1 for tensor in self.tensors.values())


def choose(where: str, loaded: Any, key: str | None) -> Chosen:
    """The state dict in what torch loaded from the file `where`: under `key`, or the only one.

    Raises CheckpointNotFound where a key is not there or several are meant, CheckpointCorrupt where there are none.
    """
    if key is not None:
        loaded = _under(where, loaded, key)
    if not isinstance(loaded, Mapping | list | tuple):
        what = "tensor" if is_torch_tensor(loaded) else type(loaded).__name__
        raise CheckpointCorrupt(f"{_at(where, key)}: holds a {what}, not a state dict. {_SAVE}")
    candidates = list(_candidates(loaded))
    top = [one for one in candidates if not one.path]
    if key is not None and key.rpartition(TOP)[1:] == (TOP, "") and top:
        candidates = top
    if len(candidates) > 1:
        candidates = [one for one in candidates if not one.numbers_only] or candidates
    usual = [one for one in candidates if one.path and one.usual]
    if len(usual) == 1 and all(one.path == usual[0].path[: len(one.path)] for one in candidates):
        candidates = usual
    if not candidates:
        raise CheckpointCorrupt(_none(_at(where, key), loaded))
    if len(candidates) > 1:
        raise CheckpointNotFound(_several(where, key, candidates))
    only = candidates[0]
    _check(_at(where, key), only)
    note = "" if only.usual else f"the tensors under {_shown(only.key)} are taken, the only dict of weights in the file"
    return Chosen(only.tensors, note)


def _at(where: str, key: str | None) -> str:
    return where if key is None else f"{where}#{key[:LONGEST]}"


def _candidates(loaded: Any) -> Iterator[_Candidate]:
    """Every dict that holds tensors, the outer ones first, but for what a training keeps."""
    seen: set[int] = set()
    waiting: deque[tuple[tuple[str, ...], Any]] = deque([((), loaded)])
    while waiting:
        path, value = waiting.popleft()
        if id(value) in seen:  # a container may hold itself
            continue
        seen.add(id(value))
        if isinstance(value, Mapping):
            tensors = {name: one for name, one in value.items() if is_torch_tensor(one)}
            if tensors:
                yield _Candidate(path, tensors, value)
        waiting.extend(
            ((*path, str(name)), one) for name, one in _children(value) if not _OF_A_TRAINING.search(str(name))
        )


def _children(value: Any) -> Iterator[tuple[Any, Any]]:
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
    return ((name, one) for name, one in pairs if isinstance(one, Mapping | list | tuple))


def _under(where: str, loaded: Any, key: str) -> Any:
    """What is under `key`: names with dots between them. A name may hold dots itself."""
    rest = key.removesuffix(TOP)
    value = loaded
    while rest:
        names = {str(name): one for name, one in _children(value)} if isinstance(value, Mapping | list | tuple) else {}
        fitting = [name for name in names if rest == name or rest.startswith(name + TOP)]
        if not fitting:
            there = listed(names, SHOWN, form=_shown)
            raise CheckpointNotFound(
                f"{_at(where, key)}: {where} has no {_shown(rest)} there. "
                + (f"It has {there}." if there else "Nothing lies deeper.")
            )
        name = max(fitting, key=len)
        value, rest = names[name], rest[len(name) + 1 :]
    return value


def _check(where: str, chosen: _Candidate) -> None:
    """Raise where a part of the weights would be lost: lists of tensors, arrays of NumPy, shards without values."""
    for name, value in chosen.inside.items():
        if isinstance(value, list | tuple | set | frozenset) and any(map(is_torch_tensor, value)):
            raise CheckpointCorrupt(
                f"{where}: {_shown(name)} is a {type(value).__name__} with tensors inside; prefmerge reads one flat "
                f"state dict. {_SAVE}"
            )
        if isinstance(value, ForgottenArray):
            raise CheckpointCorrupt(
                f"{where}: {_shown(name)} is a NumPy array beside tensors; prefmerge reads tensors only. Convert it "
                "with torch.from_numpy and save again."
            )
    if len(chosen.tensors) > 1 and not any(tensor.numel() for tensor in chosen.tensors.values()):
        raise CheckpointCorrupt(
            f"{where}: all of its {len(chosen.tensors)} tensors are empty, as in the files of DeepSpeed's ZeRO-3. "
            "Gather the weights first: python zero_to_fp32.py CHECKPOINT_FOLDER OUT"
        )


def _none(where: str, loaded: Any) -> str:
    if not isinstance(loaded, Mapping):
        return f"{where}: holds a {type(loaded).__name__}, not a state dict. {_SAVE}"
    if any(isinstance(one, ForgottenArray) for _, part in [("", loaded), *_children(loaded)] for one in _values(part)):
        return f"{where}: holds NumPy arrays, no tensors. Save them as safetensors: safetensors.numpy.save_file."
    aside = [name for name, _ in _children(loaded) if _OF_A_TRAINING.search(str(name))]
    beside = (
        f"; of a training: {listed(aside, SHOWN, form=_shown)}, which {where}#KEY takes all the same" if aside else ""
    )
    return f"{where}: holds no tensors (keys: {listed(loaded, SHOWN, form=_shown) or 'none'}{beside}). {_SAVE}"


def _values(part: Any) -> Iterator[Any]:
    return iter(part.values() if isinstance(part, Mapping) else part)


def _several(where: str, key: str | None, candidates: list[_Candidate]) -> str:
    prefix = "" if key in (None, TOP) else f"{key}."
    rows = [f"{_shown(one.key)} ({counted(len(one.tensors), 'tensor')})" for one in candidates]
    meant = next((one for one in candidates if one.path), candidates[0])
    return (
        f"{_at(where, key)}: holds {len(candidates)} dicts of tensors: {listed(rows, SHOWN)}. "
        f"Say which one you mean, for instance {where}#{prefix}{meant.key[:LONGEST]}"
        + (f"; {TOP} stands for the tensors outside of the others." if not candidates[0].path else "")
    )


def _shown(key: Any) -> str:
    text = repr(key)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
