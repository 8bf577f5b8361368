"""The files of a base folder that belong beside merged weights: without them nobody can load the result.

Everything is taken but what is known not to belong: weights and their indexes, the state of a training, sub-folders
that are other checkpoints or logs, links that leave the folder, hidden and temporary files, and what a merge writes
itself (model card, receipt, report). Modules of sentence-transformers and of diffusers are part of the model, so the
weights of those that are not merged are taken too.
`Companions.notes` names what is left out, except what nobody expects: the base's own weights, indexes, hidden files,
the model card, the receipt, our reports. Cost: one listing of the folder and its sub-folders. Not here: the contents
of the files, but for the first bytes of those that only seem to be torch's, and of HTML.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from prefmerge.checkpoints.folder import Folder
from prefmerge.checkpoints.hub_files import RepositoryFiles
from prefmerge.checkpoints.layouts import modules_of
from prefmerge.checkpoints.names import TORCH_SUFFIXES, indexed, is_index, output_name, shard_names
from prefmerge.checkpoints.protocol import Checkpoint, TensorInfo
from prefmerge.errors import CheckpointError
from prefmerge.ground.words import listed
from prefmerge.outputs.receipts import RECEIPT
from prefmerge.report import place

LINKS = "links out of the folder, or to nothing"
SHOWN = 5  # names of one kind that a note lists
WEIGHTS = (
    *(f"*{suffix}" for suffix in (".safetensors", *TORCH_SUFFIXES)),
    *("*.pth.tar", "*.pt.tar", "*.h5", "*.hdf5", "*.keras", "*.msgpack", "*.ot", "*.distcp", "weights*.npz"),
    *("*.onnx", "*.onnx_data*", "*.onnx.data", "*.gguf", "*.ggml", "*.tflite", "*.pb", "*.engine", "*.nemo"),
    *("*.pdparams", "*.mlmodel", "*.pte", "*.ckpt.*", "*.data-?????-of-?????", "openvino_*.xml"),
    "adapter_model.*",
    "adapter_config.json",  # without its weights it is worse than none: transformers would look for them
)
STATE = (
    *(
        f"{what}*{suffix}"
        for what in ("optimizer", "optim_state", "scheduler", "scaler", "rng_state", "random_states")
        for suffix in TORCH_SUFFIXES
    ),
    *("random_states*.pkl", "training_args.bin", "trainer_state.json", "custom_checkpoint*.pkl", "*.distcp"),
    *("events.out.tfevents*", "latest", "latest_checkpointed_iteration.txt", "zero_to_fp32.py", "run.json"),
)
TEMPORARY = ("*.lock", "*.tmp", "*.temp", "*.part", "*.partial", "*.incomplete", "*.swp", "*~", "*.pyc")
OTHER_FOLDERS = (
    *("checkpoint-[0-9]*", "checkpoint_[0-9]*", "global_step*", "pytorch_model_fsdp_*", "optimizer_[0-9]*"),
    *("runs", "wandb", "mlruns", "lightning_logs", "tensorboard", "__pycache__"),
    *("onnx", "openvino", "original", "coreml", "gguf", "tflite", "*.mlpackage", "*.mlmodelc"),
)
RECEIPTS = (RECEIPT, "*.receipt.json", "*.receipt.json.new")
NOT_TORCH = (  # first bytes of files that end in .bin and hold no weights of the model
    b"mmap lm http://kheafield.com/code",  # KenLM, beside a speech recogniser
    (793712314).to_bytes(4, "little"),  # fastText
)


@dataclass(frozen=True)
class Companions:
    """`files`: what to copy, by its path in the folder, sorted. `size`: their bytes. `unmerged`: those that are weights
    of modules. `left_out`: by reason, the names of what is not copied. `more`: sentences on what else was decided."""

    files: Mapping[str, Path] = field(default_factory=dict)
    size: int = 0
    unmerged: tuple[str, ...] = ()
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    more: tuple[str, ...] = ()

    def notes(self) -> list[str]:
        """A sentence each: what else was decided, the weights that are the base's, and what is left out."""
        notes = [*self.more]
        if self.unmerged:
            notes.append(f"copied from the base as they are, not merged: {_few(self.unmerged)}.")
        if self.left_out:
            groups = [f"{_few(names)} ({reason})" for reason, names in self.left_out.items()]
            notes.append(f"not copied from the base's folder: {'; '.join(groups)}.")
        return notes


def _few(names: tuple[str, ...]) -> str:
    return listed(names, SHOWN, form=lambda name: name if name.isprintable() else ascii(name))


