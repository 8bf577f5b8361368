"""The base's configuration files as a merged folder has them: with the right number format and number of layers, and
without paths.

    "dtype": "float32"                          "dtype": "bfloat16", where that was asked for
    "num_hidden_layers": 32                     "num_hidden_layers": 48, of a stack of slices
    "_name_or_path": "/some/where/models/base"   "_name_or_path": "base"

A file in which nothing is to change is copied byte for byte. Cost: one small file each. Not here: which files there are
(`companions`).
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from prefmerge.ground import jsons
from prefmerge.merging.recipe import Recipe
from prefmerge.merging.stacks import Stack

_CONFIGS = ("*config*.json", "model_index.json", "special_tokens_map.json")
_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")  # keys that say how many layers a model has
_UP_TO = (
    "max_window_layers",
    "first_k_dense_replace",
)  # keys that say how many of the first layers are unlike the rest
_NUMBERS = (
    "mlp_only_layers",
    "full_attn_idxs",
    "attn_layer_indices",
    "cross_attention_layers",
)  # keys that number them
_OF_PLACES = re.compile(r"path|file|dir|folder|cache|checkpoint", re.IGNORECASE)  # keys whose values may be paths
_PLACE = re.compile(r"(~?/|\.{1,2}/|[A-Za-z]:[\\/]|\\\\)[^\n]*")
_HUB = re.compile(r"(?:^|[\\/])models--([^\\/]+)--([^\\/]+)(?:[\\/]|$)")  # a model in the cache of the hub


def as_published(name: str, path: Path, recipe: Recipe, config: str, stack: Stack | None = None) -> bytes | Path:
    """The file called `name` of the base's, which is at `path`, as it goes into the output: the file itself, or bytes.
    `config` is the one that says the number format and the layers. `stack`: the base, where it is one.
    """
    if not any(fnmatchcase(PurePosixPath(name).name.lower(), pattern) for pattern in _CONFIGS):
        return path
    content = jsons.peek(path)
    asked = "float32" if recipe.as_task_vector else recipe.dtype
    changed = _without_places(content)
    if name == config and asked is not None and isinstance(changed, dict):
        changed = _with_dtype(changed, asked)
    if name == config and stack is not None and isinstance(changed, dict):
        changed = _with_layers(changed, stack)
    return path if changed == content else jsons.encoded(changed, indent=2, ascii=False, nan=True)


def hub_id(place: str) -> str | None:
    """The id of a model that lies in the cache of the hub."""
    match = _HUB.search(place)
    return f"{match[1]}/{match[2]}" if match else None


def _with_dtype(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """transformers wrote `torch_dtype` before its version 5, and writes `dtype` since. Parts (the text and vision
    configs of a CLIP) have their own.
    """
    changed = {key: _with_dtype(value, dtype) if isinstance(value, dict) else value for key, value in config.items()}
    says = [key for key in ("dtype", "torch_dtype") if key in config and not isinstance(config[key], dict)]
    return {**changed, **dict.fromkeys(says, dtype)}


def _with_layers(config: dict[str, Any], stack: Stack) -> dict[str, Any]:
    """What counts or lists the layers, in the whole or in the part for text."""
    sources = [number for _, number in stack.sources]
    own = next((config[key] for key in _COUNTS if type(config.get(key)) is int), None)
    changed = dict(config)
    if isinstance(config.get("text_config"), dict):
        changed["text_config"] = _with_layers(config["text_config"], stack)
    for key, value in config.items():
        if key in _COUNTS and value == own:
            changed[key] = len(sources)
        elif key in _UP_TO and type(value) is int:  # so many of the first layers are of another kind
            changed[key] = next((i for i, number in enumerate(sources) if number >= value), len(sources))
        elif key in _NUMBERS and isinstance(value, list):
            changed[key] = [i for i, number in enumerate(sources) if number in value]
        elif own and isinstance(value, list) and len(value) == own and "layer" in key:
            changed[key] = [value[min(number, own - 1)] for number in sources]
    return changed


def _without_places(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _without_places(own, name) for name, own in value.items()}
    if isinstance(value, list):
        return [_without_places(own, key) for own in value]
    if isinstance(value, str) and _OF_PLACES.search(key) and _PLACE.fullmatch(value):
        return hub_id(value) or PureWindowsPath(value).name  # which takes both kinds of slashes
    return value
