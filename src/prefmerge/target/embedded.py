"""Samples of each task and of the target, both as that task's checkpoint embeds them: encoded here, or the user's own.

    tasks[t] (N_t, E) and target[t] (M, E), both by theta_t

Cost: each theta_t is loaded once and reads at most `samples` inputs of its task and `given.inputs.MOST` of the target,
or takes them from the cache, from which a killed call resumes; T (N_t + M) E numbers in memory. Not here: what is made
of them (`similarity`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefmerge.errors import DataError, RunError, UsageError
from prefmerge.ground.progress import Counted
from prefmerge.target import given
from prefmerge.target.checkpoints import Checkpoints, file_entry

if TYPE_CHECKING:
    from prefmerge.data.examples import Examples
    from prefmerge.models.encoders.protocol import Encoder

_WHAT = "encoding samples"  # needs torch, for the message where it is absent


@dataclass(frozen=True)
class Embedded:
    """`tasks` and `target`: an array for each task. `about` says what they were made from."""

    tasks: list[np.ndarray]
    target: list[np.ndarray]
    about: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def read_embedded(
    checkpoints: Checkpoints | None, inputs: Path, task_samples: Sequence[Path], samples: int, seed: int
) -> tuple[Checkpoints, Embedded]:
    """Embeddings that the user made. With no `checkpoints` the arrays of the tasks' samples name the tasks."""
    if not task_samples:
        raise UsageError(
            f"{inputs} holds embeddings: give those of the tasks' samples too, as --task-samples TASKS.npz with an "
            "array named after each task."
        )
    single = len(task_samples) == 1 and task_samples[0].suffix.lower() in given.EMBEDDED
    if checkpoints is None:
        if not single or task_samples[0].suffix.lower() != ".npz":
            raise UsageError("the tasks are not known: give --run RUN, BASE TASK..., or --task-samples TASKS.npz.")
        checkpoints = Checkpoints(given.embedding_names(task_samples[0]))
    names = checkpoints.names
    if single and (len(names) == 1 or task_samples[0].suffix.lower() == ".npz"):
        ours = given.read_embeddings(task_samples[0], names, "embeddings of the tasks' samples", shared=False)
        sources = [task_samples[0]]
    else:
        sources = given.task_sources(task_samples, names)
        other = next((one for one in sources if one.suffix.lower() not in given.EMBEDDED), None)
        if other is not None:
            raise DataError(f"{inputs} holds embeddings, and {other} does not. Give both as embeddings, or neither.")
        ours = [
            given.read_embeddings(one, (name,), f"embeddings of the samples of task {name!r}")[0]
            for one, name in zip(sources, names, strict=True)
        ]
    theirs = given.read_embeddings(inputs, names, "embeddings of the target")
    _check_widths(inputs, names, ours, theirs)
    at, notes = given.within_most(_rows(theirs[0]), seed)
    ours = [one[given.chosen_at(_rows(one), samples, seed)] for one in ours]
    about = {
        "place": file_entry(inputs),
        "place_samples": len(theirs[0]),
        "tasks": [file_entry(one) for one in sources],
    }
    return checkpoints, Embedded(ours, [one[at] for one in theirs], about, notes)


