"""Is an output what its receipt says?

Checked always: names, shapes and number formats of the tensors, the fingerprint of all their elements, and that the
receipt's counts add up (per tensor and in total: owned = asked = sum of passes + random, and every merged element has
one owner). On request: the inputs' fingerprints where the inputs still are, and a second merge from the receipt.
Cost: one reading of the output; with `inputs` one of the inputs, with `rerun` a merge and its disk space.
Not here: SHA-256, which `sha256sum` checks against the receipt's.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from prefmerge.checkpoints import (
    Checkpoint,
    by_name,
    fingerprint_of,
    header_fingerprint,
    is_there,
    open_checkpoint,
    reading,
    same_elements,
    split_adapter,
)
from prefmerge.checkpoints.adapter import find_adapter
from prefmerge.errors import CheckpointNotFound, PrefmergeError, VerificationFailed
from prefmerge.ground import atomic
from prefmerge.ground.progress import Progress
from prefmerge.ground.words import quoted
from prefmerge.merging.opening import content_of, open_model, open_task
from prefmerge.merging.parameters import AS_TASK_VECTOR
from prefmerge.merging.receipt import Receipt, ReceiptInput, ReceiptTensor, ReceiptTotals
from prefmerge.methods.parameters import SCOPE
from prefmerge.outputs.receipts import find_receipt

SHOWN = 5  # names listed in a message about many


@dataclass(frozen=True)
class VerifyReport:
    """What is right, as sentences, and what could not be checked."""

    out: str  # the output, as it was given
    receipt: str  # the file of its receipt
    fingerprint: str  # of all elements of the output
    tensors: int  # how many were compared
    passed: tuple[str, ...]  # what is right, a sentence each
    skipped: tuple[str, ...]  # what could not be checked and why, a sentence each

    def to_json(self) -> dict[str, Any]:
        """A JSON object; `ok` is always true, for what is wrong is raised."""
        return {
            "ok": True,
            "out": self.out,
            "receipt": self.receipt,
            "fingerprint": self.fingerprint,
            "tensors": self.tensors,
            "passed": list(self.passed),
            "skipped": list(self.skipped),
        }


def verify(
    out: str | Path,
    *,
    inputs: bool = False,
    rerun: bool = False,
    threads: int | None = None,
    max_memory: str | int = "256MiB",
    progress: Progress | None = None,
) -> VerifyReport:
    """Compare the output at `out` with its receipt. Raises VerificationFailed naming the first five tensors that are
    wrong, CheckpointCorrupt for a damaged receipt.

    inputs: also compare the fingerprints of the inputs; one that is no longer where the receipt says is listed as
    skipped. rerun: also merge again and compare, for which every input must be there.

        report = prefmerge.verify("merged.safetensors", inputs=True)
        report.passed   # what is right, a sentence each
    """
    out = Path(out)
    if not out.exists():
        raise CheckpointNotFound(f"{out} does not exist. Give a merged file or folder.")
    place = find_receipt(out)
    if place is None:
        raise VerificationFailed(
            f"{out} has no receipt to compare it with. Only what prefmerge merged can be verified."
        )
    # A receipt may still wait in a temporary folder; its paths begin where it will be.
    receipt = Receipt.load(place, folder=out if out.is_dir() else out.absolute().parent)
    _check_sums(receipt, place)
    checkpoint = open_checkpoint(out)
    try:
        _check_tensors(receipt, checkpoint, out)
        elements = fingerprint_of(checkpoint)
        fingerprint = elements.hexdigest()
        if fingerprint != receipt.fingerprint:
            digests = elements.tensor_digests().items()
            wrong = [name for name, digest in digests if digest != receipt.tensors[name].xxh3]
            raise VerificationFailed(
                f"{out}: the elements are not those that were merged, in tensors: "
                f"{quoted(wrong, SHOWN) or 'none it names'}. Fingerprint {fingerprint}, the receipt says "
                f"{receipt.fingerprint}. The file was changed or damaged: merge again, or fetch it again."
            )
        passed = ["tensor names, shapes and number formats", "content fingerprint", "the receipt's counts add up"]
        skipped: list[str] = []
        if inputs:
            _check_inputs(receipt, passed, skipped)
        if rerun:
            _check_rerun(receipt, checkpoint, out, threads, max_memory, progress)
            passed.append("merging again gives the same tensors")
    finally:
        checkpoint.close()
    return VerifyReport(str(out), str(place), fingerprint, len(checkpoint.tensors), tuple(passed), tuple(skipped))


def _fail(where: Any, what: str, wrong: Sequence[str], next_step: str) -> None:
    if wrong:
        raise VerificationFailed(f"{where}: {what}: {quoted(wrong, SHOWN)}. {next_step}")


def _check_tensors(receipt: Receipt, checkpoint: Checkpoint, out: Path) -> None:
    listed, stored = receipt.tensors, checkpoint.tensors
    if receipt.recipe[AS_TASK_VECTOR.name]:  # integer buffers have no difference, so a task vector has none
        listed = {name: tensor for name, tensor in listed.items() if by_name(tensor.dtype).family == "float"}
    again = "It is not the output that this receipt is about, or it was changed. Merge again, or fetch both again."
    _fail(out, "tensors that the receipt lists are missing", [name for name in listed if name not in stored], again)
    _fail(
        out, "tensors are here that the receipt does not list", [name for name in stored if name not in listed], again
    )
    shapes = [name for name, tensor in listed.items() if tensor.shape != stored[name].shape]
    _fail(out, "tensors have another shape than the receipt says", shapes, again)
    formats = [name for name, tensor in listed.items() if tensor.dtype != stored[name].dtype.name]
    _fail(out, "tensors have another number format than the receipt says", formats, again)


def _check_sums(receipt: Receipt, place: Path) -> None:
    """The receipt against itself: every merged element has one owner, and every budget is met."""
    edited = "The receipt was changed, or this is a bug of prefmerge. Merge again."
    by_tensor = receipt.recipe.get(SCOPE.name) != "model"
    tensors = receipt.tensors.items()
    wrong = [name for name, tensor in tensors if not _adds_up(tensor, prod(tensor.shape), by_tensor)]
    _fail(place, "owned elements do not add up to asked ones, passes or shapes in tensors", wrong, edited)
    owned = [tensor.owned for _, tensor in tensors if tensor.owned is not None]
    columns = tuple(map(sum, zip(*owned, strict=True)))
    right = _adds_up(receipt.totals, receipt.elements.merged, True) and (
        receipt.owned is None or not owned or receipt.owned == columns
    )
    _fail(place, "the totals do not add up", [] if right else ["totals"], edited)


def _adds_up(counts: ReceiptTensor | ReceiptTotals, elements: int, asked_holds: bool) -> bool:
    owned, asked, passes = counts.owned, counts.asked, counts.passes
    if owned is None:
        return True
    if sum(owned) != elements or (asked_holds and asked is not None and asked != owned):
        return False
    if passes is None:
        return True
    at_random = counts.random or (0,) * len(owned)
    return tuple(map(sum, zip(*passes, at_random, strict=True))) == owned


def _check_inputs(receipt: Receipt, passed: list[str], skipped: list[str]) -> None:
    for role, entry in (("base", receipt.inputs.base), *((f"task {e.name!r}", e) for e in receipt.inputs.tasks)):
        place = entry.place
        if place is None or not is_there(place):
            skipped.append(f"{role}: {_why_not_here(entry)}")
            continue
        fingerprint = _fingerprint(entry, place, receipt)
        if fingerprint != entry.fingerprint:
            raise VerificationFailed(
                f"{role} ({place}) is not what was merged: fingerprint {fingerprint}, the receipt says "
                f"{entry.fingerprint}. It was changed since, or replaced; the output itself may still be right."
            )
        passed.append(f"{role}: {entry.covers} fingerprint")


def _why_not_here(entry: ReceiptInput) -> str:
    if entry.path is None:
        return "was given in memory"
    if entry.elsewhere:
        return f"{entry.path} was in a place that the receipt does not name, since it may be published"
    return f"{entry.path} is no longer there"


def _fingerprint(entry: ReceiptInput, path: str, receipt: Receipt) -> str:
    """That of an input as it is now."""
    with ExitStack() as stack:
        base = receipt.inputs.base.place
        if find_adapter(split_adapter(path)[1]) is None:
            checkpoint = stack.enter_context(closing(open_model(Path(path))))
        elif base is not None and is_there(base):
            opened = stack.enter_context(closing(open_model(Path(base))))
            checkpoint = stack.enter_context(closing(open_task(path, opened)))
        else:
            raise VerificationFailed(f"{path} is an adapter, and its base is no longer there. Bring it back.")
        if entry.covers == "header":
            return header_fingerprint(checkpoint)
        return content_of(checkpoint)


def _check_rerun(
    receipt: Receipt,
    checkpoint: Checkpoint,
    out: Path,
    threads: int | None,
    max_memory: str | int,
    progress: Progress | None,
) -> None:
    """Merge again beside the output (its disk has room for one) and compare tensor by tensor."""
    from prefmerge.merging.again import added_by, recipe_again
    from prefmerge.merging.api import run

    recipe = recipe_again(receipt, out, "--rerun")
    work = atomic.make_work_folder(out.absolute())  # what a kill leaves of it, the next merge into `out` removes
    try:
        # One file, whatever the output is: elements are compared, not shards.
        again = work.path / "rerun.safetensors"
        how: dict[str, Any] = {"threads": threads, "max_memory": max_memory, "progress": progress}
        run(recipe, again, added=added_by(receipt), **how)
        second = open_checkpoint(again)
        try:
            with reading(checkpoint, second):
                wrong = _different(checkpoint, second)
        finally:
            second.close()
    except VerificationFailed:
        raise
    except PrefmergeError as error:
        raise VerificationFailed(f"{out} cannot be merged again: {error}") from error
    finally:
        work.discard()
    _fail(
        out,
        "merging again from the receipt gives other elements in tensors",
        wrong,
        "The output or an input was changed since; check with --with-inputs.",
    )


def _different(a: Checkpoint, b: Checkpoint) -> list[str]:
    """The tensors whose stored bits differ."""
    names = sorted({*a.tensors, *b.tensors})
    return [
        name
        for name in names
        if name not in a.tensors or name not in b.tensors or not same_elements(a, name, b, name, bits=True)
    ]
