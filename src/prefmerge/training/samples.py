"""Which samples a run started with, and whether the data still have them.

    RUN/samples.json    for each task: ids of its training and test samples, hashes of labels and of contents

Cost: writing reads every sample once, for its hash; comparing reads those whose contents are asked for. Not here: what
a run keeps of its samples (`kept`).
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import xxhash

from prefmerge.data.examples import Examples, of_one_source
from prefmerge.data.scenarios import Scenario, Task
from prefmerge.errors import DataError, RunError
from prefmerge.ground import jsons
from prefmerge.ground.progress import phase
from prefmerge.ground.words import quoted

SAMPLES = "samples.json"  # in a run's folder
_RESTORE = "Restore the data, or start another run."
_SHOWN = 5  # tasks that a message lists


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


def require_different(samples: Mapping[str, Any]) -> None:
    """Raise DataError where two tasks of what `samples_of` gives have the same training samples, wherever they lie."""
    first: dict[str, str] = {}
    for task in samples["tasks"]:
        other = first.setdefault(task["train_contents"], task["name"]) if task["train"] else task["name"]
        if other != task["name"]:
            raise DataError(
                f"data: the training samples of task {task['name']!r} are those of task {other!r}. One data set was "
                "given twice; leave one out."
            )


@phase("checking the samples")
def changed_tasks(
    scenario: Scenario, out: Path, contents: Container[tuple[str, str]] = (), parts: Container[str] = ("train", "test")
) -> dict[int, str]:
    """The tasks whose samples are not those that the run in `out` started with, and the first thing that differs.

    Ids and labels are compared in `parts`; contents, which means to read all files, for the pairs (task, "train" or
    "test") in `contents`. Raises RunError where there are other tasks than then.
    """
    kept = _read(out)
    names = [task.name for task in scenario.tasks]
    if [old.get("name") for old in kept] != names:
        raise RunError(
            f"{out}: the data changed since the run started: it started with the tasks "
            f"{quoted((str(old.get('name')) for old in kept), _SHOWN)}, and the data make {quoted(names, _SHOWN)} now. "
            f"{_RESTORE}"
        )
    result: dict[int, str] = {}
    for index, (old, task) in enumerate(zip(kept, scenario.tasks, strict=True)):
        for part, examples in _parts(task):
            if part in parts and index not in result:
                differs = _difference(old, task.name, part, examples, (task.name, part) in contents)
                result |= {} if differs is None else {index: differs}
    return result


def check_samples(
    scenario: Scenario, out: Path, contents: Container[tuple[str, str]] = (), parts: Container[str] = ("train", "test")
) -> None:
    """Raise RunError unless the scenario has the very samples that the run in `out` started with, as far as
    `changed_tasks` compares them.
    """
    changed = changed_tasks(scenario, out, contents, parts)
    if changed:
        raise refusal(out, next(iter(changed.values())))


def refusal(out: Path, differs: str) -> RunError:
    """What to raise where samples that the run in `out` needs differ from those that it started with."""
    return RunError(f"{out}: the data changed since the run started: {differs}. {_RESTORE}")


def write_again(scenario: Scenario, out: Path, tasks: Collection[int]) -> None:
    """Write the samples of these tasks as they are now in place of what was there."""
    kept = _read(out)
    now = samples_of(replace(scenario, tasks=tuple(scenario.tasks[index] for index in sorted(tasks))))["tasks"]
    new = dict(zip(sorted(tasks), now, strict=True))
    jsons.write(out / SAMPLES, {"tasks": [new.get(index, old) for index, old in enumerate(kept)]}, indent=None)


def as_started(scenario: Scenario, out: Path) -> Scenario:
    """The scenario with the training and test samples that the run in `out` started with, as far as the data still have
    them: samples that were added since move no other one from training to test.
    """
    tasks = list(scenario.tasks)
    for index, (old, task) in enumerate(zip(_read(out), scenario.tasks, strict=False)):
        if all(old.get(part) == list(examples.ids) for part, examples in _parts(task)):
            continue
        whole = of_one_source([task.train, task.held_out, task.test])
        new = {part: _by_ids(old[part], examples, whole) for part, examples in _parts(task)}
        if len(new["test"]) == len(old["test"]):
            tasks[index] = replace(task, **new)
    same = all(new is old for new, old in zip(tasks, scenario.tasks, strict=True))
    return scenario if same else replace(scenario, tasks=tuple(tasks))


def _by_ids(ids: Collection[str], own: Examples, whole: Examples | None) -> Examples:
    """The samples with these ids, as far as there are any: of the part itself, or of all that its source has."""
    pool = own if whole is None or set(ids) <= set(own.ids) else whole
    at = {name: i for i, name in enumerate(pool.ids)}
    return pool.take([at[name] for name in ids if name in at])


def _read(out: Path) -> list[dict[str, Any]]:
    file = out / SAMPLES
    try:
        return list(jsons.read(file)["tasks"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file}: the run's list of samples cannot be read: {error}.") from error


def _difference(old: Mapping[str, Any], name: str, part: str, examples: Examples, contents: bool) -> str | None:
    before, now = old.get(part, []), list(examples.ids)
    if before != now:
        gone, come = len(set(before) - set(now)), len(set(now) - set(before))
        order = "" if gone or come else ", another order"
        return f"the {part} samples of task {name!r} ({gone} gone, {come} new{order})"
    labels = old.get(f"{part}_labels")
    if labels is not None and labels != _labels(examples):
        return f"labels of {part} samples of task {name!r} changed"
    known = old.get(f"{part}_contents")
    if contents and known not in (None, examples.fingerprint(range(len(examples)))):
        return f"contents of {part} samples of task {name!r} changed"
    return None
