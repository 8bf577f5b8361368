"""open_clip's layout and Hugging Face's: the same weights, the same features.

open_clip cannot be imported without torchvision, so its image tower is written here once more, with plain functions
on a state dict in its layout. Where it can be imported, the last tests hold the real one against the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from prefmerge.config import ModelConfig
from prefmerge.errors import EncoderError
from prefmerge.models.encoders import Augmentation, load_encoder
from prefmerge.models.encoders.hugging_face import quiet
from prefmerge.models.encoders.open_clip_keys import to_hugging_face, to_open_clip

WIDTH, HEADS, BLOCKS, PATCH, SIZE, PROJECTED = 24, 3, 2, 4, 12, 10
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)),
}


def tower_in_open_clips_layout() -> dict[str, Tensor]:
    """Random tensors by the names and in the shapes of an open_clip vision transformer."""
    patches = (SIZE // PATCH) ** 2
    shapes: dict[str, tuple[int, ...]] = {
        "class_embedding": (WIDTH,),
        "positional_embedding": (patches + 1, WIDTH),
        "proj": (WIDTH, PROJECTED),
        "conv1.weight": (WIDTH, 3, PATCH, PATCH),
    }
    for norm in ("ln_pre", "ln_post", *(f"transformer.resblocks.{n}.ln_{i}" for n in range(BLOCKS) for i in (1, 2))):
        shapes |= {f"{norm}.weight": (WIDTH,), f"{norm}.bias": (WIDTH,)}
    for n in range(BLOCKS):
        block = f"transformer.resblocks.{n}."
        shapes |= {
            f"{block}attn.in_proj_weight": (3 * WIDTH, WIDTH),
            f"{block}attn.in_proj_bias": (3 * WIDTH,),
            f"{block}attn.out_proj.weight": (WIDTH, WIDTH),
            f"{block}attn.out_proj.bias": (WIDTH,),
            f"{block}mlp.c_fc.weight": (4 * WIDTH, WIDTH),
            f"{block}mlp.c_fc.bias": (4 * WIDTH,),
            f"{block}mlp.c_proj.weight": (WIDTH, 4 * WIDTH),
            f"{block}mlp.c_proj.bias": (WIDTH,),
        }
    generator = torch.Generator().manual_seed(0)
    return {f"visual.{name}": torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}


def features(state: dict[str, Tensor], images: Tensor, activation: str) -> Tensor:
    """An image tower after Radford et al. 2021, on tensors in open_clip's layout: images (N, 3, H, W) -> (N, D)."""
    w = {name.removeprefix("visual."): tensor.double() for name, tensor in state.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        return (
            centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * w[name + ".weight"]
            + w[name + ".bias"]
        )

    x = functional.unfold(images.double(), PATCH, stride=PATCH).transpose(1, 2) @ w["conv1.weight"].flatten(1).T
    x = torch.cat([w["class_embedding"].expand(len(x), 1, -1), x], dim=1) + w["positional_embedding"]
    x = norm(x, "ln_pre")
    for n in range(BLOCKS):
        at = f"transformer.resblocks.{n}."
        y = norm(x, at + "ln_1") @ w[at + "attn.in_proj_weight"].T + w[at + "attn.in_proj_bias"]
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in y.split(WIDTH, dim=-1))
        attended = torch.softmax(q @ k.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5, dim=-1) @ v
        joined = attended.transpose(1, 2).flatten(2)
        x = x + joined @ w[at + "attn.out_proj.weight"].T + w[at + "attn.out_proj.bias"]
        y = norm(x, at + "ln_2") @ w[at + "mlp.c_fc.weight"].T + w[at + "mlp.c_fc.bias"]
        x = x + ACTIVATIONS[activation](y) @ w[at + "mlp.c_proj.weight"].T + w[at + "mlp.c_proj.bias"]
    return norm(x[:, 0], "ln_post") @ w["proj"]


