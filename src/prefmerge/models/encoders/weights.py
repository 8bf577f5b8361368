"""Models on disk: a hub id to a local folder, a checkpoint's tensors into a tower, the small files beside the weights.

From the hub only configuration, tokenizer, preprocessing and one set of weights are fetched, so that a hub id and a
local folder run the same code. Cost: one copy of a tensor at a time when loading. Not here: other caches than
huggingface_hub's, and code that comes with a model (it is never run).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefmerge.checkpoints import Checkpoint, from_state_dict, is_task_vector, open_checkpoint, reading
from prefmerge.checkpoints.adapter import is_adapter
from prefmerge.errors import CheckpointMismatch, EncoderError, MissingExtra
from prefmerge.ground.words import counted, listed, quoted

if TYPE_CHECKING:
    from torch import Tensor

    from prefmerge.merging.matching import Names
    from prefmerge.models.encoders.protocol import Encoder

SHOWN = 5  # names listed in a message about many

# Small files that make a folder of weights a model again, for transformers and for sentence-transformers.
COMPANIONS = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "bpe.codes",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
    "spm.model",
    "sentencepiece*.model",
    "preprocessor_config.json",
    "processor_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "sentence_*_config.json",
    "config_sentence_transformers.json",
    "[0-9]_*/config.json",
    "licen[cs]e*",
)
_FETCHED = (*COMPANIONS, "config.json", "open_clip_config.json")
_SAFETENSORS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
_PICKLED = ("pytorch_model.bin", "pytorch_model-*-of-*.bin", "pytorch_model.bin.index.json")


def local_folder(name: str, revision: str | None = None) -> Path:
    """The folder of a model: `name` itself if it is one, else the hub's, from its cache or the network.

    Raises EncoderError saying what to do where neither exists.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise EncoderError(
            f"model {name!r} is a file, expected a folder with config.json and weights, as `save_pretrained` writes "
            "it. Give the folder; a file of weights alone is a checkpoint, not a model."
        )
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise EncoderError(f"model {name!r}: no such folder. Give a folder with config.json and weights, or a hub id.")
    try:
        from huggingface_hub import constants, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError:
        raise MissingExtra("a model by hub id", "train") from None

    def fetched(patterns: tuple[str, ...]) -> Path:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))

    try:
        downloaded = fetched((*_FETCHED, *_SAFETENSORS))
        if not any(downloaded.glob("model*.safetensors")):
            downloaded = fetched((*_FETCHED, *_PICKLED))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        offline = (
            " HF_HUB_OFFLINE is set, so only the local cache was searched: unset it to download the model,"
            if constants.HF_HUB_OFFLINE
            else " Check the spelling and the network,"
        )
        raise EncoderError(
            f"model {name!r}: no such folder, and not to be had from the Hugging Face hub"
            f"{'' if revision is None else f' at revision {revision!r}'} ({_short(error)}).{offline} or give a local "
            "folder with config.json and weights."
        ) from error
    return downloaded


def model_type(folder: Path, name: str) -> str:
    """The `model_type` of a folder's config.json. Raises EncoderError where there is none."""
    return str(read_json(folder, "config.json", name).get("model_type"))


