"""From what a user has of a place to a preference, and how sure it is.

    labels     s_t = sum over c of r_c(D_t) r_c(place)                       (Tunable MAGMAX, eq. 7)
    inputs     s_t = exp(-gamma OT(f_theta_t(D_t), f_theta_t(place)))        (section 3.3.1; or cosine, MMD)
    both       searched for: the preference and scale with the best accuracy on them    (section 3.3)
    nothing    uniform                                                       (case 4 of section 3.1)
    shares     = s_t / sum s,  with an interval on each: a bootstrap over the samples of the place (ours)

Algorithm 2, lines 4 to 6. Cost: labels: milliseconds, no torch. Inputs: each theta_t is loaded once and reads at most
`samples` inputs of its task and `PLACE` of the place, or finds them in the cache, from which a killed call goes on;
T (samples + PLACE) E numbers in memory. Leaves out: the similarities (`prefmerge.target.similarity`), the merge.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from prefmerge.checkpoints.protocol import name_of
from prefmerge.errors import (
    CheckpointNotFound,
    DataError,
    OutputError,
    OutputExists,
    PreferenceError,
    RunError,
    UsageError,
)
from prefmerge.ground import jsons
from prefmerge.ground.progress import Counted
from prefmerge.ground.store import digest_of_file
from prefmerge.ground.words import counted, listed, quoted
from prefmerge.preference import Preference
from prefmerge.runs import Run, read_run, require_finished
from prefmerge.target import given as places
from prefmerge.target import similarity as sim

if TYPE_CHECKING:
    from prefmerge.data.examples import Examples
    from prefmerge.models.encoders.protocol import Encoder

FORMAT = "prefmerge-prefer/1"  # of `about` in preference.json
PLACE = 2000  # samples of the place that are encoded at most; transport between 500 and 2,000 points takes seconds
FLAT = 1.2  # times the uniform share; where no task has more, a similarity tells little
SHARP = 0.99  # share of one task; more than that is decided by gamma
_SHOWN = 3  # unknown labels that a note lists

FeatureKind = Literal["ot", "cosine", "mmd"]


@dataclass(frozen=True)
class Tasks:
    """What is to be merged: the names of the T tasks in the order of training, and where the checkpoints are."""

    names: tuple[str, ...]
    run: Run | None = None
    base: Path | None = None
    checkpoints: tuple[Path, ...] = ()  # theta_1 to theta_T; () where only names are known


@dataclass(frozen=True)
class Preferred:
    """A preference with its reasons. `shares`, `low` and `high` are (T,) float64."""

    tasks: Tasks
    preference: Preference
    shares: np.ndarray
    samples: int = 0  # of the place
    level: float = 0.9  # confidence of the interval
    low: np.ndarray | None = None  # None: no interval was asked for, or there is nothing to draw from
    high: np.ndarray | None = None
    similarity: sim.Similarity | None = None
    settings: Mapping[str, str] = field(default_factory=dict)  # of `merge`, which a search found with the preference
    beside: Preferred | None = None  # what the labels alone say, where a search went beyond them
    verdict: str | None = None  # of a search, in words
    notes: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    def sure(self) -> str | None:
        """How sure the largest share, or what was searched for, is, in words."""
        if self.verdict is not None:
            return self.verdict
        if self.low is None or self.high is None:
            return None
        top = int(np.argmax(self.shares))
        return (
            f"{counted(self.samples, 'sample')}: with {100 * self.level:g} % confidence {self.tasks.names[top]} has "
            f"{100 * self.low[top]:.0f} to {100 * self.high[top]:.0f} %."
        )

    def to_json(self) -> dict[str, Any]:
        """What preference.json holds: the preference, which `Preference.load` reads, and `about`: how it was made."""
        both = None if self.low is None or self.high is None else np.stack([self.low, self.high], axis=1)
        return {
            **self.preference.to_json(),
            "about": {
                "format": FORMAT,
                "tasks": list(self.tasks.names),
                "shares": self.shares.tolist(),
                "intervals": None if both is None else both.tolist(),
                "level": self.level,
                "samples": self.samples,
                "similarity": None if self.similarity is None else self.similarity.to_json(),
                "settings": dict(self.settings),
                **self.about,
                "notes": list(self.notes),
                "versions": _versions(),
            },
        }

    def save(self, path: str | Path, force: bool = False) -> None:
        """Write `to_json` whole or not at all. Raises OutputExists, unless forced, and OutputError."""
        path = Path(path)
        check_output(path, force)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                jsons.write(path, self.to_json(), replace=force)
            except FileExistsError:  # it has appeared since
                check_output(path, force)
                raise
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}. Give another -o FILE.") from error


def check_output(path: Path, force: bool = False) -> None:
    """Raise OutputExists where a preference could not be saved, before anything is computed."""
    if path.is_dir():
        raise OutputExists(
            f"{path}: is a folder; a preference is a file. Give for instance {path / 'preference.json'}."
        )
    if path.exists() and not force:
        raise OutputExists(f"{path}: exists already. Give another -o FILE, or --force to replace it.")


def tasks_of_run(folder: str | Path) -> Tasks:
    """The tasks of a finished run. Raises RunError."""
    run = read_run(folder)
    if run.training == "joint":
        raise RunError(
            f"{folder}: a joint run has one checkpoint of all tasks, and nothing to prefer. Give a run that has one "
            "checkpoint per task."
        )
    require_finished(run)
    checkpoints = tuple(run.task_path(index) for index in range(len(run.tasks)))
    return Tasks(tuple(task.name for task in run.tasks), run, run.base_path, checkpoints)


def tasks_of_checkpoints(base: Path, tasks: Sequence[Path]) -> Tasks:
    """Tasks called as `merge` calls them: by the stem of the file, or the name of the folder."""
    if not tasks:
        raise UsageError(f"{base} is the base, and no task follows it: give BASE TASK... in the order of training.")
    for path in (base, *tasks):
        if not path.exists():
            raise CheckpointNotFound(f"{path}: no such file or folder. Give BASE TASK... in the order of training.")
    names = tuple(name_of(path) for path in tasks)
    for i, name in enumerate(names):
        if name in names[:i]:
            raise UsageError(f"two tasks are called {name!r}: {tasks[names.index(name)]} and {tasks[i]}. Rename one.")
    return Tasks(names, None, base, tuple(tasks))


def from_nothing(tasks: Tasks) -> Preferred:
    """Nothing is known of the place: the same for every task."""
    count = len(tasks.names)
    return Preferred(tasks, Preference.uniform(), np.full(count, 1 / count), about={"case": "nothing"})


def from_labels(
    tasks: Tasks | None,
    labels: Path,
    *,
    task_labels: Path | None = None,
    draws: int = 1000,
    level: float = 0.9,
    seed: int = 0,
) -> Preferred:
    """The preference out of the labels of a place (eq. 7). `task_labels`: a file of the tasks' own, where no run says
    them; with no `tasks` it names them. `draws`: 0: no interval.

    Raises DataError where files cannot be read or no label is any task's, UsageError where the tasks' are not known.
    """
    if draws:
        with _wrong_usage():
            sim.label_interval([{"": 1}], {"": 1}, ("task",), draws=draws, level=level)
    tasks, counts, where = label_counts(tasks, task_labels)
    found = places.matched(places.read_labels(labels), [name for one in counts for name in one])
    if not found.known:
        raise DataError(f"{labels}: {_none_known(found, counts)}")
    similarity = sim.label(counts, found.known, tasks.names)
    notes = [*_unknown(found), *_shared(counts)]
    interval = None
    if draws:
        interval = sim.label_interval(counts, found.known, tasks.names, draws=draws, level=level, seed=seed)
    about = {
        "case": "labels",
        "seed": seed,
        "draws": draws,
        "labels": dict(found.known),
        "unknown_labels": dict(found.unknown),
        "tasks_label_counts": dict(zip(tasks.names, map(dict, counts), strict=True)),
        "inputs": {"labels": _file_entry(labels), "tasks": where},
    }
    return _preferred(tasks, similarity, interval, found.known.total(), level, notes, about)


def from_pairs(
    tasks: Tasks | None,
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

    `out`: a .json for the preference, with the search in a folder beside it, from which the same call goes on; None:
    nowhere. `progress`: trials done, trials at most. Raises what `search` raises, and UsageError.
    """
    if tasks is None or tasks.run is None:
        raise UsageError(
            "--pairs are searched with over the tasks of a run: give --run RUN. For other checkpoints take the labels "
            "alone: --labels FILE --task-labels FILE."
        )
    if out is not None and out.suffix != ".json":
        raise UsageError(f"-o {out}: a search keeps its trials beside the preference, which must be called NAME.json.")
    from prefmerge.training.finetuning import require_train
    from prefmerge.training.opened import open_tasks

    require_train("searching with samples")
    from prefmerge.target.search import search

    _, _, scenario = open_tasks(tasks.run.folder)
    classes = [one.name for one in scenario.classes]
    seen = {classes[label]: n for label, n in places.read_pairs(pairs, classes, scenario.inputs).label_counts().items()}
    counts = [task.label_counts for task in tasks.run.tasks]
    interval, labels = None, sim.label(counts, seen, tasks.names)
    if draws:
        with _wrong_usage():
            interval = sim.label_interval(counts, seen, tasks.names, draws=draws, level=level, seed=seed)
    samples = sum(seen.values())
    beside = _preferred(tasks, labels, interval, samples, level, _shared(counts), {"case": "labels"})
    found = search(
        tasks.run.folder,
        pairs,
        out,
        seed=seed,
        force=force,
        progress=None if progress is None else lambda _, __, done, most: progress(done, most),
    )
    preference = found.preference or Preference.uniform()
    data = found.to_json()
    return Preferred(
        tasks,
        preference,
        np.array([float(share) for share in preference.shares(tasks.names)]),
        samples,
        level,
        settings={name: str(value) for name, value in found.settings.items() if name not in ("preference", "method")},
        beside=beside,
        verdict=found.verdict,
        about={
            "case": "pairs",
            "seed": seed,
            "labels": seen,
            "labels_alone": {
                "shares": beside.shares.tolist(),
                "intervals": None if interval is None else np.stack([interval.low, interval.high], axis=1).tolist(),
            },
            "search": {name: value for name, value in data.items() if name not in ("trials", "tasks")},
        },
    )


