"""What `adapt` leaves: a folder as of `merge`, with the head of the target and what was found.

    OUT/  weights, receipt.json, config, tokenizer ...    as `prefmerge merge` writes them, all at once
          head.safetensors                                the head: rows, bias, scale (prefmerge-head/2); none where
                                                          the prior is in the bias of the model's own classifier
          adapt.json                                      shares, candidates, estimates, cost; no path, no host
          report.html                                     the same to look at, in one file

A checkpoint that is kept as it is goes through `increments` of that one task, which is that task bit for bit: so it has
a receipt that verifies too. Cost: one merge. Leaves out: the choice (`adapt`).
"""

from __future__ import annotations

import json
from pathlib import Path

from prefmerge.merging.api import run
from prefmerge.merging.receipt import Receipt
from prefmerge.target.report import report
from prefmerge.target.result import Adapted, command, recipe

RESULT, HEAD, REPORT = "adapt.json", "head.safetensors", "report.html"


def write(made: Adapted, out: Path) -> Receipt:
    """Write the folder; whole or not at all. Raises OutputExists, OutputError, DiskFull and what merging raises."""
    line = command(made, published=True)
    beside = {RESULT: (json.dumps({**made.to_json(), "command": line}, indent=1) + "\n").encode()}
    if made.head is not None:
        beside[HEAD] = made.head.to_bytes()
    beside[REPORT] = report(made, line).encode()
    asked, added = made.parameters, None
    if made.added is not None:
        added = {made.added.tensor: made.added.values}
    return run(recipe(made), out, threads=asked.threads, force=asked.force, beside=beside, added=added)