def read_json(folder: Path, file: str, name: str) -> Any:
    """A JSON file of the model `name`. Raises EncoderError where it is absent or broken."""
    try:
        return json.loads((folder / file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EncoderError(
            f"model {name!r}: no {file} in {folder}. Give a folder as `save_pretrained` writes it."
        ) from None
    except (OSError, ValueError) as error:
        raise EncoderError(f"model {name!r}: {folder / file} cannot be read as JSON: {error}") from error


def companions(folder: Path) -> dict[str, bytes]:
    """The small files of a model's folder, by path in it. In memory: the folder may be gone when they are written."""
    files = {file.relative_to(folder).as_posix(): file for file in (*folder.glob("*"), *folder.glob("*/config.json"))}
    return {
        path: file.read_bytes()
        for path, file in sorted(files.items())
        if file.is_file() and any(fnmatchcase(path.lower(), pattern) for pattern in COMPANIONS)
    }


def put(checkpoint: Path, into: Mapping[str, Tensor], base: Path | None = None) -> None:
    """Copy a checkpoint's tensors into those that they are, in place, converted to their dtype. `base`: the model that
    an adapter is over.

    Names are matched as for a merge: wrappers and prefixes may differ, heads that only the checkpoint has are left
    out, and buffers that it lacks stay. Nothing is written before all is known to fit. Raises CheckpointMismatch
    naming the first tensors that are missing, extra or of another shape.
    """
    import torch

    source = _opened(checkpoint, base)
    try:
        called = _matched(source, checkpoint, into)
        with reading(source), torch.no_grad():
            for name, own in called.items():
                into[name].copy_(_as_tensor(source, own))
    finally:
        source.close()


def notes_of(checkpoint: Path, into: Mapping[str, Tensor]) -> list[str]:
    """What `put` does about names that differ, in the words of a merge; [] where the names are those of the model, and
    for an adapter.
    """
    from prefmerge.merging.matching import told

    if is_adapter(checkpoint):
        return []
    source = open_checkpoint(checkpoint)
    try:
        names = _names(source, checkpoint, into)
        return [] if names is None else told([names])
    finally:
        source.close()


def put_arrays(encoder: Encoder, weights: Mapping[str, np.ndarray], base: Path | None = None) -> None:
    """Copy float32 weights into the encoder's tower; what is not named stays. They have the names of `Encoder.state`,
    or those of the checkpoint `base`.

    Raises CheckpointMismatch for a name or a shape that the tower does not have.
    """
    import torch

    state = encoder.state()
    if base is not None and any(name not in state for name in weights):
        source = open_checkpoint(base)
        try:
            name_of = {own: name for name, own in _matched(source, base, state).items()}
        finally:
            source.close()
        weights = {name_of.get(own, own): values for own, values in weights.items()}
    for name, values in weights.items():
        if name not in state or tuple(state[name].shape) != values.shape:
            there = "no such tensor" if name not in state else f"shape {tuple(state[name].shape)}"
            raise CheckpointMismatch(
                f"{encoder.name}: weights for {name!r} with shape {values.shape}, but the model has {there}. "
                "Take checkpoints of this model."
            )
    with torch.no_grad():
        for name, values in weights.items():
            state[name].copy_(torch.from_numpy(np.ascontiguousarray(values)))


def _opened(checkpoint: Path, base: Path | None) -> Checkpoint:
    """The checkpoint; of an adapter the model that it makes of `base`. Raises CheckpointMismatch."""
    if not is_adapter(checkpoint):
        return open_checkpoint(checkpoint)
    if base is None:
        raise CheckpointMismatch(
            f"{checkpoint}: a LoRA adapter, and the model that it is over is on no disk. Merge it into its base first: "
            f"prefmerge merge BASE {checkpoint} --method last -o OUT"
        )
    from prefmerge.merging.candidates import Candidates

    with Candidates(base, [checkpoint]) as over:
        return from_state_dict(over.model(method="last"), name=checkpoint.name)


def _matched(source: Checkpoint, path: Path, into: Mapping[str, Tensor]) -> dict[str, str]:
    """What the checkpoint calls each tensor. Raises CheckpointMismatch."""
    names = _names(source, path, into)
    return {name: name for name in into} if names is None else names.own


def _names(source: Checkpoint, path: Path, into: Mapping[str, Tensor]) -> Names | None:
    """How the checkpoint's names are matched; None where they are the model's. Raises CheckpointMismatch."""
    if is_task_vector(source):
        raise CheckpointMismatch(
            f"{path}: holds a task vector, expected a model. Merge it into its base first: "
            f"prefmerge merge BASE {path} …"
        )
    ours = {name: (tuple(tensor.shape), tensor.is_floating_point()) for name, tensor in into.items()}
    if {name: (info.shape, info.dtype.family == "float") for name, info in source.tensors.items()} == ours:
        return None
    from prefmerge.merging.matching import match
    from prefmerge.merging.recipe import Recipe
    from prefmerge.merging.sameness import Sameness

    model = from_state_dict(into, name="the model")
    try:
        (names,) = match(Recipe(), model, [source], [path.name], Sameness())
        if names.wrong:
            raise CheckpointMismatch(_complaint(names, path, model, source))
    finally:
        model.close()
    return names


def _complaint(names: Names, path: Path, model: Checkpoint, source: Checkpoint) -> str:
    facts = []
    if names.missing:
        few = quoted(names.missing, SHOWN)
        facts.append(f"lacks {len(names.missing)} of the model's {counted(len(model.tensors), 'tensor')}: {few}")
    if names.foreign:
        few = quoted(names.foreign, SHOWN)
        facts.append(f"has {counted(len(names.foreign), 'tensor')} that the model has not: {few}")
    if names.double:
        name, several = next(iter(names.double.items()))
        facts.append(f"has {len(several)} tensors for the model's {name!r}: {quoted(several, SHOWN)}")
    if names.unlike:
        pairs = [(name, model.tensors[name], source.tensors[names.own[name]]) for name in names.unlike]
        others = [
            f"{name!r} has shape {its.shape}, the model's has {ours.shape}"
            if its.shape != ours.shape
            else f"{name!r} is {its.dtype.name}, the model's is {ours.dtype.name}"
            for name, ours, its in pairs
        ]
        facts.append(listed(others, SHOWN, separator="; "))
    return (
        f"{path}: {'; '.join(facts)}. Expected a checkpoint of the tower that this model trains, as `prefmerge "
        "finetune` and `prefmerge merge` write it."
    )


def _as_tensor(source: Checkpoint, name: str) -> Tensor:
    """One tensor, copied: what the source hands out is read-only."""
    import torch

    info = source.tensors[name]
    values = torch.from_numpy(source.raw(name).copy())
    if info.dtype.name == "bfloat16":  # comes as its bits
        values = values.view(torch.bfloat16)
    return values.reshape(info.shape)


def _short(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0].rstrip(".") or type(error).__name__
