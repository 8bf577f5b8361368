"""Checkpoints that have a classifier of their own: where it answers, and what moves its answers to a target.

    answers = argmax_c beta z_c + a_c + b_c = argmax_c z_c + T (a_c + b_c),   z: the model's logits, T = 1 / beta > 0

So T (a + b) goes into the classifier's bias, and no other weight changes: the model answers for the target by itself,
without a head beside it. Its probabilities are sharper or flatter than those that were fitted, by T. Shapes: C classes.
Cost: one config.json for each checkpoint. No torch. Not here: finding the bias among the weights
(`encoders.classifier`), adding to it (`merging.added`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prefmerge.errors import DataError, UsageError
from prefmerge.models.encoders.classifier import PIPELINES, Classifier, classifier_of
from prefmerge.models.head_file import FrozenHead
from prefmerge.target.fit import Fit
from prefmerge.target.prior import Prior

KIND = "own"  # of a head that is the model's own classifier


@dataclass(frozen=True, eq=False)
class Addition:
    """`values` (C,) float32: T (a + b), to be added to the tensor `tensor`, the classifier's bias."""

    tensor: str
    values: np.ndarray


def own_classifier(base: Path, tasks: Sequence[Path]) -> Classifier | None:
    """The classifier of the base, which the tasks have too; None where the base has none.

    Raises UsageError where a task names other classes, EncoderError for a kind of classifier that is not adapted.
    """
    own = classifier_of(base)
    if own is None:
        return None
    for task in tasks:
        other = classifier_of(task)
        if other is None:  # a file of weights alone: names and shapes of its tensors are compared when it is read
            continue
        if len(other.classes) != len(own.classes):
            raise UsageError(
                f"{task}: its classifier has {len(other.classes)} classes, that of the base {base} has "
                f"{len(own.classes)}. Give checkpoints that were fine-tuned from this base with all classes, or a "
                "head with --head."
            )
        if other.named and own.named and other.classes != own.classes:
            at = next(i for i, (a, b) in enumerate(zip(own.classes, other.classes, strict=True)) if a != b)
            raise UsageError(
                f"{task}: class {at} is {other.classes[at]!r} in its config.json, and {own.classes[at]!r} in that of "
                f"the base {base}. Their classifiers answer differently: give checkpoints with the same id2label."
            )
    return own


def identity_head(classifier: Classifier) -> FrozenHead:
    """The head whose logits are the embeddings, which are the model's logits."""
    count = len(classifier.classes)
    return FrozenHead(np.eye(count, dtype=np.float32), 1.0, classifier.classes, KIND)


def unnamed(classifier: Classifier, base: Path) -> str:
    """What to say to whom the classes' names are not known: nothing, where the model has names for them."""
    if classifier.named:
        return ""
    return (
        f" {base / 'config.json'} has no names for its classes, so they are called LABEL_0, LABEL_1, ...: write these "
        "in the samples, or put the names into its id2label."
    )


def require_samples(classifier: Classifier, counts: np.ndarray) -> None:
    """Raises DataError where `counts` (C,), samples of the tasks, are 0: nobody knows which task such a class is of."""
    lacking = [name for name, count in zip(classifier.classes, counts.tolist(), strict=True) if not count]
    if lacking:
        more = f" (nor of {len(lacking) - 1} more of its {len(counts)} classes)" if len(lacking) > 1 else ""
        raise DataError(
            f"--task-samples hold no sample of the classifier's class {lacking[0]!r}{more}, so it is not known which "
            "task it belongs to. Give samples of every class, among those of the task that learned it."
        )


def require_bias(bias: str | None, base: Path) -> str:
    """The name of the classifier's bias. Raises UsageError where there is none."""
    if bias is None:
        raise UsageError(
            f"{base}: its classifier has no bias, which is where the target's prior would go. Give --no-prior, which "
            "adapts the weights alone, or save the checkpoints with a bias of zeros in the last layer."
        )
    return bias


def addition(tensor: str, prior: Prior, fit: Fit) -> Addition:
    """What the prior and the fit say, as numbers to add to the classifier's bias."""
    return Addition(tensor, ((prior.logits + fit.bias) / fit.beta).astype(np.float32))


def lines_of_use(classifier: Classifier, out: str) -> str:
    """Two lines of Python that use the model."""
    task = PIPELINES[classifier.kind]
    call = '("photo.jpg")' if classifier.kind == "image" else '("a text", truncation=True)'
    return f'from transformers import pipeline\npipeline("{task}", model={json.dumps(out, ensure_ascii=False)}){call}'
