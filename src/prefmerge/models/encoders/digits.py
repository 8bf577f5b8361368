"""The demo's encoder: a tiny vision transformer over images of digits.

Shapes: images (1, 8, 8) in [0, 1], enlarged to IMAGE_SIZE; embeddings (N, EMBED_WIDTH). Cost: about 10 MFLOP an image.
Not here: phrases, crops; the base and the head, which are the demo's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefmerge.ground import jsons
from prefmerge.models.encoders.digits_sizes import (
    DEPTH,
    EMBED_WIDTH,
    HEAD_WIDTH,
    IMAGE_SIZE,
    MLP_WIDTH,
    PATCH_SIZE,
    WIDTH,
)
from prefmerge.models.encoders.protocol import Augmentation, Encoder
from prefmerge.models.encoders.weights import put

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 8  # pixels of an image of scikit-learn's digits
LOGIT_SCALE = 20.0  # of the base's own training; the demo's `train.REGIME` has the one of fine-tuning


class DigitsEncoder(Encoder):
    """The tiny vision transformer. `checkpoint`: whose weights it holds, a folder or a file."""

    def __init__(self, checkpoint: Path) -> None:
        import torch

        from prefmerge.models.encoders.digits_tower import DigitsTower

        with torch.device("meta"):  # no random number is drawn for weights that are read
            tower = DigitsTower()
        self.kind = "image"
        self.name = "prefmerge's demo"
        self.preprocessing = f"images of digits, enlarged bilinearly to {IMAGE_SIZE} pixels"
        self.tower = tower.to_empty(device="cpu").eval()
        self.width = EMBED_WIDTH
        self.logit_scale = LOGIT_SCALE
        self.base = checkpoint
        self.load(checkpoint)

    def prepare(
        self, inputs: Sequence[Any], augmentation: Augmentation | None = None, seeds: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """The batch of images (1, 8, 8) in [0, 1], arrays or tensors, or PIL images: bright digits on black.

        Raises ValueError for an augmentation.
        """
        import torch

        if augmentation is not None:
            raise ValueError("the demo's images are not cropped; set training.augmentation to false")
        return {"images": enlarged(torch.from_numpy(np.stack([_pixels(one) for one in inputs])))}

    def keep(self, inputs: Sequence[Any]) -> tuple[str, list[Any]]:
        return "array", [_pixels(one) for one in inputs]

    def phrases(self, phrases: Sequence[str]) -> None:
        """There is no text side: the head was learned with the base."""
        return None

    def state(self) -> dict[str, Tensor]:
        return {name: tensor.detach() for name, tensor in self.tower.state_dict().items()}

    def load(self, checkpoint: Path) -> None:
        put(checkpoint, self.state(), self.base)

    def read(self, checkpoint: Path) -> dict[str, Tensor]:
        """A checkpoint's tensors, as `load` reads them; the tower stays as it is."""
        import torch

        state = {name: torch.empty_like(tensor) for name, tensor in self.state().items()}
        put(checkpoint, state, self.base)
        return state

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        sizes = {"width": WIDTH, "depth": DEPTH, "mlp_width": MLP_WIDTH, "head_width": HEAD_WIDTH}
        images = {"image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE}
        config = {"model_type": "prefmerge-digits", **images, **sizes, "embed_width": EMBED_WIDTH}
        folder.mkdir()
        save_file(self.state(), folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_bytes(jsons.encoded(config))


def _pixels(one: Any) -> np.ndarray:
    """(1, 8, 8) float32 in [0, 1] of an array, a tensor, or a PIL image, which is shrunk to that size."""
    if not hasattr(one, "convert"):
        return np.asarray(one, np.float32)
    grey = one.convert("L")
    if grey.size != (SIDE, SIDE):
        from PIL import Image

        grey = grey.resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(grey, np.float32)[None] / 255


def enlarged(images: Tensor) -> Tensor:
    """Images (N, 1, s, s) enlarged bilinearly to (N, 1, IMAGE_SIZE, IMAGE_SIZE)."""
    from torch.nn import functional

    return functional.interpolate(images, size=IMAGE_SIZE, mode="bilinear", align_corners=False)
