"""Models that the user has already, judged beside the candidates and never chosen: `adapt --compare MODEL`.

    as it is, with the prior, with a fitted bias    weights of the same architecture, with the head of the tasks
    with its own head                               a folder of `adapt`: its head.safetensors as it is
    as it is                                        a folder of `adapt` whose classifier has the prior in it

Each is judged on all samples that stand for the target. Cost: a forward pass a model and sample. Not here: names and
shapes that differ, which loading refuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from prefmerge.checkpoints.paths import name_of
from prefmerge.data.examples import Examples
from prefmerge.errors import CheckpointMismatch, CheckpointNotFound, UsageError
from prefmerge.models.head_file import FrozenHead, read_head
from prefmerge.target.choice import Answers, Judge
from prefmerge.target.estimates import Judged, as_it_is, with_bias
from prefmerge.target.files import HEAD, RESULT
from prefmerge.target.fit import Scores
from prefmerge.target.forwards import Forwards
from prefmerge.target.pool import Candidate
from prefmerge.target.source import Source

NOT_COMPARED = "--compare: no accuracy is given here, so nothing was compared."


@dataclass(frozen=True, eq=False)
class Compared:
    """`head`: its own, by the classes of the tasks. `adapted`: its answers were fitted to a target already."""

    model: Candidate
    head: FrozenHead | None
    adapted: bool


def open_compared(paths: Sequence[Path], source: Source) -> list[Compared]:
    """The models to compare with. Raises CheckpointNotFound, UsageError, RunError."""
    opened: list[Compared] = []
    for path in paths:
        if not path.exists():
            raise CheckpointNotFound(f"--compare {path}: no such file or folder. Give a file of weights, or a folder.")
        name = f"{name_of(path)} (yours)"
        twin = next((one.model.path for one in opened if one.model.name == name), None)
        if twin is not None:
            raise UsageError(f"--compare: {twin} and {path} have one name. Rename one.")
        head = None
        if (path / HEAD).is_file():
            if source.classifier is not None:
                raise UsageError(
                    f"--compare {path}: answers with a head, and {source.base} with a classifier of its own. Compare "
                    "models that answer alike."
                )
            head = head_of(path, source)
        opened.append(Compared(Candidate(name, path=path), head, head is not None or (path / RESULT).is_file()))
    return opened


def head_of(path: Path, source: Source) -> FrozenHead:
    """The head of a folder, its rows in the order of the tasks' classes. Raises UsageError, RunError."""
    head, classes = read_head(path / HEAD), source.tasks.classes
    if sorted(head.classes) != sorted(classes):
        other = next((one for one in head.classes if one not in classes), None)
        beyond = f"it has {other!r}" if other is not None else "it lacks some"
        raise UsageError(
            f"{path}: its head has {len(head.classes)} classes, the tasks have {len(classes)}, and they are "
            f"not the same: {beyond}. Give a model of the same classes."
        )
    at = [head.classes.index(name) for name in classes]
    return replace(head, rows=head.rows[at], classes=classes, bias=None if head.bias is None else head.bias[at])


def embedded(compared: Sequence[Compared], forwards: Forwards, examples: Examples) -> list[Answers]:
    """What each makes of every sample. Raises CheckpointMismatch for another architecture, CheckpointError."""
    pool, everything = [one.model for one in compared], np.arange(len(examples))
    units = forwards.units(pool, [examples], "comparing yours") if pool else []
    for one, (own,) in zip(compared, units, strict=True):
        if one.head is not None and one.head.rows.shape[1] != own.shape[1]:
            raise CheckpointMismatch(
                f"--compare {one.model.path}: its head is for embeddings {one.head.rows.shape[1]} wide, its encoder "
                f"gives {own.shape[1]}. Give the folder as `prefmerge adapt` wrote it."
            )
    return [Answers(one.name, True, everything, own) for one, (own,) in zip(pool, units, strict=True)]


def models(compared: Compared, answers: Answers, judge: Judge) -> list[Judged]:
    """The rows of one model: how it can answer."""
    if compared.head is not None:
        logits = compared.head.logits(answers.of(answers.at))
        logits = Scores(logits, judge.proxy.allowed).masked(logits)
        return [Judged(answers.name, "with its own head", logits, prior=False)]
    rows = [as_it_is(judge, answers, prior=False)]
    if judge.use_prior and not compared.adapted:
        rows += [as_it_is(judge, answers, prior=True), with_bias(judge, answers)]
    return rows


def note(compared: Sequence[Compared]) -> list[str]:
    """What to say of models that were adapted before."""
    return [
        f"{one.model.name} was adapted before. If that was with the samples that judge here, its numbers are too high."
        for one in compared
        if one.adapted
    ]
