"""Encoded images to RGB, and nothing before it is asked for.

`decode(bytes) = Pillow.open(bytes).convert("RGB")`, which is what torchvision's ImageFolder gives: palettes, grey,
CMYK and alpha become RGB, orientation tags are not followed. Images are (height, width, 3) uint8 as PIL images. Cost:
one decoding per read. Leaves out: resizing and normalising (the encoder's), animation (the first frame is taken).
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from prefmerge.errors import DataError, MissingExtra

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp")


def decode(content: bytes, what: str) -> Image:
    """The RGB image in `content`. Raises DataError that begins with `what` when it is none."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra("reading images", "train") from error
    try:
        # Pillow warns of odd but readable files (a palette's transparency as bytes, truncated EXIF); RGB ignores both.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        size = f"{len(content)} bytes" if content else "an empty file"
        raise DataError(f"{what}: cannot be read as an image ({size}). Replace or remove it.") from error


def content_of(file: Path, what: str) -> bytes:
    """The bytes of a file. Raises DataError that begins with `what`."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{what}: cannot be read: {error.strerror or error}.") from error
