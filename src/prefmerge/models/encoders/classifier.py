"""A model with a classifier of its own: transformers' ...ForImageClassification and ...ForSequenceClassification.

    embedding = logits, (N, C) float32; the classes are config.id2label, in the order of its numbers
    bias:  the parameter b with logits(b + v) = logits(b) + v for every v, by which the model's answers can be moved

So the model answers by itself, and a head over its "embeddings" is the identity. The bias is found by that formula and
not by its name, which differs between models (`classifier.bias`, `classifier.out_proj.bias`); a text is cut where the
model has no more positions. What the last layer takes is an embedding in the usual sense (`features`), which tells more
of an input than a few logits. Cost: the model's own; when it is loaded, a forward pass for each parameter of C numbers
until the bias is found. Not here: regression, several labels at once, two texts, teachers' second heads; training.
"""

from __future__ import annotations

import inspect
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefmerge.config import ModelConfig
from prefmerge.data.examples import InputKind
from prefmerge.errors import EncoderError
from prefmerge.models.encoders.hugging_face import HuggingFaceEncoder, loaded, tokenizer_of
from prefmerge.models.encoders.images import final_size, image_processor, kept, pixels
from prefmerge.models.encoders.protocol import Augmentation, Encoder
from prefmerge.models.encoders.sentence import longest

if TYPE_CHECKING:
    from torch import Tensor

IMAGES, TEXTS = "ForImageClassification", "ForSequenceClassification"
PIPELINES: Mapping[InputKind, str] = {"image": "image-classification", "text": "text-classification"}  # of transformers
_LOADED_BY: Mapping[InputKind, str] = {"image": f"AutoModel{IMAGES}", "text": f"AutoModel{TEXTS}"}
_SAME = 1e-3  # of the steps that are tried, which are as large as the logits: more than rounding moves one
_MOST = 1 << 16  # tokens of a text, where the model names no end


@dataclass(frozen=True)
class Classifier:
    """What config.json says of a classifier. `classes` (C): the names of id2label, in the order of its numbers."""

    kind: InputKind
    classes: tuple[str, ...]

    @property
    def named(self) -> bool:
        """Whether anybody named the classes: transformers calls them LABEL_0, LABEL_1, ... otherwise."""
        return not all(re.fullmatch(r"LABEL_\d+", name) for name in self.classes)


