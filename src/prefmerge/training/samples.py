"""Which samples a run started with, and whether the data still have them.

    RUN/samples.json    for each task: ids of its training and test samples, hashes of labels and of contents

Cost: writing reads every sample once, for its hash; comparing reads those whose contents are asked for. Not here: what
a run keeps of its samples (`kept`).
"""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Any

import xxhash

from prefmerge.data.examples import Examples
from prefmerge.data.scenarios import Scenario, Task
from prefmerge.errors import RunError
from prefmerge.ground import jsons

SAMPLES = "samples.json"  # in a run's folder


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
    """Raise RunError unless the scenario has the very samples that the run in `out` started with.

    Ids and labels are compared in `parts`; contents, which means to read all files, for the pairs (task, "train" or
    "test") in `contents`.
    """
    file = out / SAMPLES
    try:
        kept = jsons.read(file)["tasks"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file}: the run's list of samples cannot be read: {error}.") from error
    changed = f"{out}: the data changed since the run started: "
    restore = "Restore the data, or start another run."
    for old, task in zip(kept, scenario.tasks, strict=False):
        for part, examples in _parts(task):
            if part not in parts:
                continue
            before, now = old.get(part, []), list(examples.ids)
            if old.get("name") != task.name or before != now:
                gone, come = len(set(before) - set(now)), len(set(now) - set(before))
                order = "" if gone or come else ", another order"
                raise RunError(
                    f"{changed}the {part} samples of task {task.name!r} ({gone} gone, {come} new{order}). {restore}"
                )
            labels = old.get(f"{part}_labels")
            if labels is not None and labels != _labels(examples):
                raise RunError(f"{changed}labels of {part} samples of task {task.name!r} changed. {restore}")
            known = old.get(f"{part}_contents")
            if (task.name, part) in contents and known not in (None, examples.fingerprint(range(len(examples)))):
                raise RunError(f"{changed}contents of {part} samples of task {task.name!r} changed. {restore}")
    if len(kept) != len(scenario.tasks):
        raise RunError(
            f"{out}: the run started with {len(kept)} tasks, and the data make {len(scenario.tasks)} now. {restore}"
        )
