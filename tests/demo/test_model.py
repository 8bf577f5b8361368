"""The tiny encoder against float64 loops; the head's restriction; the shipped base."""

# ruff: noqa: E402  (imports that need an extra come after asking for it)

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the demo's model runs on torch (extra demo)")

from prefmerge.demo.model import (
    EMBED_WIDTH,
    HEAD_WIDTH,
    LOGIT_SCALE,
    PATCH_SIZE,
    encode,
    load_base,
    logits,
    new_weights,
    predict,
)

Arrays = Mapping[str, np.ndarray]


def oracle(weights: Arrays, image: np.ndarray) -> np.ndarray:
    """The embedding (E,) of one image (S, S), token by token in float64."""

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        return (x - x.mean()) / math.sqrt(x.var() + 1e-6) * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]

    tokens = [weights["cls_token"][0, 0]]
    for top in range(0, image.shape[0], PATCH_SIZE):
        for left in range(0, image.shape[1], PATCH_SIZE):
            patch = image[top : top + PATCH_SIZE, left : left + PATCH_SIZE]
            kernel = weights["patch_embed.proj.weight"][:, 0]
            tokens.append(np.array([np.sum(k * patch) for k in kernel]) + weights["patch_embed.proj.bias"])
    x = [token + position for token, position in zip(tokens, weights["pos_embed"][0], strict=True)]
    width = len(x[0])
    for block in range(sum(name.endswith("norm1.weight") for name in weights)):
        at = f"blocks.{block}"
        qkv = [linear(f"{at}.attn.qkv", norm(f"{at}.norm1", token)) for token in x]
        seen = [np.zeros(width) for _ in x]
        for start in range(0, width, HEAD_WIDTH):
            channels = slice(start, start + HEAD_WIDTH)
            for i, query in enumerate(qkv):
                scores = [query[channels] @ key[width:][channels] / math.sqrt(HEAD_WIDTH) for key in qkv]
                odds = np.exp(scores) / np.sum(np.exp(scores))
                seen[i][channels] = sum(
                    odd * value[2 * width :][channels] for odd, value in zip(odds, qkv, strict=True)
                )
        x = [token + linear(f"{at}.attn.proj", found) for token, found in zip(x, seen, strict=True)]
        for i, token in enumerate(x):
            hidden = linear(f"{at}.mlp.fc1", norm(f"{at}.norm2", token))
            hidden = np.array([h * 0.5 * (1 + math.erf(h / math.sqrt(2))) for h in hidden])
            x[i] = token + linear(f"{at}.mlp.fc2", hidden)
    embedding = weights["proj.weight"] @ norm("norm", x[0])
    return embedding / np.linalg.norm(embedding)


def test_encoder_matches_loops_in_float64() -> None:
    weights = {
        name: tensor + 0.05 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(3))
        for name, tensor in new_weights(0).items()
    }
    images = torch.rand((3, 1, 16, 16), generator=torch.Generator().manual_seed(1))
    expected = np.stack(
        [oracle({k: v.double().numpy() for k, v in weights.items()}, image[0].double().numpy()) for image in images]
    )
    exact = encode({k: v.double() for k, v in weights.items()}, images.double()).numpy()
    np.testing.assert_allclose(exact, expected, atol=1e-12)
    # float32 rounds each of some hundred additions in a dozen layers.
    np.testing.assert_allclose(encode(weights, images).numpy(), expected, atol=1e-5)


def test_training_sees_only_the_rows_of_the_task() -> None:
    weights, head = (
        new_weights(0),
        torch.nn.functional.normalize(torch.randn(10, EMBED_WIDTH, generator=torch.Generator().manual_seed(0)), dim=1),
    )
    images = torch.rand((4, 1, 16, 16), generator=torch.Generator().manual_seed(1))
    every = logits(weights, head, images)
    torch.testing.assert_close(logits(weights, head, images, (7, 2)), every[:, [7, 2]])
    torch.testing.assert_close(every, LOGIT_SCALE * encode(weights, images) @ head.T)
    assert predict(weights, head, images).tolist() == every.argmax(dim=1).tolist()


def test_shipped_base_is_whole() -> None:
    base, head = load_base()
    assert {name: tuple(tensor.shape) for name, tensor in base.items()} == {
        name: tuple(tensor.shape) for name, tensor in new_weights(0).items()
    }
    assert {"blocks.0.attn.qkv.weight", "blocks.3.mlp.fc2.bias", "pos_embed", "norm.weight"} <= set(base)
    assert all(
        tensor.dtype == torch.float32 and bool(torch.isfinite(tensor).all()) for tensor in (*base.values(), head)
    )
    torch.testing.assert_close(head.norm(dim=1), torch.ones(10))
