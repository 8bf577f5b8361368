"""What training, heads and evaluation ask of an encoder, whatever library it comes from.

An encoder has one tower that is trained (an image encoder, a sentence encoder) and sees to everything around it:
preprocessing, phrases to embeddings for the head, and the files of a checkpoint. Shapes: embeddings are (N, E),
float32, not normalised. Only the tower's parameters are trained, saved and merged; what makes the head stays frozen,
and so do parameters of the tower that no embedding depends on (`requires_grad` is False).
Not here: losses, heads, devices (accelerate moves the tower and the batches).
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefmerge.data.examples import InputKind

if TYPE_CHECKING:
    from torch import Tensor, nn

Batch = Mapping[str, "Tensor"]  # keyword arguments of the tower; the first axis of each is N


@dataclass(frozen=True)
class Augmentation:
    """Random resized crop: area in `scale`, aspect in `ratio`, bicubic, no flip (both papers)."""

    scale: tuple[float, float] = (0.9, 1.0)  # of the image's area
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height; torchvision's default, which the authors' code takes


@dataclass(frozen=True, eq=False)
class ReadyImage:
    """An image as the encoder's evaluation resize and crop left it, (H, W, 3) uint8: `prepare` only normalises it."""

    pixels: np.ndarray


def as_input(stored: Any, form: str) -> Any:
    """What `Encoder.prepare` takes, of what `Encoder.keep` gave in this form."""
    if form == "ready":
        return ReadyImage(stored)
    if form == "rgb":
        from PIL import Image

        return Image.fromarray(stored)
    return stored


class Encoder(abc.ABC):
    """A trained tower and what belongs to it."""

    kind: InputKind
    name: str  # the hub id or folder that it was loaded from
    tower: nn.Module  # tower(**batch) -> embeddings (N, E), float32, not normalised
    width: int  # E
    preprocessing: str = ""  # what decides embeddings beside inputs and weights: settings, files; "" if that is unknown
    logit_scale: float  # the factor on cosines that the model was trained with (CLIP: exp of its learned parameter)
    base: Path | None = None  # the model that an adapter is over, when `load` is given one

    @abc.abstractmethod
    def prepare(
        self, inputs: Sequence[Any], augmentation: Augmentation | None = None, seeds: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """The batch of `inputs` (PIL images or strings), on the CPU. With an augmentation, sample i is cropped by a
        generator seeded with `seeds[i]` alone, so that neither workers nor batches change what is drawn. Text ignores
        it. Raises ValueError where there is an augmentation and not one seed for each image.
        """

    def keep(self, inputs: Sequence[Any]) -> tuple[str, list[Any]]:
        """How to store inputs so that `prepare` gives the same of them later, bit for bit: "text" with strings; "rgb"
        with whole images (H, W, 3) uint8; "ready" with images after the evaluation's resize and crop; "array".
        """
        if self.kind == "text":
            return "text", [str(one) for one in inputs]
        return "rgb", [np.asarray(one if one.mode == "RGB" else one.convert("RGB")) for one in inputs]

    @abc.abstractmethod
    def phrases(self, phrases: Sequence[str]) -> Tensor | None:
        """Embeddings (N, E) of phrases in the space of the tower's, not normalised, without gradient; None where there
        is no text side (a vision backbone). Always those of the *base*: unchanged by training or by `load`.
        """

    @abc.abstractmethod
    def state(self) -> dict[str, Tensor]:
        """The tower's parameters and buffers by the names that the saved folder has: what is merged. Not copies."""

    @abc.abstractmethod
    def load(self, checkpoint: Path) -> None:
        """Put a checkpoint's weights into the tower: a folder or a file, with the names of `state` but for wrappers,
        prefixes and heads; or a LoRA adapter over `base`, or `model+adapter`.

        Raises CheckpointMismatch naming the first tensors that are missing, extra or of another shape, and the errors
        of `prefmerge.open_checkpoint` where it cannot be read; then the tower is as it was.
        """

    @abc.abstractmethod
    def save(self, folder: Path) -> None:
        """Write the tower as a folder that its library loads and `prefmerge merge` takes: weights in safetensors,
        config, tokenizer or preprocessing. `folder` is new.
        """
