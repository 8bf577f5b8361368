"""What is in a run's folder, and who may write to it: begin, look, compare, publish, clean up.

The files are named in `prefmerge.runs`. Everything is replaced whole, so that a kill leaves the old or the new. A
folder that holds anything but a run is left alone, and a run of another configuration or of other samples is not gone
on with: the messages say what differs. Cost: small files, but for checkpoints. Not here: the training (`finetuning`).
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Container, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from prefmerge.config import FinetuneConfig, make_config
from prefmerge.data.examples import Examples
from prefmerge.data.scenarios import Scenario, Task
from prefmerge.errors import DiskFull, OutputError, OutputExists, RunError
from prefmerge.ground import atomic, disk, jsons, locks
from prefmerge.runs import FILE, Run, read_run
from prefmerge.training.config_file import anchored
from prefmerge.training.kept import FILES as KEPT

if TYPE_CHECKING:
    from prefmerge.models.encoders.protocol import Encoder

CONFIG, SAMPLES, LOG, HEAD, BASE, TASKS = (
    "config.yaml",
    "samples.json",
    "log.jsonl",
    "head.safetensors",
    "base",
    "tasks",
)
_STATE = "progress"  # what an interrupted task goes on from; -NN says which
_FISHER = "fisher"  # EWC's F after a task; -NN says which
# Settings that change how long a run takes, or where, but not what it ends with.
_INDIFFERENT = re.compile(r"training\.(workers|save_every)|data\[\d+\]\.path")  # samples are compared by their ids
_PLACES = re.compile(r"model\.id|data\[\d+\]\.(name|test)")
_NO_SPACE = ("No space left", "Disk quota exceeded", "File too large", "file write failed", "unexpected pos")
_RESOLVED = re.compile(r"training\.(epochs|warmup_steps)|data\[\d+\]\.epochs|held_out")


def look(out: Path, config: FinetuneConfig, force: bool) -> Run | None:
    """The run to go on with, or None where one is to be begun (by `clear`). Changes nothing."""
    with writing(out):
        if not out.exists():
            return None
        if not out.is_dir():
            raise OutputExists(f"{out}: is a file; a run is a folder. Give another -o RUN.")
        empty, begun = not any(out.iterdir()), (out / FILE).exists()
    if not begun:
        # A run that was killed while it began has a configuration, and no manifest yet.
        if not empty and not (out / CONFIG).is_file():
            raise OutputExists(f"{out}: holds something that is not a run of prefmerge. Give a new or empty folder.")
        return None
    run = read_run(out)  # with --force too: nothing is removed that is not a run
    if force:
        return None
    differences = _differences(kept_config(out), config)
    if differences:
        shown = "; ".join(f"{key} is {old!r} there, {new!r} now" for key, old, new in differences[:3])
        raise RunError(
            f"{out}: holds a run of another configuration: {shown}. Give another folder, or --force to begin it anew."
        )
    lost = [task.file for task in run.tasks if task.done and not (out / task.file).exists()]
    if lost:
        raise RunError(f"{out}: the checkpoint {lost[0]} is gone. Put it back, or begin the run anew with --force.")
    return run


def make_folder(out: Path) -> None:
    """The run's folder, and those above it, where they are missing."""
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)


def clear(out: Path, config: FinetuneConfig) -> None:
    """Make `out` the folder of a run that has a configuration and nothing else; other people's files in it stay.

    The manifest goes first and the configuration is replaced whole: killed at any moment, the folder is either the old
    run or one that is to be begun.
    """
    with writing(out):
        (out / FILE).unlink(missing_ok=True)
        atomic.write_whole(out / CONFIG, config.to_yaml().encode())
        remove_scratch(out)
        for name in (SAMPLES, LOG, HEAD, BASE, TASKS, *KEPT):
            disk.remove(out / name)
        (out / TASKS).mkdir()


@contextlib.contextmanager
def writing(out: Path) -> Iterator[None]:
    """Inside, what a full disk or a path that cannot be written raises becomes a DiskFull or an OutputError."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:  # torch.save raises RuntimeError for a full disk
        told = str(error)
        if any(sign in told for sign in _NO_SPACE):
            raise DiskFull(
                f"{out}: the disk is full, or files may not grow so large ({_short(told)}). Make room; the same "
                f"command then goes on."
            ) from error
        if isinstance(error, OSError):
            raise OutputError(f"{out}: cannot be written: {error.strerror or error}. Give another -o RUN.") from error
        raise


def _short(told: str) -> str:
    return told.strip().splitlines()[0][:200]


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the run's folder against other processes. Raises RunError where one is at work on it."""
    busy = RunError(f"{out}: another process is at work on this run. Wait for it, or give another folder.")
    with locks.held(out, busy):
        yield


def kept_config(out: Path) -> FinetuneConfig:
    """The configuration that a run was begun with."""
    import yaml

    file = out / CONFIG
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RunError(f"{file}: the run's configuration cannot be read: {error}.") from error
    if not isinstance(found, dict):
        raise RunError(f"{file}: the run's configuration is not a mapping. Was it edited by hand?")
    return make_config({"held_out": 0, **found}, str(file))  # a run that does not say it trained on all samples


def holds_none_out(out: Path) -> bool:
    """Whether a run was begun there that trains on every sample."""
    return (out / FILE).is_file() and kept_config(out).held_out == 0


def run_config(out: Path) -> FinetuneConfig:
    """`kept_config` with paths that exist beside it made absolute: what finds the run's data again."""
    return anchored(kept_config(out), out)


