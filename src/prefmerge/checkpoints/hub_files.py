"""Which files of a repository are a checkpoint, by their names alone.

    config.json  model.safetensors  pytorch_model.bin  model.onnx  optimizer.pt    the first two
    adapter_config.json  adapter_model.safetensors  checkpoint-500/...              the first two
    model_index.json  unet/...  vae/...  onnx/...                                   one set of weights of each module

The same rules decide as for a folder on disk (`folder`, `layouts`, `adapter`), so what is fetched is read as the whole
repository would be. Cost: a pass over the names. Not here: fetching (`hub`); the files that an output takes from its
base (`outputs.companions`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prefmerge.checkpoints.adapter import CONFIG, WEIGHTS
from prefmerge.checkpoints.folder import WELL_KNOWN, candidates, shards_of
from prefmerge.checkpoints.layouts import SHOWN, is_weights, may_hold_checkpoint, what_it_holds
from prefmerge.checkpoints.names import INDEX_SUFFIX, is_index
from prefmerge.errors import CheckpointNotFound
from prefmerge.ground.words import listed

_PIPELINES = ("model_index.json", "modules.json")  # of diffusers, of sentence-transformers
_STEP = re.compile(r"(checkpoint|epoch|step|global_step)[-_]?\d+")  # a folder with the model at a step of its training
_CONFIGS = (*_PIPELINES, "config.json", CONFIG)


@dataclass(frozen=True)
class RepositoryFiles:
    """`root`: the folder of the checkpoint, empty or ending in a slash. `needed`: the weights and what says what they
    are. `modules`: the sub-folders of a model of several modules."""

    root: str
    needed: tuple[str, ...]
    modules: tuple[str, ...] = ()


def files_of_checkpoint(names: Sequence[str], where: str) -> RepositoryFiles:
    """The files that a checkpoint needs, of those in a repository. Raises CheckpointNotFound, naming `where`, for none
    and where it is not clear which.
    """
    names = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    folders = sorted({name.partition("/")[0] for name in names if "/" in name})
    likely = [folder for folder in folders if may_hold_checkpoint(folder)]
    if pipeline := next((name for name in _PIPELINES if name in names), None):
        modules = [folder for folder in likely if not _STEP.fullmatch(folder)]
        roots = [f"{folder}/" for folder in modules]
        roots += [""] if pipeline == "modules.json" else []  # beside a pipeline of diffusers lie copies in one file
        needed = [
            name for root in roots if _holds_weights(_inside(names, root)) for name in _of_folder(names, root, where)
        ]
        if needed:
            return RepositoryFiles("", tuple(sorted({pipeline, *needed})), tuple(modules))
    if _holds_weights(_inside(names, "")):
        return RepositoryFiles("", tuple(_of_folder(names, "", where)))
    several = [folder for folder in likely if _holds_weights(_inside(names, f"{folder}/"))]
    if not several:
        raise CheckpointNotFound(
            f"{where}: no checkpoint in this repository. {what_it_holds(_inside(names, ''), folders)}"
        )
    if len(several) > 1:
        raise CheckpointNotFound(
            f"{where}: holds no weights itself, and {len(several)} checkpoints: {listed(several, SHOWN)}. Download the "
            f"one that you mean, for instance with --include '{several[-1]}/*', and give its folder."
        )
    root = f"{several[0]}/"
    return RepositoryFiles(root, tuple(_of_folder(names, root, where)))


def _inside(names: Iterable[str], root: str) -> list[str]:
    """The names of the files directly in a folder, without it."""
    return [name[len(root) :] for name in names if name.startswith(root) and "/" not in name[len(root) :]]


def _holds_weights(names: Iterable[str]) -> bool:
    return any(map(is_weights, names))


def _of_folder(names: Sequence[str], root: str, where: str) -> list[str]:
    """The weights of one folder and its configurations, as paths in the repository."""
    inside = _inside(names, root)
    configs = [name for name in _CONFIGS if name in inside]
    return [root + name for name in (*configs, *_weights(inside, f"{where}/{root}".rstrip("/")))]


def _weights(names: Sequence[str], where: str) -> list[str]:
    known = next((name for name in WELL_KNOWN if name in names), None)
    if known is None and CONFIG in names and (adapter := next((name for name in WEIGHTS if name in names), None)):
        return [adapter]
    several = candidates(names) if known is None else [known]
    chosen, shards = several[0], shards_of(several[0], names)
    if not is_index(chosen) and chosen not in shards:
        several += shards  # of a whole file that is there too
    if len(several) > 1:
        raise CheckpointNotFound(
            f"{where}: several checkpoints: {listed(several, SHOWN)}. Download the one that you mean and give its path."
        )
    index = [chosen + INDEX_SUFFIX] if chosen + INDEX_SUFFIX in names else []
    return sorted({chosen, *index, *shards})
