"""What is in a run's folder, and who may write to it: begin, look, compare, publish, clean up.

The files are named in `prefmerge.runs`. Everything is replaced whole, so that a kill leaves the old or the new. A
folder that holds anything but a run is left alone, and a run of another configuration or of other samples is not gone
on with: the messages say what differs. Cost: small files, but for checkpoints. Leaves out: the training (`finetuning`).
"""

from __future__ import annotations

import json
import os
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefmerge.checkpoints import atomic
from prefmerge.continual.config import FinetuneConfig, make_config
from prefmerge.continual.scenarios import Scenario
from prefmerge.errors import OutputExists, RunError
from prefmerge.runs import FILE, Run, read_run

if TYPE_CHECKING:
    from prefmerge.continual.encoders.protocol import Encoder

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
_RESOLVED = re.compile(r"training\.(epochs|warmup_steps)|data\[\d+\]\.epochs")


def look(out: Path, config: FinetuneConfig, force: bool) -> Run | None:
    """The run to go on with, or None where one is to be begun."""
    if not out.exists():
        return None
    if not out.is_dir():
        raise OutputExists(f"{out}: is a file; a run is a folder. Give another -o RUN.")
    if not (out / FILE).exists():
        # A run that was killed while it began has a configuration, and no manifest yet.
        if any(out.iterdir()) and not (out / CONFIG).is_file():
            raise OutputExists(f"{out}: holds something that is not a run of prefmerge. Give a new or empty folder.")
        return None
    run = read_run(out)  # with --force too: nothing is removed that is not a run
    if force:
        for name in (FILE, CONFIG, SAMPLES, LOG, HEAD, BASE, TASKS):
            atomic.remove(out / name)
        remove_scratch(out)
        return None
    differences = _differences(kept_config(out), config)
    if differences:
        shown = "; ".join(f"{key} is {old!r} there, {new!r} now" for key, old, new in differences[:3])
        raise RunError(
            f"{out}: holds a run of another configuration: {shown}. Give another folder, or --force to begin it anew."
        )
    return run


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
    return make_config(found, str(file))


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
    ]


def versions() -> dict[str, str]:
    """What the run was made with."""
    import accelerate
    import torch

    import prefmerge

    return {
        "prefmerge": prefmerge.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "accelerate": accelerate.__version__,
    }


def write_manifest(run: Run) -> None:
    """Replace `run.json`."""
    atomic.write_whole(run.folder / FILE, (json.dumps(run.to_json(), indent=1) + "\n").encode())


def samples_of(scenario: Scenario) -> dict[str, Any]:
    """The ids of every task's samples, as `samples.json` keeps them."""
    return {
        "tasks": [
            {"name": task.name, "train": list(task.train.ids), "test": list(task.test.ids)} for task in scenario.tasks
        ]
    }


def check_samples(scenario: Scenario, out: Path) -> None:
    """Raise RunError unless the scenario has the very samples that the run in `out` was begun with."""
    file = out / SAMPLES
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))["tasks"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file}: the run's list of samples cannot be read: {error}.") from error
    now = samples_of(scenario)["tasks"]
    for old, new in zip(kept, now, strict=False):
        for part in ("train", "test"):
            if old.get("name") == new["name"] and old.get(part) == new[part]:
                continue
            gone, come = set(old.get(part, [])) - set(new[part]), set(new[part]) - set(old.get(part, []))
            raise RunError(
                f"{out}: the data are not those that the run was begun with: the {part} samples of task "
                f"{new['name']!r} ({len(gone)} gone, {len(come)} new{'' if gone or come else ', another order'}). "
                f"Restore the data, or begin another run."
            )
    if len(kept) != len(now):
        raise RunError(f"{out}: the run was begun with {len(kept)} tasks, and the data make {len(now)} now.")


def state_path(out: Path, index: int) -> Path:
    """The folder of what task `index` goes on from when it is interrupted."""
    return out / f"{_STATE}-{index + 1:02d}"


def remove_state(out: Path, index: int) -> None:
    """What only the task just done needed."""
    atomic.remove(state_path(out, index))
    if index:
        atomic.remove(fisher_file(out, index - 1))


def remove_scratch(out: Path) -> None:
    """What only an unfinished run needs."""
    for found in [*out.glob(f"{_STATE}-*"), *out.glob(f".{_STATE}-*"), *out.glob(f"{_FISHER}-*.safetensors")]:
        atomic.remove(found)


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
