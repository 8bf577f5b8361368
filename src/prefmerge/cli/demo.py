"""`prefmerge demo`: the main job on the embedded default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefmerge.cli import options as o
from prefmerge.cli.app import command


@command
def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Where checkpoints, table and chart go.")
    ] = Path("demo-out"),
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Decides training and merging.")] = 0,
    force: o.Force = False,
    json: o.Json = False,
) -> None:
    """Fine-tune a tiny model on digits and adapt it to one target.

    Five tasks of two handwritten digits each, in sequence; a target that sees two of them; a model for it, from 20
    labels and from a few images; what it gained beside other merges, as a table and a chart.
    Takes about a minute and needs the extra `demo`.
    """
    from prefmerge.cli import progress, show
    from prefmerge.lab.demo import run

    result = run(out, seed, quiet=json, force=force, watch=progress.training)
    if json:
        show.as_json(result)
