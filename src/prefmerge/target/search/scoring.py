"""Which samples a model names correctly, out of its weights.

    right_i(weights) = argmax over c in among(i) of <f(x_i), h_c>  is y_i,   f: the encoder with the weights

`among(i)`: the classes among which the task of sample i's class is named (papers, section 4.1). Cost: M forward passes
a model; M inputs in memory. Not here: which models (`tuning`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from prefmerge.target.search.tuning import Scoring, Weights

if TYPE_CHECKING:
    from prefmerge.data.examples import Examples
    from prefmerge.data.scenarios import Scenario
    from prefmerge.models.encoders.protocol import Encoder
    from prefmerge.models.heads import Head

BATCH = 32  # inputs encoded at a time


def scorer(
    encoder: Encoder,
    head: Head,
    samples: Examples,
    among: Callable[[int], Sequence[int]],
    *,
    batch: int = BATCH,
    device: Any = None,
) -> Scoring:
    """What says for a model's weights which samples the head then names correctly. among: label -> the classes among
    which it is named. The inputs are read once; the encoder holds the weights asked for last.
    """
    from prefmerge.models.encoders.weights import put_arrays
    from prefmerge.models.evaluation import right_answers
    from prefmerge.models.features import embed

    inputs = samples.read(range(len(samples)))
    held = replace(samples, read=lambda at: [inputs[i] for i in at])
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, label in enumerate(samples.labels.tolist()):
        groups.setdefault(tuple(among(label)), []).append(i)

    def score(weights: Weights) -> np.ndarray:
        put_arrays(encoder, weights)
        embeddings = embed(encoder, held, batch=batch, device=device)
        right = np.empty(len(held), bool)
        for classes, at in groups.items():
            right[at] = right_answers(embeddings[at], head, samples.labels[at], classes)
        return right

    return score


def among_of(scenario: Scenario) -> Callable[[int], Sequence[int]]:
    """The classes among which a label is named where the task is not known: those of the first task that has it."""
    of_label: dict[int, Sequence[int]] = {}
    for task in scenario.tasks:
        for label in task.classes:
            of_label.setdefault(label, task.among)
    return lambda label: of_label[label]
