"""From finished cells to results: right answers by environment and by task.

    Score at an environment:  right = sum of the answers in its rows,   samples = digest of the ids of these rows

Every score is checked: the ids that a model was judged on must be those of the environment in environments.json. Cost:
one file a cell. Not here: means and tables.
"""

from __future__ import annotations

import contextlib
import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefmerge.errors import DataError
from prefmerge.ground import jsons
from prefmerge.lab.cells import Cell
from prefmerge.lab.entries import ALONE
from prefmerge.lab.environments import Environment
from prefmerge.lab.kinds import Grades, Likenesses, OnAll, R, Searched
from prefmerge.lab.plan import Use
from prefmerge.lab.prepare import Ready
from prefmerge.lab.results import SHARED, Results, Score, Shown, TaskScores
from prefmerge.lab.samples import ids_digest

if TYPE_CHECKING:
    from prefmerge.analysis import Measured

_OTHER = (
    "it was judged on other samples than the environments in environments.json have. Remove the folder `cells` and run "
    "the same command again."
)


def collect(ready: Ready, failed: Mapping[str, str]) -> Results:
    """All that the finished cells say, and what is missing. `failed`: why a cell was not done, by key. Writes the
    measurements of the task vectors to OUT/analysis. Raises DataError where a cell was judged on other samples.
    """
    work, finished = ready.work, _Finished(ready, failed)
    task_scores = [one for use in (*work.fixed, *work.alphas, *work.models) for one in _on_all(finished, use)]
    scores = [one for use in work.fixed for one in _at_environments(finished, use)]
    shown = [one for use in work.similarities for one in _shown(finished, use)]
    scores += [one for use in work.targets for one in _at_target(finished, use)]
    for use in work.checkpoints:  # what was chosen by them is in other cells
        finished.result(use.cell)
    for use in work.measures:
        _write_measured(finished, use)
    return Results(
        title=ready.recipe.title or "experiment",
        tasks=ready.samples.names,
        seeds=tuple(one.seed for one in ready.runs["sequential"]),
        scales=ready.recipe.scales,
        environments=tuple(ready.samples.environments.values()),
        scores=tuple(scores),
        task_scores=tuple(task_scores),
        similarities=tuple(shown),
        paper={key: value for key, value in ready.recipe.paper.model_dump().items() if value is not None},
        missing=tuple(dict.fromkeys(finished.missing)),
        about=_about(ready),
    )


class _Finished:
    """The results of the cells, and in words those that are missing."""

    def __init__(self, ready: Ready, failed: Mapping[str, str]) -> None:
        self.ready, self.failed = ready, failed
        self.samples = ready.samples
        self.missing: list[str] = []

    def result(self, cell: Cell[R]) -> R | None:
        result = cell.load(self.ready.out)
        if result is None:
            self.missing.append(f"{cell.called}: {self.failed.get(cell.key, 'it was not computed')}")
        return result

    def answers(self, cell: Cell[OnAll]) -> Iterator[tuple[str, np.ndarray]]:
        """(scale, right or wrong for every test sample)."""
        result = self.result(cell)
        for scale, answers in ({} if result is None else result.scales).items():
            if answers.samples != self.samples.all_digest:
                raise DataError(f"{cell.called}: {_OTHER}")
            yield scale, answers.right


def _on_all(finished: _Finished, use: Use[OnAll]) -> Iterator[TaskScores]:
    samples = finished.samples
    for scale, right in finished.answers(use.cell):
        by_task = samples.by_task(right)
        yield TaskScores(use.study, use.name, use.training, scale, use.cell.seed, by_task, samples.sizes, use.alpha)


