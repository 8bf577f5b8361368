"""The calls that users make: merge files, merge state dicts, plan.

recipe -> plan (headers) -> engine (values) -> receipt. The output appears at its place whole, with its receipt, or not
at all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from prefmerge.checkpoints import (
    Checkpoint,
    from_state_dict,
    is_torch_tensor,
)
from prefmerge.checkpoints.folder import Folder
from prefmerge.checkpoints.paths import expanded
from prefmerge.errors import UsageError
from prefmerge.ground.progress import Progress
from prefmerge.merging.added import Added
from prefmerge.merging.arguments import RecipeArguments, stated, with_declared
from prefmerge.merging.engine import merge_into
from prefmerge.merging.in_memory import InMemory, base_state, name_of_task, require_list, task_of
from prefmerge.merging.limits import checked_threads
from prefmerge.merging.made import made
from prefmerge.merging.many import Order, Reporting, write_all
from prefmerge.merging.parameters import per_task
from prefmerge.merging.plan import Plan, make_plan, plan_over
from prefmerge.merging.receipt import Receipt, ReceiptOutput, ReceiptRun
from prefmerge.merging.recipe import Recipe, TaskEntry
from prefmerge.merging.recording import inputs_of, record, versions
from prefmerge.merging.sinks import HashedSink, MemorySink
from prefmerge.merging.vocabulary_files import require_template
from prefmerge.outputs.write import kind_of
from prefmerge.report import place
from prefmerge.vectors.workspace import BLOCK, Workspace


@with_declared
def merge(
    base: str | Path,
    tasks: Sequence[str | Path],
    out: str | Path,
    *,
    names: Sequence[str] | None = None,
    parameters: Mapping[str, object] | None = None,
    threads: int | None = None,
    max_memory: str | int = "256MiB",
    force: bool = False,
    sha256: bool = False,
    max_shard_size: str | int | None = None,
    tokenizer_from: str | None = None,
    resume: bool = False,
    ray: str | None = None,
    report: place.ReportWhere = None,
    progress: Progress | None = None,
    **given: Unpack[RecipeArguments],
) -> Receipt:
    """Merge the task checkpoints at `tasks` into the model at `base` and write the result, with its receipt, to `out`.

        receipt = prefmerge.merge("base", ["cars", "birds"], "out", preference="cars=0.8,birds=0.2")
        receipt.owned   # how many elements each task owns

    Each of base and tasks is a safetensors file, a Hugging Face folder or a .pt/.bin state dict (`x.pt#ema`: the one
    under that key), or a hub id (`org/name`, `org/name@revision`), the tasks in the order in which they were trained.
    `out` is a .safetensors file or a folder.
    `names`: what the tasks are called, by default after their files.

    What decides the values: `method`, and the parameters that it declares, each with its default; a parameter that the
    method has no use for is an error. `parameters` holds more of them by name, such as those of a method that you
    registered. `docs/parameters.md` says what each is.

    How it is done: `threads` (one per core), `max_memory` (a bound on working memory), `force` (replace an output),
    `sha256` (put the SHA-256 of every file into the receipt), `max_shard_size` (how large a file of a folder may be,
    such as 5GB; by default a folder is cut as the base is), `tokenizer_from` (the name of the task whose tokenizer a
    folder gets in place of the base's), `resume` (take the tensors that an interrupted call with `resume` had finished
    of the very same output, keep what is finished when this one is interrupted, and leave an output that was made so
    already), `ray` (the address of a cluster of
    Ray to merge on, or `local`), `report` (also write an HTML file to look at: True for report.html in an output folder
    or NAME.report.html beside an output file, else its name), `progress` (called with what is done and how much there
    is). No value depends on these.

    Raises PrefmergeError with one message when it cannot be done; then nothing has appeared at `out`. Raises TypeError
    for a keyword argument that there is not.
    """
    return run(
        recipe_of(base, tasks, names=names, **stated(merge, given, parameters)),
        Path(out),
        threads=threads,
        max_memory=max_memory,
        force=force,
        sha256=sha256,
        max_shard_size=max_shard_size,
        tokenizer_from=tokenizer_from,
        resume=resume,
        ray=ray,
        report=reporting(report, Path(out), force=force),
        progress=progress,
    )


def reporting(where: place.ReportWhere, out: Path, *, force: bool = False) -> Reporting | None:
    """The report of the merge to `out` that is asked for. Raises UsageError, OutputExists where it cannot go there."""
    asked = place.asked_of(where, expanded(out), folder=kind_of(out) == "folder", force=force)
    if asked is None:
        return None
    from prefmerge.merging.page import page  # charts and markup, which few merges need

    return Reporting(page, asked.file)


@with_declared
def plan(
    base: str | Path,
    tasks: Sequence[str | Path],
    *,
    names: Sequence[str] | None = None,
    parameters: Mapping[str, object] | None = None,
    **given: Unpack[RecipeArguments],
) -> Plan:
    """What `merge` with the same arguments would do, from headers and a few values.

        with prefmerge.plan("base", ["cars", "birds"], preference="0.8,0.2") as planned:
            planned.most_budgets()   # at most so many elements for each task

    A plan holds its inputs open: use `with`, or close it. Raises what `merge` raises before it reads values.
    """
    return planned(recipe_of(base, tasks, names=names, **stated(plan, given, parameters)))


def planned(recipe: Recipe, out: Path | None = None) -> Plan:
    """The plan of a recipe, with what is known of the files beside the weights checked too. `out`: where the output
    would go; None: to a place of the base's kind.
    """
    made = make_plan(recipe)
    try:
        folder = isinstance(made.home, Folder) if out is None else kind_of(out) == "folder"
        if folder:
            require_template(made)
    except BaseException:
        made.close()
        raise
    return made


def recipe_of(
    base: str | Path | None, tasks: Sequence[str | Path], *, names: Sequence[str] | None = None, **given: Any
) -> Recipe:
    """The recipe that Python arguments describe. Raises UsageError for a parameter that is unknown or of no use."""
    if isinstance(tasks, str | os.PathLike):
        raise UsageError(f"tasks is one path, {os.fspath(tasks)!r}; give a list of paths, one for each task.")
    if isinstance(names, str):
        raise UsageError(f"names is one name, {names!r}; give a list of names, one for each task.")
    count = len(tasks)
    if names is not None and len(names) != count:
        raise UsageError(f"names has {len(names)} entries for {count} tasks; give one per task.")
    own: list[dict[str, Any]] = [{} for _ in tasks]
    listed: list[str] = []
    for one in per_task():
        values = given.get(one.name)
        single = isinstance(values, (int, float, str, Fraction))
        if values is None or (one.flag and single):
            continue
        del given[one.name]
        how = "give one number, or one per task" if one.flag else "give one per task"
        if single:
            raise UsageError(f"{one.name} is one number, {values}; {how}.")
        if len(values) != count:
            raise UsageError(f"{one.name} has {len(values)} entries for {count} tasks; {how}.")
        for entry, value in zip(own, values, strict=True):
            if value is not None:
                entry[one.name] = value
        if any(one.name in entry for entry in own):
            listed.append(one.name)
    entries = tuple(
        TaskEntry(path=os.fspath(path), name=None if names is None else str(names[i]), own=own[i])
        for i, path in enumerate(tasks)
    )
    recipe = Recipe(base=None if base is None else os.fspath(base), tasks=entries)
    stated = recipe.with_overrides(**given)
    ignored = stated.ignored(listed)
    if ignored:
        raise UsageError(stated.why_ignored(ignored[0], ignored[0]))
    return stated


def run(
    recipe: Recipe,
    out: Path,
    *,
    threads: int | None = None,
    max_memory: str | int = "256MiB",
    force: bool = False,
    sha256: bool = False,
    max_shard_size: str | int | None = None,
    tokenizer_from: str | None = None,
    resume: bool = False,
    ray: str | None = None,
    progress: Progress | None = None,
    beside: Mapping[str, bytes] | None = None,
    card: str = "",
    added: Added | None = None,
    report: Reporting | None = None,
    notes: Sequence[str] = (),
    on_kept: Callable[[], object] | None = None,
    block: int = BLOCK,
) -> Receipt:
    """Carry out a recipe. `beside`: files, by name, to put beside the weights of a folder. `card`: Markdown on what the
    model is for, for its card. `added`: numbers, by tensor, to add to the merged ones. `report`: what to make of the
    merge to look at. `notes`: what else the receipt says. `on_kept` is called where `resume` finds that the output was
    made so already. `block` (elements read at a time) is for tests: no value depends on it.
    """
    order = Order(recipe, expanded(out), beside or {}, card, added, report, notes)
    there = made(order, max_shard_size, tokenizer_from) if resume else None
    if there is not None and not (sha256 and there.inputs.base.sha256 is None):
        if on_kept is not None:
            on_kept()
        return replace(there, output=replace(there.output, path=str(out)))
    (receipt,) = write_all(
        [replace(order, out=out)],
        threads=threads,
        max_memory=max_memory,
        force=force,
        sha256=sha256,
        max_shard_size=max_shard_size,
        tokenizer_from=tokenizer_from,
        progress=progress,
        resume=resume,
        ray=ray,
        block=block,
    )
    return receipt


@with_declared
def merge_state_dicts(
    base: InMemory,
    tasks: Sequence[InMemory],
    *,
    names: Sequence[str] | None = None,
    parameters: Mapping[str, object] | None = None,
    threads: int | None = None,
    block: int = BLOCK,
    **given: Unpack[RecipeArguments],
) -> tuple[dict[str, Any], Receipt]:
    """Merge what is in memory: state dicts (of NumPy arrays or torch tensors), modules of torch, models of PEFT.
    Returns a state dict of the base's kind, on the CPU, and the receipt.

        merged, receipt = prefmerge.merge_state_dicts(base, [cars, birds], method="magmax")
        base.load_state_dict(merged)

    tasks: one per task, in the order of training, called `names` (task-1, task-2 ... by default). A model with adapters
    of PEFT is, as the base, the model without them, and as a task its active adapter; a text is the name of an adapter
    that the base has. The other arguments are those of `merge`; `block` (elements read at a time) changes no value.
    Raises what `merge` raises.
    """
    require_list(tasks)
    called = list(names) if names is not None else [name_of_task(task, i + 1) for i, task in enumerate(tasks)]
    recipe = recipe_of("base", called, names=called, **stated(merge_state_dicts, given, parameters))
    clock = time.perf_counter()
    state = base_state(base)
    opened: list[Checkpoint] = [from_state_dict(state, name="base")]
    opened += [task_of(task, base, opened[0], name) for task, name in zip(tasks, called, strict=True)]
    with (
        plan_over(recipe, opened[0], opened[1:]) as planned,
        Workspace(threads=checked_threads(threads), block=block) as work,
    ):
        memory = MemorySink(planned.layout)
        sink = HashedSink(memory, planned.layout)
        outcome = merge_into(planned, sink, work)
        sink.hash_rest(work)
        receipt = record(
            planned,
            outcome,
            inputs=inputs_of(outcome.reading),
            output=ReceiptOutput(path=None, kind="memory", files=(), fingerprint=sink.fingerprint.hexdigest()),
            digests=sink.fingerprint.tensor_digests(),
            run=ReceiptRun(seconds=round(time.perf_counter() - clock, 3), threads=work.threads, versions=versions()),
        )
        merged = {info.name: _as_kind_of(state[info.name], memory.raw(info.name), info) for info in planned.layout}
    aliases = opened[0].aliases
    for entry in planned.of_role("tied"):
        first = entry.tied_to
        if first in merged and aliases.get(entry.name, entry.name) == aliases.get(first, first):
            merged[entry.name] = merged[first]
    return {name: merged[name] for name in state if name in merged}, receipt


def _as_kind_of(like: Any, stored: np.ndarray, info: Any) -> Any:
    if is_torch_tensor(like):
        import torch

        dtype = getattr(torch, info.dtype.name)
        return torch.from_numpy(stored.view(np.uint8)).view(dtype).reshape(info.shape)
    array = (
        stored.view(like.dtype)
        if like.dtype.itemsize == stored.dtype.itemsize and like.dtype.name == info.dtype.name
        else stored
    )
    return array.reshape(info.shape)
