"""What the files of a checkpoint are called: one file, its shards, their index, and what an output takes over.

    model.safetensors        model-00001-of-00002.safetensors        model.safetensors.index.json
    model.fp16.safetensors   model.fp16-00001-of-00002.safetensors   model.safetensors.index.fp16.json

The second row is a variant, as `from_pretrained(variant="fp16")` of transformers and diffusers looks for it. A merged
folder is called as its base is, for a library looks for one name only: diffusers for diffusion_pytorch_model, open_clip
for open_clip_model. Weights that were pickled get the name that the same library gives its safetensors file.
Not here: what the files hold.
"""

from __future__ import annotations

import re

INDEX_SUFFIX = ".index.json"
TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
WEIGHTS_NAME = "model.safetensors"
_INDEX = re.compile(r"(?P<stem>.+)(?P<suffix>\.(?:safetensors|bin))\.index(?P<variant>\.[^.]+)\.json")
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}((?:\.\w+)+)")
_VARIANT = re.compile(r"(?P<stem>model|diffusion_pytorch_model)(?P<variant>\.[^.]+)\.safetensors")
# By the stem of a pickle: the stem of the safetensors file that the same library looks for.
_PICKLED = {
    "pytorch_model": "model",
    "diffusion_pytorch_model": "diffusion_pytorch_model",
    "open_clip_pytorch_model": "open_clip_model",
}


def is_index(name: str) -> bool:
    """Whether a file called so is an index of shards."""
    return name.endswith(INDEX_SUFFIX) or _INDEX.fullmatch(name) is not None


def indexed(index: str) -> str:
    """The name of the one file that would hold what the shards of an index hold."""
    match = _INDEX.fullmatch(index)
    return match["stem"] + match["variant"] + match["suffix"] if match else index.removesuffix(INDEX_SUFFIX)


def index_name(weights: str) -> str:
    """The name of the index when `weights` is cut into shards."""
    match = _VARIANT.fullmatch(weights)
    return f"{match['stem']}.safetensors.index{match['variant']}.json" if match else weights + INDEX_SUFFIX


def shard_names(weights: str, count: int) -> list[str]:
    """The names of the files of `weights`: itself when it is one."""
    if count == 1:
        return [weights]
    stem = weights.removesuffix(".safetensors")
    return [f"{stem}-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]


def output_name(own: str | None, *, in_folder: bool) -> str:
    """What an output folder calls its weights: `own`, the base's weights file (shards: see `indexed`), as safetensors.

    A base that is a single file (not `in_folder`) keeps its name only if a library looks for it: `base.safetensors` is
    the user's word for it, and nobody's in a folder.
    """
    if own is None:
        return WEIGHTS_NAME
    own = _SHARD.sub(r"\1\2", own)
    stem, dot, suffix = own.rpartition(".")
    library, _, variant = stem.partition(".")
    if dot + suffix.lower() == ".safetensors":
        known = library in (*_PICKLED.values(), "consolidated")
        return f"{stem}.safetensors" if stem and (in_folder or known) else WEIGHTS_NAME
    if library in _PICKLED:
        return ".".join(filter(None, (_PICKLED[library], variant, "safetensors")))
    return WEIGHTS_NAME
