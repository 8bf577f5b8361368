"""The same image tower in two layouts: open_clip's (OpenAI's) and Hugging Face's CLIPVisionModelWithProjection.

    q, k, v weights = the three thirds of in_proj_weight (3E, E), in this order; projection = transpose of proj (E, D)

All other tensors have the same values under other names. Both layouts are for models whose activation is the one that
the configuration says: OpenAI's weights and those named "quickgelu" need `hidden_act: quick_gelu`, the others `gelu`;
no tensor tells. Cost: one copy of what is split, joined or transposed. Not here: ResNets, attention pooling, timm
towers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from prefmerge.errors import EncoderError

if TYPE_CHECKING:
    from torch import Tensor

# open_clip's name, without "visual.", and Hugging Face's
_OUTSIDE = {
    "class_embedding": "vision_model.embeddings.class_embedding",
    "positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "ln_pre.weight": "vision_model.pre_layrnorm.weight",  # their spelling
    "ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "ln_post.weight": "vision_model.post_layernorm.weight",
    "ln_post.bias": "vision_model.post_layernorm.bias",
}
_INSIDE = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_PROJECTION = ("proj", "visual_projection.weight")
_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
_LAYER = re.compile(r"vision_model\.encoder\.layers\.(\d+)\.(.+)")
_THIRDS = ("q_proj", "k_proj", "v_proj")


def to_hugging_face(state: Mapping[str, Tensor], prefix: str = "visual.") -> dict[str, Tensor]:
    """The tensors of an open_clip image tower, by the names and in the shapes of CLIPVisionModelWithProjection.

    `prefix` begins the names that are the image tower's; others (a text tower's) are left out. Raises EncoderError
    naming a tensor that the other layout has no place for.
    """
    renamed: dict[str, Tensor] = {}
    for full, tensor in state.items():
        if not full.startswith(prefix):
            continue
        name = full.removeprefix(prefix)
        block = _BLOCK.fullmatch(name)
        if name == _PROJECTION[0]:
            renamed[_PROJECTION[1]] = tensor.T.contiguous()
        elif name in _OUTSIDE:
            renamed[_OUTSIDE[name]] = tensor
        elif block is None:
            raise _no_place(full, "Hugging Face's")
        else:
            layer = f"vision_model.encoder.layers.{block[1]}."
            part, _, kind = block[2].rpartition(".")
            if block[2] in ("attn.in_proj_weight", "attn.in_proj_bias"):
                for third, values in zip(_THIRDS, tensor.chunk(3), strict=True):
                    renamed[f"{layer}self_attn.{third}.{block[2].removeprefix('attn.in_proj_')}"] = values.clone()
            elif part in _INSIDE and kind in ("weight", "bias"):
                renamed[f"{layer}{_INSIDE[part]}.{kind}"] = tensor
            else:
                raise _no_place(full, "Hugging Face's")
    if not renamed:
        raise EncoderError(
            f"no tensor's name begins with {prefix!r}, expected an open_clip image tower. Give the prefix of its "
            "names: 'visual.' in a whole model, '' in a tower alone."
        )
    return renamed


def to_open_clip(state: Mapping[str, Tensor], prefix: str = "visual.") -> dict[str, Tensor]:
    """The tensors of a CLIPVisionModelWithProjection, by the names and in the shapes of open_clip's image tower.

    Raises EncoderError naming a tensor that the other layout has no place for, or a third of an attention that lacks
    its others.
    """
    import torch

    outside = {theirs: ours for ours, theirs in _OUTSIDE.items()}
    inside = {theirs: ours for ours, theirs in _INSIDE.items()}
    renamed: dict[str, Tensor] = {}
    thirds: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        layer = _LAYER.fullmatch(name)
        if name == _PROJECTION[1]:
            renamed[prefix + _PROJECTION[0]] = tensor.T.contiguous()
        elif name in outside:
            renamed[prefix + outside[name]] = tensor
        elif layer is None:
            raise _no_place(name, "open_clip's")
        else:
            block = f"{prefix}transformer.resblocks.{layer[1]}."
            part, _, kind = layer[2].rpartition(".")
            third = part.removeprefix("self_attn.")
            if third in _THIRDS and kind in ("weight", "bias"):
                thirds.setdefault(f"{block}attn.in_proj_{kind}", {})[third] = tensor
            elif part in inside and kind in ("weight", "bias"):
                renamed[f"{block}{inside[part]}.{kind}"] = tensor
            else:
                raise _no_place(name, "open_clip's")
    for name, parts in thirds.items():
        lacking = [third for third in _THIRDS if third not in parts]
        if lacking:
            raise EncoderError(f"{name!r} is made of q_proj, k_proj and v_proj, of which {lacking[0]} is missing.")
        renamed[name] = torch.cat([parts[third] for third in _THIRDS])
    return renamed


def _no_place(name: str, layout: str) -> EncoderError:
    return EncoderError(
        f"tensor {name!r} has no place in {layout} layout of a CLIP image tower. Only plain vision transformers "
        "convert: no ResNets, attention pooling, layer scale or timm towers."
    )
