"""How often a model is right: per task and over all, with and without knowing the task, for one checkpoint or a run.

    right_i = [argmax over c in among of <e_i / |e_i|, h_c> is y_i],   accuracy = mean of right

Task-agnostic: among all classes (of the task's own data set in a sequence of data sets); the papers' number.
Task-aware: among the task's own classes. Source: both papers, section 4.1. `overall` weighs samples equally, `mean`
weighs tasks equally. Shapes: embeddings (N, E), the head's rows (C, E). Cost: every test sample is encoded once per
checkpoint, or read from the cache; all accuracies are then counts. Leaves out: printing, target environments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from prefmerge.continual.data.examples import concatenated
from prefmerge.continual.features import embed
from prefmerge.continual.metrics import Metrics, mean_std, metrics
from prefmerge.continual.scenarios import ClassInfo, Scenario, Task, check_inputs
from prefmerge.errors import CheckpointMismatch, DataError, MissingExtra, RunError
from prefmerge.ground.progress import Counted
from prefmerge.ground.stats import wilson
from prefmerge.runs import IN_SEQUENCE, Run, read_run, require_finished

if TYPE_CHECKING:
    import torch

    from prefmerge.continual.config import FinetuneConfig
    from prefmerge.continual.encoders.protocol import Encoder
    from prefmerge.continual.heads import Head

FORMAT = "prefmerge-evaluation/1"
MATRIX_FORMAT = "prefmerge-evaluation-matrix/1"
_ROWS = 8192  # embeddings that meet the head at once: 33 MB of logits for 1,000 classes

Knowing = Literal["agnostic", "aware"]
Row = tuple[str, int, float, float]  # name, test samples, task-agnostic accuracy, task-aware accuracy


def right_answers(embeddings: np.ndarray, head: Head, labels: np.ndarray, among: Sequence[int]) -> np.ndarray:
    """Which samples the head names correctly among the classes `among`, (N,) bool.

    `embeddings` (N, E), not normalised; `labels` (N,) and `among` are rows of the head. Of equal logits the first in
    `among` is the answer; a label that is not in `among` is never right.
    """
    import torch

    rows = np.asarray(among, dtype=np.int64)
    answers = np.empty(len(embeddings), np.int64)
    for start in range(0, len(embeddings), _ROWS):
        some = torch.from_numpy(np.ascontiguousarray(embeddings[start : start + _ROWS], np.float32))
        with torch.no_grad():
            logits = head.logits(some.to(head.rows.device), rows.tolist())
        answers[start : start + _ROWS] = rows[logits.cpu().numpy().argmax(axis=1)]
    return answers == np.asarray(labels)


@dataclass(frozen=True)
class Count:
    """Right answers among `n` test samples of a task, or of a class."""

    name: str
    n: int
    right: int  # not knowing the task
    right_aware: int  # knowing it

    @property
    def agnostic(self) -> float:
        return self.right / self.n

    @property
    def aware(self) -> float:
        return self.right_aware / self.n

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "n": self.n, "agnostic": self.agnostic, "aware": self.aware}


@dataclass(frozen=True)
class Evaluation:
    """One model on the test samples of every task. `about` says which, where that is known."""

    tasks: tuple[Count, ...]
    classes: tuple[Count, ...] = ()  # those that occur in the test samples; only where asked for
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def overall(self) -> Count:
        """All test samples together, each weighing the same."""
        return Count(
            "overall",
            sum(task.n for task in self.tasks),
            sum(task.right for task in self.tasks),
            sum(task.right_aware for task in self.tasks),
        )

    def mean(self, knowing: Knowing = "agnostic") -> float:
        """The mean over tasks, each weighing the same."""
        return sum(self.accuracies(knowing)) / len(self.tasks)

    def accuracies(self, knowing: Knowing = "agnostic") -> tuple[float, ...]:
        """One accuracy per task, in the order of training."""
        return tuple(task.agnostic if knowing == "agnostic" else task.aware for task in self.tasks)

    def rows(self) -> list[Row]:
        """A table: one row per task, then the mean over tasks and all samples together."""
        every = self.overall
        return [
            *((task.name, task.n, task.agnostic, task.aware) for task in self.tasks),
            ("mean over tasks", every.n, self.mean(), self.mean("aware")),
            ("overall", every.n, every.agnostic, every.aware),
        ]

    def to_json(self) -> dict[str, Any]:
        """Accuracies as fractions of 1; `interval` is Wilson's for 95 % of the overall task-agnostic one."""
        every = self.overall
        return {
            "format": FORMAT,
            **({"about": dict(self.about)} if self.about else {}),
            "overall": {
                "n": every.n,
                "agnostic": every.agnostic,
                "aware": every.aware,
                "interval": list(wilson(every.right, every.n)),
            },
            "mean": {"agnostic": self.mean(), "aware": self.mean("aware")},
            "tasks": [task.to_json() for task in self.tasks],
            **({"classes": [one.to_json() for one in self.classes]} if self.classes else {}),
        }


