"""How often a model names the right digit, always among all ten, at targets that share their images.

accuracy(S) = (images of S whose nearest head row is their own) / |S|; the standard error of one such number is sqrt(a
(1 - a) / |S|). The model is run once over a part of the digits; every accuracy is then a count. Cost: 0.2 s for the 500
test images on one core. Not here: how an answer is made (`models.evaluation`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prefmerge.lab.demo.digits import CLASSES, TASKS, Digits, Place
from prefmerge.models.evaluation import right_answers
from prefmerge.models.features import embed
from prefmerge.training.steps import torch_threads

if TYPE_CHECKING:
    from torch import Tensor

    from prefmerge.models.encoders.protocol import Encoder
    from prefmerge.models.heads import Head

Right = Mapping[int, bool]  # image number -> named correctly


@dataclass(frozen=True)
class Accuracies:
    """Fractions of images: at a place, over all ten digits, and for each task's two digits (T)."""

    place: float
    all_digits: float
    tasks: tuple[float, ...]


def right_images(
    weights: Path | Mapping[str, Tensor], encoder: Encoder, head: Head, digits: Digits, part: str = "test"
) -> Right:
    """Which images of a part a checkpoint, or a state dict, names correctly. The encoder holds it afterwards."""
    return right_by_head(weights, encoder, [head], digits, part)[0]


def right_by_head(
    weights: Path | Mapping[str, Tensor], encoder: Encoder, heads: Sequence[Head], digits: Digits, part: str = "test"
) -> list[Right]:
    """The same for several heads, which share the forward passes."""
    if isinstance(weights, Path):
        encoder.load(weights)
    else:
        encoder.tower.load_state_dict(weights)
    ids = digits.parts[part]
    examples = digits.examples(ids)
    with torch_threads(1):
        embeddings = embed(encoder, examples)
        rights = [right_answers(embeddings, head, examples.labels, range(len(CLASSES))) for head in heads]
    return [dict(zip(ids, right.tolist(), strict=True)) for right in rights]


def share(right: Right, ids: Sequence[int]) -> float:
    """The fraction of `ids` that is right."""
    return sum(right[i] for i in ids) / len(ids)


def accuracies(right: Right, digits: Digits, place: Place, part: str = "test") -> Accuracies:
    """All accuracies of one model; `right` and the place's images belong to `part`."""
    by_task = tuple(share(right, digits.ids(part, t)) for t in range(len(TASKS)))
    return Accuracies(share(right, place.test), share(right, digits.parts[part]), by_task)