def hugging_face_tower(activation: str) -> Any:
    import transformers

    return transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=BLOCKS,
            num_attention_heads=HEADS,
            image_size=SIZE,
            patch_size=PATCH,
            projection_dim=PROJECTED,
            hidden_act=activation,
        )
    ).eval()


def batch() -> Tensor:
    return torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_both_layouts_of_the_same_weights_give_the_same_features(activation: str):
    state = tower_in_open_clips_layout()
    model = hugging_face_tower(activation)
    model.load_state_dict(to_hugging_face(state), strict=True)
    with torch.no_grad():
        result = model(pixel_values=batch()).image_embeds.double()
    expected = features(state, batch(), activation)
    # Features of size 1 to 5: float32 against float64 through two blocks. The other activation differs by a hundred
    # times more.
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)
    other = next(name for name in ACTIVATIONS if name != activation)
    assert (features(state, batch(), other) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("prefix", ["visual.", "", "module.visual."])
def test_there_and_back_is_exact(prefix: str):
    state = {prefix + name.removeprefix("visual."): tensor for name, tensor in tower_in_open_clips_layout().items()}
    theirs = to_hugging_face(state, prefix)
    assert set(theirs) == set(hugging_face_tower("gelu").state_dict())
    back = to_open_clip(theirs, prefix)
    assert set(back) == set(state)
    again = to_hugging_face(back, prefix)
    for name, tensor in state.items():
        assert torch.equal(back[name], tensor)
        assert back[name].is_contiguous()
    for name, tensor in theirs.items():
        assert torch.equal(again[name], tensor)
        assert tensor.is_contiguous()


def test_a_text_tower_is_left_out():
    whole = tower_in_open_clips_layout()
    with_text = whole | {"transformer.resblocks.0.ln_1.weight": torch.ones(3), "logit_scale": torch.ones(())}
    assert set(to_hugging_face(with_text)) == set(to_hugging_face(whole))


@pytest.mark.parametrize(
    "name", ["visual.layer1.0.conv1.weight", "visual.transformer.resblocks.0.ls_1.gamma", "visual.trunk.norm.weight"]
)
def test_towers_without_a_counterpart_are_named(name: str):
    with pytest.raises(
        EncoderError, match=rf"tensor '{name}' has no place in Hugging Face's layout.*Only plain vision"
    ):
        to_hugging_face(tower_in_open_clips_layout() | {name: torch.ones(2)})


def test_what_does_not_convert():
    with pytest.raises(EncoderError, match=r"no tensor's name begins with 'visual.'"):
        to_hugging_face({"conv1.weight": torch.ones(1)})
    theirs = to_hugging_face(tower_in_open_clips_layout())
    with pytest.raises(EncoderError, match=r"tensor 'logit_scale' has no place in open_clip's layout"):
        to_open_clip(theirs | {"logit_scale": torch.ones(())})
    del theirs["vision_model.encoder.layers.1.self_attn.k_proj.bias"]
    with pytest.raises(
        EncoderError, match=r"'visual.transformer.resblocks.1.attn.in_proj_bias' is made of .* k_proj is missing"
    ):
        to_open_clip(theirs)


def test_without_torchvision_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "open_clip"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchvision", None)  # an import of it fails, as where it is not installed
    with pytest.raises(
        EncoderError, match=r"needs torchvision.*pip install open_clip_torch torchvision.*model.kind: clip"
    ):
        load_encoder(ModelConfig(id="ViT-B-16/openai", kind="open_clip"))


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Path]:
    """The library, and a folder with a tiny model of it."""
    library = pytest.importorskip(
        "open_clip",
        reason="open_clip imports torchvision, which is not everywhere where torch is",
        exc_type=ImportError,
    )
    import json

    from safetensors.torch import save_file

    tower = {"image_size": SIZE, "patch_size": PATCH, "layers": BLOCKS, "width": WIDTH, "head_width": WIDTH // HEADS}
    text = {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": PROJECTED, "quick_gelu": True, "vision_cfg": tower, "text_cfg": text}
    torch.manual_seed(0)
    model = library.CLIP(**config)
    model.load_state_dict(tower_in_open_clips_layout(), strict=False)
    folder = tmp_path / "tiny"
    folder.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {"size": SIZE}}))
    return library, folder


