"""`prefmerge finetune` and `evaluate`: the checkpoints, and how good they are."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from prefmerge.cli import options as o
from prefmerge.cli.app import command
from prefmerge.errors import UsageError


@command
def finetune(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="What to train, on what, and how.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="RUN", help="The run's folder.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a run that is there.")] = False,
    json: o.Json = False,
) -> None:
    """Fine-tune one checkpoint per task, one task after another. Needs the extra `train`.

    The same command resumes a run that was interrupted. The smallest CONFIG.yaml, with the papers' recipe:

    \b
      model: openai/clip-vit-base-patch16
      data: cifar100
      scenario: {kind: class-incremental, tasks: 5}
    """
    if out is None:
        raise UsageError("-o RUN is missing: where should the checkpoints go?")
    from prefmerge.cli import progress, show
    from prefmerge.training.config_file import read_config
    from prefmerge.training.finetuning import finetune as train

    asked = read_config(config)
    with progress.training() as report:
        run = train(asked, out, force=force, progress=report)
    if os.environ.get("RANK", "0") != "0":
        return  # one of several processes reports
    if json:
        show.as_json(run.to_json())
    else:
        show.trained(run)


@command
def evaluate(
    checkpoints: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[CHECKPOINT]...", help="A merged model, or any of the run's; one for each --run."),
    ] = None,
    run: Annotated[
        list[Path] | None,
        typer.Option(
            "--run",
            metavar="RUN",
            help="The run whose tasks to judge on. Repeatable, for seeds.",
        ),
    ] = None,
    head: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Answer with this head.safetensors, of `search` or `adapt`; needs one CHECKPOINT."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Samples encoded at once.")] = 256,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Neither read nor write encoded features on disk.")
    ] = False,
    json: o.Json = False,
) -> None:
    """Accuracy of a checkpoint on every task of a run. Needs the extra `train`.

    Without a checkpoint: each of the run's on every task, and what was forgotten. With several runs, which differ in
    their seed: mean and standard deviation over them, of the checkpoints given or of each run's last one. Where the
    data cannot be read, the samples that the run held out take their place.
    """
    checkpoints, runs = checkpoints or [], run or []
    if not runs:
        raise UsageError("--run RUN is missing: whose tasks, classes and test samples?")
    if checkpoints and len(checkpoints) != len(runs):
        raise UsageError(
            f"{len(checkpoints)} checkpoints for {len(runs)} runs: give one for each --run, in the same order, or none."
        )
    if head is not None and len(checkpoints) != 1:
        raise UsageError(f"--head {head} belongs to one model: give its CHECKPOINT, and one --run.")
    from prefmerge.cli import progress, show
    from prefmerge.models.features import cache_folder
    from prefmerge.models.matrix import evaluate_matrix
    from prefmerge.models.seeds import summary_over_seeds
    from prefmerge.runs import read_run
    from prefmerge.training.finetuning import require_train
    from prefmerge.training.opened import best_device, evaluate_checkpoint, open_run

    require_train("evaluation")
    how: dict[str, Any] = {"batch": batch, "cache": None if no_cache else cache_folder()}
    result: dict[str, Any]
    with progress.counting("samples") as report:
        if len(runs) > 1:
            paths = checkpoints or [read_run(one).last_path for one in runs]
            several = [
                evaluate_checkpoint(path, one, progress=report, **how).to_json()
                for path, one in zip(paths, runs, strict=True)
            ]
            result = summary_over_seeds(several)
            print_it = functools.partial(show.over_seeds, result)
        elif checkpoints:
            one = evaluate_checkpoint(checkpoints[0], runs[0], head=head, progress=report, **how)
            result, print_it = one.to_json(), functools.partial(show.evaluated, one)
        else:
            opened = open_run(runs[0])
            device = best_device(opened.config)
            parts = (opened.encoder, opened.run, opened.head, opened.scenario)
            every = evaluate_matrix(*parts, device=device, progress=report, about=opened.about(), **how)
            result, print_it = every.to_json(), functools.partial(show.matrix, every)
    if json:
        show.as_json(result)
    else:
        print_it()
