"""Hugging Face CLIP: the zero-shot head by hand, preprocessing, and the way through a file and a merge."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

import prefmerge
from prefmerge.config import ModelConfig
from prefmerge.data.scenarios import ClassInfo
from prefmerge.errors import EncoderError
from prefmerge.models.encoders import Augmentation, Encoder, load_encoder
from prefmerge.models.encoders.hugging_face import quiet
from prefmerge.models.encoders.images import crop_box
from prefmerge.models.heads import text_head
from tests.models.tiny import PROJECTED, tiny_clip

TEMPLATES = ("a photo of a {}", "the {}", "{} in a bag")
CLASSES = tuple(ClassInfo(name, tuple(t.format(name) for t in TEMPLATES)) for name in ("cat", "dog", "owl", "mouse"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="module")
def whole(folder: Path) -> Iterator[Any]:
    """transformers' own model of the folder, loaded apart from ours."""
    import transformers

    with quiet():
        yield transformers.CLIPModel.from_pretrained(folder).float().eval()


@pytest.fixture
def encoder(folder: Path) -> Encoder:
    return load_encoder(ModelConfig(id=str(folder)))


def pictures(*sizes: tuple[int, int], seed: int = 0) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)) for width, height in sizes]


def embedded(encoder: Encoder, images: list[Image.Image]) -> torch.Tensor:
    with torch.no_grad():
        return encoder.tower(**encoder.prepare(images))