def label_counts(
    tasks: Tasks | None, task_labels: Path | None
) -> tuple[Tasks, list[Mapping[str, int]], dict[str, Any]]:
    """Per task how often each class occurs in its training samples, and where that is from."""
    if task_labels is not None:
        found = places.read_task_labels(task_labels)
        tasks = tasks or Tasks(tuple(found))
        lacking = [name for name in tasks.names if name not in found]
        beyond = [name for name in found if name not in tasks.names]
        if lacking or beyond:
            what = f"lacks task {lacking[0]!r}" if lacking else f"has {beyond[0]!r}, which is none of the tasks"
            raise DataError(
                f"{task_labels}: {what}. It has {', '.join(found)}; the tasks are {', '.join(tasks.names)}. Give "
                "counts for each, under the same names."
            )
        return tasks, [found[name] for name in tasks.names], _file_entry(task_labels)
    if tasks is None or tasks.run is None:
        raise UsageError(
            "--labels are held against those that the tasks were trained on: give --run RUN, or --task-labels FILE "
            "with the number of samples per task and class."
        )
    empty = next((task.name for task in tasks.run.tasks if not task.label_counts), None)
    if empty is not None:
        raise RunError(
            f"{tasks.run.folder}: its manifest has no label counts for task {empty!r}. Give them as --task-labels FILE."
        )
    return tasks, [task.label_counts for task in tasks.run.tasks], {"run": str(tasks.run.folder)}


