"""CLIP from open_clip: the image tower is trained; the text side is frozen. Needs torchvision, which open_clip imports.

    image embedding = model.visual(image); logit scale = exp(the model's learned parameter)

Source: Ilharco et al., open_clip. A saved folder holds `model.visual`'s state dict: open_clip's functions load it as
`pretrained_image_path=FOLDER/model.safetensors`, on top of the weights that it was trained from, and `open_clip_keys`
turns it into Hugging Face's layout. Cost: the text side stays in memory on the CPU. Not here: architectures without
weights.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefmerge.config import ModelConfig
from prefmerge.errors import EncoderError
from prefmerge.models.encoders.hugging_face import as_json, in_batches
from prefmerge.models.encoders.images import as_rgb, one_each, resized_crop
from prefmerge.models.encoders.protocol import Augmentation, Encoder
from prefmerge.models.encoders.weights import put

if TYPE_CHECKING:
    from torch import Tensor

_AT_ONCE = 256  # phrases
_CONFIG = "open_clip_config.json"


class OpenClipEncoder(Encoder):
    """A model of open_clip. `model.id` is ARCHITECTURE/PRETRAINED (a tag, or a file of weights), hf-hub:ORG/NAME, or a
    folder with open_clip_config.json and weights.
    """

    def __init__(self, config: ModelConfig) -> None:
        open_clip = _open_clip()
        from prefmerge.models.encoders.towers import OpenClipTower, settle_unused

        if config.pooling != "auto":
            raise EncoderError(
                f"model {config.id!r}: pooling {config.pooling!r} was asked of an open_clip model, which has its own. "
                "Leave model.pooling at auto."
            )
        self.kind = "image"
        self.name = config.id
        architecture, pretrained = _parts(open_clip, config.id)
        try:
            model, self._transform = open_clip.create_model_from_pretrained(
                architecture, pretrained=pretrained, precision="fp32", device="cpu"
            )
            self._tokenizer = open_clip.get_tokenizer(architecture)
        except (OSError, RuntimeError, ValueError, KeyError, AttributeError) as error:
            raise EncoderError(
                f"model {config.id!r}: open_clip cannot load it: {error}. Check architecture and tag "
                "(open_clip.list_pretrained() lists them) and the network, or give ARCHITECTURE/FILE with a local "
                "file of weights."
            ) from error
        self._preprocess = dict(open_clip.get_model_preprocess_cfg(model))
        self._config = {
            "model_cfg": open_clip.get_model_config(architecture),
            "preprocess_cfg": self._preprocess,
        }
        self.preprocessing = json.dumps(self._config, sort_keys=True, default=str)
        self.logit_scale = math.exp(model.logit_scale.item()) if config.logit_scale is None else config.logit_scale
        self.tower = OpenClipTower(model.visual).float().eval()
        del model.visual  # phrases need the rest alone
        self._text = model.float().requires_grad_(False).eval()
        from PIL import Image

        height, width = self._size()
        embedding, _ = settle_unused(self.tower, self.prepare([Image.new("RGB", (width, height))]), set())
        self.width = int(embedding.shape[1])

    def prepare(
        self, inputs: Sequence[Any], augmentation: Augmentation | None = None, seeds: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """Images (N, 3, H, W) float32, normalised; in evaluation by open_clip's own transform."""
        import numpy as np
        import torch

        rgb = [as_rgb(image) for image in inputs]
        if augmentation is None:
            return {"pixel_values": torch.stack([self._transform(image) for image in rgb]).float()}
        crops = [
            np.asarray(resized_crop(image, self._size(), augmentation, seed), np.float32)
            for image, seed in zip(rgb, one_each(seeds, rgb), strict=True)
        ]
        mean, std = (np.asarray(self._preprocess[key], np.float32) for key in ("mean", "std"))
        scaled_NHWC = (np.stack(crops) / np.float32(255) - mean) / std
        return {"pixel_values": torch.from_numpy(np.ascontiguousarray(scaled_NHWC.transpose(0, 3, 1, 2)))}

    def phrases(self, phrases: Sequence[str]) -> Tensor:
        """By the text side, which nothing trains or loads, on the tower's device."""
        import torch

        device = next(self.tower.parameters()).device
        self._text.to(device)
        with torch.no_grad():
            parts = [
                self._text.encode_text(self._tokenizer(some).to(device)).float().cpu()
                for some in in_batches(phrases, _AT_ONCE)
            ]
        self._text.to("cpu")
        return torch.cat(parts) if parts else torch.zeros(0, self.width)

    def state(self) -> dict[str, Tensor]:
        """The tower's own tensors, not copies, by their names in `model.visual`."""
        return {name: tensor.detach() for name, tensor in self.tower.get_submodule("visual").state_dict().items()}

    def load(self, checkpoint: Path) -> None:
        put(checkpoint, self.state(), self.base)

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        folder.mkdir(parents=True)
        save_file(
            {name: tensor.cpu().contiguous() for name, tensor in self.state().items()},
            folder / "model.safetensors",
            {"format": "pt"},
        )
        (folder / _CONFIG).write_bytes(as_json(self._config))

    def _size(self) -> tuple[int, int]:
        """Height and width of what the tower takes."""
        size = self._preprocess["size"]
        return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _open_clip() -> Any:
    try:
        import open_clip  # pyright: ignore[reportMissingImports]  (an extra of its own)
    except (ImportError, RuntimeError, OSError) as error:  # a torchvision of another torch fails in all three ways
        raise EncoderError(
            f"open_clip cannot be imported: {error}. It needs torchvision, in the version that belongs to the torch "
            "that is installed. Install both with: pip install open_clip_torch torchvision. A Hugging Face CLIP "
            "(model.kind: clip) needs neither."
        ) from error
    return open_clip


def _parts(open_clip: Any, name: str) -> tuple[str, str | None]:
    """open_clip's own two words for a model: architecture or place, and tag or file of weights."""
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / _CONFIG).is_file():
            raise EncoderError(
                f"model {name!r}: no {_CONFIG} in the folder. Give ARCHITECTURE/FILE, or model.kind: clip."
            )
        return f"local-dir:{path}", None
    if name.startswith(("hf-hub:", "local-dir:")):
        return name, None
    if path.is_file():
        raise EncoderError(
            f"model {name!r} is a file of weights, which does not say its architecture. Write ARCHITECTURE/{name}, "
            f"such as ViT-B-16/{name}."
        )
    architecture, _, pretrained = name.partition("/")
    if not pretrained:
        tags = copy.copy(open_clip.list_pretrained_tags_by_model(architecture))
        known = f"Its tags: {', '.join(tags)}." if tags else "open_clip knows no tags of it."
        raise EncoderError(
            f"model {name!r} names no weights, expected ARCHITECTURE/PRETRAINED with a tag or a local file. {known}"
        )
    file = Path(pretrained).expanduser()
    return architecture, str(file) if file.is_file() else pretrained
