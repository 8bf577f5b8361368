"""What a tensor is, from its name and shape: layer norm, attention, MLP, embedding or convolution, projection, other.

The papers group weights by these types and leave biases out; so `layer_type` gives None for a bias. It knows how CLIP
(transformers, open_clip), ViT (transformers, timm), BERT and its kin, GPT and LLaMA call their tensors; any other name
is "other", never an error. Cost: a few comparisons per name. Not here: the model's code, which alone would know.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

LAYER_NORM, ATTENTION, MLP, EMBEDDING, PROJECTION, OTHER = LAYER_TYPES = (
    "layer norm",  # and any other normalisation
    "attention",
    "MLP",
    "embedding/convolution",
    "projection",  # to the output: a head, a pooler, CLIP's projections
    "other",
)

_BIAS = re.compile(r"bias|\w+_bias|beta")
_NORM = re.compile(r".*norm.*|.*layrnorm.*|ln|ln_\w+|ln\d+|bn\d*|gn\d*")
_ATTENTION = re.compile(r".*(attn|attention).*|[qkv]_(proj|lin)|qkv|query_key_value|in_proj_weight")
_MLP = re.compile(
    r".*(mlp|ffn|feed_?forward|experts?|densereludense|dense_h_to_4h|dense_4h_to_h).*"
    r"|intermediate|fc[12]|c_fc|lin[12]|w[123]|wi(_\d)?|wo|(gate|up|down)_proj|ff"
)
_EMBEDDING = re.compile(r".*embed.*|wte|wpe|(cls|class|dist|mask|pos|reg)_token|shared|.*conv(\d+[a-z]*)?|.*patch.*")
_PROJECTION = re.compile(r".*proj.*|.*heads?|classifier|pooler|.*predictions?|score|fc|cls")


def layer_type(name: str, shape: Sequence[int]) -> str | None:
    """One of LAYER_TYPES, or None for a bias."""
    parts = name.lower().split(".")
    if _BIAS.fullmatch(parts[-1]):
        return None
    if any(_NORM.fullmatch(part) for part in parts[-2:]):
        return LAYER_NORM
    # A block's second dense layer is called `layer.3.output.dense` in BERT, beside `layer.3.attention.output.dense`.
    in_block = any(part.isdigit() for part in parts)
    rules = (
        (ATTENTION, any(_ATTENTION.fullmatch(part) for part in parts)),
        (MLP, any(_MLP.fullmatch(part) for part in parts) or (in_block and "output" in parts)),
        (EMBEDDING, any(_EMBEDDING.fullmatch(part) for part in parts) or len(shape) > 2),
        (PROJECTION, any(_PROJECTION.fullmatch(part) for part in parts)),
    )
    return next((kind for kind, holds in rules if holds), OTHER)