def from_features(
    tasks: Tasks | None,
    features: Path,
    *,
    kind: FeatureKind = "ot",
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
    """The preference out of inputs of a place (section 3.3.1), or of their embeddings (.npy, .npz).

    `settings`: those of the similarity. `samples` of each task's are taken, chosen by `seed`. `task_samples`: where
    they lie, else the run's own. `model`: the encoder that the checkpoints are of, else the run's, else the base.
    Raises DataError, EncoderError, CheckpointMismatch; UsageError where samples or the model are not known.
    """
    _try(kind, settings or {}, draws, level)
    if features.suffix.lower() in places.EMBEDDED:
        tasks, embedded = _read(tasks, features, task_samples, samples, seed)
    else:
        if tasks is None or not tasks.checkpoints:
            raise UsageError("--features are encoded by the checkpoints: give --run RUN, or BASE TASK...")
        embedded = _encoded(tasks, features, task_samples, model, samples, seed, batch, cache, progress)
    ours, theirs = embedded.tasks, embedded.place
    found = sim.KINDS[kind](ours, theirs, tasks.names, **(settings or {}))
    interval = None
    if draws:
        interval = sim.feature_interval(
            kind, ours, theirs, tasks.names, draws=draws, level=level, seed=seed, **(settings or {})
        )
    about = {
        "case": "features",
        "seed": seed,
        "draws": draws,
        "samples_of_tasks": [len(one) for one in ours],
        "inputs": embedded.about,
    }
    return _preferred(tasks, found, interval, len(theirs[0]), level, embedded.notes, about)


def _try(kind: FeatureKind, settings: Mapping[str, Any], draws: int, level: float) -> None:
    """Fail for a setting that makes no sense, or a library that is absent, before anything is encoded."""
    some, names = [np.eye(2)], ("task",)
    with _wrong_usage():
        sim.KINDS[kind](some, some, names, **settings)
        if draws:
            sim.feature_interval(kind, some, some, names, draws=draws, level=level, **settings)


@contextlib.contextmanager
def _wrong_usage() -> Iterator[None]:
    """Inside, what the similarities say against a setting is wrong usage: the setting is all that is new."""
    try:
        yield
    except PreferenceError as error:
        raise UsageError(str(error)) from error


@dataclass(frozen=True)
class _Embedded:
    """tasks[t] (N_t, E) and place[t] (M, E), both by theta_t."""

    tasks: list[np.ndarray]
    place: list[np.ndarray]
    about: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def _read(
    tasks: Tasks | None, features: Path, task_samples: Sequence[Path], samples: int, seed: int
) -> tuple[Tasks, _Embedded]:
    """Embeddings that the user made."""
    if not task_samples:
        raise UsageError(
            f"{features} holds embeddings: give those of the tasks' samples too, as --task-samples TASKS.npz with an "
            "array named after each task."
        )
    single = len(task_samples) == 1 and task_samples[0].suffix.lower() in places.EMBEDDED
    if tasks is None:
        if not single or task_samples[0].suffix.lower() != ".npz":
            raise UsageError("the tasks are not known: give --run RUN, BASE TASK..., or --task-samples TASKS.npz.")
        tasks = Tasks(places.embedding_names(task_samples[0]))
    names = tasks.names
    if single and (len(names) == 1 or task_samples[0].suffix.lower() == ".npz"):
        ours = places.read_embeddings(task_samples[0], names, "embeddings of the tasks' samples", shared=False)
        sources = [task_samples[0]]
    else:
        sources = places.task_sources(task_samples, names)
        other = next((one for one in sources if one.suffix.lower() not in places.EMBEDDED), None)
        if other is not None:
            raise DataError(f"{features} holds embeddings, and {other} does not. Give both as embeddings, or neither.")
        ours = [
            places.read_embeddings(one, (name,), f"embeddings of the samples of task {name!r}")[0]
            for one, name in zip(sources, names, strict=True)
        ]
    theirs = places.read_embeddings(features, names, "embeddings of the place")
    for name, our, their in zip(names, ours, theirs, strict=True):
        if our.shape[1] != their.shape[1]:
            raise DataError(
                f"{features}: task {name!r}: the embeddings of the place have width {their.shape[1]}, those of the "
                f"task's samples {our.shape[1]}. Encode both with the same checkpoint."
            )
        if len(their) != len(theirs[0]):
            raise DataError(
                f"{features}: task {name!r}: {len(their)} samples of the place, and {len(theirs[0])} for task "
                f"{names[0]!r}. Encode the same samples with every checkpoint."
            )
    total = len(theirs[0])
    at = places.chosen_at([f"row/{i}" for i in range(total)], PLACE, seed)
    ours = [one[places.chosen_at([f"row/{i}" for i in range(len(one))], samples, seed)] for one in ours]
    about = {
        "place": _file_entry(features),
        "place_samples": total,
        "tasks": [_file_entry(one) for one in sources],
    }
    return tasks, _Embedded(ours, [one[at] for one in theirs], about, _cut(total))


def _encoded(
    tasks: Tasks,
    features: Path,
    task_samples: Sequence[Path],
    model: str | None,
    samples: int,
    seed: int,
    batch: int,
    cache: Path | None,
    progress: Counted | None,
) -> _Embedded:
    """Both sides embedded by theta_1 to theta_T, one after another."""
    from prefmerge.training.finetuning import require_train

    require_train("encoding samples")
    from prefmerge.checkpoints.fingerprint import content_fingerprint
    from prefmerge.checkpoints.memory import from_state_dict
    from prefmerge.models.features import embed

    encoder, device, ours = _opened(tasks, task_samples, model)
    place = places.read_features(features, encoder.kind)
    total = len(place)
    place = places.chosen(place, PLACE, seed)
    ours = [places.chosen(one, samples, seed) for one in ours]
    work, done = sum(map(len, ours)) + len(ours) * len(place), 0

    def encode(examples: Examples) -> np.ndarray:
        def counted(so_far: int, _: int) -> None:
            if progress is not None:
                progress(done + so_far, work)

        return embed(encoder, examples, batch=batch, device=device, cache=cache, progress=counted)

    embedded: list[tuple[np.ndarray, np.ndarray]] = []
    entries = []
    for name, checkpoint, one in zip(tasks.names, tasks.checkpoints, ours, strict=True):
        encoder.load(checkpoint)
        pair = []
        for examples in (one, place):
            pair.append(encode(examples))
            done += len(examples)
        embedded.append((pair[0], pair[1]))
        entries.append(
            {
                "name": name,
                "checkpoint": str(checkpoint),
                "fingerprint": content_fingerprint(from_state_dict(encoder.state(), name=encoder.name)),
                "samples": len(one),
                "contents": one.fingerprint(range(len(one))),
            }
        )
    about = {
        "encoder": encoder.name,
        "place": {"path": str(features), "samples": len(place), "contents": place.fingerprint(range(len(place)))},
        "place_samples": total,
        "tasks": entries,
    }
    return _Embedded([one for one, _ in embedded], [two for _, two in embedded], about, _cut(total))


def _opened(
    tasks: Tasks, task_samples: Sequence[Path], model: str | None
) -> tuple[Encoder, str | None, list[Examples]]:
    """The encoder, the device that it runs on, and every task's training samples: of a run whose data cannot be read,
    those that it held out.
    """
    from prefmerge.config import ModelConfig
    from prefmerge.models.encoders import load_encoder
    from prefmerge.training.config_file import run_config
    from prefmerge.training.opened import best_device, open_encoder, open_run
    from prefmerge.training.samples import check_samples

    if tasks.run is not None and model is None and not task_samples:
        opened = open_run(tasks.run.folder)
        if len(opened.scenario.tasks) != len(tasks.names):
            raise RunError(
                f"{tasks.run.folder}: its data make {len(opened.scenario.tasks)} tasks, and its manifest names "
                f"{len(tasks.names)}. Restore the data, or give --task-samples."
            )
        if opened.judged_on == "held-out":
            return opened.encoder, best_device(opened.config), [task.held_out for task in opened.scenario.tasks]
        check_samples(opened.scenario, tasks.run.folder, parts=("train",))
        return opened.encoder, best_device(opened.config), [task.train for task in opened.scenario.tasks]
    if not task_samples:
        raise UsageError(
            "--features are held against samples that the tasks were trained on: give --run RUN, or --task-samples DIR "
            "once for each task (or once, with a folder named after each)."
        )
    base = tasks.base
    if model is None and tasks.run is None and (base is None or not base.is_dir()):
        raise UsageError(
            f"which encoder are the checkpoints of? {base} is a file of weights alone: give --model ID_OR_FOLDER."
        )
    sources, device = places.task_sources(task_samples, tasks.names), None
    if model is None and tasks.run is not None:
        config = run_config(tasks.run.folder)
        encoder, device = open_encoder(tasks.run, config), best_device(config)
    else:
        encoder = load_encoder(ModelConfig(id=model or str(base)))
    return encoder, device, [places.read_features(one, encoder.kind) for one in sources]


def _preferred(
    tasks: Tasks,
    similarity: sim.Similarity,
    interval: sim.Interval | None,
    samples: int,
    level: float,
    notes: Sequence[str],
    about: Mapping[str, Any],
) -> Preferred:
    shares = similarity.shares()
    found = [*notes, *_doubts(similarity, shares, interval)]
    return Preferred(
        tasks,
        similarity.preference(),
        shares,
        samples,
        level,
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
        similarity=similarity,
        notes=tuple(found),
        about=about,
    )


def _doubts(similarity: sim.Similarity, shares: np.ndarray, interval: sim.Interval | None) -> list[str]:
    """What shall not be read into the shares."""
    count = len(shares)
    notes = []
    if count > 1 and shares.max() <= FLAT / count:
        notes.append(
            f"the similarity is nearly uniform: no task has more than {FLAT:g} times an equal share. It tells little "
            "of this place."
        )
    elif count > 1 and interval is not None and np.all((interval.low <= 1 / count) & (1 / count <= interval.high)):
        notes.append("every interval holds an equal share: these samples do not show that the place prefers any task.")
    if count > 1 and similarity.kind != "label" and shares.max() > SHARP:
        first, second = np.sort(similarity.distances)[:2]
        notes.append(
            f"nearly all goes to one task: the smallest distance is {first:.4g}, the next {second:.4g}, and gamma is "
            f"{similarity.settings.get('gamma', 'fixed')}. A smaller --gamma divides more evenly."
        )
    return notes


def _none_known(found: places.Matched, counts: Sequence[Mapping[str, int]]) -> str:
    labels = list(found.unknown)
    classes = list(dict.fromkeys(name for one in counts for name in one))
    near = next((found.nearest[label] for label in labels if label in found.nearest), None)
    hint = f" Did you mean {near!r}?" if near else " Write the names of the classes."
    what = (
        f"its label {labels[0]!r} is"
        if len(labels) == 1
        else f"none of its {len(labels)} labels {quoted(labels, _SHOWN)} is"
    )
    return f"{what} {'no' if len(labels) == 1 else 'a'} class of any task. The classes are {quoted(classes, 5)}.{hint}"


def _unknown(found: places.Matched) -> list[str]:
    if not found.unknown:
        return []
    lost, total = found.unknown.total(), found.unknown.total() + found.known.total()
    named = [f"{label!r} ({count})" for label, count in found.unknown.most_common()]
    near = [f"{label!r} may mean {found.nearest[label]!r}" for label in found.unknown if label in found.nearest]
    hint = f"; {', '.join(near[:_SHOWN])}" if near else ""
    return [f"{lost} of {total} labels are of no task's class and were ignored: {listed(named, _SHOWN)}{hint}."]


def _shared(counts: Sequence[Mapping[str, int]]) -> list[str]:
    holders = Counter(name for one in counts for name, count in one.items() if count)
    shared = [name for name, count in holders.items() if count > 1]
    if not shared:
        return []
    return [
        f"{len(shared)} of {len(holders)} classes are in several tasks ({quoted(shared, _SHOWN)}): labels alone do "
        "not tell these tasks apart."
    ]


def _cut(total: int) -> tuple[str, ...]:
    return (f"{PLACE} of the place's {total} samples were used.",) if total > PLACE else ()


def _file_entry(path: Path) -> dict[str, Any]:
    try:
        return {"path": str(path), "fingerprint": f"xxh3-128:{digest_of_file(path)}"}
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error


def _versions() -> dict[str, str]:
    """What decides the last digits."""
    found = {"python": platform.python_version()}
    for package in ("prefmerge", "numpy", "torch", "POT"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
