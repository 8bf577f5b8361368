"""Sentence encoders: the BERT family with a pooling over tokens.

    embedding = sum over tokens of mask * hidden / sum of mask          ("mean"; Reimers and Gurevych 2019, section 3)

Takes any folder that transformers' AutoModel reads, those of sentence-transformers included, whose pooling is then the
default. Phrases are embedded by a frozen copy of the base, made when the model is loaded: one more copy of the
weights in memory. Not here: dense layers after the pooling, prompts that some models put before a text.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefmerge.config import ModelConfig
from prefmerge.errors import EncoderError
from prefmerge.models.encoders.hugging_face import HuggingFaceEncoder, as_json, in_batches, loaded, tokenizer_of
from prefmerge.models.encoders.protocol import Augmentation
from prefmerge.models.encoders.weights import read_json

if TYPE_CHECKING:
    from torch import Tensor

LOGIT_SCALE = 20.0  # sentence-transformers' scale of cosines in its ranking losses
_AT_ONCE = 256  # phrases
_POOLING_FILE = "1_Pooling/config.json"
_FLAGS = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens"}


class SentenceEncoder(HuggingFaceEncoder):
    """A transformer over texts. The whole transformer is trained, except a pooler that is not used."""

    def __init__(self, config: ModelConfig, folder: Path) -> None:
        super().__init__(config, folder)
        from prefmerge.models.encoders.towers import SentenceTower

        self.kind = "text"
        self.logit_scale = LOGIT_SCALE if config.logit_scale is None else config.logit_scale
        self._pooling = _pooling(folder, self.name) if config.pooling == "auto" else config.pooling
        self._tokenizer = tokenizer_of(folder, self.name)
        model, missing = loaded("AutoModel", folder, self.name)
        self._taken = [
            name for name in self._tokenizer.model_input_names if name in inspect.signature(model.forward).parameters
        ]
        self._max_length = min(config.max_length, longest(self._tokenizer, model.config))
        self._settle(SentenceTower(model, self._pooling), missing, self.prepare(["a"]))
        self._base = copy.deepcopy(self.tower).requires_grad_(False)

    def prepare(
        self, inputs: Sequence[Any], augmentation: Augmentation | None = None, seeds: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """Tokens (N, L) int64, padded to the longest text of the batch. `augmentation` and `seeds` are not used."""
        tokens = self._tokenizer(
            [str(text) for text in inputs],
            padding=True,
            truncation=True,
            max_length=self._max_length,
            return_tensors="pt",
        )
        return {name: tokens[name] for name in self._taken}

    def phrases(self, phrases: Sequence[str]) -> Tensor:
        """By the copy of the base, on the tower's device."""
        import torch

        device = next(self.tower.parameters()).device
        self._base.to(device)
        with torch.no_grad():
            parts = [
                self._base(**{name: value.to(device) for name, value in self.prepare(some).items()})
                for some in in_batches(phrases, _AT_ONCE)
            ]
        self._base.to("cpu")
        return torch.cat(parts).cpu() if parts else torch.zeros(0, self.width)

    def _companions(self) -> dict[str, bytes]:
        """The source's, with this encoder's pooling: another would be another model to sentence-transformers."""
        files = dict(self._files)
        if _POOLING_FILE in files:
            pooling = json.loads(files[_POOLING_FILE])
            if _stated(pooling) != self._pooling and self._pooling in _FLAGS:
                kept = {key: value for key, value in pooling.items() if not key.startswith("pooling_mode")}
                files[_POOLING_FILE] = as_json(
                    {**kept, **{flag: kind == self._pooling for kind, flag in _FLAGS.items()}}
                )
        return files


def _pooling(folder: Path, name: str) -> str:
    """What a folder of sentence-transformers says, else mean."""
    if not (folder / "modules.json").is_file():
        return "mean"
    kinds = [str(module.get("type", "")).rsplit(".", 1)[-1] for module in read_json(folder, "modules.json", name)]
    unknown = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if unknown:
        raise EncoderError(
            f"model {name!r}: modules.json lists the module {unknown[0]!r}, expected Transformer, Pooling and "
            "Normalize only. Set model.pooling to mean or cls to train the transformer without it."
        )
    if not (folder / _POOLING_FILE).is_file():
        return "mean"
    pooling = read_json(folder, _POOLING_FILE, name)
    stated = _stated(pooling)
    if stated is None:
        asked = sorted(key for key, value in pooling.items() if value is True)
        raise EncoderError(
            f"model {name!r}: {_POOLING_FILE} asks for {asked}, "
            "expected mean or cls alone. Set model.pooling to mean, cls or pooler."
        )
    return stated


def _stated(pooling: dict[str, Any]) -> str | None:
    """The one pooling that a 1_Pooling/config.json asks for, in either of its spellings; None for any other."""
    if "pooling_mode" in pooling:
        return pooling["pooling_mode"] if pooling["pooling_mode"] in _FLAGS else None
    asked = [key for key, value in pooling.items() if key.startswith("pooling_mode_") and value is True]
    return next((kind for kind, flag in _FLAGS.items() if asked == [flag]), None)


def longest(tokenizer: Any, config: Any) -> int:
    """Tokens that the model has positions for."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None:
        return int(tokenizer.model_max_length)
    # RoBERTa and its kin count positions from the padding token's number + 1, so that many fewer tokens fit.
    if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        positions -= int(config.pad_token_id) + 1
    return min(int(tokenizer.model_max_length), int(positions))