def test_the_real_tower_gives_the_same_features(real: tuple[Any, Path], tmp_path: Path):
    library, folder = real
    encoder = load_encoder(ModelConfig(id=str(folder), kind="open_clip"))
    with torch.no_grad():
        result = encoder.tower(pixel_values=batch())
        model = hugging_face_tower("quick_gelu")
        model.load_state_dict(to_hugging_face(encoder.state(), prefix=""), strict=True)
        theirs = model(pixel_values=batch()).image_embeds
    torch.testing.assert_close(result, theirs, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        result.double(), features(tower_in_open_clips_layout(), batch(), "quick_gelu"), rtol=0, atol=1e-5
    )

    whole, transform = library.create_model_from_pretrained(f"local-dir:{folder}")
    whole.eval().requires_grad_(False)  # torch's attention rounds otherwise where a gradient could be asked for
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)) for _ in range(2)]
    assert torch.equal(encoder.prepare(images)["pixel_values"], torch.stack([transform(image) for image in images]))
    tokens = library.get_tokenizer(f"local-dir:{folder}")(["an owl", "a cat"])
    with torch.no_grad():
        expected = whole.encode_text(tokens)
    phrases = encoder.phrases(["an owl", "a cat"])
    assert phrases is not None
    assert torch.equal(phrases, expected)
    assert encoder.logit_scale == pytest.approx(whole.logit_scale.exp().item(), rel=1e-6)
    augmented = encoder.prepare(images, Augmentation(), [1, 2])["pixel_values"]
    assert augmented.shape == (2, 3, SIZE, SIZE)
    assert torch.equal(encoder.prepare(images[1:], Augmentation(), [2])["pixel_values"][0], augmented[1])
    # Boxes of nearly the whole image at 3 x 3 pixels a patch: another crop, the same scale and colours.
    assert (augmented.mean(dim=(2, 3)) - encoder.prepare(images)["pixel_values"].mean(dim=(2, 3))).abs().max() < 0.5


def test_a_saved_tower_is_loaded_by_open_clip(real: tuple[Any, Path], tmp_path: Path):
    library, folder = real
    encoder = load_encoder(ModelConfig(id=str(folder), kind="open_clip"))
    with torch.no_grad():
        for tensor in encoder.state().values():
            tensor.add_(0.01)
        result = encoder.tower(pixel_values=batch())
    encoder.save(tmp_path / "saved")
    with quiet(), torch.no_grad():
        model, _ = library.create_model_from_pretrained(
            f"local-dir:{folder}", pretrained_image_path=str(tmp_path / "saved" / "model.safetensors")
        )
        assert torch.equal(model.encode_image(batch()), result)
        again = load_encoder(ModelConfig(id=str(folder), kind="open_clip"))
        again.load(tmp_path / "saved")
        assert torch.equal(again.tower(pixel_values=batch()), result)
    assert all(parameter.requires_grad for parameter in again.tower.parameters())


def test_names_that_open_clip_cannot_load(real: tuple[Any, Path], tmp_path: Path):
    with pytest.raises(EncoderError, match=r"'ViT-B-16' names no weights.*Its tags: openai, laion400m"):
        load_encoder(ModelConfig(id="ViT-B-16", kind="open_clip"))
    with pytest.raises(EncoderError, match=r"is a file of weights, which does not say its architecture"):
        load_encoder(ModelConfig(id=str(real[1] / "model.safetensors"), kind="open_clip"))
    with pytest.raises(EncoderError, match=r"no open_clip_config.json in the folder"):
        load_encoder(ModelConfig(id=str(tmp_path), kind="open_clip"))
    with pytest.raises(EncoderError, match=r"'ViT-B-16/no-such-tag': open_clip cannot load it"):
        load_encoder(ModelConfig(id="ViT-B-16/no-such-tag", kind="open_clip"))