def _at_environments(finished: _Finished, use: Use[OnAll]) -> Iterator[Score]:
    """What a merge that is the same for every target does at each environment of the studies that ask for it."""
    ready, samples, result = finished.ready, finished.samples, finished.result(use.cell)
    names = {study: {entry.name for entry in entries} for study, entries in ready.recipe.entries().items()}
    there = [
        (study, place)
        for study, environments in ready.environments.items()
        for place in (environments if use.name in names.get(study, ()) else ())
    ]
    for scale, right in finished.answers(use.cell):
        for study, place in there:
            rows = samples.judged(place.key)
            yield _score(study, use, use.name, scale, place, Grades(right[rows], samples.digest(rows)))
    for study, place in there if result is not None and use.prior else ():
        assert result is not None
        for scale, answers in result.prior[place.key].items():
            yield _score(study, use, use.prior, scale, place, answers)


def _at_target(finished: _Finished, use: Use[Any]) -> Iterator[Score]:
    result = finished.result(use.cell)
    if result is None:
        return
    place = finished.samples.environments[use.environment]
    if isinstance(result, Searched):
        yield _score(use.study, use, use.name, "", place, result.answers, result.shares, result.chosen)
        return
    for name, scales in ((use.name, result.scales), (use.prior, result.prior)):
        for scale, answers in scales.items() if name else ():
            # Of `adapt`, what it chose with the prior: without it, it may choose another.
            chosen = None if name.endswith(ALONE) else (result.chosen or {}).get(scale)
            score = _score(use.study, use, name, scale, place, answers, result.shares, chosen)
            yield replace(score, estimate=result.estimate) if name == use.prior else score


def _score(
    study: str,
    use: Use[Any],
    name: str,
    scale: str,
    place: Environment,
    answers: Grades,
    shares: tuple[float, ...] | None = None,
    chosen: str | None = None,
) -> Score:
    n = len(answers.right)
    if answers.samples != ids_digest(place.test_ids) or n != len(place.test_ids):
        raise DataError(f"{name} on {place.title}: {_OTHER}")
    right, seed = int(answers.right.sum()), use.cell.seed
    return Score(study, name, scale, seed, place.name, place.variant, right, n, answers.samples, shares, chosen)


def _shown(finished: _Finished, use: Use[Likenesses]) -> Iterator[Shown]:
    result = finished.result(use.cell)
    for kind, by_key in ({} if result is None else result.kinds).items():
        for key, place in finished.samples.environments.items():
            truth = place.truth(finished.samples.names)
            yield Shown(use.cell.seed, place.name, place.variant, kind, by_key[key].shares, truth)


def _write_measured(finished: _Finished, use: Use[Measured]) -> None:
    measured = finished.result(use.cell)
    if measured is not None:
        write(finished.ready.out / "analysis" / f"{use.training}.json", measured.to_json())


def write(path: Path, data: Any) -> None:
    """Write JSON to a file, in a folder that is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    jsons.write(path, data)


def _about(ready: Ready) -> dict[str, Any]:
    """How the numbers were made: recipe, versions, machine. Nothing that differs between two equal calls."""
    import torch
    import transformers

    from prefmerge.merging.limits import available_cores
    from prefmerge.version import __version__

    d = sum(info.size for info in _base(ready).values())
    return {
        "recipe": ready.recipe.model_dump(mode="json"),
        **_data(ready),
        "runs": {training: [one.identity for one in several] for training, several in ready.runs.items()},
        "parameters": d,
        "versions": {
            "prefmerge": __version__,
            "numpy": np.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "hardware": {
            "machine": platform.machine(),
            "cores": available_cores(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def _data(ready: Ready) -> dict[str, Any]:
    """What the tasks are made of; and, where classes belong to several tasks, how many: labels say less there."""
    from prefmerge.training.config_file import run_config

    run = ready.runs["sequential"][0].run
    counts = Counter(name for task in run.tasks for name in set(task.classes))
    shared = sum(count > 1 for count in counts.values())
    return {
        "data": [Path(one.name).name for one in run_config(run.folder).data],
        "scenario": run.about.get("scenario"),
        **({SHARED: [shared, len(counts)]} if shared else {}),
    }


def _base(ready: Ready) -> dict[str, Any]:
    from prefmerge.checkpoints import open_checkpoint

    with contextlib.closing(open_checkpoint(ready.runs["sequential"][0].run.base_path)) as base:
        return {name: info for name, info in base.tensors.items() if info.dtype.family == "float"}
