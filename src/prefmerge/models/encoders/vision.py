"""Image backbones from Hugging Face without a text side: ViT, DINOv2 and others.

    embedding = the class token ("cls"), the mean over patches ("mean"), or the model's own pooled output ("pooler")

The default is cls where there is a class token, else the pooler. There are no phrases, so the head is made of
prototypes. Cost: the model's own. Not here: models that hide patches at random, and models of video.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefmerge.config import ModelConfig
from prefmerge.errors import EncoderError
from prefmerge.models.encoders.hugging_face import HuggingFaceEncoder, loaded
from prefmerge.models.encoders.images import final_size, image_processor, kept, pixels
from prefmerge.models.encoders.protocol import Augmentation

if TYPE_CHECKING:
    from torch import Tensor

LOGIT_SCALE = 20.0  # as for sentence encoders: these models learned none


class VisionEncoder(HuggingFaceEncoder):
    """An image backbone of transformers."""

    def __init__(self, config: ModelConfig, folder: Path) -> None:
        super().__init__(config, folder)
        from PIL import Image

        from prefmerge.models.encoders.towers import VisionTower

        self.kind = "image"
        self.logit_scale = LOGIT_SCALE if config.logit_scale is None else config.logit_scale
        self._processor = image_processor(folder, self.name, config.image_size)
        if config.image_size is not None:  # checkpoints are prepared for as this model is
            self._files["preprocessor_config.json"] = self._processor.to_json_string().encode()
        model, missing = loaded("AutoModel", folder, self.name)
        tokens = any(name.endswith("cls_token") for name, _ in model.named_parameters())
        pooling = ("cls" if tokens else "pooler") if config.pooling == "auto" else config.pooling
        if pooling == "cls" and not tokens:
            raise EncoderError(
                f"model {self.name!r}: pooling 'cls' was asked of a {type(model).__name__}, which has no class token. "
                "Set model.pooling to mean, pooler or auto."
            )
        prefix = int(tokens) + int(getattr(model.config, "num_register_tokens", 0) or 0)
        height, width = final_size(self._processor)
        self._settle(VisionTower(model, pooling, prefix), missing, self.prepare([Image.new("RGB", (width, height))]))

    def prepare(
        self, inputs: Sequence[Any], augmentation: Augmentation | None = None, seeds: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """Images (N, 3, H, W) float32, normalised."""
        return {"pixel_values": pixels(self._processor, inputs, augmentation, seeds)}

    def keep(self, inputs: Sequence[Any]) -> tuple[str, list[Any]]:
        return kept(self._processor, inputs)

    def phrases(self, phrases: Sequence[str]) -> None:
        """There is no text side."""
        return None
