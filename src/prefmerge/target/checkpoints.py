"""The checkpoints to merge, of a run or a base and its tasks; what opens their encoder, and the labels that they had.

One place for `prefer`, `search` and `adapt`. Cost: small files; the encoder is loaded when it is asked for, and torch
with it. Not here: samples of the tasks (`source`, `embedded`), what the user has of the target (`given`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import xxhash

from prefmerge.checkpoints import content_fingerprint
from prefmerge.checkpoints.paths import hub_id, is_there, names_of, split_adapter
from prefmerge.errors import CheckpointNotFound, DataError, RunError, UsageError
from prefmerge.merging.opening import content_of, local_base, local_task, open_base, open_task
from prefmerge.runs import Run, read_run, require_finished
from prefmerge.target.given import read_task_labels

if TYPE_CHECKING:
    from prefmerge.models.encoders.protocol import Encoder


@dataclass(frozen=True)
class Checkpoints:
    """T tasks in the order of training. `base` is None, and `paths` is empty, where only names are known."""

    names: tuple[str, ...]
    run: Run | None = None
    base: Path | None = None
    paths: tuple[Path, ...] = ()  # theta_1 to theta_T

    @classmethod
    def of_run(cls, folder: str | Path) -> Checkpoints:
        """Those of a finished run. Raises RunError."""
        run = read_run(folder)
        if run.training == "joint":
            raise RunError(
                f"{folder}: a joint run has one checkpoint of all tasks, and nothing to merge. Give a run that has one "
                "checkpoint per task."
            )
        require_finished(run)
        paths = tuple(run.task_path(index) for index in range(len(run.tasks)))
        return cls(tuple(task.name for task in run.tasks), run, run.base_path, paths)

    @classmethod
    def of_paths(cls, base: Path, tasks: Sequence[Path]) -> Checkpoints:
        """A base and tasks, called as `merge` calls them: by the stem of the file, or the name of the folder. What is
        on the hub is fetched.
        """
        if not tasks:
            raise UsageError(f"{base} is the base, and no task follows it: give BASE TASK... in the order of training.")
        for path in (base, *tasks):
            if not is_there(path) and not any(hub_id(one) for one in split_adapter(path) if one is not None):
                raise CheckpointNotFound(f"{path}: no such file or folder. Give BASE TASK... in the order of training.")
        names = tuple(names_of(tasks, [None] * len(tasks)))
        for i, name in enumerate(names):
            if name in names[:i]:
                raise UsageError(
                    f"two tasks are called {name!r}: {tasks[names.index(name)]} and {tasks[i]}. Rename one."
                )
        return cls(names, None, local_base(base), tuple(map(local_task, tasks)))

    def require_model(self, model: str | None) -> None:
        """Raise UsageError where nothing says which encoder the checkpoints are of."""
        if model is None and self.run is None and (self.base is None or not self.base.is_dir()):
            raise UsageError(
                f"which encoder are the checkpoints of? {self.base} is a file of weights alone: give --model "
                "ID_OR_FOLDER."
            )

    def encoder(
        self, purpose: str, model: str | None = None, kind: Literal["auto", "classifier"] = "auto"
    ) -> tuple[Encoder, str | None]:
        """The encoder that the checkpoints are of, holding its base, and the device that it runs on: `model` where one
        is named, else the run's, else the base's. `purpose` is what needs torch, for the message where it is absent.

        Raises MissingExtra, EncoderError; UsageError where nothing says which model it is.
        """
        from prefmerge.config import ModelConfig
        from prefmerge.models.encoders import load_encoder
        from prefmerge.training.config_file import run_config
        from prefmerge.training.finetuning import require_train
        from prefmerge.training.opened import best_device, open_encoder

        require_train(purpose)
        self.require_model(model)
        if model is None and self.run is not None:
            config = run_config(self.run.folder)
            return open_encoder(self.run, config), best_device(config)
        encoder = load_encoder(ModelConfig(id=model or str(self.base), kind=kind))
        encoder.base = self.base or encoder.base
        return encoder, None


def label_counts(
    checkpoints: Checkpoints | None, task_labels: Path | None
) -> tuple[Checkpoints, list[Mapping[str, int]], dict[str, Any]]:
    """Per task how often each class occurs in its training samples, and where that is from: the file, else the run.
    With no checkpoints the file names the tasks. Raises DataError, RunError, UsageError.
    """
    if task_labels is not None:
        counts = read_task_labels(task_labels)
        checkpoints = checkpoints or Checkpoints(tuple(counts))
        names = checkpoints.names
        lacking = [name for name in names if name not in counts]
        beyond = [name for name in counts if name not in names]
        if lacking or beyond:
            what = f"lacks task {lacking[0]!r}" if lacking else f"has {beyond[0]!r}, which is none of the tasks"
            raise DataError(
                f"{task_labels}: {what}. It has {', '.join(counts)}; the tasks are {', '.join(names)}. Give counts for "
                "each, under the same names."
            )
        return checkpoints, [counts[name] for name in names], file_entry(task_labels)
    if checkpoints is None or checkpoints.run is None:
        raise UsageError(
            "--labels are compared with those that the tasks were trained on: give --run RUN, or --task-labels FILE "
            "with the number of samples per task and class."
        )
    run = checkpoints.run
    empty = next((task.name for task in run.tasks if not task.label_counts), None)
    if empty is not None:
        raise RunError(
            f"{run.folder}: its manifest has no label counts for task {empty!r}. Give them as --task-labels FILE."
        )
    return checkpoints, [task.label_counts for task in run.tasks], {"run": str(run.folder)}


def file_entry(path: Path) -> dict[str, Any]:
    """A file as a result names what it was made from. Raises DataError."""
    try:
        return {"path": str(path), "fingerprint": f"xxh3-128:{xxhash.xxh3_128_hexdigest(path.read_bytes())}"}
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error


def contents_of(base: Path, tasks: Sequence[Path]) -> list[str]:
    """A hash of what each checkpoint holds, the base's first. Raises CheckpointError."""
    with closing(open_base(base)) as opened:
        contents = [content_fingerprint(opened)]
        for path in tasks:
            with closing(open_task(path, opened)) as task:
                contents.append(content_of(task))
    return contents
