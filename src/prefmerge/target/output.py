"""What `adapt` leaves: a folder as of `merge`, with the head for the target and what is known of both.

    OUT/  weights, receipt.json, config, tokenizer ...    as `prefmerge merge` writes them, all at once
          head.safetensors                                the head: rows, bias, scale (prefmerge-head/2); none where
                                                          the prior is in the bias of the model's own classifier
          adapt.json                                      shares, candidates, estimates, cost; no path, no host
          report.html                                     the same to look at, in one file

A checkpoint that is kept as it is goes through `increments` of that one task, which is that task bit for bit: so it has
a receipt that verifies too. Cost: one merge. Not here: the choice (`adapt`).
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from prefmerge.errors import OutputError, OutputExists, UsageError
from prefmerge.ground import jsons
from prefmerge.merging.api import run
from prefmerge.merging.many import Reporting
from prefmerge.merging.page import ReportedMerge
from prefmerge.merging.places import without_places
from prefmerge.merging.receipt import Receipt
from prefmerge.outputs.receipts import find_receipt
from prefmerge.outputs.write import kind_of
from prefmerge.report import place
from prefmerge.target.card import about
from prefmerge.target.files import HEAD, RESULT
from prefmerge.target.report import report
from prefmerge.target.result import Adapted, command, recipe


def check_output(out: Path, force: bool) -> None:
    """Raise UsageError, OutputExists or OutputError where the folder could not be written."""
    if kind_of(out) == "file":
        raise UsageError(
            f"-o {out}: other files come with the model (a report for one), so it is a folder. Give for instance "
            f"{out.with_suffix('')}."
        )
    if out.is_file():
        raise OutputExists(f"{out}: is a file; the model is a folder. Give another -o OUT.")
    if out.is_dir() and any(out.iterdir()):
        if find_receipt(out) is None:
            raise OutputExists(f"{out}: exists already, and prefmerge did not make it. Give another -o OUT.")
        if not force:
            raise OutputExists(f"{out}: exists already. Give another -o OUT, or --force to replace it.")
    there = next(one for one in (out, *out.absolute().parents) if one.exists())
    if not os.access(there, os.W_OK):
        raise OutputError(f"{out}: cannot be written: {there} is read-only. Give another -o OUT.")


def write(made: Adapted, out: Path) -> Receipt:
    """Write the folder; whole or not at all. Raises OutputExists, OutputError, DiskFull and what merging raises."""
    line = command(made, published=True)
    made = replace(made, notes=tuple(without_places(note) for note in made.notes))
    beside = {RESULT: jsons.encoded({**made.to_json(), "command": line})}
    if made.head is not None:
        beside[HEAD] = made.head.to_bytes()
    asked, added, told = made.parameters, None, made
    if made.added is not None:
        added = {made.added.tensor: made.added.values}
    text: list[str] = []

    def page(merged: ReportedMerge) -> str:
        text.append(report(told, line, merged))
        return text[-1]

    elsewhere = place.asked_of(asked.report, out, folder=True, force=asked.force)
    receipt = run(
        recipe(made),
        out,
        threads=asked.threads,
        force=asked.force,
        beside=beside,
        card=about(made),
        added=added,
        report=Reporting(page),
        notes=() if made.scored is None else (made.verdict, made.scored.expected, made.scored.doubt),
    )
    if elsewhere is not None and elsewhere.file is not None:
        place.write(elsewhere.file, text[-1])
    return receipt
