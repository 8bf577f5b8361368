"""What is adapted: a run, or checkpoints with samples of each task; and what is at hand of its tasks.

    a run         base, tasks, head and encoder; the held-out samples and base embeddings that `finetune` kept
    checkpoints   BASE TASK... with --task-samples, --model, and --head or a classifier of their own
                  without samples: with --task-labels, or only a mix that is stated; then pairs judge, or nothing does

Nothing is encoded here, and no torch is imported: `Source.encoder()` does both when it is first asked for. Cost: small
files, and the base embeddings of up to 100 samples a class. Not here: the target itself (`evidence`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefmerge.data.examples import Examples, InputKind, no_examples
from prefmerge.errors import DataError, RunError, UsageError
from prefmerge.ground.words import did_you_mean
from prefmerge.models.head_file import FrozenHead, read_head
from prefmerge.runs import IN_SEQUENCE
from prefmerge.target import given
from prefmerge.target.checkpoints import Checkpoints, label_counts
from prefmerge.target.own import identity_head, own_classifier, require_samples, unnamed
from prefmerge.target.parameters import Parameters
from prefmerge.target.shares import Tasks

if TYPE_CHECKING:
    from prefmerge.models.encoders.classifier import Classifier
    from prefmerge.models.encoders.protocol import Encoder

OPEN = "prefmerge adapt"  # who asks, for messages of extras that are absent


@dataclass(frozen=True, eq=False)
class Source:
    """T checkpoints over a base. `samples`: labelled samples of each task, or None where there are none; `held_out`:
    whether training has not seen them. `among` (T): the classes among which a sample of each task is named.
    `classifier`: the checkpoints' own, whose logits are the embeddings then; the head is the identity.
    """

    tasks: Tasks
    base: Path
    checkpoints: tuple[Path, ...]
    head: FrozenHead | None
    ordered: bool
    kind: InputKind
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
    from prefmerge.training.kept import read_kept

    assert asked.run is not None
    checkpoints = Checkpoints.of_run(asked.run)
    run = checkpoints.run
    assert run is not None
    assert checkpoints.base is not None
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
        if samples is None and asked.pairs is not None:
            samples = _none(len(run.tasks))
    embedded: dict[str, Any] = {}
    if kept is not None and len(kept.embeddings):
        embedded = {"embeddings": kept.embeddings, "labels": kept.labels, "tasks": kept.tasks}
    kind: InputKind = "image" if run.about.get("encoder", {}).get("inputs") == "image" else "text"

    return Source(
        Tasks(checkpoints.names, head.classes, of_task, counts, **embedded),
        checkpoints.base,
        checkpoints.paths,
        head,
        run.training in IN_SEQUENCE and not asked.unordered,
        kind,
        samples,
        held_out,
        among,
        {"training": run.training},
        lambda: checkpoints.encoder(OPEN),
        tuple(notes),
    )


def _training_samples(folder: Path) -> tuple[tuple[Examples, ...] | None, bool, list[str]]:
    """What training saw, of a run that kept nothing aside; None where the data are gone."""
    from prefmerge.errors import PrefmergeError
    from prefmerge.training.opened import open_data

    try:
        _, _, scenario = open_data(folder)
    except (PrefmergeError, OSError) as error:
        return None, True, [f"the run kept no held-out samples, and its data cannot be opened: {error}"]
    note = (
        "the run kept no held-out samples (held_out: 0), so training samples take their place: they rank the "
        "candidates, but say nothing of how good the model will be."
    )
    return tuple(task.train for task in scenario.tasks), False, [note]


def _none(tasks: int) -> tuple[Examples, ...]:
    """No sample of any task: the pairs of the target are all that judges."""
    return (no_examples(),) * tasks


def _of_checkpoints(asked: Parameters) -> Source:
    checkpoints = Checkpoints.of_paths(asked.checkpoints[0], asked.checkpoints[1:])
    base = checkpoints.base
    assert base is not None
    known = asked.task_samples or asked.task_labels  # without either, nothing says a task's classes
    own = None if asked.head is not None or not known else own_classifier(base, checkpoints.paths)
    head = read_head(asked.head) if asked.head is not None else None if own is None else identity_head(own)
    if not asked.task_samples:
        return _without_samples(asked, checkpoints, head, own)
    if head is None:
        raise UsageError(
            "--task-samples are named by a head: give --head FILE, the head.safetensors that the checkpoints answer "
            f"with. {base} has no classifier of its own: its config.json names no ...ForImageClassification and no "
            "...ForSequenceClassification."
        )
    sources = given.task_sources(asked.task_samples, checkpoints.names)
    kind, hint = (_kind_of(sources), "") if own is None else (own.kind, unnamed(own, base))
    samples = tuple(given.read_labelled(path, head.classes, kind, hint) for path in sources)
    counts = np.array([np.bincount(one.labels, minlength=len(head.classes)) for one in samples], np.int64)
    of_task = tuple(tuple(np.flatnonzero(row).tolist()) for row in counts)
    if own is not None:
        require_samples(own, counts.sum(axis=0))
    lacking = [name for name, n in zip(head.classes, counts.sum(axis=0).tolist(), strict=True) if not n]
    if lacking:
        more = f" (nor of {len(lacking) - 1} more of its {len(head.classes)} classes)" if len(lacking) > 1 else ""
        raise DataError(
            f"--task-samples hold no sample of class {lacking[0]!r} of {asked.head}{more}, so it is not known which "
            "task it is of. Was a task or a file of samples forgotten?"
        )

    return Source(
        Tasks(checkpoints.names, head.classes, of_task, np.ones_like(counts) * (counts > 0)),
        base,
        checkpoints.paths,
        head,
        not asked.unordered,
        kind,
        samples,
        True,
        (tuple(range(len(head.classes))),) * len(samples),
        {"training": "unknown"},
        lambda: checkpoints.encoder(OPEN, asked.model, "auto" if own is None else "classifier"),
        ("the estimates hold if training did not see the --task-samples.",),
        own,
    )


def _without_samples(
    asked: Parameters, checkpoints: Checkpoints, head: FrozenHead | None, own: Classifier | None
) -> Source:
    """Checkpoints that only pairs of the target can judge. Without them: a merge by the shares, and the log prior."""
    if asked.task_labels is None:
        if head is not None or asked.prefer is None:
            what = "--head answers with classes" if head is not None else "the target is described by classes or inputs"
            raise UsageError(
                f"{what}, but nothing says which classes each task has. Give --task-samples PATH (samples of each task "
                "with labels; then candidates are compared too), or --task-labels FILE. A mix of tasks needs neither: "
                "--prefer cars=0.8,birds=0.2."
            )
        tasks = Tasks.of_names(checkpoints.names)  # a mix of tasks is all that there is
    else:
        _, counted, _ = label_counts(checkpoints, asked.task_labels)
        known = None if head is None else head.classes
        beyond = next((name for one in counted for name in one if known is not None and name not in known), None)
        if beyond is not None and known is not None:
            raise DataError(
                f"{asked.task_labels}: {beyond!r} is no class of {asked.head or asked.checkpoints[0]}, which has "
                f"{', '.join(known[:5])}{', …' if len(known) > 5 else ''}."
                f"{did_you_mean(str(beyond), known)} Use these names."
            )
        tasks = Tasks.of_counts(checkpoints.names, counted, known)

    judged = asked.pairs is not None and head is not None
    assert checkpoints.base is not None
    note = "no samples of the tasks were given, so nothing could be compared. --task-samples PATH gives them."
    return Source(
        tasks,
        checkpoints.base,
        checkpoints.paths,
        head,
        not asked.unordered,
        own.kind if own is not None else "text" if asked.pairs is None else _kind_of([asked.pairs]),
        _none(len(checkpoints.names)) if judged else None,
        judged,
        (tuple(range(len(tasks.classes))),) * len(checkpoints.names),
        {"training": "unknown"},
        lambda: checkpoints.encoder(OPEN, asked.model, "auto" if own is None else "classifier"),
        () if judged else (note,),
        own,
    )


def _kind_of(sources: Sequence[Path]) -> InputKind:
    """Folders hold images; a table is of images where it has a column for them."""
    from prefmerge.data.rows import IMAGE_COLUMNS
    from prefmerge.data.tables import TABLES, open_table

    first = sources[0]
    if first.is_dir():
        return "image"
    if first.suffix.lower() in TABLES:
        columns = open_table(first).columns
        return "image" if any(name.casefold() in IMAGE_COLUMNS for name in columns) else "text"
    return "text"
