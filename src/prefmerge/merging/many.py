"""Recipes carried out: several merges of the same checkpoints, written over one reading, each with its receipt.

    write_all([Order(recipe, out), ...])     every output as `merge` writes it: the same tensors, companions and card

A merge is one of one order. The plans share their open checkpoints and one pass of the engine; each has an output and
a sink of its own. What a receipt says of the inputs covers all orders: a task that one of them read is hashed for all.
Memory: that of one merge, and up to half of the limit for task vectors that several orders want, which are decoded once
where they fit and else once for each. An error in one order ends all; what is published by then stays. Cost: one
reading, N writings. Not here: which recipes (`target`), merges in memory (`candidates`).
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefmerge.checkpoints import base_fingerprint, content_fingerprint, task_vector_metadata
from prefmerge.checkpoints.folder import Folder
from prefmerge.checkpoints.rearranged import original
from prefmerge.errors import OutputIsInput, PrefmergeError, UsageError
from prefmerge.ground.progress import Progress, phase
from prefmerge.ground.words import did_you_mean, joined
from prefmerge.merging.added import Added, Adding, note
from prefmerge.merging.card import CARD, base_model, model_card
from prefmerge.merging.configs import as_published
from prefmerge.merging.engine import merge_all
from prefmerge.merging.limits import allowance, checked_threads, parse_bytes
from prefmerge.merging.outcome import Outcome
from prefmerge.merging.pieces import Pieces, key_of
from prefmerge.merging.plan import Plan, make_plan, names_its_base, plan_over
from prefmerge.merging.receipt import Receipt, ReceiptFile, ReceiptInputs, ReceiptOutput, ReceiptRun
from prefmerge.merging.recipe import Recipe
from prefmerge.merging.recording import inputs_of, record, versions
from prefmerge.merging.sameness import Sameness
from prefmerge.merging.sinks import HashedSink
from prefmerge.merging.stacks import Stack
from prefmerge.merging.vocabularies import CHAT_TEMPLATE, TOKENIZER
from prefmerge.merging.vocabulary_files import VocabularyFiles, vocabulary_files
from prefmerge.outputs.companions import Companions, find_companions, placed_as, weights_name
from prefmerge.outputs.shards import lay_out
from prefmerge.outputs.tokenizer import with_tokenizer
from prefmerge.outputs.write import MAX_SHARD_BYTES, Output, OutputKind, create_output, kind_of
from prefmerge.report import place
from prefmerge.vectors.workspace import BLOCK, Workspace

if TYPE_CHECKING:
    from prefmerge.merging.page import ReportedMerge


@dataclass(frozen=True)
class Reporting:
    """A report on a merge: the text that `page` makes of it, if any, to `file`, by default beside the weights."""

    page: Callable[[ReportedMerge], str | None]
    file: Path | None = None


@dataclass(frozen=True)
class Order:
    """A recipe and where its model goes. `beside`: files, by name, to put beside the weights of a folder. `card`:
    Markdown on what the model is for, for its card. `added`: numbers, by tensor, to add to the merged ones. `report`:
    what is made of the merge to look at; it costs another look at every task. `notes`: what else the receipt says.
    """

    recipe: Recipe
    out: Path
    beside: Mapping[str, bytes] = field(default_factory=dict)
    card: str = ""
    added: Added | None = None
    report: Reporting | None = None
    notes: Sequence[str] = ()


def write_all(
    orders: Sequence[Order],
    *,
    threads: int | None = None,
    max_memory: str | int = "256MiB",
    force: bool = False,
    sha256: bool = False,
    max_shard_size: str | int | None = None,
    tokenizer_from: str | None = None,
    progress: Progress | None = None,
    resume: bool = False,
    ray: str | None = None,
    block: int = BLOCK,
) -> list[Receipt]:
    """Carry out every order, from one reading. Their recipes are over one base and the same tasks, in one order, and
    their outputs on one disk. `resume`: take what an interrupted call with `resume` had finished of the very same, and
    leave what is finished when this one is interrupted. `ray`: merge on that cluster of Ray (`on_ray.make`). `block`
    (elements read at a time) is for tests: no value depends on it.

    Raises what `merge` raises, and UsageError where the checkpoints differ.
    """
    if not orders:
        return []
    _require_one_reading(orders)
    began, clock = datetime.datetime.now(datetime.UTC), time.perf_counter()
    kinds: list[OutputKind] = [kind_of(order.out) for order in orders]
    asked = 1 if threads is None else threads  # of a task of Ray, which are many
    threads = checked_threads(threads)
    shards = [sharding_of(max_shard_size, order.out, kind) for order, kind in zip(orders, kinds, strict=True)]
    memory = allowance(parse_bytes(max_memory), threads, block)
    hold = memory // 2 if len(orders) > 1 else 0
    sameness = Sameness()
    with phase("comparing the checkpoints"):
        first = make_plan(orders[0].recipe, sameness, tokenizers=tokenizer_from is not None)
    with first, contextlib.ExitStack() as outputs:
        inputs = (first.given_base, [original(task.checkpoint) for task in first.tasks])
        plans = [first, *(plan_over(order.recipe, *inputs, sameness) for order in orders[1:])]
        _require_one_set_of_rows(orders, plans)
        rows = zip(orders, plans, kinds, strict=True)
        writings = [
            _Writing(order, plan, kind, planned_files(plan, kind, tokenizer_from)) for order, plan, kind in rows
        ]
        if ray is not None:
            from prefmerge.merging import on_ray

            for plan in plans:
                on_ray.require_in_sections(plan)
        scratch = max(_scratch_bytes(plan, memory - hold) for plan in plans)
        later = sum(one.plan.output_bytes + one.files.companions.size for one in writings[1:])
        for one, sharding in zip(writings, shards, strict=True):
            one.key = key_of(one.plan, one.order.added) if resume or ray is not None else None
            one.create(force=force, scratch=scratch, later=later, began=began.timestamp(), resume=resume, **sharding)
            outputs.enter_context(one.output)
            later = 0  # the first has asked for the space of all
        beside = writings[0].output.target.parent
        before = [None if one.pieces is None else one.pieces.load() for one in writings]
        measured = any(order.report is not None for order in orders)
        if ray is not None:
            how = {"threads": asked, "memory": memory - hold, "hold": hold, "measured": measured}
            _on_ray(writings, ray, how, progress)
        outputs.callback(lambda: [one.keep() for one in writings])  # once the threads have ended
        with Workspace(threads=threads, block=block, memory=memory - hold, scratch=beside) as work:
            with first.reading():
                sinks = [(one.plan, one.sink) for one in writings]
                finished = [one.pieces for one in writings]
                outcomes = merge_all(
                    sinks, work, progress, hashed=True, hold=hold, finished=finished, measured=measured
                )
                read = inputs_of(outcomes[0].reading, sha256=sha256)
            for one in writings:
                one.keep()
            receipts: list[Receipt] = []
            for one, outcome, kept in zip(writings, outcomes, before, strict=True):
                one.hashed.hash_rest(work)
                run = ReceiptRun(
                    started=began.isoformat(timespec="seconds"),
                    seconds=round(time.perf_counter() - clock, 3),
                    threads=threads,
                    max_memory=str(max_memory),
                    scratch_bytes=work.spilled,
                    kept=(outcome.kept if ray is None else kept) or None,
                    versions=versions(),
                )
                receipts.append(one.publish(outcome, read, run))
    return receipts


def _require_one_reading(orders: Sequence[Order]) -> None:
    """Raise UsageError unless all recipes are over the same checkpoints."""
    read = [(order.recipe.base, [(task.path, task.name) for task in order.recipe.tasks]) for order in orders]
    other = next((i for i, one in enumerate(read) if one != read[0]), None)
    if other is not None:
        raise UsageError(
            f"{orders[other].out}: its recipe is over other checkpoints than that of {orders[0].out}. Merges that are "
            "written together have one base and the same tasks, in one order."
        )


def _require_one_set_of_rows(orders: Sequence[Order], plans: Sequence[Plan]) -> None:
    """Raise UsageError where vocabularies make other checkpoints of the same files."""
    other = next((i for i, plan in enumerate(plans) if plan.checkpoints != plans[0].checkpoints), None)
    if other is not None:
        raise UsageError(
            f"{orders[other].out}: its recipe moves the rows of vocabularies otherwise than that of {orders[0].out}. "
            f"Write models with other {TOKENIZER.spelled} or --rows-from one by one, with merge."
        )


class _Writing:
    """One order under way: its plan, its output, and the sink that fills it."""

    output: Output
    hashed: HashedSink
    sink: HashedSink | Adding
    pieces: Pieces | None = None
    key: str | None = None

    def __init__(self, order: Order, plan: Plan, kind: OutputKind, files: VocabularyFiles) -> None:
        self.order, self.plan, self.files = order, plan, files
        self.kind: OutputKind = kind
        _refuse_inputs(plan, order.out)

    def create(self, *, resume: bool, force: bool, scratch: int, later: int, began: float, **sharding: Any) -> None:
        """Make the output. `later`: what others will need of the same disk."""
        plan = self.plan
        sharding |= _placed(plan, self.kind, sharding)
        self.output = create_output(
            self.order.out,
            plan.layout,
            metadata=lambda: _metadata(plan),
            kind=self.kind,
            force=force,
            scratch_bytes=scratch,
            began=began,
            weights_name=weights_name(plan.home),
            beside_bytes=self.files.companions.size + later,
            key=self.key,
            resume=resume,
            **sharding,
        )
        self.begin()

    def begin(self) -> None:
        """Make the sink, over what is there."""
        plan = self.plan
        self.hashed = HashedSink(self.output, plan.layout)
        if self.output.key is not None:
            own = self.output
            self.pieces = Pieces(own.pieces, self.output.key, plan, own.weights, self.hashed, own.target)
        self.sink = Adding(self.hashed, plan.layout, self.order.added) if self.order.added else self.hashed

    def keep(self) -> None:
        """Have what is finished on the disk, as far as it goes: an error that ends a merge is the one to tell."""
        if self.pieces is not None:
            with contextlib.suppress(PrefmergeError):
                self.pieces.flush()

    def publish(self, outcome: Outcome, inputs: ReceiptInputs, run: ReceiptRun) -> Receipt:
        """Put the output at its place. Returns its receipt."""
        order = self.order
        receipt = record(
            self.plan,
            outcome,
            inputs=inputs,
            output=ReceiptOutput(
                path=str(order.out), kind=self.kind, files=(), fingerprint=self.hashed.fingerprint.hexdigest()
            ),
            digests=self.hashed.fingerprint.tensor_digests(),
            run=run,
            notes=[*order.notes, *([note(order.added)] if order.added else []), *self.files.companions.notes()],
            added=order.added,
        )
        report = None if order.report is None else self.report(order.report, receipt, outcome)
        file = None if order.report is None else order.report.file
        if self.kind == "folder":
            beside = dict(order.beside)
            if report is not None and file is None:
                beside[place.REPORT] = report.encode()  # in place of one that the base has
            for name, content in files_beside(self.plan, self.files, beside):
                self.output.add_file(name, content)
            base = base_model(self.plan.home.path, self.files.companions.files)
            self.output.add_file(CARD, model_card(receipt, base, order.card).encode())
        written = _published(self.output, receipt)
        beside_file = None if self.kind == "folder" else place.ReportPlace().of(self.output.target, folder=False)
        if beside_file is not None:
            place.remove(beside_file)  # of the output that was there before
        to = file or beside_file
        if report is not None and to is not None:
            place.write(to, report)
        return written

    def report(self, asked: Reporting, receipt: Receipt, outcome: Outcome) -> str | None:
        """The text of the report that was asked for."""
        files = tuple(ReceiptFile(**file) for file in self.output.files)
        whole = replace(receipt, output=replace(receipt.output, files=files))
        from prefmerge.merging.page import ReportedMerge

        formats = formats_of_plan(self.plan)
        home = self.output.target
        folder = home if self.kind == "folder" else home.parent
        return asked.page(ReportedMerge(whole.published(folder), outcome.magnitudes, formats))


def formats_of_plan(planned: Plan) -> tuple[str, ...]:
    """The number formats of the base and of each task."""
    from prefmerge.merging.page import formats_of

    checkpoints = [planned.given_base, *(original(task.checkpoint) for task in planned.tasks)]
    return tuple(formats_of(one.tensors.values()) for one in checkpoints)


def planned_files(planned: Plan, kind: OutputKind, tokenizer_from: str | None) -> VocabularyFiles:
    """What goes beside the weights, with the vocabulary and the chat template of the recipe."""
    companions = _companions(planned, kind, tokenizer_from)
    if kind == "file":
        idle = [TOKENIZER.spelled] if planned.recipe[TOKENIZER] is not None else []
        idle += [CHAT_TEMPLATE.spelled] if planned.recipe[CHAT_TEMPLATE] is not None else []
        told = f"of {joined(idle)} the output has the weights alone, since it is one file." if idle else ""
        return VocabularyFiles(replace(companions, more=(told,) if told else ()))
    return vocabulary_files(planned, companions, keep_tokenizer=tokenizer_from is not None)


def _companions(planned: Plan, kind: OutputKind, tokenizer_from: str | None) -> Companions:
    """What goes beside the weights. Raises UsageError, CheckpointMismatch for a tokenizer that cannot be had."""
    if kind == "file":
        if tokenizer_from is not None:
            raise UsageError(
                "--tokenizer-from has no use for an output that is one file. Leave it out, or name a folder."
            )
        return Companions()
    companions = find_companions(planned.home)
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
        planned.home,
        planned.tasks[planned.names.index(tokenizer_from)].checkpoint,
        tokenizer_from,
        planned.layout,
    )


def _published(output: Output, receipt: Receipt) -> Receipt:
    """Publish the output. Returns its receipt, with the files in it."""
    written = [receipt]

    def content(files: list[dict[str, Any]]) -> bytes:
        listed = tuple(ReceiptFile(**file) for file in files)
        beside = output.beside if output.kind == "folder" else None
        written.append(replace(receipt, output=replace(receipt.output, files=listed, beside=beside)))
        return written[-1].written(output.target if output.kind == "folder" else output.target.parent)

    with phase("waiting for the disk"):
        output.publish(content)
    return written[-1]


def sharding_of(size: str | int | None, out: Path, kind: OutputKind) -> dict[str, Any]:
    """What `create_output` is to know of the size that was asked for. Raises UsageError."""
    if size is None:
        return {}
    if kind == "file":
        raise UsageError(
            f"-o {out} is one file, and --max-shard-size cuts the weights of a folder. Leave it out, or name a folder."
        )
    return {"max_shard_bytes": parse_bytes(size, "--max-shard-size")}


def _on_ray(writings: Sequence[_Writing], address: str, how: Mapping[str, Any], progress: Progress | None) -> None:
    """Have the merged tensors made on a cluster; what it made is then there as from an interrupted merge. `how`: as
    `on_ray.make` takes it.
    """
    from prefmerge.merging import on_ray
    from prefmerge.merging.worker import RemoteOutput

    parts = [RemoteOutput.of(one.order.recipe, one.order.added, one.key or "", one.output) for one in writings]
    plans = [one.plan for one in writings]
    on_ray.make(parts, plans, address, progress=progress, **how)
    for one in writings:
        one.output.look_again()
        one.begin()


def _placed(planned: Plan, kind: OutputKind, sharding: Mapping[str, Any]) -> dict[str, Any]:
    """Where the tensors of a folder go of which nothing else was said."""
    return {"placed": placed_as(planned.given_base, planned.layout)} if kind == "folder" and not sharding else {}


def weights_files(planned: Plan, out: Path, max_shard_size: str | int | None = None) -> tuple[ReceiptFile, ...]:
    """The weights files that merging writes, with their sizes."""
    kind = kind_of(out)
    asked = sharding_of(max_shard_size, out, kind)
    limit = asked.get("max_shard_bytes", MAX_SHARD_BYTES) if kind == "folder" else None
    placed = _placed(planned, kind, asked).get("placed")
    metadata = {"format": "pt", **_metadata(planned)}
    shards = lay_out(out, planned.layout, metadata, limit, weights_name(planned.home), placed)
    return tuple(ReceiptFile(name=shard.name, bytes=shard.size) for shard in shards)


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


def files_beside(
    planned: Plan, files: VocabularyFiles, beside: Mapping[str, bytes]
) -> Iterator[tuple[str, bytes | Path]]:
    """What a folder has beside its weights but for the card and the report, by name: bytes, or a file to copy."""
    base = planned.given_base
    stack = base if isinstance(base, Stack) else None
    module = home.module if isinstance(home := planned.home, Folder) else ""
    config = f"{module}/config.json" if module else "config.json"
    yield from {**files.written, **beside}.items()
    for name, path in files.companions.files.items():
        if name not in beside and name not in files.written:
            content = as_published(name, path, planned.recipe, config, stack)
            yield name, files.adapted(name, content)
