"""Tiny models with random weights, in folders as the hub has them: config, weights, tokenizer or preprocessing.

Made offline in milliseconds. Weights are drawn with a standard deviation that lets embeddings of different inputs
differ.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
IMAGE: dict[str, Any] = {"image_size": 16, "patch_size": 4, "num_channels": 3}
WIDTH = 16  # of embeddings, where the model has no projection
PROJECTED = 8  # of CLIP's
SIZES = [(16, 16), (33, 17), (9, 40), (200, 24), (16, 31)]  # width, height: smaller, larger and odd ones


def tiny_bert(folder: Path, seed: int = 0) -> Path:
    """A BERT with a word-piece tokenizer of single letters."""
    import transformers

    words = _letters(folder)
    config = transformers.BertConfig(vocab_size=words, max_position_embeddings=24, **SMALL)
    _save(transformers.BertModel, config, folder, seed)
    return folder


def tiny_text_classifier(
    folder: Path, classes: Sequence[str], seed: int = 0, kind: str = "Bert", **settings: Any
) -> Path:
    """A ...ForSequenceClassification of transformers over the same tokens; `classes`: names, in id2label."""
    import transformers

    words = _letters(folder)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=words, max_position_embeddings=24, pad_token_id=0, **_named(classes), **(SMALL | settings)
    )
    _save(getattr(transformers, f"{kind}ForSequenceClassification"), config, folder, seed)
    return folder


def tiny_image_classifier(
    folder: Path, classes: Sequence[str], seed: int = 0, kind: str = "ViT", **settings: Any
) -> Path:
    """A ...ForImageClassification of transformers, with ViT's image processor for 16 x 16."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(**_named(classes), **(settings or SMALL | IMAGE))
    _save(getattr(transformers, f"{kind}ForImageClassification"), config, folder, seed)
    _processor("ViTImageProcessorPil", "ViTImageProcessor")(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def _named(classes: Sequence[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(classes)), "label2id": {name: number for number, name in enumerate(classes)}}


def _letters(folder: Path) -> int:
    """Save a word-piece tokenizer of single letters; how many tokens it has."""
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)
    return len(words)


def tiny_clip(folder: Path, seed: int = 0, activation: str = "quick_gelu") -> Path:
    """A CLIP whose tokens are single letters, with CLIP's image processor for 16 x 16."""
    import transformers

    ends = {letter: number for number, letter in enumerate([*LETTERS, *(f"{letter}</w>" for letter in LETTERS)])}
    vocabulary = {**ends, "<|startoftext|>": len(ends), "<|endoftext|>": len(ends) + 1}
    special = {"bos_token_id": len(ends), "eos_token_id": len(ends) + 1, "pad_token_id": len(ends) + 1}
    config = transformers.CLIPConfig(
        text_config={
            **SMALL,
            **special,
            "vocab_size": len(vocabulary),
            "max_position_embeddings": 20,
            "hidden_act": activation,
        },
        vision_config={**SMALL, **IMAGE, "hidden_act": activation},
        projection_dim=PROJECTED,
    )
    _save(transformers.CLIPModel, config, folder, seed)
    transformers.CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    _processor("CLIPImageProcessorPil", "CLIPImageProcessor")(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    ).save_pretrained(folder)
    return folder


def tiny_vit(folder: Path, seed: int = 0) -> Path:
    """A ViT, stored by transformers under other names than the model has."""
    import transformers

    _save(transformers.ViTModel, transformers.ViTConfig(**SMALL, **IMAGE), folder, seed)
    _processor("ViTImageProcessorPil", "ViTImageProcessor")(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def tiny_dinov2(folder: Path, seed: int = 0) -> Path:
    """A DINOv2, whose mask token no embedding depends on."""
    import transformers

    _save(transformers.Dinov2Model, transformers.Dinov2Config(**SMALL, **IMAGE), folder, seed)
    _processor("BitImageProcessorPil", "BitImageProcessor")(
        size={"shortest_edge": 20}, crop_size={"height": 16, "width": 16}
    ).save_pretrained(folder)
    return folder


def _save(kind: Any, config: Any, folder: Path, seed: int) -> None:
    import torch

    from prefmerge.models.encoders.hugging_face import quiet

    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() > 1 or name.endswith("bias"):  # norms' weights and the logit scale stay
                    parameter.normal_(std=0.2)
        model.save_pretrained(folder)


def _processor(*names: str) -> Any:
    """The first of transformers' classes that it has: the one with Pillow is called otherwise before version 5."""
    import transformers

    return next(getattr(transformers, name) for name in names if hasattr(transformers, name))


def picture(seed: int, size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    """An image of noise."""
    bands = {"RGB": 3, "L": 1, "RGBA": 4}[mode]
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], bands), np.uint8)
    return Image.fromarray(values[:, :, 0] if bands == 1 else values)


def resizing(folder: Path, **changes: Any) -> Path:
    """A model's folder with another preprocessing."""
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


MAKERS = {"bert": tiny_bert, "vit": tiny_vit, "dinov2": tiny_dinov2}
