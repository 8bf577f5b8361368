"""What is to be adapted, and what of its tasks is at hand: from a run, or from checkpoints with samples of each task.

    a run         base, tasks, head and encoder; the held-out samples and base embeddings that `finetune` kept
    checkpoints   BASE TASK... with --task-samples, --model, and --head or a classifier of their own

Nothing is encoded here, and no torch is imported: `Source.encoder()` does both when it is first asked for. Cost: small
files, and the base embeddings of up to 100 samples a class. Leaves out: the target itself (`evidence`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefmerge.continual import places
from prefmerge.continual.data.examples import Examples, Kind
from prefmerge.continual.head_file import FrozenHead, read_head
from prefmerge.errors import RunError, UsageError
from prefmerge.prefer import tasks_of_checkpoints, tasks_of_run
from prefmerge.runs import IN_SEQUENCE
from prefmerge.target.own import identity_head, own_classifier, require_samples, unnamed
from prefmerge.target.parameters import Parameters
from prefmerge.target.shares import Tasks

if TYPE_CHECKING:
    from prefmerge.continual.encoders.classifier import Classifier
    from prefmerge.continual.encoders.protocol import Encoder

OPEN = "prefmerge adapt"  # who asks, for messages of extras that are absent


@dataclass(frozen=True, eq=False)
class Source:
    """T checkpoints over a base. `samples`: labelled samples of each task, or None where there are none; `held_out`:
    whether training has not seen them. `among` (T): the classes that a sample of each task is told apart from.
    `classifier`: the checkpoints' own, whose logits are the embeddings then; the head is the identity.
    """

    tasks: Tasks
    base: Path
    checkpoints: tuple[Path, ...]
    head: FrozenHead | None
    ordered: bool
    kind: Kind
    samples: tuple[Examples, ...] | None
    held_out: bool
    among: tuple[tuple[int, ...], ...]
    about: dict[str, Any]
    _open: Callable[[], tuple[Encoder, Any]]
    notes: tuple[str, ...] = ()
    classifier: Classifier | None = None
    _opened: list[Any] = field(default_factory=list)

    def encoder(self) -> tuple[Encoder, Any]:
        """The encoder and the device that it runs on; loaded once. Raises EncoderError, MissingExtra."""
        if not self._opened:
            self._opened.append(self._open())
        return self._opened[0]


def open_source(asked: Parameters) -> Source:
    """The source that the parameters name. Raises RunError, UsageError, DataError, CheckpointNotFound."""
    return _of_run(asked) if asked.run is not None else _of_checkpoints(asked)


def _of_run(asked: Parameters) -> Source:
    from prefmerge.continual.kept import read_kept

    assert asked.run is not None
    named = tasks_of_run(asked.run)
    run = named.run
    assert run is not None
    assert named.base is not None
    if run.head_path is None:
        raise RunError(f"{asked.run}: its manifest names no head, without which no model of it can answer.")
    head = read_head(run.head_path)
    at = {name: i for i, name in enumerate(head.classes)}
    of_task = tuple(tuple(at[name] for name in task.classes) for task in run.tasks)
    counts = np.zeros((len(run.tasks), len(head.classes)), np.int64)
    for t, task in enumerate(run.tasks):
        for name, n in task.label_counts.items():
            counts[t, at[name]] = n
    kept = read_kept(run)
    several = run.about.get("scenario") == "datasets"
    everything = tuple(range(len(head.classes)))
    among = tuple(own if several else everything for own in of_task)
    samples, held_out, notes = None, True, []
    if kept is not None and any(len(one) for one in kept.held_out):
        samples = kept.held_out
    else:
        samples, held_out, notes = _training_samples(asked.run)
    embedded: dict[str, Any] = {}
    if kept is not None and len(kept.embeddings):
        embedded = {"embeddings": kept.embeddings, "labels": kept.labels, "tasks": kept.tasks}
    kind: Kind = "image" if run.about.get("encoder", {}).get("inputs") == "image" else "text"

    def opened() -> tuple[Encoder, Any]:
        from prefmerge.continual.evaluation import best_device, open_encoder
        from prefmerge.continual.finetuning import require_train
        from prefmerge.continual.run_folder import kept_config

        require_train(OPEN)
        config = kept_config(run.folder)
        return open_encoder(run, config), best_device(config)

    return Source(
        Tasks(named.names, head.classes, of_task, counts, **embedded),
        named.base,
        named.checkpoints,
        head,
        run.training in IN_SEQUENCE and not asked.unordered,
        kind,
        samples,
        held_out,
        among,
        {"training": run.training},
        opened,
        tuple(notes),
    )


def _training_samples(folder: Path) -> tuple[tuple[Examples, ...] | None, bool, list[str]]:
    """What training saw, of a run that kept nothing aside; None where the data are gone."""
    from prefmerge.continual.evaluation import open_data
    from prefmerge.errors import PrefmergeError

    try:
        _, _, scenario = open_data(folder)
    except (PrefmergeError, OSError) as error:
        return None, True, [f"the run kept no held-out samples, and its data cannot be opened: {error}"]
    note = (
        "the run kept no held-out samples (held_out: 0), so training samples take their place: they rank the "
        "candidates, but say nothing of how good the model will be."
    )
    return tuple(task.train for task in scenario.tasks), False, [note]


def _of_checkpoints(asked: Parameters) -> Source:
    named = tasks_of_checkpoints(asked.checkpoints[0], asked.checkpoints[1:])
    assert named.base is not None
    base = asked.checkpoints[0]
    own = None if asked.head is not None else own_classifier(base, asked.checkpoints[1:])
    head = read_head(asked.head) if asked.head is not None else None if own is None else identity_head(own)
    if asked.task_samples and head is None:
        raise UsageError(
            "--task-samples are named by a head: give --head FILE, the head.safetensors that the checkpoints answer "
            f"with. {base} has no classifier of its own: its config.json names no ...ForImageClassification and no "
            "...ForSequenceClassification."
        )
    if head is None or not asked.task_samples:
        with_head = "" if own is not None else " and --head FILE (head.safetensors)"
        raise UsageError(
            f"without a run, give --task-samples PATH (samples of each task with their labels){with_head}. With labels "
            "alone, `prefmerge prefer … --task-labels FILE` makes a preference."
        )
    sources = places.task_sources(asked.task_samples, named.names)
    kind, hint = (_kind_of(sources), "") if own is None else (own.kind, unnamed(own, base))
    samples = tuple(places.read_pairs(path, head.classes, kind, hint) for path in sources)
    counts = np.array([np.bincount(one.labels, minlength=len(head.classes)) for one in samples], np.int64)
    of_task = tuple(tuple(np.flatnonzero(row).tolist()) for row in counts)
    if own is not None:
        require_samples(own, counts.sum(axis=0))

    def opened() -> tuple[Encoder, Any]:
        from prefmerge.continual.config import ModelConfig
        from prefmerge.continual.encoders import load_encoder
        from prefmerge.continual.finetuning import require_train

        require_train(OPEN)
        if asked.model is None and not base.is_dir():
            raise UsageError(
                f"which encoder are the checkpoints of? {base} is a file of weights alone: give --model ID_OR_FOLDER."
            )
        how = "auto" if own is None else "classifier"
        return load_encoder(ModelConfig(id=asked.model or str(base), kind=how)), None

    return Source(
        Tasks(named.names, head.classes, of_task, np.ones_like(counts) * (counts > 0)),
        named.base,
        named.checkpoints,
        head,
        not asked.unordered,
        kind,
        samples,
        True,
        (tuple(range(len(head.classes))),) * len(samples),
        {"training": "unknown"},
        opened,
        ("the estimates hold if training did not see the --task-samples.",),
        own,
    )


def _kind_of(sources: Sequence[Path]) -> Kind:
    """Folders hold images; a table is of images where it has a column for them."""
    from prefmerge.continual.data.rows import IMAGE_COLUMNS
    from prefmerge.continual.data.tables import TABLES

    first = sources[0]
    if first.is_dir():
        return "image"
    if first.suffix.lower() in TABLES:
        columns = places.header(first)
        return "image" if any(name.casefold() in IMAGE_COLUMNS for name in columns) else "text"
    return "text"
