"""The calls that users make: merge files, merge state dicts, plan.

recipe -> plan (headers) -> engine (values) -> receipt. The output appears at its place whole, with its receipt, or not
at all.
"""

from __future__ import annotations

import datetime
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from prefmerge.checkpoints import (
    Checkpoint,
    base_fingerprint,
    content_fingerprint,
    from_state_dict,
    is_torch_tensor,
    task_vector_metadata,
)
from prefmerge.checkpoints.folder import Folder
from prefmerge.errors import OutputIsInput, PreferenceError, UsageError
from prefmerge.ground.progress import Progress, phase
from prefmerge.ground.words import did_you_mean
from prefmerge.merging.added import Added, Adding, note
from prefmerge.merging.arguments import RecipeArguments, stated, with_declared
from prefmerge.merging.card import CARD, base_model, model_card
from prefmerge.merging.configs import as_published
from prefmerge.merging.engine import HashedSink, MemorySink, merge_into
from prefmerge.merging.in_memory import InMemory, base_state, name_of_task, task_of
from prefmerge.merging.parameters import per_task
from prefmerge.merging.plan import Plan, make_plan, names_its_base, plan_over
from prefmerge.merging.receipt import Receipt, ReceiptFile, ReceiptOutput, ReceiptRun
from prefmerge.merging.recipe import Recipe, TaskEntry
from prefmerge.merging.recording import inputs_of, record, versions
from prefmerge.merging.stacks import Stack, home_of
from prefmerge.merging.vocabularies import TOKENIZER
from prefmerge.merging.vocabulary_files import VocabularyFiles, vocabulary_files
from prefmerge.outputs.companions import Companions, find_companions, placed_as, weights_name
from prefmerge.outputs.tokenizer import with_tokenizer
from prefmerge.outputs.write import Output, OutputKind, create_output, kind_of
from prefmerge.preference import exact
from prefmerge.vectors.workspace import BLOCK, Workspace

UNITS = {
    "": 1,
    "B": 1,
    "K": 10**3,
    "KB": 10**3,
    "M": 10**6,
    "MB": 10**6,
    "G": 10**9,
    "GB": 10**9,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
}
BLOCKS_PER_THREAD = 16  # buffers of one block that a thread holds at most, conversions included


def parse_bytes(text: str | int, what: str = "memory") -> int:
    """`256MiB`, `1.5 GB` or a number of bytes. Raises UsageError that says `what` is no size."""
    if isinstance(text, bool) or not isinstance(text, str | int):
        raise UsageError(f"{what} {text!r} is not a size; write for instance 256MiB or 2GB.")
    text = str(text)
    plain = text.strip().upper()
    number = plain.rstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = plain[len(number) :].strip()
    try:
        value = int(exact(number) * UNITS[unit])
    except (KeyError, PreferenceError) as error:
        raise UsageError(f"{what} {text!r} is not a size; write for instance 256MiB or 2GB.") from error
    if value <= 0:
        raise UsageError(f"{what} {text!r} must be positive.")
    return value


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
    folder gets in place of the base's), `progress` (called with what is done and how much there is). No value depends
    on these.

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
        progress=progress,
    )


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
    return make_plan(recipe_of(base, tasks, names=names, **stated(plan, given, parameters)))


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
    progress: Progress | None = None,
    beside: Mapping[str, bytes] | None = None,
    card: str = "",
    added: Added | None = None,
    block: int = BLOCK,
) -> Receipt:
    """Carry out a recipe. `beside`: files, by name, to put beside the weights of a folder. `card`: Markdown on what the
    model is for, for its card. `added`: numbers, by tensor, to add to the merged ones. `block` (elements read at a
    time) is for tests: no value depends on it.
    """
    started, clock = datetime.datetime.now(datetime.UTC), time.perf_counter()
    kind = kind_of(out)
    threads = checked_threads(threads)
    shards = _sharding(max_shard_size, out, kind)
    allowance = _allowance(parse_bytes(max_memory), threads, block)
    with phase("comparing the checkpoints"):
        planned = make_plan(recipe, tokenizers=tokenizer_from is not None)
    with planned:
        _refuse_inputs(planned, out)
        files = _files(planned, kind, tokenizer_from)
        companions = files.companions
        if kind == "folder" and not shards:
            shards["placed"] = placed_as(planned.given_base, planned.layout)
        output = create_output(
            out,
            planned.layout,
            metadata=lambda: _metadata(planned),
            kind=kind,
            force=force,
            scratch_bytes=_scratch_bytes(planned, allowance),
            began=started.timestamp(),
            weights_name=weights_name(home_of(planned.given_base)),
            beside_bytes=companions.size,
            **shards,
        )
        with output, Workspace(threads=threads, block=block, memory=allowance, scratch=output.target.parent) as work:
            with planned.reading():
                hashed = HashedSink(output, planned.layout)
                sink = Adding(hashed, planned.layout, added) if added else hashed
                outcome = merge_into(planned, sink, work, progress)
                inputs = inputs_of(outcome.reading, sha256=sha256)
            hashed.hash_rest(work)
            receipt = record(
                planned,
                outcome,
                inputs=inputs,
                output=ReceiptOutput(path=str(out), kind=kind, files=(), fingerprint=hashed.fingerprint.hexdigest()),
                digests=hashed.fingerprint.tensor_digests(),
                run=ReceiptRun(
                    started=started.isoformat(timespec="seconds"),
                    seconds=round(time.perf_counter() - clock, 3),
                    threads=threads,
                    max_memory=str(max_memory),
                    scratch_bytes=work.spilled,
                    versions=versions(),
                ),
                notes=[*([note(added)] if added else []), *companions.notes()],
                added=added,
            )
            if kind == "folder":
                _add_companions(output, planned, files, beside or {})
                base = base_model(home_of(planned.given_base).path, companions.files)
                output.add_file(CARD, model_card(receipt, base, card).encode())
            return _published(output, receipt)


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


