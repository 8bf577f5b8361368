"""CLIP from Hugging Face: the image tower with its projection is trained; the text side is frozen.

    image embedding = projection of the image tower's pooled output; logit scale = exp(the model's learned parameter)

Source: Radford et al. 2021; both papers train this tower and no other part. A folder with a whole CLIP comes in, a
folder that transformers' CLIPVisionModelWithProjection loads goes out. Cost: the text side stays in memory on the
CPU. Not here: SigLIP and other models of two towers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefmerge.config import ModelConfig
from prefmerge.errors import EncoderError
from prefmerge.models.encoders.hugging_face import (
    HuggingFaceEncoder,
    in_batches,
    loaded,
    quiet,
    tokenizer_of,
    transformers_or_missing,
)
from prefmerge.models.encoders.images import final_size, image_processor, kept, pixels
from prefmerge.models.encoders.protocol import Augmentation

if TYPE_CHECKING:
    from torch import Tensor

CLIP_SCALE = 100.0  # what CLIP's own scale was clipped at; a run's head has the exact one
_AT_ONCE = 256  # phrases
_BESIDE_IMAGES = ("preprocessor_config.json", "processor_config.json")  # what an image tower alone has a use for


class ClipEncoder(HuggingFaceEncoder):
    """CLIP of transformers."""

    def __init__(self, config: ModelConfig, folder: Path) -> None:
        super().__init__(config, folder)
        from PIL import Image

        from prefmerge.models.encoders.towers import ClipText, ClipTower

        if config.pooling != "auto":
            raise EncoderError(
                f"model {self.name!r}: pooling {config.pooling!r} was asked of a CLIP, which has a projection of its "
                "own. Leave model.pooling at auto, or set model.kind to vision."
            )
        self.kind = "image"
        self._processor = image_processor(folder, self.name)
        self._tokenizer = tokenizer_of(folder, self.name)
        whole, missing = loaded("CLIPModel", folder, self.name)
        absent = sorted(name for name in missing if not name.startswith(("vision_model.", "visual_projection.")))
        if absent:
            raise EncoderError(
                f"model {self.name!r}: the folder lacks {absent[0]!r} of its text side ({len(absent)} tensors in "
                "all). Give the folder of a whole CLIP, not of its image tower alone."
            )
        self.logit_scale = math.exp(whole.logit_scale.item()) if config.logit_scale is None else config.logit_scale
        self._longest = int(whole.config.text_config.max_position_embeddings)
        self._text = ClipText(whole.text_model, whole.text_projection).requires_grad_(False).eval()
        height, width = final_size(self._processor)
        self._settle(ClipTower(_image_tower(whole)), missing, self.prepare([Image.new("RGB", (width, height))]))

    def prepare(
        self, inputs: Sequence[Any], augmentation: Augmentation | None = None, seeds: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """Images (N, 3, H, W) float32, normalised."""
        return {"pixel_values": pixels(self._processor, inputs, augmentation, seeds)}

    def keep(self, inputs: Sequence[Any]) -> tuple[str, list[Any]]:
        return kept(self._processor, inputs)

    def phrases(self, phrases: Sequence[str]) -> Tensor:
        """By the text side, which nothing trains or loads, on the tower's device."""
        import torch

        device = next(self.tower.parameters()).device
        self._text.to(device)
        parts = []
        with torch.no_grad():
            for some in in_batches(phrases, _AT_ONCE):
                tokens = self._tokenizer(
                    some, padding=True, truncation=True, max_length=self._longest, return_tensors="pt"
                ).to(device)
                parts.append(self._text(tokens["input_ids"], tokens["attention_mask"]).cpu())
        self._text.to("cpu")
        return torch.cat(parts) if parts else torch.zeros(0, self.width)

    def _companions(self) -> dict[str, bytes]:
        return {
            path: content
            for path, content in self._files.items()
            if path in _BESIDE_IMAGES or path.lower().startswith("licen")
        }


class ClipTowerEncoder(HuggingFaceEncoder):
    """The image tower of a CLIP alone, as a run's folder has it. Its head is there already: it embeds no phrases."""

    def __init__(self, config: ModelConfig, folder: Path) -> None:
        super().__init__(config, folder)
        from PIL import Image

        from prefmerge.models.encoders.towers import ClipTower

        self.kind = "image"
        self._processor = image_processor(folder, self.name)
        tower, missing = loaded("CLIPVisionModelWithProjection", folder, self.name)
        self.logit_scale = CLIP_SCALE if config.logit_scale is None else config.logit_scale
        height, width = final_size(self._processor)
        self._settle(ClipTower(tower), missing, self.prepare([Image.new("RGB", (width, height))]))

    def prepare(
        self, inputs: Sequence[Any], augmentation: Augmentation | None = None, seeds: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """Images (N, 3, H, W) float32, normalised."""
        return {"pixel_values": pixels(self._processor, inputs, augmentation, seeds)}

    def keep(self, inputs: Sequence[Any]) -> tuple[str, list[Any]]:
        return kept(self._processor, inputs)

    def phrases(self, phrases: Sequence[str]) -> Tensor | None:
        raise EncoderError(
            f"model {self.name!r}: the run has its image tower alone, which embeds no phrases. Give the whole CLIP "
            "that it was trained from."
        )

    def _companions(self) -> dict[str, bytes]:
        return self._files


def _image_tower(whole: Any) -> Any:
    """A CLIPVisionModelWithProjection made of a CLIP's own modules."""
    import copy

    import torch

    transformers = transformers_or_missing()
    config = copy.deepcopy(whole.config.vision_config)
    config.projection_dim = whole.config.projection_dim  # the tower's own entry may differ, and is not used by a CLIP
    with quiet(), torch.device("meta"):  # without memory or random numbers: every part is replaced
        tower = transformers.CLIPVisionModelWithProjection(config)
    tower.vision_model = whole.vision_model
    tower.visual_projection = whole.visual_projection
    return tower