def _check_widths(inputs: Path, names: Sequence[str], ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> None:
    for name, our, their in zip(names, ours, theirs, strict=True):
        if our.shape[1] != their.shape[1]:
            raise DataError(
                f"{inputs}: task {name!r}: the embeddings of the target have width {their.shape[1]}, those of the "
                f"task's samples {our.shape[1]}. Encode both with the same checkpoint."
            )
        if len(their) != len(theirs[0]):
            raise DataError(
                f"{inputs}: task {name!r}: {len(their)} samples of the target, and {len(theirs[0])} for task "
                f"{names[0]!r}. Encode the same samples with every checkpoint."
            )


def _rows(array: np.ndarray) -> list[str]:
    return [f"row/{i}" for i in range(len(array))]


def encode(
    checkpoints: Checkpoints,
    inputs: Path,
    task_samples: Sequence[Path],
    model: str | None,
    *,
    samples: int,
    seed: int,
    batch: int,
    cache: Path | None,
    progress: Counted | None,
) -> Embedded:
    """Both sides embedded by theta_1 to theta_T, one after another."""
    from prefmerge.training.finetuning import require_train

    require_train(_WHAT)
    from prefmerge.checkpoints.fingerprint import content_fingerprint
    from prefmerge.checkpoints.memory import from_state_dict
    from prefmerge.models.features import embed

    encoder, device, ours = _opened(checkpoints, task_samples, model)
    target = given.read_inputs(inputs, encoder.kind)
    total = len(target)
    at, notes = given.within_most(target.ids, seed)
    target = target.take(at) if notes else target
    ours = [given.chosen(one, samples, seed) for one in ours]
    work, done = sum(map(len, ours)) + len(ours) * len(target), 0

    def encoded(examples: Examples) -> np.ndarray:
        def counted(so_far: int, _: int) -> None:
            if progress is not None:
                progress(done + so_far, work)

        return embed(encoder, examples, batch=batch, device=device, cache=cache, progress=counted)

    embedded: list[tuple[np.ndarray, np.ndarray]] = []
    entries = []
    for name, checkpoint, one in zip(checkpoints.names, checkpoints.paths, ours, strict=True):
        encoder.load(checkpoint)
        pair = []
        for examples in (one, target):
            pair.append(encoded(examples))
            done += len(examples)
        embedded.append((pair[0], pair[1]))
        entries.append(
            {
                "name": name,
                "checkpoint": str(checkpoint),
                "fingerprint": content_fingerprint(from_state_dict(encoder.state(), name=encoder.name)),
                "samples": len(one),
                "contents": one.fingerprint(range(len(one))),
            }
        )
    about = {
        "encoder": encoder.name,
        "place": {"path": str(inputs), "samples": len(target), "contents": target.fingerprint(range(len(target)))},
        "place_samples": total,
        "tasks": entries,
    }
    return Embedded([one for one, _ in embedded], [two for _, two in embedded], about, notes)


def _opened(
    checkpoints: Checkpoints, task_samples: Sequence[Path], model: str | None
) -> tuple[Encoder, str | None, list[Examples]]:
    """The encoder, the device that it runs on, and every task's training samples: of a run whose data cannot be read,
    those that it held out.
    """
    if checkpoints.run is not None and model is None and not task_samples:
        return _opened_run(checkpoints)
    if not task_samples:
        raise UsageError(
            "--inputs are compared with samples that the tasks were trained on: give --run RUN, or --task-samples DIR "
            "once for each task (or once, with a folder named after each)."
        )
    checkpoints.require_model(model)
    sources = given.task_sources(task_samples, checkpoints.names)
    encoder, device = checkpoints.encoder(_WHAT, model)
    return encoder, device, [given.read_inputs(one, encoder.kind) for one in sources]


def _opened_run(checkpoints: Checkpoints) -> tuple[Encoder, str | None, list[Examples]]:
    from prefmerge.training.opened import best_device, open_run
    from prefmerge.training.samples import check_samples

    assert checkpoints.run is not None
    folder = checkpoints.run.folder
    opened = open_run(folder)
    tasks, device = opened.scenario.tasks, best_device(opened.config)
    if len(tasks) != len(checkpoints.names):
        raise RunError(
            f"{folder}: its data make {len(tasks)} tasks, and its manifest names {len(checkpoints.names)}. Restore the "
            "data, or give --task-samples."
        )
    if opened.judged_on == "held-out":
        return opened.encoder, device, [task.held_out for task in tasks]
    check_samples(opened.scenario, folder, parts=("train",))
    return opened.encoder, device, [task.train for task in tasks]