def weights_name(base: Checkpoint) -> str:
    """What an output folder calls its weights, so that what loads the base loads the output. Those of a module lie in
    its sub-folder."""
    if isinstance(base, Folder):
        own = output_name(indexed(base.index.name) if base.index else next(iter(base.parts)), in_folder=True)
        return f"{base.module}/{own}" if base.module else own
    return output_name(None if base.path is None else base.path.name, in_folder=False)


def placed_as(base: Checkpoint, tensors: Sequence[TensorInfo]) -> Mapping[str, str] | None:
    """The file of each tensor where the output can be cut as the base is; None where the base is one file, or the
    output has other tensors or number formats. Shards that were pickled are numbered in their order.
    """
    if not isinstance(base, Folder) or len(base.parts) < 2 or any("/" in file for file in base.parts):
        return None
    if {info.name: info.dtype for info in tensors} != {name: info.dtype for name, info in base.tensors.items()}:
        return None
    files = sorted({base.file_of(info.name) for info in tensors})
    called = dict(zip(files, files, strict=True))
    if not all(file.endswith(".safetensors") for file in files):
        own = weights_name(base).rpartition("/")[2]
        called = dict(zip(files, shard_names(own, len(files)), strict=True))
    return {info.name: called[base.file_of(info.name)] for info in tensors}


def find_companions(base: Checkpoint) -> Companions:
    """The companions of a base that is a folder; none for a single file and for a state dict in memory.

    Raises CheckpointError naming the first file or sub-folder that may not be read.
    """
    if base.path is None:
        return Companions()
    folder = base.path.parent if is_index(base.path.name) and not base.path.is_dir() else base.path
    if not folder.is_dir():
        return Companions()
    search = _Search(folder, base)
    return Companions(
        dict(sorted(search.files.items())),
        search.size,
        tuple(sorted(search.unmerged)),
        {reason: tuple(sorted(names)) for reason, names in sorted(search.left_out.items())},
    )


def companions_among(names: Sequence[str], of: RepositoryFiles) -> list[str]:
    """Of the files of a repository those that `find_companions` would take if they were there, by their names: what is
    to be fetched with a base. `of`: the checkpoint's own.
    """
    inside = [name.removeprefix(of.root) for name in names if name.startswith(of.root)]
    by_folder: dict[str, list[str]] = {}
    for name in inside:
        folder, _, file = name.rpartition("/")
        by_folder.setdefault(folder, []).append(file.lower())
    others = {folder for folder, files in by_folder.items() if folder and _holds_another(files)} - set(of.modules)

    def belongs(name: str) -> bool:
        *folders, file = name.split("/")
        above = {"/".join(folders[: i + 1]) for i in range(len(folders))}
        if above & others or any(_any(folder.lower(), (*OTHER_FOLDERS, ".*")) for folder in folders):
            return False
        lower = file.lower()
        if lower.startswith(".") or (not folders and lower == "readme.md"):
            return False
        if name == place.REPORT and RECEIPT in inside:
            return False
        weights = indexed(lower) if is_index(lower) else lower
        return not _any(lower, (*RECEIPTS, *TEMPORARY, *STATE)) and not _any(weights, WEIGHTS)

    return [of.root + name for name in inside if belongs(name)]


