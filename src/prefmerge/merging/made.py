"""What an earlier merge has made already: an output whose receipt says so, kept in place of merging again.

    made(recipe, out)     the receipt of what is at `out`, where it was made as this recipe would make it now

The same: parameters, contents of the inputs, names and sizes of the weights files, version. The weights themselves are
not read: `verify` does that. Cost: one reading of the inputs where anything is there, once for all recipes over them.
Not here: parts of an output (`pieces`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from prefmerge.checkpoints import content_fingerprint
from prefmerge.checkpoints.rearranged import original
from prefmerge.errors import CheckpointCorrupt
from prefmerge.merging.many import weights_files
from prefmerge.merging.plan import Plan, make_plan, plan_over
from prefmerge.merging.receipt import Receipt, ReceiptFile, ReceiptInput
from prefmerge.merging.recipe import Recipe
from prefmerge.merging.recording import versions
from prefmerge.merging.sameness import Sameness
from prefmerge.outputs.receipts import RECEIPT, receipt_beside
from prefmerge.outputs.write import tidy
from prefmerge.vectors.adapter import AdapterVector


def made(recipe: Recipe, out: Path, max_shard_size: str | int | None = None) -> Receipt | None:
    """The receipt of what is at `out`, where merging the recipe would make it again."""
    if not out.exists():
        return None
    with make_plan(recipe) as plan:
        return all_made([(recipe, out)], plan, max_shard_size)[0]


def all_made(
    wanted: Sequence[tuple[Recipe, Path]], first: Plan, max_shard_size: str | int | None = None
) -> list[Receipt | None]:
    """The same for recipes over the checkpoints of one open plan."""
    same, inputs = Sameness(), (first.given_base, [original(task.checkpoint) for task in first.tasks])
    prints: list[str] | None = None
    receipts: list[Receipt | None] = []
    for recipe, out in wanted:
        receipts.append(None)
        if not out.exists():
            continue
        receipt = None
        tidy(out)
        with suppress(CheckpointCorrupt):
            receipt = Receipt.load(out / RECEIPT if out.is_dir() else receipt_beside(out))
        if receipt is None:
            continue
        if prints is None:
            prints = [_content(each) for each in (inputs[0], *inputs[1])]
        plan = plan_over(recipe, *inputs, same)
        settings, files = plan.recipe.settings(first.names), weights_files(plan, out, max_shard_size)
        read, names = [receipt.inputs.base, *receipt.inputs.tasks], tuple(plan.names)
        same_inputs = receipt.tasks == names and len(read) == len(prints) and all(map(_is, read, prints))
        if receipt.recipe == settings and same_inputs and _is_there(receipt, out, files):
            receipts[-1] = receipt
    return receipts


def _is_there(receipt: Receipt, out: Path, files: tuple[ReceiptFile, ...]) -> bool:
    """Whether these weights files are there, from this version."""
    home = out if out.is_dir() else out.parent
    same = receipt.output.files == files and receipt.run.versions.get("prefmerge") == versions()["prefmerge"]
    there = [(home / file.name, file.bytes) for file in files]
    return same and all(path.is_file() and path.stat().st_size == size for path, size in there)


def _content(checkpoint: Any) -> str:
    return checkpoint.content() if isinstance(checkpoint, AdapterVector) else content_fingerprint(checkpoint)


def _is(read: ReceiptInput, content: str) -> bool:
    """Whether an input of a receipt is this one; of one that was not read the receipt says nothing."""
    return read.covers == "header" or read.fingerprint == content
