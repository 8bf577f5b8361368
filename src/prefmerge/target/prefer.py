"""From what a user has of the target to a preference, and how sure it is.

    labels     s_t = sum over c of r_c(D_t) r_c(target)                      (Tunable MAGMAX, eq. 7)
    inputs     s by label shift, as `adapt` estimates it (`estimated`)        (ours)
               or s_t = exp(-gamma OT(f_theta_t(D_t), f_theta_t(target)))    (section 3.3.1; or cosine, MMD)
    pairs      searched for: the preference and scale with the best accuracy on them    (section 3.3)
    nothing    uniform                                                       (case 4 of section 3.1)
    shares     = s_t / sum s,  with an interval on each: a bootstrap over the samples of the target (ours)

Algorithm 2, lines 4 to 6. Cost: labels: milliseconds, no torch. Inputs: what `embedded` says. Not here: the
similarities (`prefmerge.target.similarity`), the merge.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prefmerge.errors import PreferenceError, UsageError, require
from prefmerge.ground.progress import Counted
from prefmerge.ground.words import quoted
from prefmerge.preference import Preference
from prefmerge.target import given
from prefmerge.target import similarity as sim
from prefmerge.target.checkpoints import Checkpoints, file_entry, label_counts
from prefmerge.target.embedded import encode, read_embedded
from prefmerge.target.estimated import from_estimate
from prefmerge.target.parameters import PreferParameters, SearchParameters
from prefmerge.target.preferred import Preferred, check_output
from prefmerge.target.shares.doubts import of_intervals

FLAT = 1.2  # times the uniform share; where no task has more, a similarity says little
SHARP = 0.99  # share of one task; more than that is decided by gamma
_SHOWN = 3  # classes that a note lists


def prefer(asked: PreferParameters, cache: Path | None = None, progress: Counted | None = None) -> Preferred:
    """The preference that the parameters ask for, written to `asked.out` where a file is named. `cache`: the folder of
    embeddings. Raises OutputExists, OutputError, and what the functions below raise.
    """
    out, force = asked.out, asked.force or asked.pairs is not None
    if out is not None:
        check_output(out, force)
    checkpoints = None
    if asked.run is not None:
        checkpoints = Checkpoints.of_run(asked.run)
    elif asked.checkpoints:
        checkpoints = Checkpoints.of_paths(asked.checkpoints[0], asked.checkpoints[1:])
    how: dict[str, Any] = {"level": asked.level, "seed": asked.seed}
    if asked.draws is not None:
        how["draws"] = asked.draws
    if asked.labels is not None:
        made = from_labels(checkpoints, asked.labels, task_labels=asked.task_labels, **how)
    elif asked.inputs is not None and asked.kind == "estimate":
        made = from_estimate(
            checkpoints,
            asked.inputs,
            task_samples=asked.task_samples,
            model=asked.model,
            cache=cache,
            progress=progress,
            **how,
        )
    elif asked.inputs is not None:
        assert asked.kind != "estimate"
        settings = {name: getattr(asked, name) for name in ("solver", "regularization", "gamma")}
        made = from_inputs(
            checkpoints,
            asked.inputs,
            kind=asked.kind,
            settings={name: value for name, value in settings.items() if value is not None},
            samples=asked.samples or 500,
            task_samples=asked.task_samples,
            model=asked.model,
            cache=cache,
            progress=progress,
            **how,
        )
    elif asked.pairs is not None:
        made = from_pairs(checkpoints, asked.pairs, out=out, force=asked.force, progress=progress, **how)
    else:
        assert checkpoints is not None
        made = from_nothing(checkpoints)
    if out is not None:
        made.save(out, force)  # a search has written a preference there, and asked before
    return made


def from_nothing(checkpoints: Checkpoints) -> Preferred:
    """Nothing is known of the target: the same for every task."""
    count = len(checkpoints.names)
    return Preferred(checkpoints, Preference.uniform(), np.full(count, 1 / count), about={"case": "nothing"})


def from_labels(
    checkpoints: Checkpoints | None,
    labels: Path,
    *,
    task_labels: Path | None = None,
    draws: int = 1000,
    level: float = 0.9,
    seed: int = 0,
) -> Preferred:
    """The preference out of labels of the target (eq. 7). `task_labels`: a file of the tasks' own, where no run says
    them; with no `checkpoints` it names the tasks. `draws`: 0: no interval.

    Raises DataError where files cannot be read or more than half of the labels are no task's, UsageError where
    nothing says what the tasks have.
    """
    if draws:
        with _wrong_usage():
            sim.label_interval([{"": 1}], {"": 1}, ("task",), draws=draws, level=level)
    checkpoints, counts, where = label_counts(checkpoints, task_labels)
    classes = list(dict.fromkeys(name for one in counts for name in one))
    matched = given.matched(given.read_labels(labels), classes)
    matched.require_half(classes, f"{labels}: ")
    similarity = sim.label(counts, matched.known, checkpoints.names)
    notes = [*matched.note(), *_shared(counts)]
    interval = None
    if draws:
        interval = sim.label_interval(counts, matched.known, checkpoints.names, draws=draws, level=level, seed=seed)
    about = {
        "case": "labels",
        "seed": seed,
        "draws": draws,
        "labels": dict(matched.known),
        "unknown_labels": dict(matched.unknown),
        "tasks_label_counts": dict(zip(checkpoints.names, map(dict, counts), strict=True)),
        "inputs": {"labels": file_entry(labels), "tasks": where},
    }
    return _preferred(checkpoints, similarity, interval, matched.known.total(), level, notes, about)


def from_inputs(
    checkpoints: Checkpoints | None,
    inputs: Path,
    *,
    kind: sim.FeatureKind = "ot",
    settings: Mapping[str, Any] | None = None,
    samples: int = 500,
    task_samples: Sequence[Path] = (),
    model: str | None = None,
    draws: int = 200,
    level: float = 0.9,
    seed: int = 0,
    batch: int = 256,
    cache: Path | None = None,
    progress: Counted | None = None,
) -> Preferred:
    """The paper's preference out of inputs of the target (section 3.3.1), or of their embeddings (.npy, .npz).

    `settings`: those of the similarity. `samples` of each task's are taken, chosen by `seed`. `task_samples`: where
    they lie, else the run's own. `model`: the encoder that the checkpoints are of, else the run's, else the base.
    Raises DataError, EncoderError, CheckpointMismatch; UsageError where samples or the model are not known.
    """
    _try(kind, settings or {}, draws, level)
    if inputs.suffix.lower() in given.EMBEDDED:
        checkpoints, embedded = read_embedded(checkpoints, inputs, task_samples, samples, seed)
    else:
        if checkpoints is None or not checkpoints.paths:
            raise UsageError("--inputs are encoded by the checkpoints: give --run RUN, or BASE TASK...")
        embedded = encode(
            checkpoints,
            inputs,
            task_samples,
            model,
            samples=samples,
            seed=seed,
            batch=batch,
            cache=cache,
            progress=progress,
        )
    ours, theirs, names = embedded.tasks, embedded.target, checkpoints.names
    similarity = sim.KINDS[kind](ours, theirs, names, **(settings or {}))
    interval = None
    if draws:
        interval = sim.feature_interval(
            kind, ours, theirs, names, draws=draws, level=level, seed=seed, **(settings or {})
        )
    about = {
        "case": "features",
        "seed": seed,
        "draws": draws,
        "samples_of_tasks": [len(one) for one in ours],
        "inputs": embedded.about,
    }
    return _preferred(checkpoints, similarity, interval, len(theirs[0]), level, embedded.notes, about)


def from_pairs(
    checkpoints: Checkpoints | None,
    pairs: Path,
    *,
    out: Path | None = None,
    force: bool = False,
    draws: int = 1000,
    level: float = 0.9,
    seed: int = 0,
    progress: Counted | None = None,
) -> Preferred:
    """The preference, and what goes with it, that does best on inputs with labels; `beside` is the label preference.

    `out`: a .json for the preference, with the search in a folder beside it, from which the same call resumes; None:
    nowhere. `progress`: trials done, trials at most. Raises what `search` raises, and UsageError.
    """
    if checkpoints is None or checkpoints.run is None:
        raise UsageError(
            "--pairs are searched with over the tasks of a run: give --run RUN. For other checkpoints take the labels "
            "alone: --labels FILE --task-labels FILE."
        )
    if out is not None and out.suffix != ".json":
        raise UsageError(f"-o {out}: a search keeps its trials beside the preference, which must be called NAME.json.")
    from prefmerge.training.opened import open_tasks

    require("searching with samples", "places", "accelerate", "torch", "optuna")
    from prefmerge.target.search import search_by_accuracy

    run, names = checkpoints.run, checkpoints.names
    _, _, scenario = open_tasks(run.folder)
    classes = [one.name for one in scenario.classes]
    examples, notes = given.read_pairs(pairs, classes, scenario.inputs)
    seen = {classes[label]: n for label, n in examples.label_counts().items()}
    counts = [task.label_counts for task in run.tasks]
    interval, labels = None, sim.label(counts, seen, names)
    if draws:
        with _wrong_usage():
            interval = sim.label_interval(counts, seen, names, draws=draws, level=level, seed=seed)
    samples = sum(seen.values())
    beside = _preferred(checkpoints, labels, interval, samples, level, _shared(counts), {"case": "labels"})
    result = search_by_accuracy(
        SearchParameters(run=run.folder, pairs=pairs, out=out, paper=True, seed=seed, force=force),
        None if progress is None else lambda _, __, done, most: progress(done, most),
    )
    preference = result.preference or Preference.uniform()
    about = {
        "case": "pairs",
        "seed": seed,
        "labels": seen,
        "labels_alone": {
            "shares": beside.shares.tolist(),
            "intervals": None if interval is None else np.stack([interval.low, interval.high], axis=1).tolist(),
        },
        "search": {name: value for name, value in result.to_json().items() if name not in ("trials", "tasks")},
    }
    return Preferred(
        checkpoints,
        preference,
        np.array([float(share) for share in preference.shares(names)]),
        samples,
        level,
        settings={name: str(value) for name, value in result.settings.items() if name not in ("preference", "method")},
        beside=beside,
        verdict=result.verdict,
        notes=notes,
        about=about,
    )


def _try(kind: sim.FeatureKind, settings: Mapping[str, Any], draws: int, level: float) -> None:
    """Fail for a setting that makes no sense, or a library that is absent, before anything is encoded."""
    some, names = [np.eye(2)], ("task",)
    with _wrong_usage():
        sim.KINDS[kind](some, some, names, **settings)
        if draws:
            sim.feature_interval(kind, some, some, names, draws=draws, level=level, **settings)


@contextlib.contextmanager
def _wrong_usage() -> Iterator[None]:
    """Inside, what the similarities refuse is wrong usage: the parameters are all that is new."""
    try:
        yield
    except PreferenceError as error:
        raise UsageError(str(error)) from error


def _preferred(
    checkpoints: Checkpoints,
    similarity: sim.Similarity,
    interval: sim.Interval | None,
    samples: int,
    level: float,
    notes: Sequence[str],
    about: Mapping[str, Any],
) -> Preferred:
    shares = similarity.shares()
    doubt = None
    if interval is not None:
        source = "labels" if similarity.kind == "label" else "inputs"
        doubt, _ = of_intervals(checkpoints.names, interval.low, interval.high, samples, source)
    return Preferred(
        checkpoints,
        similarity.preference(),
        shares,
        samples,
        level,
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
        similarity=similarity,
        doubts=() if doubt is None else (doubt,),
        notes=(*notes, *_doubts(similarity, shares, interval if doubt is None else None)),
        about=about,
    )


def _doubts(similarity: sim.Similarity, shares: np.ndarray, interval: sim.Interval | None) -> list[str]:
    """What must not be read into the shares."""
    count = len(shares)
    notes = []
    if count > 1 and shares.max() <= FLAT / count:
        notes.append(
            f"the similarity is nearly uniform: no task has more than {FLAT:g} times an equal share. It says little "
            "about this target."
        )
    elif count > 1 and interval is not None and np.all((interval.low <= 1 / count) & (1 / count <= interval.high)):
        notes.append("every interval holds an equal share: these samples do not show that the target prefers any task.")
    if count > 1 and similarity.kind != "label" and shares.max() > SHARP:
        first, second = np.sort(similarity.distances)[:2]
        notes.append(
            f"nearly all goes to one task: the smallest distance is {first:.4g}, the next {second:.4g}, and gamma is "
            f"{similarity.settings.get('gamma', 'fixed')}. A smaller --gamma divides more evenly."
        )
    return notes


def _shared(counts: Sequence[Mapping[str, int]]) -> list[str]:
    holders = Counter(name for one in counts for name, count in one.items() if count)
    shared = [name for name, count in holders.items() if count > 1]
    if not shared:
        return []
    return [
        f"{len(shared)} of {len(holders)} classes are in several tasks ({quoted(shared, _SHOWN)}): labels alone "
        "cannot tell which of these tasks a sample is of."
    ]
