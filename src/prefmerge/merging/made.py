"""What an earlier merge has made already: an output whose receipt says so, kept in place of merging again.

    made(Order(recipe, out))     the receipt of what is at `out`, where it was made as this order would make it now

The same: parameters, number, order, names and contents of the inputs, what was added to the values, names and sizes of
the weights files, version, and the files beside the weights. Of these the bytes are compared up to `SMALL`, else the
sizes; the card is not compared, nor is what others put into the folder. The weights themselves are not
read: `verify` does that. What an interrupted merge left beside an output goes where the output is kept, and stays for a
merge that resumes where it is not.
Cost: one reading of the inputs where an output seems to be the same, once for all orders over them. Not here: parts of
an output (`pieces`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from prefmerge.checkpoints import content_fingerprint, header_fingerprint
from prefmerge.checkpoints.names import is_index
from prefmerge.checkpoints.rearranged import original
from prefmerge.errors import CheckpointCorrupt
from prefmerge.merging.added import Added, entries
from prefmerge.merging.card import CARD
from prefmerge.merging.many import Order, files_beside, planned_files, weights_files
from prefmerge.merging.plan import Plan, make_plan, plan_over
from prefmerge.merging.receipt import Receipt, ReceiptFile, ReceiptInput
from prefmerge.merging.recording import versions
from prefmerge.merging.sameness import Sameness
from prefmerge.outputs.receipts import RECEIPT, receipt_beside
from prefmerge.outputs.write import kind_of, tidy
from prefmerge.report.place import REPORT
from prefmerge.vectors.adapter import AdapterVector

SMALL = 50_000_000  # bytes of a file beside the weights that are compared


def made(order: Order, max_shard_size: str | int | None = None, tokenizer_from: str | None = None) -> Receipt | None:
    """The receipt of what is at the order's place, where carrying it out would make it again."""
    if not order.out.exists():
        return None
    with make_plan(order.recipe, tokenizers=tokenizer_from is not None) as plan:
        return all_made([order], plan, max_shard_size, tokenizer_from)[0]


def all_made(
    orders: Sequence[Order],
    first: Plan,
    max_shard_size: str | int | None = None,
    tokenizer_from: str | None = None,
) -> list[Receipt | None]:
    """The same for orders over the checkpoints of one open plan."""
    same, inputs = Sameness(), (first.given_base, [original(task.checkpoint) for task in first.tasks])
    read = [_Input(each) for each in (inputs[0], *inputs[1])]
    receipts: list[Receipt | None] = []
    for order in orders:
        receipts.append(None)
        if not order.out.exists():
            continue
        tidy(order.out, leave=True)
        receipt = None
        with suppress(CheckpointCorrupt):
            receipt = Receipt.load(order.out / RECEIPT if order.out.is_dir() else receipt_beside(order.out))
        if receipt is None:
            continue
        plan = plan_over(order.recipe, *inputs, same)
        stated = (plan.recipe.settings(first.names), tuple(plan.names), _numbers(order.added))
        if stated != (receipt.recipe, receipt.tasks, receipt.added):
            continue
        if not _is_there(receipt, order.out, weights_files(plan, order.out, max_shard_size)):
            continue
        if not _has_beside(receipt, plan, order, tokenizer_from):
            continue
        told = [receipt.inputs.base, *receipt.inputs.tasks]
        if len(told) == len(read) and all(one.is_as(entry) for one, entry in zip(read, told, strict=True)):
            tidy(order.out)
            receipts[-1] = receipt
    return receipts


def _numbers(added: Added | None) -> dict[str, tuple[float, ...]] | None:
    """What is added to the values, as a receipt has it."""
    return {name: tuple(values) for name, values in entries(added).items()} if added else None


def _is_there(receipt: Receipt, out: Path, files: tuple[ReceiptFile, ...]) -> bool:
    """Whether these weights files are there, from this version."""
    home = out if out.is_dir() else out.parent
    same = receipt.output.files == files and receipt.run.versions.get("prefmerge") == versions()["prefmerge"]
    there = [(home / file.name, file.bytes) for file in files]
    return same and all(path.is_file() and path.stat().st_size == size for path, size in there)


def _has_beside(receipt: Receipt, plan: Plan, order: Order, tokenizer_from: str | None) -> bool:
    """Whether the files that would be written beside the weights are there, as they would be written, and no others
    were.
    """
    kind = kind_of(order.out)
    files = planned_files(plan, kind, tokenizer_from)
    if kind == "file":
        return True
    wanted = dict(files_beside(plan, files, order.beside))
    others = {*(receipt.output.beside or ())} - {*wanted, CARD, REPORT}
    return all(map(is_index, others)) and all(_is_file(order.out / name, wanted[name]) for name in wanted)


def _is_file(path: Path, content: bytes | Path) -> bool:
    try:
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        if not path.is_file() or path.stat().st_size != size:
            return False
        if size > SMALL:
            return True
        return path.read_bytes() == (content if isinstance(content, bytes) else content.read_bytes())
    except OSError:
        return False  # merging again says what is wrong with it


class _Input:
    """A checkpoint and its fingerprints, each of which is made once it is asked for."""

    def __init__(self, checkpoint: Any) -> None:
        self._made: dict[str, str] = {}
        whole = isinstance(checkpoint, AdapterVector)
        content = checkpoint.content if whole else lambda: content_fingerprint(checkpoint)
        self._how: dict[str, Callable[[], str]] = {"content": content, "header": lambda: header_fingerprint(checkpoint)}

    def is_as(self, told: ReceiptInput) -> bool:
        """Whether this is the input of a receipt; of one that was not read that has a fingerprint of its header."""
        if told.covers not in self._made:
            self._made[told.covers] = self._how[told.covers]()
        return told.fingerprint == self._made[told.covers]
