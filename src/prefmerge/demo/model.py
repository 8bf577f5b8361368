"""A small vision transformer and its frozen head, as functions of a state dict.

Computes `logits = LOGIT_SCALE * <e, h_c>`, e the unit-norm embedding of an image, h_c the unit-norm frozen row of class
c: CLIP's zero-shot classifier with rows that were learned on printed characters in place of a text tower. The encoder
is a pre-norm ViT (class token, learned positions), described wholly by its tensors: sizes are read from their shapes,
names are those of timm. Shapes: images (N, 1, S, S) in [0, 1]; embeddings (N, E); head (C, E). Cost: about 10 MFLOP an
image for the shipped base. Leaves out: dropout and stochastic depth, which a run this short does not need; other input
channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prefmerge.errors import MissingExtra

if TYPE_CHECKING:
    from torch import Tensor

    Weights = Mapping[str, Tensor]

IMAGE_SIZE = 16  # pixels a side; the digits are 8 x 8 and enlarged
PATCH_SIZE = 4  # pixels a side
HEAD_WIDTH = 32  # channels of one attention head
EMBED_WIDTH = 64
LOGIT_SCALE = 20.0  # of the base's own training; `Regime` has the one of fine-tuning
FOLDER = Path(__file__).parent


def require_torch() -> None:
    """Raise MissingExtra, with the install command, where torch is absent."""
    try:
        import torch  # noqa: F401  (only whether it can be imported)
    except ImportError as error:
        raise MissingExtra("prefmerge demo", "demo") from error


def new_weights(seed: int, *, width: int = 96, depth: int = 4, mlp_ratio: int = 2) -> dict[str, Tensor]:
    """An untrained encoder: normal(0, 0.02) matrices, zero biases, unit gains; float32."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    tokens = (IMAGE_SIZE // PATCH_SIZE) ** 2 + 1

    def matrix(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.02

    weights = {
        "cls_token": matrix(1, 1, width),
        "pos_embed": matrix(1, tokens, width),
        "patch_embed.proj.weight": matrix(width, 1, PATCH_SIZE, PATCH_SIZE)
        * 10,  # 16 inputs only: keep the tokens' size near one
        "patch_embed.proj.bias": torch.zeros(width),
    }
    for block in range(depth):
        at = f"blocks.{block}."
        for norm in ("norm1", "norm2"):
            weights[f"{at}{norm}.weight"] = torch.ones(width)
            weights[f"{at}{norm}.bias"] = torch.zeros(width)
        for name, rows, columns in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1", mlp_ratio * width, width),
            ("mlp.fc2", width, mlp_ratio * width),
        ):
            weights[f"{at}{name}.weight"] = matrix(rows, columns)
            weights[f"{at}{name}.bias"] = torch.zeros(rows)
    weights["norm.weight"] = torch.ones(width)
    weights["norm.bias"] = torch.zeros(width)
    weights["proj.weight"] = matrix(EMBED_WIDTH, width) * 5  # columns of norm near one
    return weights


def prepare(images: Tensor) -> Tensor:
    """Preprocessing: images (N, 1, s, s) in [0, 1] enlarged bilinearly to (N, 1, IMAGE_SIZE, IMAGE_SIZE)."""
    from torch.nn import functional

    return functional.interpolate(images, size=IMAGE_SIZE, mode="bilinear", align_corners=False)


def encode(weights: Weights, images: Tensor) -> Tensor:
    """Unit-norm embeddings (N, E) of images (N, 1, S, S)."""
    import torch
    from torch.nn import functional

    width = weights["cls_token"].shape[-1]
    depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))

    def norm(name: str, x: Tensor) -> Tensor:
        return functional.layer_norm(x, (width,), weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-6)

    def linear(name: str, x: Tensor) -> Tensor:
        return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    # Patches are cut by hand: as one matrix product they cost a third of a strided convolution on a CPU.
    n, _, side, _ = images.shape
    grid = side // PATCH_SIZE
    patches = (
        images.reshape(n, grid, PATCH_SIZE, grid, PATCH_SIZE).transpose(2, 3).reshape(n, grid * grid, PATCH_SIZE**2)
    )
    tokens = functional.linear(patches, weights["patch_embed.proj.weight"].flatten(1), weights["patch_embed.proj.bias"])
    x = torch.cat([weights["cls_token"].expand(n, -1, -1), tokens], dim=1) + weights["pos_embed"]
    for block in range(depth):
        at = f"blocks.{block}"
        qkv = linear(f"{at}.attn.qkv", norm(f"{at}.norm1", x))
        q, k, v = qkv.reshape(n, -1, 3, width // HEAD_WIDTH, HEAD_WIDTH).permute(2, 0, 3, 1, 4)
        attention = functional.softmax(q @ k.transpose(-2, -1) / math.sqrt(HEAD_WIDTH), dim=-1) @ v
        x = x + linear(f"{at}.attn.proj", attention.transpose(1, 2).reshape(n, -1, width))
        x = x + linear(f"{at}.mlp.fc2", functional.gelu(linear(f"{at}.mlp.fc1", norm(f"{at}.norm2", x))))
    return functional.normalize(norm("norm", x[:, 0]) @ weights["proj.weight"].T, dim=-1)


def logits(
    weights: Weights, head: Tensor, images: Tensor, classes: Sequence[int] | None = None, scale: float = LOGIT_SCALE
) -> Tensor:
    """Scaled cosines (N, C) with the head's rows, or with those of `classes` only, in their order (training)."""
    rows = head if classes is None else head[list(classes)]
    return scale * encode(weights, images) @ rows.T


def predict(weights: Weights, head: Tensor, images: Tensor) -> Tensor:
    """The class (N,) with the largest cosine among all rows of the head: evaluation never knows the task."""
    import torch

    with torch.no_grad():
        return torch.cat([encode(weights, chunk) @ head.T for chunk in images.split(256)]).argmax(dim=1)


def load_base() -> tuple[dict[str, Tensor], Tensor]:
    """The shipped encoder and its frozen digit rows (10, E), made by benchmarks/demo_base.py."""
    from safetensors.torch import load_file

    return load_file(FOLDER / "base.safetensors"), load_file(FOLDER / "head.safetensors")["head.weight"]
