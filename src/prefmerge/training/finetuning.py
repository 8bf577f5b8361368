"""A whole run: data -> tasks -> one checkpoint after another, in a folder that survives a kill at any moment.

    sequential, lwf, ewc   theta_t starts from theta_{t-1} (training.adapter: its adapter does, over theta_0)
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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefmerge.config import FinetuneConfig
from prefmerge.data.registry import registered
from prefmerge.data.scenarios import Scenario, Task
from prefmerge.data.unreadable import require_readable
from prefmerge.errors import DiskFull, require
from prefmerge.ground import atomic, jsons
from prefmerge.ground.progress import phase
from prefmerge.models.heads import check_inputs
from prefmerge.runs import IN_SEQUENCE, Run, RunTask
from prefmerge.training import run_folder
from prefmerge.training.between_tasks import keep_fisher, regulariser_of
from prefmerge.training.config_file import kept_config
from prefmerge.training.defaults import as_begun, epochs_of, of_warm_up, resolved
from prefmerge.training.job import Job, TrainingProgress
from prefmerge.training.kept import write_kept, write_kept_again
from prefmerge.training.samples import (
    SAMPLES,
    changed_tasks,
    refusal,
    require_different,
    samples_of,
    write_again,
)

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
    from prefmerge.training.opened import open_encoder

    out = Path(out)
    begun = run_folder.look(out, config, force)
    if begun is not None and begun.finished:
        return begun
    if begun is not None:
        config = as_begun(config, kept_config(out))
    corpora = [load_corpus(one, config.seed) for one in config.data]
    own = [corpus for one, corpus in zip(config.data, corpora, strict=True) if registered(one.name) is None]
    for corpus in own if begun is None else ():  # later, only samples that changed are looked at
        if corpus.kind == "image":
            require_readable((corpus.train, corpus.test), corpus.name)
    skipped = [one.model_copy(update={"skip": c.skipped or None}) for one, c in zip(config.data, corpora, strict=True)]
    config = config.model_copy(update={"data": tuple(skipped)})
    scenario = build_scenario(config, corpora)
    # A run that has begun has a model of its own: the one that it began from may have changed since.
    encoder = load_encoder(config.model) if begun is None else open_encoder(begun, config)
    return run_tasks(
        scenario,
        encoder,
        lambda: make_head(config.head, encoder, scenario),
        resolved(config, scenario, encoder),
        out,
        force=force,
        progress=progress,
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
                run = _with_samples_of_now(job, run)
        return _train(job, run)


def _with_samples_of_now(job: Job, run: Run) -> Run:
    """The run with the samples that tasks which have not begun have now. Raises RunError where those of another task
    are not what they were.
    """
    from prefmerge.models.head_file import read_head
    from prefmerge.training.steps import torch_threads

    joint = run.training == "joint"
    waiting = {(task.name, "train") for task in run.tasks if not task.done}
    everything = {(task.name, "train") for task in job.scenario.tasks}
    changed = changed_tasks(job.scenario, job.out, everything if joint else waiting)
    for index, differs in changed.items():
        if joint or run.tasks[index].done or run_folder.state_path(job.out, index).is_dir():
            raise refusal(job.out, differs)
    names = [one.name for one in job.scenario.classes]
    for index, task in enumerate(run.tasks):
        own = tuple(names[c] for c in job.tasks[index].classes)
        if task.classes != own or (run.head_path is not None and list(read_head(run.head_path).classes) != names):
            raise refusal(job.out, f"the classes of task {task.name!r}")
    if not changed or not job.accelerator.is_main_process:
        return run
    about = dict(run.about)
    require_readable((job.scenario.tasks[index].train for index in changed), "the samples that changed")
    if about.get("kept"):
        job.encoder.load(run.base_path)
        with torch_threads(job.config.training.threads):
            about["kept"] = write_kept_again(run, job.scenario, job.encoder, changed, job.device)
    tasks = [
        replace(
            task,
            label_counts={names[c]: n for c, n in job.tasks[index].train.label_counts().items()},
        )
        for index, task in enumerate(run.tasks)
    ]
    run = replace(run, tasks=tuple(tasks), about=about)
    run_folder.write_manifest(run)
    write_again(job.scenario, job.out, changed)  # the last: a kill before it leaves all to be done again
    job.note(
        f"the data changed since the run started: {'; '.join(changed.values())}. These tasks have not begun, so they "
        "are trained on the samples of now."
    )
    return run


def _begin(job: Job, head: Head, about: Mapping[str, Any]) -> Run:
    """Write what a run has before its first task, while the encoder is the base; the manifest last."""
    from prefmerge.training.steps import torch_threads

    out, config = job.out, job.config
    size = sum(tensor.numel() * tensor.element_size() for tensor in job.encoder.state().values())
    fisher = 2 if config.training.method == "ewc" else 0
    checkpoints = len(job.tasks) if config.training.adapter is None else 0  # adapters are small
    needed, free = size * (checkpoints + 4 + fisher), shutil.disk_usage(out).free
    if needed > free:
        raise DiskFull(
            f"{out}: the run needs about {needed / 1e9:.1f} GB ({len(job.tasks)} tasks, the base, and the state of "
            f"training), and {free / 1e9:.1f} GB are free. Give a folder on a larger disk."
        )
    listed = samples_of(job.scenario)
    require_different(listed)
    samples = jsons.encoded(listed, indent=None)
    run_folder.clear(out, config)
    with run_folder.writing(out):
        with atomic.whole_folder(out / run_folder.BASE) as folder:
            run_folder.save_checkpoint(job.encoder, folder)
        head.save(out / run_folder.HEAD)
        atomic.write_whole(out / SAMPLES, samples)
        # The number of threads decides the last bits of the embeddings.
        with phase("encoding samples with the base"), torch_threads(config.training.threads):
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
    for note in (*job.scenario.notes, *of_warm_up(job)):
        job.note(note)
    return run


@contextlib.contextmanager
def _starting(job: Job, base: Path, previous: Path | None, index: int) -> Iterator[Callable[[Path], None]]:
    """The encoder as task `index` starts from it; yields what writes its checkpoint into an empty folder."""
    adapter = job.config.training.adapter
    if adapter is None:
        job.encoder.load(previous or base)
        yield lambda folder: run_folder.save_checkpoint(job.encoder, folder)
        return
    from prefmerge.training.adapters import adapter_in

    job.encoder.load(base)
    with adapter_in(job.encoder, adapter, job.seed(index)) as trained:
        if previous is not None:
            trained.start_from(previous)
        yield trained.save


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
        previous = run.task_path(index - 1) if index and config.method in IN_SEQUENCE else None

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

        with _starting(job, run.base_path, previous, index) as save:
            fine_tune(
                job.encoder,
                head,
                task.train,
                task.classes,
                config,
                epochs=task.epochs or epochs_of(job.config),
                seed=job.seed(index),
                accelerator=accelerator,
                regulariser=regulariser_of(job, index, head) if index else None,
                state=state,
                on_step=on_step,
            )
            if accelerator.is_main_process:
                with run_folder.writing(out), atomic.whole_folder(run.task_path(index)) as folder:
                    save(folder)
        if accelerator.is_main_process and config.method == "ewc" and index + 1 < len(tasks):
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
