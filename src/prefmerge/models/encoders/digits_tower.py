"""The demo's tower: a pre-norm vision transformer (class token, learned positions), with timm's names.

    embedding = W norm(class token after DEPTH blocks),   block: x + attention(norm1(x)), then x + mlp(norm2(x))

Imports torch at the top, because a module must be a class: import this inside functions only. Shapes: images (N, 1,
IMAGE_SIZE, IMAGE_SIZE) in [0, 1]; embeddings (N, EMBED_WIDTH), not normalised. Cost: about 10 MFLOP an image, 308,832
parameters. Not here: dropout and stochastic depth, which a run this short does not need; other input channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from prefmerge.models.encoders.digits_sizes import (
    DEPTH,
    EMBED_WIDTH,
    HEAD_WIDTH,
    IMAGE_SIZE,
    MLP_WIDTH,
    PATCH_SIZE,
    WIDTH,
)

DEVIATION = 0.02  # of the normal distribution that matrices are drawn from
# 16 inputs only: keep the tokens' size near one; columns of norm near one.
WIDER = {"patch_embed.proj.weight": 10, "proj.weight": 5}


class Patches(nn.Module):
    """An embedding (N, grid * grid, WIDTH) of each square of PATCH_SIZE pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, WIDTH, PATCH_SIZE, stride=PATCH_SIZE)

    def forward(self, images: Tensor) -> Tensor:
        # Cut by hand: as one matrix product they cost a third of a strided convolution on a CPU.
        n, _, side, _ = images.shape
        grid = side // PATCH_SIZE
        cut = images.reshape(n, grid, PATCH_SIZE, grid, PATCH_SIZE).transpose(2, 3).reshape(n, grid * grid, -1)
        return functional.linear(cut, self.proj.weight.flatten(1), self.proj.bias)


class Attention(nn.Module):
    """Each token's mixture of all tokens, in heads of HEAD_WIDTH channels."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        n = len(x)
        q, k, v = self.qkv(x).reshape(n, -1, 3, WIDTH // HEAD_WIDTH, HEAD_WIDTH).permute(2, 0, 3, 1, 4)
        mixed = functional.softmax(q @ k.transpose(-2, -1) / math.sqrt(HEAD_WIDTH), dim=-1) @ v
        return self.proj(mixed.transpose(1, 2).reshape(n, -1, WIDTH))


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(WIDTH, MLP_WIDTH)
        self.fc2 = nn.Linear(MLP_WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH, eps=1e-6)
        self.norm2 = nn.LayerNorm(WIDTH, eps=1e-6)
        self.attn = Attention()
        self.mlp = Mlp()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class DigitsTower(nn.Module):
    """Images (N, 1, IMAGE_SIZE, IMAGE_SIZE) -> embeddings (N, EMBED_WIDTH)."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, (IMAGE_SIZE // PATCH_SIZE) ** 2 + 1, WIDTH))
        self.patch_embed = Patches()
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.proj = nn.Linear(WIDTH, EMBED_WIDTH, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), tokens], dim=1) + self.pos_embed
        return self.proj(self.norm(self.blocks(x)[:, 0]))

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """By name, as in a file: in which order the norms of gradients are added up decides the last bits of a run."""
        yield from sorted(super().named_parameters(prefix, recurse, remove_duplicate))

    def draw(self, seed: int) -> None:
        """Weights of an untrained tower: normal(0, DEVIATION) matrices, some of them WIDER, zero biases, unit gains."""
        generator = torch.Generator().manual_seed(seed)
        for name, tensor in self.state_dict().items():
            if name.endswith("bias"):
                tensor.zero_()
            elif "norm" in name:
                tensor.fill_(1)
            else:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * DEVIATION * WIDER.get(name, 1))