def evaluate(
    encoder: Encoder,
    head: Head,
    scenario: Scenario,
    *,
    batch: int = 256,
    device: str | torch.device | None = None,
    cache: Path | None = None,
    progress: Counted | None = None,
    per_class: bool = False,
    about: Mapping[str, Any] | None = None,
) -> Evaluation:
    """The accuracies of the model that the encoder holds now. `batch`, `device`, `cache`, `progress`: those of `embed`.

    Raises DataError where a task has no test sample, or the head was made for other classes; EncoderError.
    """
    wrong = _other_classes(head, scenario)
    if wrong:
        raise DataError(f"the head does not fit the data: {wrong}. Make the head from these data.")
    for task in scenario.tasks:
        if len(task.test) == 0:
            raise DataError(
                f"task {task.name!r} has no test sample, so it has no accuracy. Give it some, or leave it out."
            )
    samples = concatenated([task.test for task in scenario.tasks])
    embeddings = embed(encoder, samples, batch=batch, device=device, cache=cache, progress=progress)
    counts: list[Count] = []
    agnostic, aware = np.empty(len(samples), bool), np.empty(len(samples), bool)
    start = 0
    for task in scenario.tasks:
        own = slice(start, start + len(task.test))
        start = own.stop
        agnostic[own] = right_answers(embeddings[own], head, task.test.labels, task.among)
        aware[own] = right_answers(embeddings[own], head, task.test.labels, task.classes)
        counts.append(Count(task.name, len(task.test), int(agnostic[own].sum()), int(aware[own].sum())))
    classes = _by_class(scenario, samples.labels, agnostic, aware) if per_class else ()
    return Evaluation(tuple(counts), classes, about or {})


def _by_class(scenario: Scenario, labels: np.ndarray, agnostic: np.ndarray, aware: np.ndarray) -> tuple[Count, ...]:
    size = len(scenario.classes)
    n, right, right_aware = (np.bincount(labels[which], minlength=size) for which in (slice(None), agnostic, aware))
    return tuple(
        Count(one.name, int(n[c]), int(right[c]), int(right_aware[c])) for c, one in enumerate(scenario.classes) if n[c]
    )


def _other_classes(head: Head, scenario: Scenario) -> str | None:
    """What differs between the classes of the head and those of the data; None where nothing does."""
    names = [one.name for one in scenario.classes]
    if len(head.classes) != len(names):
        return f"it has {len(head.classes)} classes, the data have {len(names)}"
    for at, (theirs, ours) in enumerate(zip(head.classes, names, strict=True)):
        if theirs != ours:
            return f"its class {at + 1} is {theirs!r}, that of the data is {ours!r}"
    return None


@dataclass(frozen=True)
class MatrixReport:
    """Every checkpoint of a run on every task. Row i: the checkpoint after training on task i (K of them, T tasks)."""

    training: str
    checkpoints: tuple[str, ...]
    baseline: Evaluation  # theta_0
    evaluations: tuple[Evaluation, ...]
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(task.name for task in self.baseline.tasks)

    def matrix(self, knowing: Knowing = "agnostic") -> np.ndarray:
        """(K, T) float64: R[i][j], the accuracy of checkpoint i on task j."""
        return np.array([one.accuracies(knowing) for one in self.evaluations], np.float64)

    def metrics(self, knowing: Knowing = "agnostic") -> Metrics:
        """Those of `metrics`; of checkpoints that were not trained in sequence only the last accuracy has a meaning."""
        return metrics(
            self.matrix(knowing), self.baseline.accuracies(knowing), in_sequence=self.training in IN_SEQUENCE
        )

    def rows(self, knowing: Knowing = "agnostic") -> list[tuple[str, *tuple[float, ...]]]:
        """A table: theta_0, then the checkpoints; name, one accuracy per task, their mean, all samples together."""
        named = [("theta_0", self.baseline), *zip(self.checkpoints, self.evaluations, strict=True)]
        return [
            (name, *one.accuracies(knowing), one.mean(knowing), getattr(one.overall, knowing)) for name, one in named
        ]

    def to_json(self) -> dict[str, Any]:
        def side(knowing: Knowing) -> dict[str, Any]:
            return {
                "baseline": list(self.baseline.accuracies(knowing)),
                "matrix": self.matrix(knowing).tolist(),
                "overall": [getattr(one.overall, knowing) for one in self.evaluations],
                "metrics": self.metrics(knowing).to_json(),
            }

        return {
            "format": MATRIX_FORMAT,
            **({"about": dict(self.about)} if self.about else {}),
            "training": self.training,
            "checkpoints": list(self.checkpoints),
            "tasks": [{"name": task.name, "n": task.n} for task in self.baseline.tasks],
            "agnostic": side("agnostic"),
            "aware": side("aware"),
        }


