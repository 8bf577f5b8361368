"""Whether a checkpoint's weights are quantised: codes and scales, not values, and so nothing that can be merged.

The signs are those that bitsandbytes, GPTQ, AWQ, Marlin, EXL3, compressed-tensors, HQQ, quanto, VPTQ, MXFP4, GGML,
torch's own and float8 checkpoints leave in tensor names, number formats and config.json. Small integer buffers
(counters, position ids, masks) are no sign. Cost: the names, and config.json where there is one. Not here: formats that
cannot be opened at all (GGUF).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from prefmerge.checkpoints.folder import Folder
from prefmerge.checkpoints.names import INDEX_SUFFIX
from prefmerge.checkpoints.protocol import Checkpoint, TensorInfo
from prefmerge.ground import jsons

CONFIG_KEYS = ("quantization_config", "compression_config", "quantization")  # the last one: MLX
CONFIG_FILES = ("quantize_config.json", "quant_config.json")  # AutoGPTQ, AutoAWQ

# Names that only a quantiser gives, whatever their number format.
_BY_NAME = re.compile(
    r"(.+[._])?((nested_)?absmax|(nested_)?quant_map|quant_state\..+|SCB|weight_format|weight_packed|W_q|scaled_fp8)"
)
# Names that are a sign where they hold integers.
_CODES = re.compile(r"(.+\.)?(qweight|qzeros|q_weight|q_scale|g_idx|Qidxs|trellis|_packed_params)")
# Names of weights: a sign where they hold integers or 8-bit floats beside a scale.
_WEIGHT = re.compile(r"(?P<module>.+\.)?(\w*weight|weight[.:]_data|\w*weight_qdata|_data|codes|indices)")
_SCALE = re.compile(r"(?P<module>.+\.)?(weight[.:])?\w*(scale|scales|scale_inv|scale_2|codebooks|centroids\.weight)")
MANY = 4096  # elements; so many 8-bit integers that are called a weight are codes, wherever their scale is


def signs_of_quantisation(checkpoint: Checkpoint, ignored: Callable[[str], bool] = lambda _: False) -> list[str]:
    """What says that the weights of `checkpoint` are quantised, in words: tensors and settings; empty where nothing
    does.

    `ignored` says which tensors do not count. Where they account for all signs among the tensors, the configuration
    does not count either.
    """
    named = list(_tensors(checkpoint.tensors))
    left = [name for name in named if not ignored(name)]
    if named and not left:
        return []
    return [*_settings(checkpoint), *map(repr, left)]


def _tensors(tensors: Mapping[str, TensorInfo]) -> Iterator[str]:
    scaled = {
        match["module"]
        for name, info in tensors.items()
        if (match := _SCALE.fullmatch(name)) and info.dtype.family != "integer"
    }
    for name, info in tensors.items():
        if _BY_NAME.fullmatch(name) or (_may_be_codes(info) and _holds_codes(info, scaled, tensors)):
            yield name


def _may_be_codes(info: TensorInfo) -> bool:
    return info.dtype.family != "float" and info.dtype.code != "BOOL" and info.dtype.itemsize <= 4


def _holds_codes(info: TensorInfo, scaled: set[str | None], tensors: Mapping[str, TensorInfo]) -> bool:
    """`scaled`: the modules that have a scale."""
    weight = _WEIGHT.fullmatch(info.name)
    return (
        _CODES.fullmatch(info.name) is not None
        or (weight is not None and weight["module"] in scaled and len(info.shape) >= 2)
        or (weight is not None and info.dtype.itemsize == 1 and info.size >= MANY)
        or _is_marlin(info, tensors)
        or (info.dtype.code == "U8" and _beside_scales(info.name, tensors))
    )


def _is_marlin(info: TensorInfo, tensors: Mapping[str, TensorInfo]) -> bool:
    """Marlin: `B`, integers of 32 bits, and its scales `s`, floats."""
    module, dot, last = info.name.rpartition(".")
    scales = tensors.get(f"{module}{dot}s")
    return last == "B" and info.dtype.itemsize == 4 and scales is not None and scales.dtype.family == "float"


def _beside_scales(name: str, tensors: Mapping[str, TensorInfo]) -> bool:
    """MXFP4: `experts.down_proj_blocks` and `experts.down_proj_scales`, both uint8 (or scales of their own format)."""
    scales = tensors.get(name.removesuffix("_blocks") + "_scales")
    return name.endswith("_blocks") and scales is not None and scales.dtype.code in ("U8", "F8_E8M0")


def _settings(checkpoint: Checkpoint) -> list[str]:
    """The signs in the files beside the weights."""
    path = checkpoint.path
    if path is None:
        return []
    if path.is_dir():
        folder = path / checkpoint.module if isinstance(checkpoint, Folder) else path
    elif path.name.endswith(INDEX_SUFFIX) or path.name in ("model.safetensors", "pytorch_model.bin"):
        folder = path.parent
    else:  # a file of its own name may lie beside another model's configuration
        return []
    config = _object(folder / "config.json")
    parts = {"": config, **{f"{key}.": part for key, part in config.items() if isinstance(part, dict)}}
    signs = [f"{key!r} in config.json" for part in parts for key in _of(part, parts[part])]
    return signs + [name for name in CONFIG_FILES if (folder / name).is_file()]


def _of(prefix: str, part: Mapping[str, Any]) -> list[str]:
    return [f"{prefix}{key}" for key in CONFIG_KEYS if isinstance(part.get(key), dict) and part[key]]


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none: what cannot be read is no sign."""
    content: Any = jsons.peek(path)
    return content if isinstance(content, dict) else {}
