"""What a user writes for a checkpoint: a path, with a key where a file of torch holds several, or a hub id; and what
that is called.

    split_key("x.pt#model.vit")                              x.pt, model.vit
    split_adapter("base+adapter")                            base, adapter
    split_stack("cars[0:8]|birds[4:12]")                     layers 0 to 7 of cars, and on them 4 to 11 of birds
    hub_id("org/cars@v2")                                    org/cars, v2; None where a file or folder is called so
    name_of("cars/model.safetensors")                        cars
    names_of(["cars/checkpoint-500", "birds/checkpoint-500"])    cars, birds

Cost: a look at the file system for each. Not here: which weights a path stands for (`folder`, `layouts`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prefmerge.checkpoints.names import TORCH_SUFFIXES

# File stems that say what a file is and not whose: such a checkpoint is called after its folder.
_ANONYMOUS = re.compile(
    r"(diffusion_|adapter_)?(open_clip_)?(pytorch_)?(model|weights|checkpoint|state_dict)(-\d{5}-of-\d{5})?",
    re.IGNORECASE,
)

# Endings in which a name goes on: best_model.pth.tar
_ENDINGS = re.compile(r"\.(pth|pt|ckpt|bin)\.(tar|gz|zip)$", re.IGNORECASE)
_HUB_ID = re.compile(r"(?P<repository>\w[\w.-]*/(?P<name>\w[\w.-]*))(@(?P<revision>\w[\w./-]*))?", re.ASCII)
_OF_LAYERS = re.compile(r"(?P<path>.+)\[(?P<first>\d{1,6}):(?P<last>\d{1,6})\]", re.ASCII | re.DOTALL)
_NO_HUB_ID = (".safetensors", ".json", ".yaml", ".yml", ".tar", *TORCH_SUFFIXES)  # endings of files


@dataclass(frozen=True)
class HubId:
    """A repository of the Hugging Face hub. `revision`: a branch, a tag or a commit; None: its main branch."""

    repository: str
    name: str  # what is behind the slash
    revision: str | None = None

    def __str__(self) -> str:
        return self.repository if self.revision is None else f"{self.repository}@{self.revision}"


def hub_id(path: str | Path) -> HubId | None:
    """The id that `path` is: `org/name` or `org/name@revision`. None where a file or folder of that name is there, and
    where it is called as a file of weights is.
    """
    return None if os.path.lexists(path) else as_hub_id(os.fspath(path))


def as_hub_id(text: str) -> HubId | None:
    """The id that `text` is, whatever is on the disk; None where it is written in another way."""
    match = _HUB_ID.fullmatch(text)
    if match is None or match["name"].lower().endswith(_NO_HUB_ID):
        return None
    return HubId(match["repository"], match["name"], match["revision"])


@dataclass(frozen=True)
class PathOfLayers:
    """The layers `first` to `last` - 1 of the checkpoint at `path`."""

    path: str
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.path}[{self.first}:{self.last}]"


def split_stack(path: str | Path) -> list[PathOfLayers] | None:
    """The slices that a stack of layers is made of; None where it is something else, or a file that is called so."""
    text = os.fspath(path)
    if not text.endswith("]") or os.path.lexists(text):
        return None
    parts = [_OF_LAYERS.fullmatch(part) for part in re.split(r"(?<=\])\|", text)]
    several = [PathOfLayers(part["path"], int(part["first"]), int(part["last"])) for part in parts if part]
    return several if len(several) == len(parts) else None


def in_stack(path: str | Path, change: Callable[[str], str | None]) -> str | None:
    """The path with `change` made to each checkpoint that it names, one or a stack of several. None where that gives
    None for one of them.
    """
    parts = split_stack(path)
    if parts is None:
        return change(os.fspath(path))
    changed = [change(part.path) for part in parts]
    rows = zip(parts, changed, strict=True)
    return None if None in changed else "|".join(str(replace(part, path=own)) for part, own in rows if own is not None)


def split_key(path: str | Path) -> tuple[Path, str | None]:
    """`weights.pt#model.vit` as the file and the key in it; a file that is called so has no key."""
    text = os.fspath(path)
    if not os.path.lexists(text):
        for at in reversed([i for i, letter in enumerate(text) if letter == "#" and i]):
            if os.path.lexists(text[:at]):
                return Path(text[:at]), text[at + 1 :]
    return Path(text), None


def split_adapter(path: str | Path) -> tuple[Path | None, Path]:
    """`model+adapter` as the two of them; None and the path where it is one thing, or a file that is called so."""
    text = os.fspath(path)
    if not is_one(text) and split_stack(text) is None:
        pairs = [(text[:i], text[i + 1 :]) for i, letter in enumerate(text) if letter == "+"]
        on_disk = next((pair for pair in pairs if all(map(is_one, pair))), None)
        either = (pair for pair in pairs if all(is_one(one) or hub_id(one) for one in pair))
        if both := on_disk or next(either, None):
            return Path(both[0]), Path(both[1])
    return None, Path(text)


def is_one(path: str | Path) -> bool:
    """Whether the file or folder that `path` names, with or without a key, is there."""
    return os.path.lexists(split_key(expanded(path))[0])


def expanded(path: str | Path) -> Path:
    """The path with `~` replaced by the home of the user that it names; as it is where there is no such user."""
    return Path(os.path.expanduser(path))


def is_there(path: str | Path) -> bool:
    """Whether the checkpoint that `path` names, with or without a key or an adapter, is there."""
    parts = split_stack(path)
    if parts is not None:
        return all(is_there(part.path) for part in parts)
    model, path = split_adapter(path)
    return all(os.path.exists(split_key(expanded(one))[0]) for one in (model, path) if one is not None)


def name_of(path: Path) -> str:
    """What a user would call the checkpoint at `path`: the file's stem, or its folder's name when the stem is `model`
    and the like."""
    parts = split_stack(path)
    if parts is not None:
        return "-".join(dict.fromkeys(name_of(Path(part.path)) for part in parts))
    path = split_adapter(path)[1]
    if on_hub := hub_id(path):
        return on_hub.name
    path = split_key(path)[0].absolute()
    stem = path.name.removesuffix(".index.json") if path.name.endswith(".index.json") else path.name
    stem = _ENDINGS.sub("", stem) if _ENDINGS.search(stem) else Path(stem).stem
    if os.path.isdir(path):
        return _of_folder(path) or path.name
    return _of_folder(path.parent) or stem if _ANONYMOUS.fullmatch(stem) else stem


def _of_folder(folder: Path) -> str:
    """A Hugging Face cache has the name one or two folders up: snapshots/ holds revisions."""
    above = folder.parent.parent if folder.parent.name == "snapshots" else folder
    if above.name.startswith("models--"):
        return above.name.rsplit("--", 1)[-1]
    return os.path.basename(os.path.realpath(folder))


def names_of(paths: Sequence[str | Path], given: Sequence[str | None]) -> list[str]:
    """What each task is called: as it is given, else by `name_of`. Those that would be called alike are called by what
    differs: the key in one file, the revision of one repository, else the first parent with a name of its own for each,
    else the parents up to there.
    """
    names = [name or name_of(Path(path)) for path, name in zip(paths, given, strict=True)]
    for alike in {name for name in names if names.count(name) > 1}:
        group = [i for i, name in enumerate(names) if name == alike]
        if any(given[i] is not None for i in group):
            continue
        others = set(names) - {alike}
        for apart in _apart([paths[i] for i in group]):
            if len(set(apart)) == len(group) and others.isdisjoint(apart) and all(apart):
                for i, name in zip(group, apart, strict=True):
                    names[i] = name
                break
    return names


def _apart(paths: Sequence[str | Path]) -> Iterator[list[str]]:
    """Lists of names for checkpoints that are called alike, the shortest first."""
    split = [split_key(expanded(path)) for path in paths]
    yield [key or "" for _, key in split]
    on_hub = [hub_id(split_adapter(path)[1]) for path in paths]
    yield ["" if one is None else one.revision or "main" for one in on_hub]
    parents = [Path(os.path.abspath(path)).parts[-2:0:-1] for path, _ in split]
    levels = range(max(map(len, parents)))
    columns = [[parts[i] if i < len(parts) else "" for parts in parents] for i in levels]
    yield from columns
    for i in levels:
        yield ["-".join(reversed(parts[: i + 1])) for parts in parents]
