"""`prefmerge merge`, `plan` and `verify`: from checkpoints or a recipe to a model with a receipt."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefmerge.cli import options as o
from prefmerge.cli import recipes
from prefmerge.cli.app import command
from prefmerge.cli.derived import given_flags, of_a_merge
from prefmerge.cli.screen import say
from prefmerge.errors import MethodError, UsageError, require_one_source
from prefmerge.ground.words import flag
from prefmerge.merging.parameters import METHOD
from prefmerge.methods.parameters import PREFERENCE

if TYPE_CHECKING:
    from prefmerge.merging.recipe import Recipe


@command
@of_a_merge
def merge(
    inputs: o.Inputs = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="OUT", help="A .safetensors file, or a folder.")
    ] = None,
    run: o.RunFlag = None,
    threads: o.Threads = None,
    max_memory: o.MaxMemory = "256MiB",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, as `plan` does, and write nothing.")
    ] = False,
    force: o.Force = False,
    sha256: Annotated[
        bool, typer.Option("--sha256", help="Also put the SHA-256 of every file into the receipt.")
    ] = False,
    max_shard_size: Annotated[
        str | None,
        typer.Option(
            "--max-shard-size",
            metavar="SIZE",
            help="How large a weights file of a folder may be, such as 5GB. By default they are cut as the base's are, "
            "or at 5GB. The tensors do not depend on it.",
        ),
    ] = None,
    tokenizer_from: Annotated[
        str | None,
        typer.Option(
            "--tokenizer-from",
            metavar="TASK",
            help="Give an output folder the tokenizer of this task, by its name, in place of the base's.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Keep finished tensors when it is interrupted; the same command then makes only what is missing. An "
            "output that was made so already is kept.",
        ),
    ] = False,
    ray: o.Ray = None,
    push: Annotated[
        str | None,
        typer.Option(
            "--push",
            metavar="ORG/NAME",
            help="Upload the output folder to the Hugging Face hub when it is made, as `prefmerge push` does.",
        ),
    ] = None,
    private: o.Private = False,
    report: o.MergeReportFlag = None,
    json: o.Json = False,
    **given: Any,
) -> None:
    """Merge a base and its tasks into one model with a receipt.

    The receipt says how it was made and which task owns how much of it. An explicit flag wins over the recipe file. To
    have the model chosen by measurement for a target, see `prefmerge adapt`.
    """
    require_something(inputs, run)
    if out is None and not dry_run:
        raise UsageError("-o OUT is missing: where should the merged model go?")
    from prefmerge.outputs.write import kind_of

    if out is not None:
        kind_of(out)
    if push is not None or private:
        from prefmerge.cli.push import require_pushable

        require_pushable(push, private, out, dry_run)
    how: dict[str, Any] = {"threads": threads, "max_memory": max_memory, "force": force, "sha256": sha256}
    how |= {"max_shard_size": max_shard_size, "tokenizer_from": tokenizer_from, "resume": resume, "ray": ray}
    flags = given_flags(given)
    if run is None and recipes.holds_several(inputs or []):
        if push is not None:
            raise UsageError(
                f"{(inputs or [])[0]} has several recipes, and --push has one repository: push each output."
            )
        several = recipes.Several((inputs or [])[0], out, partial(_with_flags, flags=flags), json=json)
        several.plan() if dry_run else several.merge(how, o.where(report))
        return
    recipe = recipe_given(inputs or [], run, flags)
    from prefmerge.cli import progress, show

    if dry_run or out is None:
        _plan(recipe, json, out)
        if push is not None:
            say(f"note: the folder would be pushed to {push}.")
        return
    from prefmerge.merging import api

    how["report"] = api.reporting(o.where(report), out, force=force)
    show.say_compiling()
    with progress.merging() as shown:
        kept: list[Path] = []
        receipt = api.run(recipe, out, progress=shown, on_kept=partial(kept.append, out), **how)
    if json:
        folder = out if receipt.output.kind == "folder" else out.absolute().parent
        show.as_json(receipt.published(folder).to_json())
    elif kept:
        show.say_kept(out)
    else:
        show.merged(receipt, recipe, out)
        show.say_report(o.where(report), out, folder=receipt.output.kind == "folder")
        if run is not None or given.get(PREFERENCE.name) is not None:
            show.say_adapt("BASE TASK..." if run is None else f"--run {quote(str(run))}")
    if push is not None:
        from prefmerge.cli.push import send

        send(out, push, private, to=say if json else None)


@command
@of_a_merge
def plan(
    inputs: o.Inputs = None,
    run: o.RunFlag = None,
    json: o.Json = False,
    **given: Any,
) -> None:
    """Say what merge would do. Reads headers only, so budgets are upper bounds until unchanged tensors are known."""
    require_something(inputs, run)
    flags = given_flags(given)
    if run is None and recipes.holds_several(inputs or []):
        recipes.Several((inputs or [])[0], None, partial(_with_flags, flags=flags), json=json).plan()
    else:
        _plan(recipe_given(inputs or [], run, flags), json)


@command
def verify(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A merged file or folder.")],
    inputs: Annotated[
        bool,
        typer.Option("--with-inputs", help="Also compare the inputs with their fingerprints, where they still are."),
    ] = False,
    inputs_before: Annotated[bool, typer.Option("--inputs", hidden=True)] = False,
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Also merge again from the receipt, into a temporary folder, and compare.")
    ] = False,
    threads: o.Threads = None,
    json: o.Json = False,
) -> None:
    """Check a merged model against its receipt."""
    from prefmerge.cli import progress, show
    from prefmerge.merging.verify import verify as check

    if inputs_before:
        say("note: --inputs is called --with-inputs now.")
    with progress.merging() as report:
        result = check(out, inputs=inputs or inputs_before, rerun=rerun, threads=threads, progress=report)
    if json:
        show.as_json(result.to_json())
    else:
        show.verified(result)


def require_something(inputs: list[Path] | None, run: Path | None) -> None:
    if not inputs and run is None:
        raise UsageError("nothing to merge: give a base and its tasks, a recipe, or --run RUN.")


def recipe_given(inputs: list[Path], run: Path | None, flags: dict[str, Any]) -> Recipe:
    """The recipe that the arguments and flags describe."""
    from prefmerge.merging.recipe import Recipe, TaskEntry

    if run is not None:
        require_one_source(run, inputs)
        recipe = of_run(run)
    elif inputs[0].suffix.lower() in (".yaml", ".yml"):
        if len(inputs) > 1:
            raise UsageError(f"{inputs[0]} is a recipe and names its own checkpoints. Leave {inputs[1]} out.")
        from prefmerge.merging.recipe_file import read_recipe

        recipe = read_recipe(inputs[0])
    else:
        recipe = Recipe(base=str(inputs[0]), tasks=tuple(TaskEntry(path=str(path)) for path in inputs[1:]))
    return _with_flags(recipe, flags)


def _with_flags(recipe: Recipe, flags: dict[str, Any]) -> Recipe:
    """The recipe with the flags that were given."""
    _note_what_belongs_to_it(flags)
    try:
        return recipe.with_overrides(strict=True, **flags)
    except MethodError as error:  # the flags are all that is new: a value that makes no sense is wrong usage
        raise UsageError(str(error)) from error


def _note_what_belongs_to_it(flags: dict[str, Any]) -> None:
    """A search finds a preference together with other parameters; without them the merge is of another model."""
    spec = flags.get(PREFERENCE.name)
    if not isinstance(spec, str) or not spec.startswith("@"):
        return
    from prefmerge.ground import jsons

    try:
        parameters = jsons.read(Path(spec[1:]))["about"]["settings"]
        lacking = {name: value for name, value in parameters.items() if name != METHOD.name and flags.get(name) is None}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return  # a file without them; whoever reads the preference says what is wrong with it
    if lacking:
        words = " ".join(f"{flag(name)} {value}" for name, value in lacking.items())
        say(f"note: {spec[1:]} was found together with {words}; add these to make that model.")


def of_run(folder: Path) -> Recipe:
    """A recipe with the base and the tasks of a run that is finished."""
    from prefmerge.merging.recipe import Recipe, TaskEntry
    from prefmerge.runs import read_run, require_finished

    run = read_run(folder)
    require_finished(run, otherwise="name the checkpoints that are to be merged")
    tasks = tuple(TaskEntry(path=str(run.task_path(i)), name=task.name) for i, task in enumerate(run.tasks))
    return Recipe(base=str(run.base_path), tasks=tasks)


def _plan(recipe: Recipe, json: bool, out: Path | None = None) -> None:
    from prefmerge.cli import progress, show
    from prefmerge.merging.api import planned

    with progress.merging():
        opened = planned(recipe, out)
    with opened as made:
        if json:
            show.as_json(made.to_json())
        else:
            show.planned(made, recipe)
