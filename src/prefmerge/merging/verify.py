"""Is an output what its receipt says?

Checked always: names, shapes and number formats of the tensors, the fingerprint of all their elements, and that the
receipt's counts add up (per tensor and in total: owned = asked = sum of passes + random, and every merged element has
one owner). On request: the inputs' fingerprints where the inputs still are, and a second merge from the receipt.
Cost: one reading of the output; with `inputs` one of the inputs, with `rerun` a merge and its disk space.
Left out: SHA-256, which `sha256sum` checks against the receipt's.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from prefmerge.checkpoints import (
    Checkpoint,
    by_name,
    content_fingerprint,
    fingerprint_of,
    header_fingerprint,
    open_checkpoint,
    reading,
    same_elements,
)
from prefmerge.errors import CheckpointNotFound, PrefmergeError, VerificationFailed
from prefmerge.ground.progress import Progress
from prefmerge.ground.words import quoted
from prefmerge.merging.receipt import Receipt
from prefmerge.methods.parameters import SCOPE
from prefmerge.outputs.write import find_receipt

SHOWN = 5  # names listed in a message about many


@dataclass(frozen=True)
class VerifyReport:
    """What was found to be right, as sentences, and what could not be checked."""

    out: str
    receipt: str
    fingerprint: str
    tensors: int
    passed: tuple[str, ...]
    skipped: tuple[str, ...]

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
    max_memory: str = "256MiB",
    progress: Progress | None = None,
) -> VerifyReport:
    """Hold the output at `out` against its receipt. Raises VerificationFailed naming the first five tensors that are
    wrong.

    An input that is no longer where the receipt says is no failure of `inputs`, and is listed as skipped; `rerun` needs
    all of them.
    """
    out = Path(out)
    if not out.exists():
        raise CheckpointNotFound(f"{out} does not exist. Give a merged file or folder.")
    place = find_receipt(out)
    if place is None:
        raise VerificationFailed(
            f"{out} has no receipt, so there is nothing to hold it against. Only what prefmerge merged can be verified."
        )
    data = Receipt.load(place).data
    try:
        _check_sums(data, place)
    except (KeyError, TypeError, IndexError) as error:
        raise VerificationFailed(
            f"{place}: the receipt is damaged: {type(error).__name__} {error}. Merge again to have one."
        ) from error
    checkpoint = open_checkpoint(out)
    try:
        _check_tensors(data, checkpoint, out)
        elements = fingerprint_of(checkpoint)
        found, expected = elements.hexdigest(), data["output"]["fingerprint"]
        if found != expected:
            told = {name: entry.get("xxh3") for name, entry in data["tensors"].items()}
            wrong = [name for name, digest in elements.tensor_digests().items() if digest != told[name]]
            raise VerificationFailed(
                f"{out}: the elements are not those that were merged, in tensors: "
                f"{quoted(wrong, SHOWN) or 'none it names'}. Fingerprint {found}, the receipt says {expected}. "
                "The file was changed or damaged: merge again, or "
                "fetch it again."
            )
        passed = ["tensor names, shapes and number formats", "content fingerprint", "the receipt's counts add up"]
        skipped: list[str] = []
        if inputs:
            _check_inputs(data, passed, skipped)
        if rerun:
            _check_rerun(data, checkpoint, out, threads, max_memory, progress)
            passed.append("merging again gives the same tensors")
    finally:
        checkpoint.close()
    return VerifyReport(str(out), str(place), found, len(checkpoint.tensors), tuple(passed), tuple(skipped))


def _fail(where: Any, what: str, wrong: Sequence[str], next_step: str) -> None:
    if wrong:
        raise VerificationFailed(f"{where}: {what}: {quoted(wrong, SHOWN)}. {next_step}")


def _check_tensors(data: Mapping[str, Any], checkpoint: Checkpoint, out: Path) -> None:
    told, found = data["tensors"], checkpoint.tensors
    if data["recipe"]["as_task_vector"]:  # integer buffers have no difference, so a task vector has none
        told = {name: entry for name, entry in told.items() if by_name(entry["dtype"]).family == "float"}
    again = "It is not the output that this receipt is about, or it was changed. Merge again, or fetch both again."
    _fail(out, "tensors that the receipt lists are missing", [name for name in told if name not in found], again)
    _fail(out, "tensors are here that the receipt does not list", [name for name in found if name not in told], again)
    _fail(
        out,
        "tensors have another shape than the receipt says",
        [n for n, e in told.items() if tuple(e["shape"]) != found[n].shape],
        again,
    )
    _fail(
        out,
        "tensors have another number format than the receipt says",
        [n for n, e in told.items() if e["dtype"] != found[n].dtype.name],
        again,
    )


def _check_sums(data: Mapping[str, Any], receipt: Path) -> None:
    """The receipt against itself: every merged element has one owner, and every budget is met."""
    edited = "The receipt was changed, or this is a bug of prefmerge. Merge again."
    by_tensor = data["recipe"][SCOPE.name] != "model"
    wrong = [name for name, entry in data["tensors"].items() if not _adds_up(entry, prod(entry["shape"]), by_tensor)]
    _fail(receipt, "owned elements do not add up to asked ones, passes or shapes in tensors", wrong, edited)
    totals, merged = data["totals"], data["elements"]["merged"]
    owned = [entry["owned"] for entry in data["tensors"].values() if entry.get("owned") is not None]
    columns = [sum(column) for column in zip(*owned, strict=True)]
    right = _adds_up(totals, merged, True) and (
        totals["owned"] is None or not owned or list(totals["owned"]) == columns
    )
    _fail(receipt, "the totals do not add up", [] if right else ["totals"], edited)


def _adds_up(entry: Mapping[str, Any], elements: int, asked_holds: bool) -> bool:
    owned, asked, passes = entry.get("owned"), entry.get("asked"), entry.get("passes")
    if owned is None:
        return True
    if sum(owned) != elements or (asked_holds and asked is not None and list(asked) != list(owned)):
        return False
    if passes is None:
        return True
    counted = [sum(column) for column in zip(*passes, entry["random"], strict=True)]
    return counted == list(owned)


def _check_inputs(data: Mapping[str, Any], passed: list[str], skipped: list[str]) -> None:
    sources = [
        ("base", data["inputs"]["base"]),
        *((f"task {entry['name']!r}", entry) for entry in data["inputs"]["tasks"]),
    ]
    for role, entry in sources:
        path = entry["path"]
        if path is None or not Path(path).exists():
            skipped.append(f"{role}: {path or 'was given in memory'}{'' if path is None else ' is no longer there'}")
            continue
        checkpoint = open_checkpoint(path)
        try:
            found = content_fingerprint(checkpoint) if entry["covers"] == "content" else header_fingerprint(checkpoint)
        finally:
            checkpoint.close()
        if found != entry["fingerprint"]:
            raise VerificationFailed(
                f"{role} ({path}) is not what was merged: fingerprint {found}, the receipt says "
                f"{entry['fingerprint']}. "
                "It was changed since, or replaced; the output itself may still be right."
            )
        passed.append(f"{role}: {'content' if entry['covers'] == 'content' else 'header'} fingerprint")


def _check_rerun(
    data: Mapping[str, Any],
    checkpoint: Checkpoint,
    out: Path,
    threads: int | None,
    max_memory: str,
    progress: Progress | None,
) -> None:
    """Merge again beside the output (its disk has room for one) and compare tensor by tensor."""
    from prefmerge.merging.added import read_added
    from prefmerge.merging.api import run
    from prefmerge.merging.recipe import Recipe

    entries = data["inputs"]["tasks"]
    paths = [data["inputs"]["base"]["path"], *(entry["path"] for entry in entries)]
    gone = [str(path) for path in paths if path is None or not Path(path).exists()]
    if gone:
        raise CheckpointNotFound(
            f"{out} cannot be merged again: inputs are no longer where they were: {quoted(gone, SHOWN)}. Bring them "
            f"back, or leave out --rerun."
        )
    recipe = Recipe.from_settings(data["recipe"], base=paths[0], tasks=paths[1:], names=data["tasks"])
    folder = tempfile.mkdtemp(prefix=".prefmerge-verify-", dir=out.absolute().parent)
    try:
        # One file, whatever the output is: elements are compared, not shards.
        again = Path(folder) / "rerun.safetensors"
        run(recipe, again, threads=threads, max_memory=max_memory, progress=progress, added=read_added(data))
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
        shutil.rmtree(folder, ignore_errors=True)
    _fail(
        out,
        "merging again from the receipt gives other elements in tensors",
        wrong,
        "The output or an input was changed since; check with --inputs.",
    )


def _different(a: Checkpoint, b: Checkpoint) -> list[str]:
    """The tensors whose stored bits differ."""
    names = sorted({*a.tensors, *b.tensors})
    return [
        name
        for name in names
        if name not in a.tensors or name not in b.tensors or not same_elements(a, name, b, name, bits=True)
    ]
