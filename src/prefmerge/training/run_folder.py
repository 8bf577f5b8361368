"""What is in a run's folder, and who may write to it: look, clear, publish, clean up.

The files are named in `prefmerge.runs`. Everything is replaced whole, so that a kill leaves the old or the new. A
folder that holds anything but a run is left alone, and a run of another configuration is not resumed: the message says
what differs. Cost: small files, but for checkpoints. Not here: the training (`finetuning`).
"""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from prefmerge.config import FinetuneConfig
from prefmerge.errors import DiskFull, OutputError, OutputExists, RunError
from prefmerge.ground import atomic, disk, jsons, locks
from prefmerge.ground.refused import remedy
from prefmerge.runs import FILE, Run, read_run
from prefmerge.training.config_file import CONFIG, differences, kept_config
from prefmerge.training.kept import FILES as KEPT
from prefmerge.training.samples import SAMPLES

if TYPE_CHECKING:
    from prefmerge.models.encoders.protocol import Encoder

LOG, HEAD, BASE, TASKS = "log.jsonl", "head.safetensors", "base", "tasks"
_STATE = "progress"  # what an interrupted task resumes from; -NN says which
_FISHER = "fisher"  # EWC's F after a task; -NN says which
_NO_SPACE = (
    "No space left",
    "Disk quota exceeded",
    "File too large",
    "file write failed",
    "unexpected pos",
    "iostream error",
)


def look(out: Path, config: FinetuneConfig, force: bool) -> Run | None:
    """The run to resume, or None where one is to start (by `clear`). Changes nothing."""
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
    others = differences(kept_config(out), config)
    if others:
        shown = "; ".join(f"{key} is {old!r} there, {new!r} now" for key, old, new in others[:3])
        raise RunError(
            f"{out}: holds a run of another configuration: {shown}. Give another folder, or --force to start over."
        )
    lost = [task.file for task in run.tasks if task.done and not (out / task.file).exists()]
    if lost:
        raise RunError(f"{out}: the checkpoint {lost[0]} is gone. Put it back, or start over with --force.")
    return run


def make_folder(out: Path) -> None:
    """The run's folder, and those above it, where they are missing."""
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)


def clear(out: Path, config: FinetuneConfig) -> None:
    """Make `out` the folder of a run that has a configuration and nothing else; other people's files in it stay.

    The manifest goes first and the configuration is replaced whole: killed at any moment, the folder is either the old
    run or one that is about to start.
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
        message = str(error)
        if any(sign in message for sign in _NO_SPACE):
            raise DiskFull(
                f"{out}: the disk is full, or files may not grow so large ({message.strip().splitlines()[0][:200]}). "
                "Make room; the same command then resumes."
            ) from error
        if isinstance(error, OSError):
            way = remedy(error, "Give another -o RUN.")
            raise OutputError(
                f"{error.filename or out}: cannot be written: {error.strerror or error}. {way}"
            ) from error
        raise


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Lock the run's folder for this process. Raises RunError where another is at work on it."""
    busy = RunError(f"{out}: another process is at work on this run. Wait for it, or give another folder.")
    with locks.held(out, busy):
        yield


def holds_none_out(out: Path) -> bool:
    """Whether the folder has a run that trains on every sample."""
    return (out / FILE).is_file() and kept_config(out).held_out == 0


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
    with writing(run.folder):
        jsons.write(run.folder / FILE, run.to_json())


def state_path(out: Path, index: int) -> Path:
    """The folder of what task `index` resumes from after an interruption."""
    return out / f"{_STATE}-{index + 1:02d}"


def remove_state(out: Path, index: int) -> None:
    """What only the task just done needed."""
    disk.remove(state_path(out, index))
    if index:
        disk.remove(fisher_file(out, index - 1))


def remove_scratch(out: Path) -> None:
    """What only an unfinished run needs."""
    for path in [*out.glob(f"{_STATE}-*"), *out.glob(f".{_STATE}-*"), *out.glob(f"{_FISHER}-*.safetensors")]:
        disk.remove(path)


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
