"""Encoded images to RGB, and nothing before it is asked for.

`decode(bytes) = Pillow.open(bytes).convert("RGB")`, which is what torchvision's ImageFolder gives: palettes, grey,
CMYK and alpha become RGB, orientation tags are not followed. 16-bit grey, which Pillow would clip to white, is scaled:
round(v / 257). Images are (height, width, 3) uint8 as PIL images. Cost: one decoding per read. Not here: resizing and
normalising (the encoder's), animation (the first frame is taken), images of floats or of more than 16 bits (refused).
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

import numpy as np

from prefmerge.errors import DataError, MissingExtra

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp")


def decode(content: bytes, what: str) -> Image:
    """The RGB image in `content`. Raises DataError that begins with `what` when it is none, or of unknown range."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra("reading images", "train") from error
    try:
        # Pillow warns of odd but readable files (a palette's transparency as bytes, truncated EXIF); RGB ignores both.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                if image.mode != "F" and not image.mode.startswith("I"):
                    return image.convert("RGB")
                mode, values = image.mode, np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        size = f"{len(content)} bytes" if content else "an empty file"
        raise DataError(f"{what}: cannot be read as an image ({size}). Replace or remove it.") from error
    if mode == "F" or (values.size and (values.min() < 0 or values.max() > 65535)):
        held = "floats" if mode == "F" else f"integers from {values.min()} to {values.max()}"
        raise DataError(
            f"{what}: is an image of mode {mode}, which holds {held}; expected 8 bits a channel, or 16-bit grey (0 to "
            "65535). Save it as 8-bit."
        )
    return Image.fromarray(((values.astype(np.int64) + 128) // 257).astype(np.uint8)).convert("RGB")
