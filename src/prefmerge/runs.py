"""What a run of fine-tuning left behind, read without torch: `run.json` and the checkpoints that it names.

    RUN/
      run.json              this manifest: kind of training, base, head, tasks in order with classes and label counts
      config.yaml           the configuration with every default spelled out
      samples.json          the ids of every task's training and test samples
      base/  tasks/*/       checkpoints: folders (or files) that `prefmerge merge` takes
      head.safetensors      the frozen head
      held-out/             samples of each task that no training saw, where the configuration holds some out
      base-embeddings.safetensors   the base's embeddings of training samples, likewise
      log.jsonl             one line per event

`prefmerge merge --run`, importance `step` (which refuses independent training) and everything that evaluates start
here. Cost: one small file. Not here: the making of a run (`training`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from prefmerge.errors import RunError
from prefmerge.ground import jsons
from prefmerge.ground.brief import brief
from prefmerge.ground.checked import checked
from prefmerge.ground.refused import remedy

FORMAT = "prefmerge-run/1"
FILE = "run.json"

Training = Literal["sequential", "independent", "joint", "lwf", "ewc"]
TRAININGS: tuple[str, ...] = get_args(Training)
IN_SEQUENCE = ("sequential", "lwf", "ewc")  # theta_t starts from theta_{t-1}


@dataclass(frozen=True)
class RunTask:
    """One task of a run."""

    __pydantic_config__: ClassVar = {"coerce_numbers_to_str": True}  # a class may be written as 3
    name: str  # of the task
    file: str  # the checkpoint, relative to the run's folder
    classes: tuple[str, ...] = ()  # that the task has
    label_counts: Mapping[str, int] = field(default_factory=dict)  # class -> training samples
    done: bool = True  # whether it is trained


@dataclass(frozen=True)
class Run:
    """A run folder's manifest."""

    __repr__ = brief

    folder: Path  # of the run
    training: Training  # how the tasks were trained
    base: str  # the base, relative to the folder
    tasks: tuple[RunTask, ...]  # in the order of training
    head: str | None = None  # the head, relative to the folder; None where there is none
    about: Mapping[str, Any] = field(default_factory=dict)  # what else the manifest says, untouched

    @property
    def base_path(self) -> Path:
        """The checkpoint of the base."""
        return self.folder / self.base

    @property
    def head_path(self) -> Path | None:
        """The file of the head; None where there is none."""
        return None if self.head is None else self.folder / self.head

    def task_path(self, index: int) -> Path:
        """The checkpoint of a task, counted from 0."""
        return self.folder / self.tasks[index].file

    @property
    def last_path(self) -> Path:
        """The checkpoint of the last task. Raises RunError where it is not trained yet."""
        if not self.tasks:
            raise RunError(f"{self.folder}: the run has no task.")
        if not self.tasks[-1].done:
            require_finished(self)
        return self.task_path(len(self.tasks) - 1)

    @property
    def finished(self) -> bool:
        """Whether every task is trained."""
        return all(task.done for task in self.tasks)

    def to_json(self) -> dict[str, Any]:
        """What run.json holds."""
        return {
            "format": FORMAT,
            "training": self.training,
            "base": self.base,
            "head": self.head,
            "tasks": [
                {
                    "name": task.name,
                    "file": task.file,
                    "done": task.done,
                    "classes": list(task.classes),
                    "label_counts": dict(task.label_counts),
                }
                for task in self.tasks
            ],
            **self.about,
        }


def require_finished(run: Run, otherwise: str = "") -> None:
    """Raise RunError where a task is not trained yet. `otherwise`: what else may be done, after `, or `."""
    waiting = [task.name for task in run.tasks if not task.done]
    if waiting:
        raise RunError(
            f"{run.folder}: task {waiting[0]!r} is not trained yet ({len(waiting)} of {len(run.tasks)} are missing). "
            f"Run the same `prefmerge finetune` again to resume{f', or {otherwise}' if otherwise else ''}."
        )


def read_run(folder: str | Path) -> Run:
    """The manifest of a run folder. Raises RunError saying what is wrong with it and where."""
    folder = Path(folder)
    file = folder / FILE
    try:
        manifest = jsons.read(file)
    except FileNotFoundError:
        what = "no such folder" if not folder.is_dir() else f"there is no {FILE} in it"
        raise RunError(
            f"{folder}: not a run of prefmerge: {what}. Give the folder that `prefmerge finetune … -o RUN` wrote."
        ) from None
    except (OSError, ValueError) as error:
        raise RunError(f"{file}: cannot be read as a run's manifest: {error}. {remedy(error)}".rstrip()) from error
    return _parsed(folder, file, manifest)


def _parsed(folder: Path, file: Path, manifest: Any) -> Run:
    form = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
    if form != FORMAT:
        raise RunError(f"{file}: its format is {form!r}; this prefmerge reads {FORMAT!r}.")
    own = {key: manifest[key] for key in ("training", "base", "head", "tasks") if key in manifest}
    about = {key: value for key, value in manifest.items() if key != "format" and key not in own}
    run = checked(Run, {**own, "folder": folder, "about": about}, file, RunError, " Was it edited by hand?")
    for named in (run.base, *(task.file for task in run.tasks), run.head or run.base):
        path = os.path.normpath(named)
        if os.path.isabs(path) or path.split(os.sep)[0] == os.pardir:
            raise RunError(f"{file}: names {named!r}, which lies outside the run's folder.")
    return run


def run_of(checkpoint: str | Path) -> tuple[Run, int] | None:
    """The run that a checkpoint belongs to and the index of its task; None where no manifest lists it."""
    path = Path(os.path.abspath(checkpoint))
    for folder in (path.parent, path.parent.parent):
        try:
            run = read_run(folder)
        except RunError:
            if _is_ours(folder / FILE):
                raise
            continue  # a file of that name that is no manifest of ours says nothing
        for index in range(len(run.tasks)):
            if Path(os.path.abspath(run.task_path(index))) == path:
                return run, index
    return None


def _is_ours(file: Path) -> bool:
    """Whether a file that cannot be read as a manifest says that it is one."""
    try:
        return f'"{FORMAT}"'.encode() in file.read_bytes()
    except OSError:
        return False
