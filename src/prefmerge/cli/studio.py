"""`prefmerge studio`: the page with the dials."""

from __future__ import annotations

import errno
import socket
from pathlib import Path
from typing import Annotated

import typer

from prefmerge.cli import options as o
from prefmerge.cli.app import command
from prefmerge.errors import UsageError, require

PORT = 7870


@command
def studio(
    source: Annotated[
        Path,
        typer.Argument(metavar="RUN|RECIPE.yaml", help="A run of `finetune` (or the demo's folder), or a recipe."),
    ],
    out_dir: Annotated[
        Path,
        typer.Option("--out-dir", "-o", metavar="DIR", help="Where models go, each as a folder. Made if absent."),
    ] = Path("."),
    port: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, max=65535, help=f"Default: {PORT}, or a free one where that is taken."),
    ] = None,
    host: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="Who can reach it. 127.0.0.1: this machine alone. Nothing is encrypted."),
    ] = "127.0.0.1",
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open the page in the browser.")] = False,
    threads: o.Threads = None,
) -> None:
    """Turn a dial for each task on a page, and write the model that you like.

    Accuracies are measured at once on the samples that the run held out. A recipe has none: there it shows which task
    owns how much. The address has a token: who has the address can write models. Ctrl-C ends it. Needs the extra
    `studio`.
    """
    require("studio", "studio", "starlette", "uvicorn")
    from prefmerge.cli import progress
    from prefmerge.cli.screen import say
    from prefmerge.studio import guard
    from prefmerge.studio.opened import open_path
    from prefmerge.studio.serving import serve

    with progress.steps():
        opened = open_path(source, out_dir, threads)
    with _listening(host, port) as listening:
        token = guard.new_token()
        address = f"http://{_named(host)}:{listening.getsockname()[1]}/?token={token}"
        say(f"The studio is at {address}  Ctrl-C ends it.")
        serve(opened, listening, token, host, None if no_browser else address)


def _listening(host: str, port: int | None) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, PORT if port is None else port), family=family)
    except OSError as error:
        if port is None and error.errno == errno.EADDRINUSE:
            return _listening(host, 0)
        where = f"--host {host} --port {PORT if port is None else port}"
        reason = error.strerror or error
        raise UsageError(f"{where}: {reason}. Give another --port, or an address of this machine.") from error


def _named(host: str) -> str:
    """What to call it in an address that one opens on this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