def nudged(encoder: Encoder, seed: int) -> None:
    """As if it had been trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in encoder.state().values():
            tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.05)


def pooled(found: Any) -> Any:
    """transformers 5 answers with an object, 4 with a tensor."""
    return found if isinstance(found, torch.Tensor) else found.pooler_output


def test_the_zero_shot_head_equals_the_one_made_by_hand(encoder: Encoder, whole: Any, folder: Path):
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    head = text_head(encoder, CLASSES)
    assert head.rows.shape == (4, PROJECTED)
    for c, info in enumerate(CLASSES):
        mean = [0.0] * PROJECTED
        for phrase in info.phrases:
            with torch.no_grad():
                raw = pooled(whole.get_text_features(**tokenizer([phrase], return_tensors="pt")))[0].double().tolist()
            norm = math.sqrt(sum(x * x for x in raw))
            mean = [m + x / norm / len(info.phrases) for m, x in zip(mean, raw, strict=True)]
        norm = math.sqrt(sum(x * x for x in mean))
        # The model computes in float32, and a batch that is padded to its longest phrase sums in another order than a
        # phrase alone: the raw features, of size about 1, differ by a few of float32's 1e-7.
        np.testing.assert_allclose(head.rows[c].double().numpy(), [m / norm for m in mean], rtol=0, atol=2e-6)
    # Rows of different classes must be further apart than the tolerance, or the test could not tell them.
    assert (torch.pdist(head.rows) > 1e-2).all()


def test_the_logit_scale_is_the_exponential_of_the_models_parameter(encoder: Encoder, whole: Any, folder: Path):
    assert encoder.logit_scale == pytest.approx(math.exp(whole.logit_scale.item()), rel=1e-12)
    assert load_encoder(ModelConfig(id=str(folder), logit_scale=33)).logit_scale == 33


def test_image_embeddings_and_logits_are_transformers_own(encoder: Encoder, whole: Any):
    batch = encoder.prepare(pictures((20, 30), (40, 16)))
    with torch.no_grad():
        theirs = pooled(whole.get_image_features(**batch))
        assert torch.equal(encoder.tower(**batch), theirs)  # the same modules: no tolerance
    assert encoder.width == theirs.shape[1] == PROJECTED
    head = text_head(encoder, CLASSES)
    image = theirs.double().numpy()
    image = image / np.sqrt((image**2).sum(axis=1, keepdims=True))
    expected = encoder.logit_scale * image @ head.rows.double().numpy().T
    # Logits of size up to the scale (14); float32 rounds their cosines by a few 1e-7.
    np.testing.assert_allclose(head.logits(theirs).double().numpy(), expected, rtol=0, atol=1e-5)


def test_the_evaluation_transform_is_the_processors_own(encoder: Encoder, folder: Path):
    import transformers

    images = pictures((20, 30), (40, 16), (16, 16))
    with quiet():
        processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    theirs = processor(images=images, return_tensors="pt")["pixel_values"]
    assert torch.equal(encoder.prepare(images)["pixel_values"], theirs)
    assert theirs.shape == (3, 3, 16, 16)
    assert theirs.dtype == torch.float32
    gray = images[0].convert("L")
    assert torch.equal(encoder.prepare([gray])["pixel_values"], encoder.prepare([gray.convert("RGB")])["pixel_values"])


def test_augmentation_depends_on_the_seed_alone(encoder: Encoder):
    images = pictures((40, 30), (40, 30), (64, 64))
    together = encoder.prepare(images, Augmentation(), [5, 6, 7])["pixel_values"]
    for i in (2, 0, 1):
        assert torch.equal(encoder.prepare([images[i]], Augmentation(), [5 + i])["pixel_values"][0], together[i])
    backwards = encoder.prepare(images[::-1], Augmentation(), [7, 6, 5])["pixel_values"]
    assert torch.equal(backwards.flip(0), together)
    other = encoder.prepare(images, Augmentation(), [8, 9, 10])["pixel_values"]
    assert not any(torch.equal(a, b) for a, b in zip(together, other, strict=True))
    with pytest.raises(ValueError, match=r"augmentation of 3 images needs as many seeds, found none"):
        encoder.prepare(images, Augmentation())


def test_an_augmented_image_is_the_box_resized_and_normalised(encoder: Encoder):
    from PIL.Image import Resampling

    (image,) = pictures((50, 40))
    result = encoder.prepare([image], Augmentation(), [3])["pixel_values"][0].double().numpy()
    box = crop_box(50, 40, Augmentation(), 3)
    crop = np.asarray(image.crop(box).resize((16, 16), Resampling.BICUBIC), np.float64) / 255
    mean, std = (
        [0.48145466, 0.4578275, 0.40821073],
        [0.26862954, 0.26130258, 0.27577711],
    )  # CLIP's, from its paper's code
    expected = ((crop - mean) / std).transpose(2, 0, 1)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)  # values up to 3 in float32, three operations


def test_boxes_have_the_area_and_aspect_asked_for():
    wide = Augmentation(scale=(0.2, 0.5))  # always fits a square: no second try, no bias
    boxes = [crop_box(400, 400, wide, seed) for seed in range(2000)]
    sizes = np.array([(right - left, bottom - top) for left, top, right, bottom in boxes], float)
    areas, aspects = sizes.prod(axis=1) / 400**2, np.log(sizes[:, 0] / sizes[:, 1])
    rounding = 0.01  # half a pixel on each of two sides of at least 155
    assert areas.min() >= 0.2 - rounding
    assert areas.max() <= 0.5 + rounding
    assert np.abs(aspects).max() <= math.log(4 / 3) + rounding
    # Means of uniform variables: five standard errors, (b - a) / sqrt(12 n).
    assert areas.mean() == pytest.approx(0.35, abs=5 * 0.3 / math.sqrt(12 * 2000))
    assert aspects.mean() == pytest.approx(0, abs=5 * 2 * math.log(4 / 3) / math.sqrt(12 * 2000))
    for low, high, size in ((0, 2, 0), (1, 3, 1)):
        starts, ends = np.array([box[low] for box in boxes]), np.array([box[high] for box in boxes])
        assert starts.min() >= 0
        assert ends.max() <= 400
        share = starts / (400 - sizes[:, size])
        assert share.mean() == pytest.approx(0.5, abs=5 / math.sqrt(12 * 2000))


def test_a_box_that_never_fits_is_the_largest_in_the_middle():
    assert crop_box(100, 10, Augmentation(scale=(1, 1)), 0) == (43, 0, 56, 10)  # 10 high, 10 * 4/3 wide
    assert crop_box(10, 100, Augmentation(scale=(1, 1)), 0) == (0, 43, 10, 56)
    assert crop_box(1, 1, Augmentation(), 0) == (0, 0, 1, 1)


def test_the_saved_folder_is_an_image_tower_of_transformers(encoder: Encoder, tmp_path: Path):
    import transformers

    nudged(encoder, 1)
    encoder.save(tmp_path / "tower")
    with quiet():
        kind: Any = transformers.CLIPVisionModelWithProjection
        model, report = kind.from_pretrained(tmp_path / "tower", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert set(load_file(tmp_path / "tower" / "model.safetensors")) == set(encoder.state())
    images = pictures((20, 30), (40, 16))
    with torch.no_grad():
        assert torch.equal(model.eval()(**encoder.prepare(images)).image_embeds, embedded(encoder, images))
    with quiet():
        processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "tower", backend="pil")
    again = processor(images=images, return_tensors="pt")["pixel_values"]
    assert torch.equal(again, encoder.prepare(images)["pixel_values"])


@pytest.mark.parametrize("output", ["merged", "merged.safetensors"])
def test_a_merge_at_scale_zero_gives_the_bases_logits_exactly(folder: Path, tmp_path: Path, output: str):
    import transformers

    encoder = load_encoder(ModelConfig(id=str(folder)))
    images = pictures((20, 30), (40, 16), (16, 16))
    head = text_head(encoder, CLASSES)
    base = head.logits(embedded(encoder, images))
    encoder.save(tmp_path / "base")
    for t in range(3):
        nudged(encoder, t)
        encoder.save(tmp_path / f"task-{t}")
    assert not torch.equal(head.logits(embedded(encoder, images)), base)

    prefmerge.merge(
        tmp_path / "base", [tmp_path / f"task-{t}" for t in range(3)], tmp_path / output, scale=0, threads=1
    )
    encoder.load(tmp_path / output)
    assert torch.equal(head.logits(embedded(encoder, images)), base)
    assert torch.equal(text_head(encoder, CLASSES).rows, head.rows)
    if output == "merged":
        with quiet():
            model = transformers.CLIPVisionModelWithProjection.from_pretrained(tmp_path / output).eval()
        with torch.no_grad():
            assert torch.equal(head.logits(model(**encoder.prepare(images)).image_embeds), base)


def test_training_the_tower_leaves_phrases_as_they_were(encoder: Encoder, tmp_path: Path):
    phrases = [phrase for info in CLASSES for phrase in info.phrases]
    before = encoder.phrases(phrases)
    assert before is not None
    optimizer = torch.optim.SGD(encoder.tower.parameters(), lr=1.0)
    encoder.tower(**encoder.prepare(pictures((16, 16)))).sum().backward()
    optimizer.step()
    encoder.save(tmp_path / "trained")
    encoder.load(tmp_path / "trained")
    after = encoder.phrases(phrases)
    assert after is not None
    assert torch.equal(after, before)
    assert not after.requires_grad


def test_every_parameter_of_the_tower_is_trained_and_no_text(encoder: Encoder):
    encoder.tower.train()
    encoder.tower(**encoder.prepare(pictures((16, 16)))).square().sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.tower.parameters())
    assert not any("text" in name or name == "logit_scale" for name in encoder.state())


def test_a_long_phrase_is_cut_and_none_is_an_empty_tensor(encoder: Encoder):
    result = encoder.phrases(["owl " * 50, "owl " * 60])
    assert result is not None
    assert torch.equal(result[0], result[1])
    nothing = encoder.phrases([])
    assert nothing is not None
    assert nothing.shape == (0, PROJECTED)


def test_an_image_tower_alone_is_no_clip(encoder: Encoder, folder: Path, tmp_path: Path):
    encoder.save(tmp_path / "tower")
    with pytest.raises(EncoderError, match=r"is of a CLIP image tower alone.*Give the model that it was trained from"):
        load_encoder(ModelConfig(id=str(tmp_path / "tower")))
    with pytest.raises(EncoderError, match=r"pooling 'mean' was asked of a CLIP"):
        load_encoder(ModelConfig(id=str(folder), pooling="mean"))
