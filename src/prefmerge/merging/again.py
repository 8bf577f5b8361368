"""A merge that is done, once more from its receipt, to learn what the receipt does not hold.

    recipe_again(receipt, out, flag) -> the recipe over the inputs, where they still are
    measured_again(receipt, out)     -> what each tensor keeps of the changes (`kept`), from a merge that goes nowhere

The merge must come out as the receipt says, by its fingerprint, or nothing is said. Cost: a merge and the looks at each
block that a report takes; no disk, but for the scratch file of scope `model`. Not here: whether the weights are still
those that were merged (`verify`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from prefmerge.checkpoints import Fingerprint, is_there
from prefmerge.errors import CheckpointNotFound, PrefmergeError, VerificationFailed
from prefmerge.ground.progress import Progress
from prefmerge.ground.words import quoted
from prefmerge.merging.added import Adding
from prefmerge.merging.engine import merge_all
from prefmerge.merging.kept import KeptMagnitude
from prefmerge.merging.limits import allowance, checked_threads, parse_bytes
from prefmerge.merging.many import formats_of_plan
from prefmerge.merging.plan import make_plan
from prefmerge.merging.receipt import Receipt
from prefmerge.merging.recipe import Recipe
from prefmerge.vectors.workspace import BLOCK, Workspace

SHOWN = 5  # inputs listed in a message about many


def recipe_again(receipt: Receipt, out: Path | str, flag: str) -> Recipe:
    """The recipe of a receipt over its inputs. `out` and `flag`: for the message. Raises CheckpointNotFound where one
    is no longer there.
    """
    entries = (receipt.inputs.base, *receipt.inputs.tasks)
    here = [entry.place for entry in entries if entry.place is not None and is_there(entry.place)]
    gone = [str(entry.path or entry.name) for entry in entries if entry.place not in here]
    if gone:
        raise CheckpointNotFound(
            f"{out} cannot be merged again: inputs are no longer where they were: {quoted(gone, SHOWN)}. Bring them "
            f"back, or leave out {flag}."
        )
    return Recipe.from_settings(receipt.recipe, base=here[0], tasks=here[1:], names=receipt.tasks)


def added_by(receipt: Receipt) -> dict[str, np.ndarray]:
    """What was added to the merged values, by tensor."""
    return {name: np.array(values, np.float32) for name, values in (receipt.added or {}).items()}


def measured_again(
    receipt: Receipt,
    out: Path | str,
    *,
    threads: int | None = None,
    max_memory: str | int = "256MiB",
    progress: Progress | None = None,
    flag: str = "--with-inputs",
) -> tuple[Mapping[str, KeptMagnitude], tuple[str, ...]]:
    """What each merged tensor keeps, and the number formats of the base and of each task.

    Raises CheckpointNotFound where an input is not there, VerificationFailed where the inputs are not those that were
    merged, and what `merge` raises.
    """
    recipe, threads = recipe_again(receipt, out, flag), checked_threads(threads)
    memory = allowance(parse_bytes(max_memory), threads, BLOCK)
    try:
        with make_plan(recipe) as plan, Workspace(threads=threads, memory=memory) as work, plan.reading():
            hashing = _Hashing(Fingerprint(plan.layout))
            sink = Adding(hashing, plan.layout, added_by(receipt)) if receipt.added else hashing
            (outcome,) = merge_all([(plan, sink)], work, progress, hashed=False, measured=True)
            formats = formats_of_plan(plan)
    except PrefmergeError as error:
        raise VerificationFailed(f"{out} cannot be merged again: {error}") from error
    found = hashing.fingerprint.hexdigest()
    if found != receipt.fingerprint:
        raise VerificationFailed(
            f"{out}: merging again from the receipt gives other elements, fingerprint {found} and not "
            f"{receipt.fingerprint}, so nothing can be said of what was kept. An input was changed since; `prefmerge "
            "verify OUT --with-inputs` says which."
        )
    return outcome.magnitudes, formats


class _Hashing:
    """A sink that keeps nothing but the fingerprint. Blocks are as long as the chunks that are hashed."""

    def __init__(self, fingerprint: Fingerprint) -> None:
        self.fingerprint = fingerprint

    def write(self, name: str, start: int, stored: np.ndarray) -> None:
        self.fingerprint.add(name, stored, start)
