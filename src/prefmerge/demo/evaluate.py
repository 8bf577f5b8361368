"""How often a model names the right digit, always among all ten.

accuracy(S) = (images of S whose nearest head row is their own) / |S|; the standard error of one such number is sqrt(a
(1 - a) / |S|). The model is run once over a part of the digits; every accuracy is then a count. Cost: 0.2 s for the 500
test images on one core.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefmerge.demo.digits import TASKS, Digits, Place
from prefmerge.demo.model import predict
from prefmerge.demo.train import one_thread

if TYPE_CHECKING:
    from torch import Tensor

Right = Mapping[int, bool]  # image number -> named correctly


@dataclass(frozen=True)
class Accuracies:
    """Fractions of images: at a place, over all ten digits, and for each task's two digits (T)."""

    place: float
    all_digits: float
    tasks: tuple[float, ...]


def right_answers(weights: Mapping[str, Tensor], head: Tensor, digits: Digits, part: str = "test") -> Right:
    """Which images of a part the model names correctly."""
    ids = digits.parts[part]
    images, labels = digits.tensors(ids)
    with one_thread():
        return dict(zip(ids, (predict(weights, head, images) == labels).tolist(), strict=True))


def share(right: Right, ids: Sequence[int]) -> float:
    """The fraction of `ids` that is right."""
    return sum(right[i] for i in ids) / len(ids)


def accuracies(right: Right, digits: Digits, place: Place, part: str = "test") -> Accuracies:
    """All accuracies of one model; `right` and the place's images belong to `part`."""
    by_task = tuple(share(right, digits.ids(part, t)) for t in range(len(TASKS)))
    return Accuracies(share(right, place.test), share(right, digits.parts[part]), by_task)
