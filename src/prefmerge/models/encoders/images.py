"""Images to tensors: the model's own preprocessing with Pillow, and random resized crop for training.

    evaluation: the folder's image processor, unchanged
    training:   a box of area u * H * W and width / height exp(v), u ~ U(scale), v ~ U(log ratio), anywhere inside,
                resized (bicubic) to the size that the processor ends at, then scaled and normalised by the processor

Source: both papers augment by random resized crop, scale 0.9 to 1; a box that does not fit is drawn again, ten times at
most, then the largest one in the middle is taken (torchvision's rule, which the authors' code relies on). Images are
RGB, results (N, 3, H, W) float32. Cost: one decode and one resize an image. Not here: flips, colour, torchvision's
processors, whose pixels differ from Pillow's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefmerge.errors import EncoderError, require
from prefmerge.models.encoders.protocol import Augmentation, ReadyImage

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

_SIZE_KEYS = ("height", "width", "shortest_edge")
_RESIZES = ("do_resize", "do_center_crop", "do_pad")
_TRIES = 10  # boxes drawn before the middle is taken; torchvision's number


def image_processor(folder: Path, name: str, side: int | None = None) -> Any:
    """The image processor of a folder, in its Pillow form; with `side`, it ends at so many pixels a side, and resizes
    in the same proportion. Raises EncoderError where there is none.
    """
    from prefmerge.models.encoders.hugging_face import quiet, transformers_or_missing

    transformers = transformers_or_missing()
    require("reading images", "train", "PIL")
    # transformers 5 has two processors per model and takes the one for torchvision unless told; 4 has a slow and a
    # fast.
    pillow = {"backend": "pil"} if hasattr(transformers, "CLIPImageProcessorPil") else {"use_fast": False}
    with quiet():
        try:
            processor = transformers.AutoImageProcessor.from_pretrained(folder, **pillow)
            if side is None or final_size(processor) == (side, side):
                return processor
            return transformers.AutoImageProcessor.from_pretrained(folder, **pillow, **_sizes(processor, side))
        except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
            raise EncoderError(
                f"model {name!r}: no image processor can be loaded from {folder}: {error}. Put the model's "
                "preprocessor_config.json beside its weights."
            ) from error


def pixels(
    processor: Any,
    images: Sequence[Any],
    augmentation: Augmentation | None = None,
    seeds: Sequence[int] | None = None,
) -> Tensor:
    """Images as a batch (N, 3, H, W), float32. With an augmentation, image i is cropped by `seeds[i]` alone; without,
    a `ReadyImage` is not resized again.
    """
    import torch

    rgb = [as_rgb(image) for image in images]
    if augmentation is None:
        ready = [isinstance(image, ReadyImage) for image in images]
        if len(set(ready)) > 1:
            return torch.cat([pixels(processor, [image]) for image in images])
        done = dict.fromkeys(_RESIZES, False) if any(ready) else {}
        done = {name: value for name, value in done.items() if hasattr(processor, name)}
        return processor(images=rgb, return_tensors="pt", **done)["pixel_values"].float()
    size = final_size(processor)
    cropped = [
        resized_crop(image, size, augmentation, seed) for image, seed in zip(rgb, one_each(seeds, rgb), strict=True)
    ]
    done = {name: False for name in ("do_resize", "do_center_crop") if hasattr(processor, name)}
    return processor(images=cropped, return_tensors="pt", **done)["pixel_values"].float()


def kept(processor: Any, images: Sequence[Any]) -> tuple[str, list[np.ndarray]]:
    """Images as they are stored, (H, W, 3) uint8 each: "ready", after the processor's resize and crop, where `pixels`
    then gives the same bits as for the image itself; else "rgb", the whole image.
    """
    import torch

    rgb = [as_rgb(image) for image in images]
    still = {name: False for name in ("do_rescale", "do_normalize") if hasattr(processor, name)}
    prepared = [np.asarray(one) for one in processor(images=rgb, return_tensors="np", **still)["pixel_values"]]
    if all(one.dtype == np.uint8 and one.ndim == 3 and len(one) == 3 for one in prepared):
        done = [np.ascontiguousarray(np.moveaxis(one, 0, -1)) for one in prepared]
        if torch.equal(pixels(processor, [ReadyImage(one) for one in done]), pixels(processor, rgb)):
            return "ready", done
    return "rgb", [np.asarray(image) for image in rgb]


def one_each(seeds: Sequence[int] | None, images: Sequence[Any]) -> Sequence[int]:
    """The seeds of a batch. Raises ValueError where there is not one for each image."""
    if seeds is None or len(seeds) != len(images):
        given = "none" if seeds is None else str(len(seeds))
        raise ValueError(f"augmentation of {len(images)} images needs as many seeds, found {given}")
    return seeds


def as_rgb(image: Any) -> Image:
    """Three channels, whatever the image has; RGB comes back as it is."""
    if isinstance(image, ReadyImage):
        from PIL import Image as images

        return images.fromarray(image.pixels)
    return image if image.mode == "RGB" else image.convert("RGB")


def _sizes(processor: Any, side: int) -> dict[str, Any]:
    """What a processor is loaded with to end at `side` pixels a side."""
    before = max(final_size(processor))
    size = {key: value for key, value in _as_dict(processor.size).items() if value}
    if not getattr(processor, "do_center_crop", False):
        return {"size": dict.fromkeys(size, side)}
    return {
        "size": {key: max(side, round(value * side / before)) for key, value in size.items()},
        "crop_size": {"height": side, "width": side},
    }


def _as_dict(size: Any) -> dict[str, Any]:
    return dict(size) if isinstance(size, dict) else {key: getattr(size, key, None) for key in _SIZE_KEYS}


def final_size(processor: Any) -> tuple[int, int]:
    """Height and width of what a processor makes of any image: its crop, else what it resizes to."""
    size = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
    sizes = _as_dict(size)
    height, width, edge = (sizes.get(key) for key in _SIZE_KEYS)
    if height and width:
        return int(height), int(width)
    if not edge:
        raise EncoderError(
            f"{type(processor).__name__}: its size {sizes} is neither height and width nor a shortest edge. Set "
            "crop_size in preprocessor_config.json to {'height': H, 'width': W}."
        )
    return int(edge), int(edge)


def resized_crop(image: Image, size: tuple[int, int], augmentation: Augmentation, seed: int) -> Image:
    """A random box of an image, resized to `size` (height, width), bicubic. The same for the same seed, always."""
    from PIL.Image import Resampling

    # Not resize's own `box`, whose edges are blended with pixels outside it.
    box = crop_box(image.width, image.height, augmentation, seed)
    return image.crop(box).resize((size[1], size[0]), Resampling.BICUBIC)


def crop_box(width: int, height: int, augmentation: Augmentation, seed: int) -> tuple[int, int, int, int]:
    """The random box in an image of this size, in pixels: left, top, right, bottom (exclusive)."""
    draw = np.random.default_rng(seed)
    low, high = math.log(augmentation.ratio[0]), math.log(augmentation.ratio[1])
    for _ in range(_TRIES):
        area = draw.uniform(*augmentation.scale) * width * height
        aspect = math.exp(draw.uniform(low, high))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(draw.integers(0, width - w + 1)), int(draw.integers(0, height - h + 1))
            return left, top, left + w, top + h
    w = min(width, max(1, round(height * augmentation.ratio[1])))
    h = min(height, max(1, round(width / augmentation.ratio[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