def checked_threads(threads: int | None) -> int:
    """As asked for, else one per core. Raises UsageError below 1."""
    if threads is None:
        return available_cores()
    if threads < 1:
        raise UsageError(f"threads is {threads}; expected at least 1.")
    return threads


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _allowance(limit: int, threads: int, block: int) -> int:
    """Bytes of large arrays that may be anonymous: the limit less what the interpreter and its compiled code hold now,
    and less the threads' blocks.
    """
    held = 0
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            held = next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon:"))
    except (OSError, StopIteration, ValueError):
        held = 128 * 2**20  # what they hold on Linux
    return max(0, limit - held - threads * BLOCKS_PER_THREAD * block * 4)


def _files(planned: Plan, kind: OutputKind, tokenizer_from: str | None) -> VocabularyFiles:
    """What goes beside the weights, with the vocabulary and the chat template of the recipe."""
    companions = _companions(planned, kind, tokenizer_from)
    if kind == "file":
        return VocabularyFiles(companions)
    return vocabulary_files(planned, companions, keep_tokenizer=tokenizer_from is not None)


def _companions(planned: Plan, kind: OutputKind, tokenizer_from: str | None) -> Companions:
    """What goes beside the weights. Raises UsageError, CheckpointMismatch for a tokenizer that cannot be had."""
    if kind == "file":
        if tokenizer_from is not None:
            raise UsageError(
                "--tokenizer-from has no use for an output that is one file. Leave it out, or name a folder."
            )
        return Companions()
    companions = find_companions(home_of(planned.given_base))
    if tokenizer_from is None:
        return companions
    if planned.recipe[TOKENIZER] is not None:
        raise UsageError(
            f"--tokenizer-from and {TOKENIZER.spelled} both say which tokenizer the output has. Leave one of them out."
        )
    if tokenizer_from not in planned.names:
        raise UsageError(
            f"--tokenizer-from {tokenizer_from!r} is no task; the tasks are {', '.join(planned.names)}."
            f"{did_you_mean(tokenizer_from, planned.names)}"
        )
    return with_tokenizer(
        companions,
        home_of(planned.given_base),
        planned.tasks[planned.names.index(tokenizer_from)].checkpoint,
        tokenizer_from,
        planned.layout,
    )


def _published(output: Output, receipt: Receipt) -> Receipt:
    """Publish the output. Returns its receipt, with the files in it."""
    written = [receipt]

    def content(files: list[dict[str, Any]]) -> bytes:
        listed = tuple(ReceiptFile(**file) for file in files)
        written.append(replace(receipt, output=replace(receipt.output, files=listed)))
        return written[-1].written(output.target if output.kind == "folder" else output.target.parent)

    with phase("waiting for the disk"):
        output.publish(content)
    return written[-1]


def _sharding(size: str | int | None, out: Path, kind: OutputKind) -> dict[str, Any]:
    """What `create_output` is to know of the size that was asked for. Raises UsageError."""
    if size is None:
        return {}
    if kind == "file":
        raise UsageError(
            f"-o {out} is one file, and --max-shard-size cuts the weights of a folder. Leave it out, or name a folder."
        )
    return {"max_shard_bytes": parse_bytes(size, "--max-shard-size")}


def _scratch_bytes(planned: Plan, allowance: int) -> int:
    """The most that a method may keep on the disk."""
    sizes = [entry.info.size for entry in planned.of_role("merge")]
    most = max(sizes, default=0) if planned.method.by_tensor(planned.settings) else sum(sizes)
    return max(0, most * planned.method.scratch(planned.settings) - allowance)


def _refuse_inputs(planned: Plan, out: Path) -> None:
    target = Path(os.path.realpath(out))
    for source in (planned.base, *planned.tasks):
        for path in (source.checkpoint.path, *source.checkpoint.files):
            if path is None:
                continue
            real = Path(os.path.realpath(path))
            if real == target or (target.is_dir() and target in real.parents):
                raise OutputIsInput(
                    f"output {out} would overwrite {source.role} ({path}), which is an input. Choose another output."
                )


# What a base's file says of its own values, which are not those of the output.
_OF_ITS_VALUES = re.compile(r"hash|sha256|checksum|digest|^prefmerge\.", re.IGNORECASE)


def _metadata(planned: Plan) -> dict[str, str]:
    """The strings in the header of the output: the base's (licence, modelspec), and ours beside them."""
    kept = {key: text for key, text in planned.base.checkpoint.metadata.items() if not _OF_ITS_VALUES.search(key)}
    kept.pop("format", None)
    ours = task_vector_metadata(_base_content(planned)) if planned.recipe.as_task_vector else {}
    return {**kept, **ours}


def _base_content(planned: Plan) -> str:
    for source in planned.tasks:
        if names_its_base(source.checkpoint):
            return base_fingerprint(source.checkpoint)  # the plan has compared it with the base given
    return content_fingerprint(planned.given_base)


def _add_companions(output: Output, planned: Plan, files: VocabularyFiles, beside: Mapping[str, bytes]) -> None:
    base = planned.given_base
    stack = base if isinstance(base, Stack) else None
    module = home.module if isinstance(home := home_of(base), Folder) else ""
    config = f"{module}/config.json" if module else "config.json"
    for name, content in {**files.written, **beside}.items():
        output.add_file(name, content)
    for name, path in files.companions.files.items():
        if name not in beside and name not in files.written:
            content = as_published(name, path, planned.recipe, config, stack)
            output.add_file(name, files.adapted(name, content))
