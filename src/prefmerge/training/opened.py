"""A finished run, opened again: its data or what it kept of them, its encoder, its head.

Everything is checked against what the run says of itself, so that no number comes from other samples or classes than it
was trained with. Cost: the data are opened, not read; one model is loaded. Not here: what is then counted
(`models.evaluation`), and what is in the folder (`run_folder`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefmerge.data.examples import no_examples
from prefmerge.data.scenarios import ClassInfo, Scenario, Task
from prefmerge.errors import DataError, MissingExtra, RunError
from prefmerge.ground.progress import Counted
from prefmerge.merging.opening import local_task
from prefmerge.models.encoders.weights import notes_of
from prefmerge.models.evaluation import Evaluation, evaluate, other_classes
from prefmerge.models.heads import Head, check_inputs
from prefmerge.runs import Run, read_run
from prefmerge.training.config_file import run_config
from prefmerge.training.samples import as_started, check_samples

if TYPE_CHECKING:
    import torch

    from prefmerge.config import FinetuneConfig
    from prefmerge.models.encoders.protocol import Encoder


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
    """A run's manifest, configuration and data; the test samples are those that it started with, whatever was added
    since. No model is loaded.

    `scenario` has the tasks of the data, also in joint training, which makes one of them. Raises RunError where the
    test samples changed; what reading the data raises. Training samples are not compared: `check_samples` does.
    """
    from prefmerge.data import load_corpus
    from prefmerge.data.scenarios import build_scenario

    run = read_run(run_folder)
    config = run_config(run.folder)
    scenario = build_scenario(config, [load_corpus(one, config.seed) for one in config.data])
    scenario = as_started(scenario, run.folder)
    check_samples(scenario, run.folder, {(task.name, "test") for task in scenario.tasks}, ("test",))
    return run, config, scenario


def open_kept(run_folder: str | Path) -> tuple[Run, FinetuneConfig, Scenario] | None:
    """`open_data` out of the run alone: the samples that it held out are its test samples too, and there are none to
    train on. None where a task has none. Raises RunError where what the run kept is damaged.
    """
    from prefmerge.training.kept import read_kept

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
    from prefmerge.models.head_file import read_head

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
    model that it started from may be gone, or have changed.

    A CLIP is its image tower alone, which embeds no phrases. Models of open_clip come from where the configuration
    says, since the run has not what makes them. Raises EncoderError, MissingExtra.
    """
    from prefmerge.models.encoders import load_encoder
    from prefmerge.models.head_file import read_head

    if config.model.kind == "open_clip" or not (run.base_path / "config.json").is_file():
        encoder = load_encoder(config.model)
        encoder.base = run.base_path
        return encoder
    own: dict[str, Any] = {"id": str(run.base_path), "revision": None}
    if config.model.logit_scale is None and run.head_path is not None:
        own["logit_scale"] = read_head(run.head_path).scale
    encoder = load_encoder(config.model.model_copy(update=own), tower_alone=True)
    encoder.name = config.model.id
    return encoder


def open_run(run_folder: str | Path, samples: Literal["any", "test", "none"] = "any") -> OpenedRun:
    """Read a run's manifest, configuration, data, encoder and head, and check that they still belong together.

    `samples`: "any": the data's test samples or, where the data cannot be read, those that the run held out; "test":
    the data's alone; "none": no data are opened, and the scenario has no samples. Raises RunError where the test
    samples or the classes are no longer those of the run, or it names no head; what reading its parts raises.
    """
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
    wrong = other_classes(head, scenario)
    if wrong:
        raise RunError(f"{head_path}: the data changed since the run: {wrong}. Restore the data, or start another run.")
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
    head: str | Path | None = None,
    batch: int = 256,
    device: str | torch.device | None = None,
    cache: Path | None = None,
    progress: Counted | None = None,
    per_class: bool = False,
) -> Evaluation:
    """`evaluate` any checkpoint, merged ones too, on the test samples of a run, with its head. Where the data cannot be
    read: on the samples that the run held out, which `about` then says. An adapter is added to the run's base.

        prefmerge.evaluate("merged", "my-run").accuracies()

    `head`: the file of the head to answer with; None: the one in the checkpoint's folder, else the run's. `device`:
    None: `best_device`. Raises what `open_run`, `Encoder.load` and `evaluate` raise, and RunError for a head of other
    classes.
    """
    if head is not None and not Path(head).is_file():
        raise RunError(f"{head}: no such file. Give the head.safetensors that `prefmerge search` or `adapt` left.")
    opened, checkpoint = open_run(run_folder), local_task(checkpoint)
    opened.encoder.load(checkpoint)
    notes = notes_of(checkpoint, opened.encoder.state())
    own = checkpoint / "head.safetensors"  # of `prefmerge adapt`: the model answers with this one
    answers = opened.head if head is None and not own.is_file() else Head.load(Path(head or own))
    if answers.classes != opened.head.classes:
        raise RunError(f"{head or own}: its classes are not those of {run_folder}. Give the head that was made for it.")
    width, expected = answers.rows.shape[1], opened.head.rows.shape[1]
    if width != expected:
        raise RunError(
            f"{head or own}: is for embeddings of {width} numbers, those of {run_folder} have {expected}. Give the "
            "head that was made for it."
        )
    return evaluate(
        opened.encoder,
        answers,
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
            **({"notes": notes} if notes else {}),
            "head": str(head) if head else "the run's" if answers is opened.head else "the checkpoint's own",
        },
    )
