"""A whole run: data -> tasks -> one checkpoint after another, in a folder that survives a kill at any moment.

    sequential, lwf, ewc   theta_t starts from theta_{t-1}
    independent            theta_t starts from theta_0
    joint                  one task with all classes

The folder's files are named in `prefmerge.runs`. A task counts as done when the manifest says so, which is the last
thing written of it; the state inside a task is kept at the end of epochs. The same command on an unfinished run resumes
it, and ends with the checkpoints of an uninterrupted one (on one device: every random choice is a function of seed,
task, epoch and sample). Cost: the training; disk: T + 1 checkpoints, and three more while a task is trained (model and
optimizer). Not here: evaluation.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefmerge.config import FinetuneConfig
from prefmerge.data.scenarios import Scenario, Task
from prefmerge.errors import ConfigError, DiskFull, require
from prefmerge.ground import atomic, jsons
from prefmerge.models.heads import check_inputs
from prefmerge.runs import IN_SEQUENCE, Run, RunTask
from prefmerge.training import run_folder
from prefmerge.training.between_tasks import keep_fisher, regulariser_of
from prefmerge.training.config_file import kept_config
from prefmerge.training.job import Job, TrainingProgress
from prefmerge.training.kept import write_kept
from prefmerge.training.samples import SAMPLES, check_samples, samples_of

if TYPE_CHECKING:
    from prefmerge.models.encoders.protocol import Encoder
    from prefmerge.models.heads import Head
    from prefmerge.training.steps import StepReport


def require_train(what: str = "fine-tuning") -> None:
    """Raise MissingExtra, with the install command, where the extra `train` is absent."""
    require(what, "train", "accelerate", "torch")


def finetune(
    config: FinetuneConfig,
    out: str | Path,
    *,
    force: bool = False,
    progress: Callable[[TrainingProgress], None] | None = None,
) -> Run:
    """Fine-tune one checkpoint per task into the folder `out`, or resume the run that is there.

        run = prefmerge.finetune(prefmerge.read_config("cifar100.yaml"), "my-run")
        run.base_path, run.task_path(0)   # the checkpoints

    Raises ConfigError, DataError, EncoderError; RunError when `out` holds another run, OutputExists when it holds
    something else; with `force` a run that is there is replaced.
    """
    require_train()
    from prefmerge.data import load_corpus
    from prefmerge.data.scenarios import build_scenario
    from prefmerge.models.encoders import load_encoder
    from prefmerge.models.heads import make_head

    out = Path(out)
    begun = run_folder.look(out, config, force)
    if begun is not None and begun.finished:
        return begun
    if begun is not None and config.held_out is None:  # the default is another for a run from before there was one
        config = config.model_copy(update={"held_out": kept_config(out).held_out})
    corpora = [load_corpus(one, config.seed) for one in config.data]
    scenario = build_scenario(config, corpora)
    encoder = load_encoder(config.model)
    return run_tasks(
        scenario,
        encoder,
        lambda: make_head(config.head, encoder, scenario),
        resolved(config, scenario, encoder),
        out,
        force=force,
        progress=progress,
    )


def resolved(config: FinetuneConfig, scenario: Scenario, encoder: Encoder) -> FinetuneConfig:
    """The configuration with the values that were left to a default spelled out."""
    from prefmerge.training.steps import EPOCHS, WARMUP_STEPS

    training, data = config.training, config.data
    chosen: dict[str, Any] = {}
    own = [task.epochs for task in scenario.tasks]
    if training.epochs is None:
        chosen["epochs"] = own[0] if own[0] is not None and len(set(own)) == 1 else EPOCHS
    if len(data) == len(own) > 1:  # a task is a data set
        data = tuple(one.model_copy(update={"epochs": epochs}) for one, epochs in zip(data, own, strict=True))
    if training.warmup_steps is None and training.warmup_fraction is None:
        chosen["warmup_steps"] = WARMUP_STEPS
    held_out = tuple(len(task.held_out) for task in scenario.tasks)
    return config.model_copy(
        update={
            "data": data,
            "training": training.model_copy(update=chosen),
            "held_out": held_out[0] if len(set(held_out)) == 1 else held_out,
        }
    )


def run_tasks(
    scenario: Scenario,
    encoder: Encoder,
    head: Callable[[], Head],
    config: FinetuneConfig,
    out: str | Path,
    *,
    force: bool = False,
    about: Mapping[str, Any] | None = None,
    progress: Callable[[TrainingProgress], None] | None = None,
) -> Run:
    """`finetune` from parts that are there already; `head` makes the frozen head of a new run, from the base.

    `about` goes into the manifest. Several processes (`accelerate launch`) call this together; the main one writes.
    """
    require_train()
    from prefmerge.training.steps import make_accelerator

    check_inputs(scenario, encoder)
    accelerator = make_accelerator(config.training)
    heard = progress if progress is not None and accelerator.is_main_process else lambda _: None
    job = Job(scenario, encoder, config, Path(out), accelerator, heard)
    with contextlib.ExitStack() as held:

        def hold() -> None:
            if accelerator.is_main_process:
                held.enter_context(run_folder.locked(job.out))

        with accelerator.main_process_first():  # for the others the run is there already
            run = run_folder.look(job.out, config, force and accelerator.is_main_process)
            if run is None:
                made = head()
                run_folder.make_folder(job.out)
                hold()
                run = _begin(job, made, about or {})
            else:
                hold()
                waiting = {(task.name, "train") for task in run.tasks if not task.done}
                everything = {(task.name, "train") for task in scenario.tasks}
                check_samples(scenario, job.out, everything if run.training == "joint" else waiting)
        return _train(job, run)


def _begin(job: Job, head: Head, about: Mapping[str, Any]) -> Run:
    """Write what a run has before its first task, while the encoder is the base; the manifest last."""
    from prefmerge.training.steps import torch_threads

    out, config = job.out, job.config
    size = sum(tensor.numel() * tensor.element_size() for tensor in job.encoder.state().values())
    fisher = 2 if config.training.method == "ewc" else 0
    needed, free = size * (len(job.tasks) + 4 + fisher), shutil.disk_usage(out).free
    if needed > free:
        raise DiskFull(
            f"{out}: the run needs about {needed / 1e9:.1f} GB ({len(job.tasks)} tasks, the base, and the state of "
            f"training), and {free / 1e9:.1f} GB are free. Give a folder on a larger disk."
        )
    samples = jsons.encoded(samples_of(job.scenario), indent=None)
    run_folder.clear(out, config)
    with run_folder.writing(out):
        with atomic.whole_folder(out / run_folder.BASE) as folder:
            run_folder.save_checkpoint(job.encoder, folder)
        head.save(out / run_folder.HEAD)
        atomic.write_whole(out / SAMPLES, samples)
        with torch_threads(config.training.threads):  # they decide the last bits of the embeddings
            kept = write_kept(out, job.scenario, job.encoder, job.accelerator.device)
    names = [one.name for one in job.scenario.classes]
    run = Run(
        folder=out,
        training=config.training.method,
        base=run_folder.BASE,
        head=run_folder.HEAD,
        tasks=tuple(
            RunTask(
                name=task.name,
                file=f"{run_folder.TASKS}/{task.name}",
                classes=tuple(names[c] for c in task.classes),
                label_counts={names[c]: n for c, n in task.train.label_counts().items()},
                done=False,
            )
            for task in job.tasks
        ),
        about={
            "scenario": job.scenario.kind,
            "seed": config.seed,
            "encoder": {"id": job.encoder.name, "inputs": job.encoder.kind, "width": job.encoder.width},
            "processes": job.accelerator.num_processes,
            "versions": run_folder.versions(),
            **({} if kept is None else {"kept": kept}),
            **about,
        },
    )
    job.log("begin", training=run.training, tasks=[task.name for task in run.tasks])
    run_folder.write_manifest(run)
    return run


def _train(job: Job, run: Run) -> Run:
    from prefmerge.models.heads import Head
    from prefmerge.training.steps import fine_tune

    out, config, accelerator = job.out, job.config.training, job.accelerator
    head = Head.load(out / run_folder.HEAD)
    tasks = job.tasks
    for index, task in enumerate(tasks):
        if run.tasks[index].done:
            continue
        state = run_folder.state_path(out, index)
        resumed = state.is_dir()
        job.progress(TrainingProgress(index, task.name, len(tasks), resumed=resumed))
        job.log("task", task=task.name, index=index, samples=len(task.train), resumed=resumed)
        started = time.perf_counter()
        previous = index - 1 if config.method in IN_SEQUENCE else -1
        job.encoder.load(run.task_path(previous) if previous >= 0 else run.base_path)

        def on_step(step: StepReport, index: int = index, task: Task = task) -> None:
            job.progress(TrainingProgress(index, task.name, len(tasks), step))
            job.log(
                "step",
                task=task.name,
                epoch=step.epoch,
                step=step.step,
                steps=step.steps,
                loss=step.loss,
                accuracy=step.accuracy,
                learning_rate=step.learning_rate,
            )

        fine_tune(
            job.encoder,
            head,
            task.train,
            task.classes,
            config,
            epochs=task.epochs or _epochs(job.config),
            seed=job.seed(index),
            accelerator=accelerator,
            regulariser=regulariser_of(job, index, head) if index else None,
            state=state,
            on_step=on_step,
        )
        if accelerator.is_main_process:
            with run_folder.writing(out), atomic.whole_folder(run.task_path(index)) as folder:
                run_folder.save_checkpoint(job.encoder, folder)
            if config.method == "ewc" and index + 1 < len(tasks):
                keep_fisher(job, index, head)
        run = replace(run, tasks=tuple(replace(t, done=t.done or i == index) for i, t in enumerate(run.tasks)))
        if accelerator.is_main_process:
            run_folder.write_manifest(run)
            run_folder.remove_state(out, index)
        accelerator.wait_for_everyone()
        job.log("done", task=task.name, index=index, seconds=round(time.perf_counter() - started, 1))
        job.progress(TrainingProgress(index, task.name, len(tasks), done=True))
    if accelerator.is_main_process:
        run_folder.remove_scratch(out)  # a kill between the manifest and a removal leaves some
    return run


def _epochs(config: FinetuneConfig) -> int:
    if config.training.epochs is None:
        raise ConfigError("training.epochs is missing: resolve the configuration first.")
    return config.training.epochs
