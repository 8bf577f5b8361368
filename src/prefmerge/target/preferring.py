"""`prefmerge.prefer`: the preference for a target, from Python.

    chosen = prefmerge.prefer(run="my-run", labels="seen.csv")
    receipt = prefmerge.merge("base", ["cars", "birds"], "out", preference=chosen.preference)

Labels alone, inputs alone, or both as pairs; with nothing, every task gets the same share. Cost and errors: those of
`target.prefer`. Not here: how a preference is found, and printing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefmerge.errors import UsageError
from prefmerge.ground.progress import Counted
from prefmerge.ground.words import joined
from prefmerge.target import prefer as work
from prefmerge.target.prefer import FeatureKind, Preferred, Tasks

Where = str | Path

_USED = {  # what each case has a use for
    "labels": {"task_labels", "draws"},
    "pairs": {"draws", "out"},
    "inputs": {"similarity", "solver", "regularization", "gamma", "samples", "task_samples", "model", "draws"},
    "nothing": set[str](),
}


def prefer(
    *,
    run: Where | None = None,
    checkpoints: Sequence[Where] = (),
    labels: Where | None = None,
    inputs: Where | None = None,
    pairs: Where | None = None,
    similarity: FeatureKind | None = None,
    solver: str | None = None,
    regularization: float | None = None,
    gamma: float | None = None,
    samples: int | None = None,
    task_labels: Where | None = None,
    task_samples: Sequence[Where] = (),
    model: str | None = None,
    out: Where | None = None,
    draws: int | None = None,
    level: float = 0.9,
    seed: int = 0,
    progress: Counted | None = None,
) -> Preferred:
    """Find the preference for a target, and how sure it is.

        chosen = prefmerge.prefer(run="my-run", labels="seen.csv")
        chosen.shares, chosen.sure()
        prefmerge.merge("base", ["cars", "birds"], "out", preference=chosen.preference)

    Give `run`, or `checkpoints`, the base first. Give what you have of the target: `labels` (a CSV, a .txt or JSON
    counts), `inputs` (a folder of images or .txt files, a .txt, a CSV, or embeddings), or `pairs` (inputs with labels,
    which are searched with; needs `run`). With none of them every task gets the same share.

    Inputs are compared by `similarity`: "ot" (default; `solver`, `regularization`), "cosine" or "mmd"; `gamma` says how
    sharply distances become shares, and `samples` (500) how many of each task are encoded. Without a run,
    `task_labels` and `task_samples` are the tasks' own, and `model` is their encoder. `draws` (1000 for labels, 200
    for inputs; 0: none) and `level` make the interval on each share. `out` is where a search keeps its trials, a .json
    from which the same call resumes.

    Raises UsageError for arguments that make no sense together, DataError, RunError, EncoderError, MissingExtra.
    """
    sources = {"labels": labels, "inputs": inputs, "pairs": pairs}
    known = [name for name, source in sources.items() if source is not None]
    if len(known) > 1:
        raise UsageError(f"{joined(known)}: give one of them. Labels for the inputs are given as pairs.")
    if run is not None and checkpoints:
        raise UsageError(f"the run {run} says which checkpoints to take. Give run, or checkpoints.")
    case = known[0] if known else "nothing"
    transport = {"solver": solver, "regularization": regularization}
    how = {**transport, "similarity": similarity, "gamma": gamma, "samples": samples, "task_labels": task_labels}
    how |= {"task_samples": task_samples or None, "model": model, "draws": draws, "out": out}
    used = _USED[case] - (set(transport) if similarity in ("cosine", "mmd") else set())
    idle = next((name for name, value in how.items() if value is not None and name not in used), None)
    if idle is not None:
        raise UsageError(f"{idle} is of no use with {case if similarity is None else similarity}. Leave it out.")
    if not 0 < level < 1:
        raise UsageError(f"level is {level:g}; expected a number between 0 and 1, such as 0.9.")
    tasks = _tasks(run, checkpoints)
    drawn = {"draws": (200 if inputs is not None else 1000) if draws is None else draws, "level": level, "seed": seed}
    if labels is not None:
        return work.from_labels(tasks, Path(labels), task_labels=_path(task_labels), **drawn)
    if inputs is not None:
        from prefmerge.models.features import cache_folder

        settings = {name: how[name] for name in ("solver", "regularization", "gamma") if how[name] is not None}
        return work.from_features(
            tasks,
            Path(inputs),
            kind=similarity or "ot",
            settings=settings,
            samples=500 if samples is None else samples,
            task_samples=[Path(path) for path in task_samples],
            model=model,
            cache=cache_folder(),
            progress=progress,
            **drawn,
        )
    if pairs is not None:
        return work.from_pairs(tasks, Path(pairs), out=_path(out), progress=progress, **drawn)
    if tasks is None:
        raise UsageError("give run, or checkpoints with the base first; and labels, inputs or pairs of the target.")
    return work.from_nothing(tasks)


def _tasks(run: Where | None, checkpoints: Sequence[Where]) -> Tasks | None:
    if run is not None:
        return work.tasks_of_run(run)
    if not checkpoints:
        return None
    base, *tasks = map(Path, checkpoints)
    return work.tasks_of_checkpoints(base, tasks)


def _path(given: Where | None) -> Path | None:
    return None if given is None else Path(given)