def evaluate_matrix(
    encoder: Encoder,
    run: Run,
    head: Head,
    scenario: Scenario,
    *,
    batch: int = 256,
    device: str | torch.device | None = None,
    cache: Path | None = None,
    progress: Counted | None = None,
    about: Mapping[str, Any] | None = None,
) -> MatrixReport:
    """`evaluate` theta_0 and every checkpoint of a run, in order; the encoder holds the last one afterwards.

    `progress` counts the samples of all checkpoints together. Raises RunError where a task of the run is not finished,
    and what `evaluate` and `Encoder.load` raise.
    """
    require_finished(run)
    paths = [run.base_path, *(run.task_path(index) for index in range(len(run.tasks)))]
    samples = sum(len(task.test) for task in scenario.tasks)
    found: list[Evaluation] = []
    for index, path in enumerate(paths):

        def counted(done: int, of: int, before: int = index * samples) -> None:
            if progress is not None:
                progress(before + done, len(paths) * samples)

        encoder.load(path)
        found.append(evaluate(encoder, head, scenario, batch=batch, device=device, cache=cache, progress=counted))
    names = tuple(task.name for task in run.tasks)
    return MatrixReport(run.training, names, found[0], tuple(found[1:]), about or {})


@dataclass(frozen=True)
class OpenedRun:
    """A run with all that evaluation needs. The encoder holds the run's base."""

    run: Run
    config: FinetuneConfig
    scenario: Scenario  # the tasks of the data; in joint training too, which makes one of them
    encoder: Encoder
    head: Head
    judged_on: Literal["test", "held-out"] = "test"  # what `scenario` has as test samples
    note: str | None = None  # why these are not the data's test samples, in a line

    def about(self) -> dict[str, Any]:
        """What a report says of the samples."""
        return {"samples": self.judged_on, **({} if self.note is None else {"note": self.note})}


def open_data(run_folder: str | Path) -> tuple[Run, FinetuneConfig, Scenario]:
    """A run's manifest, configuration and data; the test samples are those that the run was begun with. No model is
    loaded.

    `scenario` has the tasks of the data, also in joint training, which makes one of them. Raises RunError where the
    test samples changed; what reading the data raises. Training samples are not compared: `check_samples` does.
    """
    from prefmerge.continual.data import load_corpus
    from prefmerge.continual.run_folder import check_samples, run_config
    from prefmerge.continual.scenarios import build_scenario

    run = read_run(run_folder)
    config = run_config(run.folder)
    scenario = build_scenario(config, [load_corpus(one, config.seed) for one in config.data])
    check_samples(scenario, run.folder, {(task.name, "test") for task in scenario.tasks}, ("test",))
    return run, config, scenario


def open_kept(run_folder: str | Path) -> tuple[Run, FinetuneConfig, Scenario] | None:
    """`open_data` out of the run alone: the samples that it held out are its test samples too, and there are none to
    train on. None where a task has none. Raises RunError where what the run kept is damaged.
    """
    from prefmerge.continual.data.examples import no_examples
    from prefmerge.continual.kept import read_kept
    from prefmerge.continual.run_folder import run_config

    run = read_run(run_folder)
    kept = read_kept(run)
    if kept is None or not all(len(one) for one in kept.held_out):
        return None
    tasks = tuple(
        Task(name, own, among, no_examples(), held_out, held_out)
        for name, own, among, held_out in zip(kept.names, kept.of_task, kept.among, kept.held_out, strict=True)
    )
    return run, run_config(run.folder), _scenario(run, kept.classes, tasks)