def _differences(kept: FinetuneConfig, asked: FinetuneConfig) -> list[tuple[str, Any, Any]]:
    """Settings that make another run: (key, kept, asked). What is asked for as None was resolved: anything will do."""

    def flat(value: Any, at: str) -> dict[str, Any]:
        if isinstance(value, dict):
            return {k: v for key, part in value.items() for k, v in flat(part, f"{at}.{key}" if at else key).items()}
        if isinstance(value, list) and any(isinstance(part, dict) for part in value):
            return {k: v for i, part in enumerate(value) for k, v in flat(part, f"{at}[{i}]").items()}
        return {at: value}

    old, new = flat(kept.model_dump(mode="json"), ""), flat(asked.model_dump(mode="json"), "")
    return [
        (key, old.get(key), new.get(key))
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
        and not _INDIFFERENT.fullmatch(key)
        and not (_RESOLVED.fullmatch(key) and new.get(key) is None)
        and not (_PLACES.fullmatch(key) and _moved(old.get(key), new.get(key)))
    ]


def _moved(old: Any, new: Any) -> bool:
    """Whether two values are paths to something of one name: folders move, and samples are compared by contents."""
    return isinstance(old, str) and isinstance(new, str) and os.path.isabs(old) and Path(old).name == Path(new).name


def versions() -> dict[str, str]:
    """What the run was made with."""
    import accelerate
    import torch

    from prefmerge.version import __version__

    return {
        "prefmerge": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "accelerate": accelerate.__version__,
    }


def write_manifest(run: Run) -> None:
    """Replace `run.json`."""
    jsons.write(run.folder / FILE, run.to_json())


def samples_of(scenario: Scenario) -> dict[str, Any]:
    """The ids of every task's samples, as `samples.json` keeps them."""
    return {
        "tasks": [
            {
                "name": task.name,
                **{part: list(examples.ids) for part, examples in _parts(task)},
                **{f"{part}_labels": _labels(examples) for part, examples in _parts(task)},
                **{f"{part}_contents": examples.fingerprint(range(len(examples))) for part, examples in _parts(task)},
            }
            for task in scenario.tasks
        ]
    }


def _parts(task: Task) -> tuple[tuple[str, Examples], ...]:
    return ("train", task.train), ("test", task.test)


def _labels(examples: Examples) -> str:
    return xxhash.xxh3_128_hexdigest(examples.labels.astype("<i8").tobytes())


def check_samples(
    scenario: Scenario, out: Path, contents: Container[tuple[str, str]] = (), parts: Container[str] = ("train", "test")
) -> None:
    """Raise RunError unless the scenario has the very samples that the run in `out` was begun with.

    Ids and labels are compared in `parts`; contents, which means to read all files, for the pairs (task, "train" or
    "test") in `contents`.
    """
    file = out / SAMPLES
    try:
        kept = jsons.read(file)["tasks"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file}: the run's list of samples cannot be read: {error}.") from error
    begun = f"{out}: the data are not those that the run was begun with: "
    restore = "Restore the data, or begin another run."
    for old, task in zip(kept, scenario.tasks, strict=False):
        for part, examples in _parts(task):
            if part not in parts:
                continue
            before, now = old.get(part, []), list(examples.ids)
            if old.get("name") != task.name or before != now:
                gone, come = len(set(before) - set(now)), len(set(now) - set(before))
                order = "" if gone or come else ", another order"
                raise RunError(
                    f"{begun}the {part} samples of task {task.name!r} ({gone} gone, {come} new{order}). {restore}"
                )
            labels = old.get(f"{part}_labels")
            if labels is not None and labels != _labels(examples):
                raise RunError(f"{begun}labels of {part} samples of task {task.name!r} changed. {restore}")
            known = old.get(f"{part}_contents")
            if (task.name, part) in contents and known not in (None, examples.fingerprint(range(len(examples)))):
                raise RunError(f"{begun}contents of {part} samples of task {task.name!r} changed. {restore}")
    if len(kept) != len(scenario.tasks):
        raise RunError(
            f"{out}: the run was begun with {len(kept)} tasks, and the data make {len(scenario.tasks)} now. {restore}"
        )


def state_path(out: Path, index: int) -> Path:
    """The folder of what task `index` goes on from when it is interrupted."""
    return out / f"{_STATE}-{index + 1:02d}"


def remove_state(out: Path, index: int) -> None:
    """What only the task just done needed."""
    disk.remove(state_path(out, index))
    if index:
        disk.remove(fisher_file(out, index - 1))


def remove_scratch(out: Path) -> None:
    """What only an unfinished run needs."""
    for found in [*out.glob(f"{_STATE}-*"), *out.glob(f".{_STATE}-*"), *out.glob(f"{_FISHER}-*.safetensors")]:
        disk.remove(found)


def fisher_file(out: Path, index: int) -> Path:
    """EWC's Fisher information after task `index`, which the next task needs."""
    return out / f"{_FISHER}-{index + 1:02d}.safetensors"


def save_checkpoint(encoder: Encoder, folder: Path) -> None:
    """`Encoder.save` wants a new folder; what it wrote is moved up into the one that is published."""
    inner = folder / "checkpoint"
    encoder.save(inner)
    allowed = 0o666 & ~_umask()
    for file in inner.iterdir():
        if file.is_file():
            file.chmod(allowed)  # safetensors makes its files readable for their owner only
        file.rename(folder / file.name)
    inner.rmdir()


def _umask() -> int:
    """The permissions that new files do without; reading them means setting them."""
    now = os.umask(0o077)
    os.umask(now)
    return now
