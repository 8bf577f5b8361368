"""What an encoder keeps of images, in place of the images: it prepares them to the same bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prefmerge.config import ModelConfig
from prefmerge.models.encoders import load_encoder
from prefmerge.models.encoders.protocol import ReadyImage
from tests.models.tiny import SIZES, picture, resizing, tiny_clip, tiny_dinov2, tiny_vit

ENCODERS: dict[str, Callable[[Path], Path]] = {
    "clip": tiny_clip,
    "vit": tiny_vit,
    "dinov2": tiny_dinov2,
    "no crop's size": lambda folder: resizing(tiny_vit(folder), resample=3),
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_what_is_kept_of_an_image_is_prepared_to_the_same_bits(kind: str, tmp_path: Path):
    encoder = load_encoder(ModelConfig(id=str(ENCODERS[kind](tmp_path / "model"))))
    images = [picture(i, size, mode) for i, size in enumerate(SIZES) for mode in ("RGB", "L", "RGBA")]
    form, kept = encoder.keep(images)
    assert form == "ready"
    assert {(one.shape, one.dtype.name) for one in kept} == {((16, 16, 3), "uint8")}
    whole = encoder.prepare(images)["pixel_values"]
    ready = [ReadyImage(one) for one in kept]
    assert torch.equal(encoder.prepare(ready)["pixel_values"], whole)
    mixed = [ready[0], images[1], ready[2]]
    assert torch.equal(encoder.prepare(mixed)["pixel_values"], whole[:3])


def test_an_image_that_cannot_be_kept_so_is_kept_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A processor that changes an image however little beside resizing, here by its own mean."""
    encoder: Any = load_encoder(ModelConfig(id=str(tiny_vit(tmp_path / "model"))))
    inner = encoder._processor

    class Odd:
        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

        def __call__(self, images: Any, **how: Any) -> Any:
            result = inner(images=images, **how)
            if how.get("do_resize", True):
                result["pixel_values"] = (
                    result["pixel_values"] + 1 if "do_rescale" not in how else result["pixel_values"]
                )
            return result

    encoder._processor = Odd()
    images = [picture(i, size) for i, size in enumerate(SIZES)]
    form, kept = encoder.keep(images)
    assert form == "rgb"
    for image, one in zip(images, kept, strict=True):
        np.testing.assert_array_equal(np.asarray(image), one)