def open_tasks(run_folder: str | Path) -> tuple[Run, FinetuneConfig, Scenario]:
    """What a run says of its tasks and classes, for whoever brings samples: those of `scenario` are empty.

    The data are opened only where the manifest is of a kind that does not say what its inputs are.
    """
    from prefmerge.continual.data.examples import no_examples
    from prefmerge.continual.head_file import read_head
    from prefmerge.continual.run_folder import run_config

    run = read_run(run_folder)
    if run.head_path is None or run.training == "joint" or "inputs" not in run.about.get("encoder", {}):
        return open_data(run_folder)
    classes = read_head(run.head_path).classes
    at = {name: row for row, name in enumerate(classes)}
    tasks = []
    for task in run.tasks:
        unknown = next((name for name in task.classes if name not in at), None)
        if unknown is not None:
            raise RunError(
                f"{run.head_path}: has no class {unknown!r}, which task {task.name!r} of the run has. Copy the whole "
                "run folder again from where it was made."
            )
        own = tuple(at[name] for name in task.classes)
        among = own if run.about.get("scenario") == "datasets" else tuple(range(len(classes)))
        tasks.append(Task(task.name, own, among, no_examples(), no_examples()))
    return run, run_config(run.folder), _scenario(run, classes, tuple(tasks))


def _scenario(run: Run, classes: Sequence[str], tasks: tuple[Task, ...]) -> Scenario:
    inputs = "text" if run.about.get("encoder", {}).get("inputs") == "text" else "image"
    return Scenario(str(run.about.get("scenario")), inputs, tuple(ClassInfo(name, ()) for name in classes), tasks)


def open_encoder(run: Run, config: FinetuneConfig) -> Encoder:
    """The encoder of a run, holding its base, out of the run's own folder: weights, tokenizer and preprocessing. The
    model that it began from may be gone, or have changed.

    A CLIP is its image tower alone, which embeds no phrases. Models of open_clip come from where the configuration
    says, since the run has not what makes them. Raises EncoderError, MissingExtra.
    """
    from prefmerge.continual.encoders import load_encoder
    from prefmerge.continual.head_file import read_head

    if config.model.kind == "open_clip" or not (run.base_path / "config.json").is_file():
        return load_encoder(config.model)
    own: dict[str, Any] = {"id": str(run.base_path), "revision": None}
    if config.model.logit_scale is None and run.head_path is not None:
        own["logit_scale"] = read_head(run.head_path).scale
    found = load_encoder(config.model.model_copy(update=own), tower_alone=True)
    found.name = config.model.id
    return found


def open_run(run_folder: str | Path, samples: Literal["any", "test", "none"] = "any") -> OpenedRun:
    """Read a run's manifest, configuration, data, encoder and head, and check that they still belong together.

    `samples`: "any": the data's test samples or, where the data cannot be read, those that the run held out; "test":
    the data's alone; "none": no data are opened, and the scenario has no samples. Raises RunError where the test
    samples or the classes are no longer those of the run, or it names no head; what reading its parts raises.
    """
    from prefmerge.continual.heads import Head

    head_path = read_run(run_folder).head_path
    if head_path is None:
        raise RunError(f"{run_folder}: its manifest names no head, without which nothing can be evaluated.")
    judged_on: Literal["test", "held-out"] = "test"
    note = None
    try:
        run, config, scenario = open_tasks(run_folder) if samples == "none" else open_data(run_folder)
    except (DataError, MissingExtra, OSError) as error:
        kept = open_kept(run_folder) if samples == "any" else None
        if kept is None:
            raise
        (run, config, scenario), judged_on = kept, "held-out"
        note = f"The samples that the run held out take the place of the test samples: {error}"
    head = Head.load(head_path)
    wrong = _other_classes(head, scenario)
    if wrong:
        raise RunError(f"{head_path}: the data changed since the run: {wrong}. Restore the data, or begin another run.")
    encoder = open_encoder(run, config)
    check_inputs(scenario, encoder)
    return OpenedRun(run, config, scenario, encoder, head, judged_on, note)