class _Search:
    """One walk over a base's folder, without recursion: a folder may be deep."""

    def __init__(self, folder: Path, base: Checkpoint) -> None:
        self.files: dict[str, Path] = {}
        self.size = 0
        self.unmerged: list[str] = []
        self.left_out: dict[str, list[str]] = {}
        index = base.index if isinstance(base, Folder) else None
        self._own = {os.path.abspath(path) for path in (*base.files, *([index] if index else []))}
        self._root = Path(os.path.realpath(folder))
        self._blobs = _blobs(self._root)
        self._module = base.module if isinstance(base, Folder) else ""  # the one that is merged
        self._modules = modules_of(folder) - {self._module}
        self._linked: set[Path] = set()
        self._pending = [(folder, "", False)]
        while self._pending:
            self._visit(*self._pending.pop())

    def _visit(self, folder: Path, inside: str, module: bool) -> None:
        """Take what belongs from `folder`, whose path in the base's is `inside`, ending in a slash."""
        with _readable(folder):
            entries = sorted(folder.iterdir())
        for path in entries:
            name, lower = inside + path.name, path.name.lower()
            if lower.startswith(".") or (not inside and lower == "readme.md") or _any(lower, RECEIPTS):
                continue
            if os.path.abspath(path) in self._own:
                continue
            real = self._real(path)
            if real is None:
                self._leave(LINKS, name)
                continue
            with _readable(path):
                mode = real.stat().st_mode
            if stat.S_ISDIR(mode):
                self._folder(path, real, name, module or name in self._modules)
            elif stat.S_ISREG(mode):
                self._file(real, name, module)
            else:
                self._leave("neither files nor folders", name)

    def _folder(self, path: Path, real: Path, name: str, module: bool) -> None:
        holds_it = f"{self._module}/".startswith(f"{name}/")
        if _any(path.name.lower(), OTHER_FOLDERS) or not (module or holds_it or not _is_another(real)):
            self._leave("other checkpoints, formats or logs", name + "/")
        elif path.is_symlink() and (real in self._linked or real in _above(path)):
            self._leave("links in a circle, or to a folder that another link leads to", name)
        else:
            if path.is_symlink():
                self._linked.add(real)
            self._pending.append((real, name + "/", module))

    def _file(self, real: Path, name: str, module: bool) -> None:
        lower = name.rpartition("/")[2].lower()
        weights = _any(lower, WEIGHTS)
        if place.is_report(name) and place.is_ours(real):
            return  # on the merge that made the base, and the output's own has its name
        if name == place.REPORT and (self._root / RECEIPT).is_file():
            self._leave("the report of another merge", name)  # by its name: the first versions did not sign it
        elif _any(lower, TEMPORARY):
            self._leave("temporary files", name)
        elif _any(lower, STATE):
            # Tensorboard puts the name of the host into that of the file.
            self._leave("training state", name[: -len(lower)] + "events.out.*" if "tfevents" in lower else name)
        elif module and lower.endswith((".safetensors", *TORCH_SUFFIXES)):
            self._take(name, real)
            self.unmerged.append(name)
        elif weights and not (lower.endswith(TORCH_SUFFIXES) and _is_something_else(real)):
            self._leave("weights", name)
        elif module or not (is_index(lower) and _any(indexed(lower), WEIGHTS)):
            self._take(name, real)

    def _take(self, name: str, path: Path) -> None:
        if not os.access(path, os.R_OK):
            raise _unreadable(path)
        self.files[name] = path
        self.size += path.stat().st_size

    def _leave(self, reason: str, name: str) -> None:
        names = self.left_out.setdefault(reason, [])
        if name not in names:
            names.append(name)

    def _real(self, path: Path) -> Path | None:
        """Where a link leads, if that is in the base's folder or in the blobs of its repository; `path` itself if it is
        none. A merged folder is made to be published, and a link may lead to anything of the user's."""
        if not path.is_symlink():
            return path
        try:
            real = Path(os.path.realpath(path, strict=True))
        except OSError:  # it leads to nothing, in a circle, or where one may not look
            return None
        if real.parent == self._blobs:
            return real
        inside = real.relative_to(self._root).parts if real.is_relative_to(self._root) else (".",)
        return None if any(part.startswith(".") for part in inside) else real


def _blobs(root: Path) -> Path | None:
    """models--ORG--NAME/blobs, for a folder in models--ORG--NAME/snapshots: where the links of a hub cache lead."""
    for folder in root.parents:
        if folder.name == "snapshots" and folder.parent.name.startswith("models--"):
            return folder.parent / "blobs"
    return None


def _above(path: Path) -> list[Path]:
    return [Path(os.path.realpath(folder)) for folder in path.parents]


def _is_another(folder: Path) -> bool:
    """Whether a sub-folder is a checkpoint or a training state of its own: weights with a configuration, or a state."""
    with _readable(folder):
        return _holds_another([entry.name.lower() for entry in folder.iterdir()])


def _holds_another(names: Iterable[str]) -> bool:
    """Whether files of these names, in lower case, are a checkpoint or a training state."""
    names = list(names)
    if any(_any(name, STATE) for name in names):
        return True
    configured = any(name in ("model_index.json", "params.json") or name.endswith("config.json") for name in names)
    return configured and any(_any(name, WEIGHTS) for name in names)


def _is_something_else(path: Path) -> bool:
    """Whether a file that is called as weights are is known to be of another kind."""
    with _readable(path), path.open("rb") as file:
        return file.read(max(map(len, NOT_TORCH))).startswith(NOT_TORCH)


def _any(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What the system refuses, as a CheckpointError that names the path."""
    try:
        yield
    except OSError as error:
        raise _unreadable(path, error.strerror) from error


def _unreadable(path: Path, why: str | None = "Permission denied") -> CheckpointError:
    return CheckpointError(
        f"{path}: cannot be read ({why}), and an output folder takes the files of the base's folder along. "
        "Make it readable, or move it out of the folder."
    )
