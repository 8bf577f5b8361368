"""Frozen heads: a unit vector per class, and the factor on cosines.

    logits(x) = scale * normalise(x) . row_c  (+ bias_c, in a head that was adapted to a target)
    row_c = normalise(mean over the phrases of c of normalise(phrase embedding))     "text"
    row_c = normalise(mean over the samples of c of normalise(sample embedding))     "prototype"

Source: CLIP's zero-shot classifier, as both papers use it (experiment settings of Tunable MAGMAX, section 4.1);
prototypes are class means under the base, for encoders without a text side. Shapes: rows (C, E) float32; embeddings
(N, E). Cost: one pass over the phrases, or over the training samples. Not here: making biases (`prefmerge.target`),
and training a head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prefmerge.errors import ConfigError, DataError, EncoderError
from prefmerge.ground import atomic
from prefmerge.ground.progress import phase
from prefmerge.models.head_file import FrozenHead, read_head

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from prefmerge.data.examples import Examples
    from prefmerge.data.scenarios import ClassInfo, Scenario
    from prefmerge.models.encoders import Encoder


@dataclass(frozen=True, eq=False)
class Head:
    """`rows` (C, E) float32 of unit norm, one per class of `classes`; `scale` multiplies the cosines. One that was
    adapted to a target has a `bias` (C,) too, and rows of any norm.
    """

    rows: Tensor = field(repr=False)
    scale: float
    classes: tuple[str, ...]
    kind: Literal["text", "prototype"]
    bias: Tensor | None = field(default=None, repr=False)

    def logits(self, embeddings: Tensor, classes: Sequence[int] | None = None, scale: float | None = None) -> Tensor:
        """scale * cosines of embeddings (N, E), not normalised, with the rows of `classes` (all C by default), float32.

        Autocast is switched off inside: at a scale of 100 the rounding of bfloat16 would move logits by tenths.
        """
        import torch
        from torch.nn.functional import normalize

        with torch.autocast(device_type=embeddings.device.type, enabled=False):
            rows = self.rows if classes is None else self.rows[list(classes)]
            logits = (self.scale if scale is None else scale) * (normalize(embeddings.float(), dim=-1) @ rows.T)
            if self.bias is None:
                return logits
            return logits + (self.bias if classes is None else self.bias[list(classes)])

    def to(self, device: torch.device | str) -> Head:
        """The same head on another device."""
        return replace(self, rows=self.rows.to(device), bias=None if self.bias is None else self.bias.to(device))

    def with_bias(self, bias: np.ndarray) -> Head:
        """The same head with `bias` (C,) added to its logits."""
        import torch

        added = torch.from_numpy(bias.astype("float32")).to(self.rows.device)
        return replace(self, bias=added if self.bias is None else self.bias + added)

    def save(self, file: Path) -> None:
        """Write a safetensors file that says scale, kind and classes in its metadata; whole or not at all."""
        rows, bias = (None if one is None else one.detach().cpu().numpy() for one in (self.rows, self.bias))
        assert rows is not None
        atomic.write_whole(file, FrozenHead(rows, self.scale, self.classes, self.kind, bias).to_bytes())

    @classmethod
    def load(cls, file: Path) -> Head:
        """The head that `save` wrote, or that `prefmerge adapt` did. Raises RunError where there is none."""
        return cls.of(read_head(file))

    @classmethod
    def of(cls, kept: FrozenHead) -> Head:
        """The same head for torch."""
        import torch

        bias = None if kept.bias is None else torch.from_numpy(kept.bias)
        kind: Literal["text", "prototype"] = "text" if kept.kind == "text" else "prototype"
        return cls(torch.from_numpy(kept.rows), kept.scale, kept.classes, kind, bias)


def text_head(encoder: Encoder, classes: Sequence[ClassInfo]) -> Head:
    """The zero-shot head: each class's phrases are embedded by the base, normalised, averaged, normalised.

    Raises EncoderError where the encoder has no text side, DataError where a class has no phrase.
    """
    import torch
    from torch.nn.functional import normalize

    empty = next((info.name for info in classes if not info.phrases), None)
    if empty is not None:
        raise DataError(f"class {empty!r} has no phrase, expected at least one for a text head. Give it a template.")
    embedded = encoder.phrases([phrase for info in classes for phrase in info.phrases])
    if embedded is None:
        raise EncoderError(
            f"model {encoder.name!r} has no text side, so a text head cannot be made. Set head to prototype, or "
            "choose a CLIP or a sentence encoder."
        )
    units = normalize(embedded.detach().float(), dim=-1).split([len(info.phrases) for info in classes])
    rows = normalize(torch.stack([unit.mean(dim=0) for unit in units]), dim=-1)
    return _head(rows, encoder, classes, "text")


def prototype_head(
    encoder: Encoder,
    classes: Sequence[ClassInfo],
    examples: Sequence[Examples],
    *,
    batch: int = 256,
    device: torch.device | str | None = None,
) -> Head:
    """The mean embedding of each class's samples, each of unit norm, under the tower as it is now: call it on the base.

    `examples` are the training splits of all tasks, labels counting from 0 into `classes`. Samples are prepared as in
    evaluation and embedded `batch` at a time on `device` (the tower's own by default, where the tower then stays). The
    head is on the CPU. Sums are float64. Raises DataError naming a class without samples.
    """
    import torch
    from torch.nn.functional import normalize

    if device is not None:
        encoder.tower.to(device)
    where = next(encoder.tower.parameters()).device
    sums_CE = torch.zeros(len(classes), encoder.width, dtype=torch.float64)
    counts_C = torch.zeros(len(classes), dtype=torch.int64)
    with _evaluating(encoder), torch.no_grad():
        for split in examples:
            for start in range(0, len(split), batch):
                at = range(start, min(start + batch, len(split)))
                inputs = {name: value.to(where) for name, value in encoder.prepare(split.read(at)).items()}
                labels_N = torch.from_numpy(split.labels[start : at.stop].copy())
                units_NE = normalize(encoder.tower(**inputs).float(), dim=-1)
                sums_CE.index_add_(0, labels_N, units_NE.double().cpu())
                counts_C += torch.bincount(labels_N, minlength=len(classes))
    empty = [info.name for info, count in zip(classes, counts_C.tolist(), strict=True) if not count]
    if empty:
        raise DataError(
            f"class {empty[0]!r} has no training sample ({len(empty)} of {len(classes)} classes have none), expected "
            "at least one each for a prototype head. Add samples, or leave the class out of data.classes."
        )
    rows = normalize(sums_CE / counts_C.unsqueeze(1), dim=-1).float()
    return _head(rows, encoder, classes, "prototype")


def check_inputs(scenario: Scenario, encoder: Encoder) -> None:
    """Raise ConfigError where the encoder reads images and the data are texts, or the other way round."""
    if encoder.kind != scenario.inputs:
        raise ConfigError(
            f"model {encoder.name!r} reads {encoder.kind}s, and the data are {scenario.inputs}s. Choose a model of "
            f"{scenario.inputs}s, or other data."
        )


@phase("making the head")
def make_head(kind: Literal["auto", "text", "prototype"], encoder: Encoder, scenario: Scenario) -> Head:
    """The head of a scenario's classes: what `head` in the configuration asks for; auto: text where there is a text
    side. The encoder must still be the base. Raises as `text_head` and `prototype_head` do.
    """
    if kind == "auto":
        kind = "prototype" if encoder.phrases(["a"]) is None else "text"
    if kind == "text":
        return text_head(encoder, scenario.classes)
    return prototype_head(encoder, scenario.classes, [task.train for task in scenario.tasks])


def _head(rows: Tensor, encoder: Encoder, classes: Sequence[ClassInfo], kind: Literal["text", "prototype"]) -> Head:
    import torch

    if not torch.isfinite(rows).all():
        bad = classes[int((~torch.isfinite(rows)).any(dim=1).nonzero()[0, 0])].name
        raise EncoderError(
            f"model {encoder.name!r}: the head's row for class {bad!r} is not finite. The model's weights hold NaN or "
            "infinity; load it again from its source."
        )
    return Head(rows, encoder.logit_scale, tuple(info.name for info in classes), kind)


@contextlib.contextmanager
def _evaluating(encoder: Encoder) -> Iterator[None]:
    """The tower in eval mode inside, as it was outside."""
    training = encoder.tower.training
    encoder.tower.eval()
    try:
        yield
    finally:
        encoder.tower.train(training)