def classifier_of(folder: Path) -> Classifier | None:
    """The classifier of the model in a folder, by its config.json alone; None where it has none.

    Raises EncoderError for one that does not give one answer of two or more, or has two classes of one name.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        architecture = str(config["architectures"][0])
    except (OSError, ValueError, KeyError, IndexError, TypeError):  # no model of transformers: no classifier
        return None
    if not architecture.endswith((IMAGES, TEXTS)):
        return None
    where = f"{folder / 'config.json'}: {architecture}"
    problem = config.get("problem_type")
    if problem not in (None, "single_label_classification"):
        raise EncoderError(
            f"{where} has problem_type {problem!r}, expected single_label_classification: one class for each input. "
            "prefmerge adapts no other kind of classifier."
        )
    classes = _classes(config, where)
    if len(classes) < 2:
        raise EncoderError(
            f"{where} has {len(classes)} class in id2label, expected two or more. A model of one number is a "
            "regression, which prefmerge does not adapt."
        )
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice:
        raise EncoderError(
            f"{where} has two classes called {twice[0]!r} in id2label, expected a name for each. Rename one, so that "
            "every label means one class."
        )
    return Classifier("image" if architecture.endswith(IMAGES) else "text", classes)


def _classes(config: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """id2label by number; transformers leaves it out where there are two classes without names."""
    labels = config.get("id2label") or {str(i): f"LABEL_{i}" for i in range(int(config.get("num_labels") or 2))}
    try:
        by_number = {int(number): str(name) for number, name in labels.items()}
    except (AttributeError, ValueError) as error:
        raise EncoderError(f"{where} has an id2label that is not number -> name: {error}.") from error
    if sorted(by_number) != list(range(len(by_number))):
        raise EncoderError(
            f"{where} numbers its classes {sorted(by_number)[:5]} ... in id2label, expected 0 to "
            f"{len(by_number) - 1}. Number them as the classifier does."
        )
    return tuple(by_number[number] for number in range(len(by_number)))


class ClassifierEncoder(HuggingFaceEncoder):
    """A classifier of transformers. `bias`: the name in its files of the parameter that moves the logits one by one;
    None where there is none.
    """

    bias: str | None

    def __init__(self, config: ModelConfig, folder: Path) -> None:
        super().__init__(config, folder)
        from prefmerge.models.encoders.towers import ClassifierTower

        described = classifier_of(folder)
        if described is None:
            raise EncoderError(
                f"model {self.name!r}: its config.json names no ...{IMAGES} and no ...{TEXTS} among its "
                "architectures, expected a model with a classifier. Give a head instead, or a folder as "
                "`save_pretrained` writes it."
            )
        self.kind = described.kind
        self.logit_scale = 1.0  # logits are what they are
        model, missing = loaded(_LOADED_BY[self.kind], folder, self.name)
        example = self._image_example(folder) if self.kind == "image" else self._text_example(folder, model)
        tower = ClassifierTower(model)
        self._settle(tower, missing, example)
        if self.width != len(described.classes):
            raise EncoderError(
                f"model {self.name!r}: gives {self.width} logits, but id2label in its config.json has "
                f"{len(described.classes)} classes. Expected a name for each."
            )
        bias = _bias_of(tower, example, self.width)
        self.bias = None if bias is None else self._stored_as[bias.removeprefix("model.")]
        self._last = None if bias is None else bias.rpartition(".")[0]
        self._example = example

    def _image_example(self, folder: Path) -> dict[str, Tensor]:
        from PIL import Image

        self._processor = image_processor(folder, self.name)
        height, width = final_size(self._processor)
        return self.prepare([Image.new("RGB", (width, height))])

    def _text_example(self, folder: Path, model: Any) -> dict[str, Tensor]:
        self._tokenizer = tokenizer_of(folder, self.name)
        if self._tokenizer.pad_token is None:
            raise EncoderError(
                f"model {self.name!r}: its tokenizer has no padding token, without which texts of different lengths "
                "make no batch. Set pad_token in tokenizer_config.json and pad_token_id in config.json."
            )
        self._taken = [
            name for name in self._tokenizer.model_input_names if name in inspect.signature(model.forward).parameters
        ]
        self._max_length = min(longest(self._tokenizer, model.config), _MOST)
        return self.prepare(["a"])

    def prepare(
        self, inputs: Sequence[Any], augmentation: Augmentation | None = None, seeds: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """Images (N, 3, H, W) float32, normalised; or tokens (N, L) int64, padded to the longest text of the batch."""
        if self.kind == "image":
            return {"pixel_values": pixels(self._processor, inputs, augmentation, seeds)}
        tokens = self._tokenizer(
            [str(text) for text in inputs],
            padding=True,
            truncation=True,
            max_length=self._max_length,
            return_tensors="pt",
        )
        return {name: tokens[name] for name in self._taken}

    def keep(self, inputs: Sequence[Any]) -> tuple[str, list[Any]]:
        return kept(self._processor, inputs) if self.kind == "image" else super().keep(inputs)

    def phrases(self, phrases: Sequence[str]) -> None:
        """There is no text side: the classes are the classifier's own."""
        return None

    def features(self) -> Encoder:
        """The same model, its weights shared, with what its last layer takes for embeddings (N, E); itself where there
        is no layer that takes one for each input.
        """
        try:
            return self if self._last is None else Features(self, self._last, self._example)
        except (ValueError, IndexError):
            return self


class Features(Encoder):
    """A classifier without its last layer."""

    def __init__(self, whole: ClassifierEncoder, last: str, example: dict[str, Tensor]) -> None:
        import torch

        from prefmerge.models.encoders.towers import BeforeLastTower

        self.kind, self.name, self.preprocessing = whole.kind, whole.name, whole.preprocessing
        self.logit_scale = whole.logit_scale
        self.tower = BeforeLastTower(whole.tower, last)
        place = next(whole.tower.parameters()).device
        with torch.no_grad():
            self.width = int(self.tower(**{name: one.to(place) for name, one in example.items()}).shape[1])
        self._whole = whole

    def prepare(
        self, inputs: Sequence[Any], augmentation: Augmentation | None = None, seeds: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        return self._whole.prepare(inputs, augmentation, seeds)

    def keep(self, inputs: Sequence[Any]) -> tuple[str, list[Any]]:
        return self._whole.keep(inputs)

    def phrases(self, phrases: Sequence[str]) -> None:
        return None

    def state(self) -> dict[str, Tensor]:
        return self._whole.state()

    def load(self, checkpoint: Path) -> None:
        self._whole.load(checkpoint)

    def save(self, folder: Path) -> None:
        self._whole.save(folder)


def _bias_of(tower: Any, example: dict[str, Tensor], classes: int) -> str | None:
    """The parameter of the tower that its logits are a sum with, by trying: the last ones first, as a classifier is."""
    import torch

    with torch.no_grad():
        before = tower(**example)
        size = max(1.0, float(before.abs().max()))
        step = torch.linspace(size, 2 * size, classes)  # another for each class: no mean over them passes for it
        for name, parameter in reversed(list(tower.named_parameters())):
            if tuple(parameter.shape) != (classes,):
                continue
            was = parameter.clone()
            parameter.add_(step)
            after = tower(**example)
            parameter.copy_(was)
            if torch.allclose(after, before + step, rtol=0, atol=_SAME * size):
                return name
    return None