def best_device(config: FinetuneConfig) -> str:
    """Where the configuration has models run: `cpu` where it says so, else the first of cuda, mps and cpu there is."""
    import torch

    if config.training.device == "auto" and torch.cuda.is_available():
        return "cuda"
    if config.training.device == "auto" and torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def evaluate_checkpoint(
    checkpoint: str | Path,
    run_folder: str | Path,
    *,
    batch: int = 256,
    device: str | torch.device | None = None,
    cache: Path | None = None,
    progress: Counted | None = None,
    per_class: bool = False,
) -> Evaluation:
    """`evaluate` any checkpoint, merged ones too, on the test samples of a run, with its head. Where the data cannot be
    read: on the samples that the run held out, which `about` then says.

    `device`: None: `best_device`. Raises what `open_run`, `Encoder.load` and `evaluate` raise.
    """
    from prefmerge.continual.heads import Head

    opened, checkpoint = open_run(run_folder), Path(checkpoint)
    opened.encoder.load(checkpoint)
    own = checkpoint / "head.safetensors"  # of `prefmerge adapt`: the model answers with this one
    head = Head.load(own) if own.is_file() else opened.head
    return evaluate(
        opened.encoder,
        head,
        opened.scenario,
        batch=batch,
        device=best_device(opened.config) if device is None else device,
        cache=cache,
        progress=progress,
        per_class=per_class,
        about={
            "checkpoint": str(checkpoint),
            "run": str(run_folder),
            "training": opened.run.training,
            "seed": opened.config.seed,
            "classes": list(opened.head.classes),
            **opened.about(),
            "head": "the run's" if head is opened.head else "the checkpoint's own",
        },
    )


def summary_over_seeds(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and sample standard deviation over runs that differ in their seed, of `Evaluation.to_json` objects.

    Every accuracy becomes {"mean", "std"}; std is None for one run. Raises DataError where there is none, or the tasks
    are not the same.
    """
    if not evaluations:
        raise DataError("there is no evaluation to summarise. Give at least one.")
    about = [one.get("about", {}) for one in evaluations]
    for at, theirs in enumerate(about):
        if theirs.get("classes") != about[0].get("classes"):
            raise DataError(
                f"evaluation {at + 1} is of other classes than the first. A mean over seeds needs the same data."
            )
        judged = [one.get("samples", "test") for one in (about[0], theirs)]
        if judged[0] != judged[1]:
            raise DataError(
                f"evaluation {at + 1} is on {judged[1]} samples, the first on {judged[0]} samples. A mean over seeds "
                "needs the same: put the data back where the runs had them."
            )
        if theirs and theirs in about[:at]:
            raise DataError(f"evaluation {at + 1} is the same as an earlier one: {theirs.get('checkpoint')}.")
    names = [[task["name"] for task in one["tasks"]] for one in evaluations]
    for at, theirs in enumerate(names):
        if theirs != names[0]:
            raise DataError(
                f"evaluation {at + 1} has the tasks {', '.join(theirs)}; the first has {', '.join(names[0])}. "
                "A mean over seeds needs the same tasks in the same order."
            )

    def over(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        both = {knowing: mean_std([part[knowing] for part in parts]) for knowing in ("agnostic", "aware")}
        return {knowing: {"mean": mean, "std": std} for knowing, (mean, std) in both.items()}

    return {
        "runs": len(evaluations),
        **{key: about[0][key] for key in ("samples", "note") if key in about[0]},
        "overall": over([one["overall"] for one in evaluations]),
        "mean": over([one["mean"] for one in evaluations]),
        "tasks": [
            {"name": name, **over([one["tasks"][at] for one in evaluations])} for at, name in enumerate(names[0])
        ],
    }


def put(encoder: Encoder, weights: Mapping[str, np.ndarray]) -> None:
    """Copy float32 weights, by the names of `Encoder.state`, into the encoder's tower; what is not named stays.

    Raises CheckpointMismatch for a name or a shape that the tower does not have.
    """
    import torch

    state = encoder.state()
    for name, values in weights.items():
        if name not in state or tuple(state[name].shape) != values.shape:
            found = "no such tensor" if name not in state else f"shape {tuple(state[name].shape)}"
            raise CheckpointMismatch(
                f"{encoder.name}: weights for {name!r} with shape {values.shape}, but the model has {found}. "
                "Take checkpoints of this model."
            )
    with torch.no_grad():
        for name, values in weights.items():
            state[name].copy_(torch.from_numpy(np.ascontiguousarray(values)))
