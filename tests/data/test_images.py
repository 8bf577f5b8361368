"""Images to RGB, against Pillow's own conversion and by hand."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from prefmerge.data.images import decode
from tests.data.datasets import grey


@pytest.mark.parametrize("mode", ["PNG", "I;16", "I"])
def test_16_bit_grey_is_scaled_to_8_bits(mode: str):
    result = decode(grey(mode, [0, 128, 129, 257, 32896, 65406, 65407, 65535]), "it")
    assert result.mode == "RGB"
    assert np.asarray(result)[0].tolist() == [[v, v, v] for v in (0, 0, 1, 1, 128, 254, 255, 255)]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_any_image_becomes_rgb_as_a_plain_conversion(mode: str):
    image = Image.new("RGB", (4, 4), (200, 30, 60)).convert(mode)
    content = io.BytesIO()
    options = {"transparency": 0} if mode == "P" else {}
    image.save(content, "TIFF" if mode in ("CMYK", "LA") else "PNG", **options)
    result = decode(content.getvalue(), "it")
    with Image.open(io.BytesIO(content.getvalue())) as again:
        assert result.mode == "RGB"
        assert result.tobytes() == again.convert("RGB").tobytes()
