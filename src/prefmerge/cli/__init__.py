"""The command line: parse, call, show. Nothing is decided here.

Exit codes: 0 done; 1 the job cannot be done (one message on stderr, no traceback); 2 wrong usage; 130 interrupted.
Results go to stdout, everything else to stderr; `--json` prints one object. Only typer is imported before a command
runs: `--help` must answer at once.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefmerge.cli import options as o
from prefmerge.cli.app import app, command, main
from prefmerge.errors import MethodError, UsageError

if TYPE_CHECKING:
    from prefmerge.merging.recipe import Recipe

__all__ = ["app", "main"]


@command
def merge(
    inputs: o.Inputs = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="OUT", help="A .safetensors file, or a folder.")
    ] = None,
    run: o.Run = None,
    method: o.Method = None,
    prefer: o.Prefer = None,
    scale: o.Scale = None,
    seed: o.Seed = None,
    selection: o.Selection = None,
    importance: o.Importance = None,
    strength: o.Strength = None,
    carry: o.Carry = None,
    scope: o.Scope = None,
    passes: o.Passes = None,
    density: o.Density = None,
    dtype: o.Dtype = None,
    exclude: o.Exclude = None,
    as_task_vector: o.AsTaskVector = False,
    threads: o.Threads = None,
    max_memory: o.MaxMemory = "256MiB",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, as `plan` does, and write nothing.")
    ] = False,
    force: o.Force = False,
    sha256: Annotated[
        bool, typer.Option("--sha256", help="Also put the SHA-256 of every file into the receipt.")
    ] = False,
    json: o.Json = False,
) -> None:
    """Merge a base and its tasks into one model with a receipt.

    The receipt says how it was made and which task owns how much of it. An explicit flag wins over the recipe file.
    """
    _something(inputs, run)
    if out is None and not dry_run:
        raise UsageError("-o OUT is missing: where should the merged model go?")
    recipe = _recipe(
        inputs or [],
        run,
        method=method,
        preference=prefer,
        scale=scale,
        seed=seed,
        selection=selection,
        importance=importance,
        strength=strength,
        carry=carry,
        scope=scope,
        passes=passes,
        density=density,
        dtype=dtype,
        exclude=exclude,
        as_task_vector=as_task_vector or None,
    )
    from prefmerge.cli import show

    if dry_run or out is None:
        _plan(recipe, json)
        return
    from prefmerge.merging import api

    show.say_compiling()
    with show.progress() as report:
        receipt = api.run(
            recipe, out, threads=threads, max_memory=max_memory, force=force, sha256=sha256, progress=report
        )
    if json:
        show.as_json(receipt.data)
    else:
        show.merged(receipt.data, recipe, out)


@command
def plan(
    inputs: o.Inputs = None,
    run: o.Run = None,
    method: o.Method = None,
    prefer: o.Prefer = None,
    scale: o.Scale = None,
    seed: o.Seed = None,
    selection: o.Selection = None,
    importance: o.Importance = None,
    strength: o.Strength = None,
    carry: o.Carry = None,
    scope: o.Scope = None,
    passes: o.Passes = None,
    density: o.Density = None,
    dtype: o.Dtype = None,
    exclude: o.Exclude = None,
    as_task_vector: o.AsTaskVector = False,
    json: o.Json = False,
) -> None:
    """Say what merge would do. Reads headers only, so budgets are upper bounds until unchanged tensors are known."""
    _something(inputs, run)
    recipe = _recipe(
        inputs or [],
        run,
        method=method,
        preference=prefer,
        scale=scale,
        seed=seed,
        selection=selection,
        importance=importance,
        strength=strength,
        carry=carry,
        scope=scope,
        passes=passes,
        density=density,
        dtype=dtype,
        exclude=exclude,
        as_task_vector=as_task_vector or None,
    )
    _plan(recipe, json)


@command
def verify(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A merged file or folder.")],
    inputs: Annotated[bool, typer.Option("--inputs", help="Also hash the inputs again, where they still are.")] = False,
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Also merge again from the receipt, into a temporary folder, and compare.")
    ] = False,
    threads: o.Threads = None,
    json: o.Json = False,
) -> None:
    """Check a merged model against its receipt."""
    from prefmerge.cli import show
    from prefmerge.merging.verify import verify as check

    with show.progress() as report:
        found = check(out, inputs=inputs, rerun=rerun, threads=threads, progress=report)
    if json:
        show.as_json(found.to_json())
    else:
        show.verified(found)


@command
def inspect(
    path: Annotated[
        Path, typer.Argument(metavar="RECEIPT|OUT|CHECKPOINT", help="A merged model or its receipt, or any checkpoint.")
    ],
    png: Annotated[
        Path | None, typer.Option("--png", metavar="FILE", help="Draw the ownership of every layer into this file.")
    ] = None,
    by: Annotated[str, typer.Option("--by", metavar="layer|tensor", help="One row per layer or per tensor.")] = "layer",
    json: o.Json = False,
) -> None:
    """Show which task owns how much, per layer. For a checkpoint without a receipt: its tensors."""
    from prefmerge import analysis
    from prefmerge.cli import show

    if by not in ("layer", "tensor"):
        raise UsageError(f"--by: expected layer or tensor, found {by!r}.")
    found = analysis.look(path, by=by)
    if png is not None:
        if not isinstance(found, analysis.Ownership):
            raise UsageError(
                f"--png draws who owns what, which needs a receipt; {path} has none. Leave --png out, or give a "
                f"merged model."
            )
        analysis.draw(found, png)
    if json:
        show.as_json(found.to_json())
    else:
        show.inspected(found, png)


@command
def finetune(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="What to train, on what, and how.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="RUN", help="The run's folder.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Begin a run that is there anew.")] = False,
    json: o.Json = False,
) -> None:
    """Fine-tune one checkpoint per task, one task after another. Needs the extra `train`.

    The same command on a run that was interrupted goes on with it. The smallest CONFIG.yaml, with the papers' recipe:

    \b
      model: openai/clip-vit-base-patch16
      data: cifar100
      scenario: {kind: class-incremental, tasks: 5}
    """
    if out is None:
        raise UsageError("-o RUN is missing: where should the checkpoints go?")
    from prefmerge.cli import show
    from prefmerge.continual.config import read_config
    from prefmerge.continual.finetuning import finetune as train

    asked = read_config(config)
    with show.training() as report:
        run = train(asked, out, force=force, progress=report)
    if os.environ.get("RANK", "0") != "0":
        return  # one of several processes tells
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
        typer.Option("--run", metavar="RUN", help="The run whose tasks it is for. Repeatable: seeds."),
    ] = None,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Samples encoded at once.")] = 256,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Neither read nor write encoded features on disk.")
    ] = False,
    json: o.Json = False,
) -> None:
    """Accuracy of a checkpoint on every task of a run. Needs the extra `train`.

    Without a checkpoint: all of the run's, each on every task, and what was forgotten. With several runs, which differ
    in their seed: mean and standard deviation over them, of the checkpoints given or of the last ones.
    """
    checkpoints, runs = checkpoints or [], run or []
    if not runs:
        raise UsageError("--run RUN is missing: whose tasks, classes and test samples?")
    if checkpoints and len(checkpoints) != len(runs):
        raise UsageError(
            f"{len(checkpoints)} checkpoints for {len(runs)} runs: give one for each --run, in the same order, or none."
        )
    from prefmerge.cli import show
    from prefmerge.continual import evaluation, features
    from prefmerge.continual.finetuning import require_train
    from prefmerge.runs import read_run

    require_train("evaluation")
    how: dict[str, Any] = {"batch": batch, "cache": None if no_cache else features.cache_folder()}
    found: dict[str, Any]
    with show.encoding() as report:
        if len(runs) > 1:
            paths = checkpoints or [read_run(one).last_path for one in runs]
            several = [
                evaluation.evaluate_checkpoint(path, one, progress=report, **how).to_json()
                for path, one in zip(paths, runs, strict=True)
            ]
            found = evaluation.summary_over_seeds(several)
            print_it = functools.partial(show.over_seeds, found)
        elif checkpoints:
            one = evaluation.evaluate_checkpoint(checkpoints[0], runs[0], progress=report, **how)
            found, print_it = one.to_json(), functools.partial(show.evaluated, one)
        else:
            opened = evaluation.open_run(runs[0])
            device = evaluation.best_device(opened.config)
            parts = (opened.encoder, opened.run, opened.head, opened.scenario)
            every = evaluation.evaluate_matrix(*parts, device=device, progress=report, **how)
            found, print_it = every.to_json(), functools.partial(show.matrix, every)
    if json:
        show.as_json(found)
    else:
        print_it()


@command
def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Where checkpoints, table and chart go.")
    ] = Path("demo-out"),
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Decides training and merging.")] = 0,
    force: o.Force = False,
    json: o.Json = False,
) -> None:
    """Fine-tune a tiny model on digits and merge it for one place.

    Five tasks of two handwritten digits each, in sequence; a place that sees mostly two of them; accuracies, a chart.
    Takes about a minute and needs the extra `demo`.
    """
    from prefmerge.cli import show
    from prefmerge.demo import run

    result = run(out, seed, quiet=json, force=force, watch=show.training)
    if json:
        show.as_json(result)


def _something(inputs: list[Path] | None, run: Path | None) -> None:
    if not inputs and run is None:
        raise UsageError("nothing to merge: give a base and its tasks, a recipe, or --run RUN.")


def _recipe(inputs: list[Path], run: Path | None, **flags: Any) -> Recipe:
    """The recipe that the arguments and flags describe."""
    from prefmerge.merging.recipe import Recipe, TaskEntry

    if run is not None:
        if inputs:
            raise UsageError(f"--run {run} already says which checkpoints to take; {inputs[0]} is one too many.")
        recipe = _of_run(run)
    elif inputs[0].suffix.lower() in (".yaml", ".yml"):
        if len(inputs) > 1:
            raise UsageError(f"{inputs[0]} is a recipe and names its own checkpoints; {inputs[1]} is one too many.")
        recipe = Recipe.from_yaml(inputs[0])
    else:
        recipe = Recipe(base=str(inputs[0]), tasks=tuple(TaskEntry(path=str(path)) for path in inputs[1:]))
    try:
        return recipe.with_overrides(strict=True, **flags)
    except MethodError as error:  # the flags are all that is new: a value that makes no sense is wrong usage
        raise UsageError(str(error)) from error


def _of_run(folder: Path) -> Recipe:
    """A recipe with the base and the tasks of a run that is finished."""
    from prefmerge.errors import RunError
    from prefmerge.merging.recipe import Recipe, TaskEntry
    from prefmerge.runs import read_run

    run = read_run(folder)
    missing = [task.name for task in run.tasks if not task.done]
    if missing:
        raise RunError(
            f"{folder}: task {missing[0]!r} is not trained yet ({len(missing)} of {len(run.tasks)} are missing). "
            f"Run the same `prefmerge finetune` again to go on, or name the checkpoints that are to be merged."
        )
    tasks = tuple(TaskEntry(path=str(run.task_path(i)), name=task.name) for i, task in enumerate(run.tasks))
    return Recipe(base=str(run.base_path), tasks=tasks)


def _plan(recipe: Recipe, json: bool) -> None:
    from prefmerge.cli import show
    from prefmerge.merging.api import make_plan

    with make_plan(recipe) as found:
        if json:
            show.as_json(found.to_json())
        else:
            show.planned(found, recipe)
