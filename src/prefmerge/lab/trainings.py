"""The runs that a recipe trains: `prefmerge finetune`, a process for each, below OUT/runs.

Finished ones are kept, interrupted ones resume. Cost: that of the trainings, several at a time. Not here: what training
does, and whether the runs fit together (`prepare`).
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from prefmerge.errors import OutputError, RunError
from prefmerge.ground import atomic
from prefmerge.lab.recipe import Experiment, training_config
from prefmerge.runs import read_run


def train(recipe: Experiment, out: Path, jobs: int, say: Callable[[str], None]) -> dict[str, list[str]]:
    """Train the runs that are not finished, `jobs` at a time. Returns the folders of all, by training."""
    folder = out / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    todo: list[tuple[Path, Path]] = []
    folders: dict[str, list[str]] = {}
    for training, seed, target in _asked(recipe, out):
        file = target.with_suffix(".yaml")
        write_text(file, training_config(recipe, training, seed).to_yaml())
        folders.setdefault(training, []).append(str(target))
        if not _trained(target, file):
            todo.append((file, target))
    if jobs == 1 or len(todo) < 2:
        for number, (file, target) in enumerate(todo, start=1):
            say(f"Training {target.name} ({number} of {len(todo)}).")
            _train_one(file, target, None)
        return folders
    say(f"Training {len(todo)} runs, {jobs} at a time; each writes its progress to {folder}/NAME.log.")
    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(_train_one, *job, folder / f"{job[1].name}.log") for job in todo]
        for one in waiting:
            one.result()
    return folders


def untrained(recipe: Experiment, out: Path) -> list[str]:
    """The runs that the recipe trains and that are not there yet."""
    if recipe.runs is not None:
        return []
    targets = [target for _, _, target in _asked(recipe, out)]
    return [target.name for target in targets if not _trained(target, target.with_suffix(".yaml"))]


def _asked(recipe: Experiment, out: Path) -> Iterator[tuple[str, int, Path]]:
    """(training, seed, folder) of every run that the recipe trains."""
    for training, seeds in recipe.wanted().items():
        for seed in seeds:
            yield training, seed, out / "runs" / f"{training}-seed-{seed}"


def _trained(target: Path, file: Path) -> bool:
    """Whether the run in `target` is finished, by this very configuration."""
    try:
        finished = read_run(target).finished
        return finished and (target / "config.yaml").read_text(encoding="utf-8") == file.read_text(encoding="utf-8")
    except (RunError, OSError):
        return False


def _train_one(file: Path, target: Path, log: Path | None) -> None:
    """One `prefmerge finetune`, in a process of its own; it resumes an interrupted run."""
    command = [sys.executable, "-m", "prefmerge", "finetune", str(file), "-o", str(target)]
    with open(log, "ab") if log else contextlib.nullcontext() as stderr:
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=stderr, check=False)
    if done.returncode:
        why = f" {log.read_text(errors='replace').strip().splitlines()[-1]}" if log and log.stat().st_size else ""
        raise RunError(f"training {target} ended with exit code {done.returncode}.{why}")


def write_text(path: Path, text: str) -> None:
    """Write a file unless it holds this text already. Raises OutputError."""
    try:
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            atomic.write_whole(path, text.encode())
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error}.") from error
