"""The tiny encoder against float64 loops, and as an encoder; the shipped base and head."""

# ruff: noqa: E402  (imports that need an extra come after asking for it)

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the demo's model runs on torch (extra demo)")

from safetensors.torch import load_file, save_file
from torch import Tensor

import prefmerge
from prefmerge.errors import CheckpointMismatch
from prefmerge.lab.demo.model import BASE, load_base
from prefmerge.models.encoders import Augmentation
from prefmerge.models.encoders.digits import LOGIT_SCALE, DigitsEncoder
from prefmerge.models.encoders.digits_sizes import EMBED_WIDTH, HEAD_WIDTH, PATCH_SIZE
from prefmerge.models.encoders.digits_tower import DigitsTower

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
    return weights["proj.weight"] @ norm("norm", x[0])


def images(count: int, side: int) -> Tensor:
    return torch.rand((count, 1, side, side), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def nudged() -> DigitsEncoder:
    """As if it had been trained."""
    encoder = DigitsEncoder(BASE)
    generator = torch.Generator().manual_seed(0)
    for tensor in encoder.state().values():
        tensor += 0.01 * torch.randn(tensor.shape, generator=generator)
    return encoder


def same(encoder: DigitsEncoder, weights: Mapping[str, Tensor]) -> bool:
    state = encoder.state()
    return state.keys() == weights.keys() and all(torch.equal(state[name], w) for name, w in weights.items())


def test_tower_matches_loops_in_float64() -> None:
    tower = DigitsTower()
    tower.draw(0)
    for tensor in tower.state_dict().values():
        tensor += 0.05 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(3))
    seen = images(3, 16)
    with torch.no_grad():
        rounded = tower(seen).numpy()
        exact = tower.double()(seen.double()).numpy()
    weights = {name: tensor.numpy() for name, tensor in tower.state_dict().items()}
    expected = np.stack([oracle(weights, image[0].double().numpy()) for image in seen])
    np.testing.assert_allclose(exact, expected, atol=1e-11)
    # float32 rounds each of some hundred additions in a dozen layers; embeddings are about 10 long.
    np.testing.assert_allclose(rounded, expected, atol=1e-4)


def test_an_untrained_tower_is_drawn_from_its_seed_alone() -> None:
    towers = [DigitsTower() for _ in range(3)]
    for tower, seed in zip(towers, (0, 0, 1), strict=True):
        tower.draw(seed)
    one, again, other = (tower.state_dict() for tower in towers)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["proj.weight"], other["proj.weight"])
    assert one["blocks.1.attn.qkv.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    assert set(one["norm.weight"].tolist()) == {1.0}
    assert set(one["blocks.3.mlp.fc2.bias"].tolist()) == {0.0}


def test_the_encoder_holds_the_shipped_base() -> None:
    state = torch.random.get_rng_state()
    encoder, head = load_base()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert same(encoder, load_file(BASE))
    assert {"blocks.0.attn.qkv.weight", "blocks.3.mlp.fc2.bias", "pos_embed", "norm.weight"} <= set(encoder.state())
    assert [name for name, _ in encoder.tower.named_parameters()] == sorted(encoder.state())
    assert all(w.dtype == torch.float32 and bool(torch.isfinite(w).all()) for w in encoder.state().values())
    assert not encoder.tower.training
    assert (head.classes, head.scale, tuple(head.rows.shape)) == (tuple("0123456789"), LOGIT_SCALE, (10, EMBED_WIDTH))
    torch.testing.assert_close(head.rows.norm(dim=1), torch.ones(10))


def test_images_become_a_batch_that_the_tower_takes() -> None:
    encoder, small = DigitsEncoder(BASE), images(3, 8)
    batch = encoder.prepare(list(small))
    assert tuple(batch["images"].shape) == (3, 1, 16, 16)
    assert torch.equal(batch["images"], encoder.prepare(list(small.numpy()))["images"])
    # Bilinear: the corners stay, and so does a constant.
    assert torch.equal(batch["images"][..., 0, 0], small[..., 0, 0])
    assert torch.equal(encoder.prepare([np.full((1, 8, 8), 0.25)])["images"], torch.full((1, 1, 16, 16), 0.25))
    assert tuple(encoder.tower(**batch).shape) == (3, encoder.width)
    assert encoder.phrases(["seven"]) is None
    with pytest.raises(ValueError, match=r"not cropped; set training\.augmentation to false"):
        encoder.prepare(list(small), Augmentation(), [1, 2, 3])


def test_a_checkpoint_comes_back_from_folder_and_file(nudged: DigitsEncoder, tmp_path: Path) -> None:
    nudged.save(tmp_path / "saved")
    for path in (tmp_path / "saved", tmp_path / "saved" / "model.safetensors"):
        encoder = DigitsEncoder(BASE)
        assert all(torch.equal(w, nudged.state()[name]) for name, w in encoder.read(path).items())
        assert same(encoder, load_file(BASE))  # reading leaves the tower alone
        encoder.load(path)
        assert same(encoder, nudged.state())


def test_a_saved_folder_is_what_a_merge_takes(nudged: DigitsEncoder, tmp_path: Path) -> None:
    nudged.save(tmp_path / "task")
    prefmerge.merge(BASE, [tmp_path / "task"], tmp_path / "merged", method="last", scale=0.0)
    encoder = DigitsEncoder(BASE)
    encoder.load(tmp_path / "merged")
    assert same(encoder, load_file(BASE))


def test_another_models_checkpoint_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    encoder, weights = DigitsEncoder(BASE), load_file(BASE)
    weights["proj.weight"] = weights["proj.weight"][:, :5].contiguous()
    save_file(weights, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointMismatch, match=r"'proj\.weight' has shape \(64, 5\), the model's has \(64, 96\)"):
        encoder.load(tmp_path / "other.safetensors")
    assert same(encoder, load_file(BASE))


def test_importing_the_modules_loads_no_torch() -> None:
    code = "import sys; from prefmerge.lab.demo import model, run, train; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "False"
