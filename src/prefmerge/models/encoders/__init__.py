"""Encoders from Hugging Face and open_clip behind one protocol.

protocol.py        what training, heads and evaluation ask of an encoder
weights.py         hub ids and folders; a checkpoint's tensors into a tower; files that travel with a model
hugging_face.py    what the three Hugging Face kinds share: names of tensors, loading, saving
towers.py          the trained modules: batch -> embeddings (imports torch)
sentence.py        BERT family with mean pooling
clip.py            CLIP: the image tower is trained, the text side is frozen
vision.py          ViT, DINOv2 and other image backbones without a text side
classifier.py      models with a classifier of their own: logits in place of embeddings
open_clip.py       open_clip's models, where torchvision can be imported
open_clip_keys.py  open_clip's names and shapes to Hugging Face's, and back
digits.py          the demo's tiny vision transformer; digits_tower.py is its module
images.py          preprocessing with Pillow; random resized crop

Importing this loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefmerge.errors import EncoderError
from prefmerge.ground.progress import phase
from prefmerge.models.encoders.protocol import Augmentation, Batch, Encoder
from prefmerge.models.encoders.weights import local_folder, model_type

if TYPE_CHECKING:
    from prefmerge.config import ModelConfig

__all__ = ["Augmentation", "Batch", "Encoder", "load_encoder"]

DIGITS = "prefmerge-digits"  # the demo's
SENTENCE = (
    "albert",
    "bert",
    "camembert",
    "deberta",
    "deberta-v2",
    "distilbert",
    "electra",
    "modernbert",
    "mpnet",
    "roberta",
    "xlm-roberta",
)
VISION = (
    "beit",
    "convnext",
    "convnextv2",
    "data2vec-vision",
    "deit",
    "dinov2",
    "dinov2_with_registers",
    "resnet",
    "swin",
    "swinv2",
    "vit",
    "vit_msn",
)


@phase("loading the model")
def load_encoder(config: ModelConfig, *, tower_alone: bool = False) -> Encoder:
    """The encoder that a configuration names, in float32, on the CPU, in eval mode.

    `tower_alone`: the image tower of a CLIP will do, as a run has it; such an encoder embeds no phrases.
    `kind: auto` goes by the `model_type` of the folder's config.json, and takes the backbone of a model that has a
    classifier; `kind: classifier` takes the classifier's logits. Raises EncoderError where the model is absent, of
    a kind that is not known, or lacks weights that the embeddings need, and MissingExtra without transformers.
    """
    if config.kind == "open_clip":
        from prefmerge.models.encoders.open_clip import OpenClipEncoder

        return OpenClipEncoder(config)
    folder = local_folder(config.id, config.revision)
    if config.kind == "classifier":
        from prefmerge.models.encoders.classifier import ClassifierEncoder

        return ClassifierEncoder(config, folder)
    model_kind = model_type(folder, config.id)
    if model_kind == DIGITS:
        from prefmerge.models.encoders.digits import DigitsEncoder

        return DigitsEncoder(folder)
    if tower_alone and model_kind == "clip_vision_model" and config.kind in ("auto", "clip"):
        from prefmerge.models.encoders.clip import ClipTowerEncoder

        return ClipTowerEncoder(config, folder)
    kind = _kind(model_kind, config.id) if config.kind == "auto" else config.kind
    if config.image_size is not None and kind != "vision":
        raise EncoderError(f"model {config.id!r}: image_size is for image backbones (kind vision); leave it out.")
    if kind == "clip":
        from prefmerge.models.encoders.clip import ClipEncoder

        return ClipEncoder(config, folder)
    if kind == "vision":
        from prefmerge.models.encoders.vision import VisionEncoder

        return VisionEncoder(config, folder)
    from prefmerge.models.encoders.sentence import SentenceEncoder

    return SentenceEncoder(config, folder)


def _kind(model_kind: str, name: str) -> str:
    if model_kind == "clip":
        return "clip"
    if model_kind in SENTENCE:
        return "sentence"
    if model_kind in VISION:
        return "vision"
    if model_kind == "clip_vision_model":
        raise EncoderError(
            f"model {name!r}: its config.json is of a CLIP image tower alone (model_type 'clip_vision_model'), "
            "expected a whole CLIP: the head comes from the text side. Give the model that it was trained from, and "
            "this folder as the checkpoint."
        )
    raise EncoderError(
        f"model {name!r}: its config.json has model_type {model_kind!r}, expected 'clip', a sentence encoder "
        f"({', '.join(SENTENCE)}) or an image backbone ({', '.join(VISION)}). If it is one of these in all but name, "
        "set model.kind to clip, sentence or vision."
    )
