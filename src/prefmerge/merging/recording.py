"""Makes the receipt of a merge from its plan and its outcome.

    totals.owned[t] = sum over merged tensors of tensor.owned[t];   totals.gap = the largest gap of a tensor

A total is there where every merged tensor has the number; a method over the whole model reports its totals itself.
Cost: O(tensors x tasks), and one reading of every weights file for SHA-256. Not here: its form (`receipt`).
"""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prefmerge.checkpoints import Checkpoint, file_entries, header_fingerprint, sha256_files
from prefmerge.checkpoints.paths import in_stack
from prefmerge.checkpoints.rearranged import original
from prefmerge.merging.added import Added, entries
from prefmerge.merging.outcome import Outcome
from prefmerge.merging.plan import Plan
from prefmerge.merging.receipt import (
    PerTask,
    Receipt,
    ReceiptElements,
    ReceiptFile,
    ReceiptInput,
    ReceiptInputs,
    ReceiptOutput,
    ReceiptRun,
    ReceiptTensor,
    ReceiptTotals,
)
from prefmerge.merging.stacks import Stack
from prefmerge.methods.shares_by_layer import describe
from prefmerge.preference import Preference, as_text
from prefmerge.vectors import ready
from prefmerge.vectors.adapter import AdapterVector
from prefmerge.vectors.reading import Reading, ReadInput

_ROLES = {"copy": "copied", "exclude": "excluded", "tied": "tied"}  # of a plan's entry -> of a receipt's tensor


def record(
    planned: Plan,
    outcome: Outcome,
    *,
    inputs: ReceiptInputs,
    output: ReceiptOutput,
    digests: Mapping[str, str],
    run: ReceiptRun,
    notes: Sequence[str] = (),
    added: Added | None = None,
) -> Receipt:
    """The receipt of what was merged. `digests`: by tensor. `notes` are put behind those of plan and outcome."""
    tensors: dict[str, ReceiptTensor] = {}
    elements: Counter[str] = Counter()
    for entry in planned.entries:
        role: Any = _ROLES.get(entry.role) or ("merged" if outcome.changed.get(entry.name, False) else "unchanged")
        counts: dict[str, Any] = {}
        if role == "merged":
            report, owned = outcome.reports.get(entry.name), outcome.owned.get(entry.name)
            counts = {} if report is None else report.entries()
            counts["owned"] = None if owned is None else tuple(owned.tolist())
        tensors[entry.name] = ReceiptTensor(
            shape=entry.info.shape,
            dtype=entry.dtype.name,
            role=role,
            tied_to=entry.tied_to if role == "tied" else None,
            xxh3=digests.get(entry.name),
            **counts,
        )
        elements["total"] += entry.info.size
        elements[role] += entry.info.size
    shares, asked = planned.settings.shares, planned.recipe.preference
    if asked is None and shares is not None:
        asked = Preference.uniform()
    return Receipt(
        recipe=planned.recipe.settings(planned.names),
        inputs=inputs,
        output=output,
        tasks=tuple(planned.names),
        shares=tuple(map(as_text, shares)) if isinstance(shares, tuple) else None,
        preference=describe(asked) if asked else None,
        elements=ReceiptElements(**{role: elements[role] for role in ReceiptElements.__dataclass_fields__}),
        totals=_totals([tensor for tensor in tensors.values() if tensor.role == "merged"], outcome),
        tensors=tensors,
        notes=(*planned.notes, *outcome.notes, *notes),
        added={name: tuple(values) for name, values in entries(added).items()} if added else None,
        run=run,
    )


def _totals(merged: Sequence[ReceiptTensor], outcome: Outcome) -> ReceiptTotals:
    def summed(rows: Sequence[PerTask | None]) -> PerTask | None:
        counts = [row for row in rows if row is not None]
        return tuple(map(sum, zip(*counts, strict=True))) if counts and len(counts) == len(merged) else None

    passes = [tensor.passes for tensor in merged if tensor.passes is not None]
    totals: dict[str, Any] = {
        "asked": summed([tensor.asked for tensor in merged]),
        "owned": summed([tensor.owned for tensor in merged]),
        "passes": tuple(summed(rows) for rows in zip(*passes, strict=True)) if len(passes) == len(merged) > 0 else None,
        "random": summed([tensor.random for tensor in merged]),
        "gap": max((tensor.gap for tensor in merged if tensor.gap is not None), default=None),
    }
    if outcome.report is not None:
        totals |= outcome.report.entries()
    return ReceiptTotals(**totals)


def inputs_of(reading: Reading, *, sha256: bool = False) -> ReceiptInputs:
    """What was read, with its fingerprints. `sha256`: of every file too."""
    return ReceiptInputs(
        base=_input(reading.base, sha256), tasks=tuple(_input(source, sha256) for source in reading.tasks)
    )


def _input(source: ReadInput, sha256: bool) -> ReceiptInput:
    checkpoint, content = original(source.checkpoint), source.content()
    return ReceiptInput(
        name=checkpoint.name,
        path=_path(checkpoint),
        files=tuple(ReceiptFile(**entry) for entry in file_entries(checkpoint)),
        fingerprint=content or header_fingerprint(checkpoint),
        covers="content" if content else "header",
        task_vector=source.vector,
        sha256=sha256_files(checkpoint) if sha256 else None,
    )


def _path(checkpoint: Checkpoint) -> str | None:
    """Where it is, in a form that opens it again: `model+adapter` for two."""
    if isinstance(checkpoint, Stack):
        return in_stack(checkpoint.path, os.path.abspath)
    over = checkpoint.over if isinstance(checkpoint, AdapterVector) else None
    return "+".join(os.path.abspath(path) for path in (over, checkpoint.path) if path is not None) or None


def versions() -> dict[str, str]:
    """Those of what computes: of this package, NumPy, Numba and Python."""
    from prefmerge.version import __version__

    return {
        "prefmerge": __version__,
        "numpy": np.__version__,
        "numba": ready.numba_version(),
        "python": platform.python_version(),
    }
