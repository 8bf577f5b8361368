"""The web server of the studio, until Ctrl-C.

Cost: a thread for the work and one for the answers. Not here: what is answered (`server`).
"""

from __future__ import annotations

import contextlib
import socket
import threading
import webbrowser
from collections.abc import Iterator

import uvicorn

from prefmerge.studio.opened import Opened
from prefmerge.studio.server import Studio

LONGEST_GOODBYE = 2  # seconds in which answers that are under way may end


def serve(opened: Opened, listening: socket.socket, token: str, host: str, browse: str | None = None) -> None:
    """Answer on a socket that listens, until a signal comes. `browse`: an address to open in the browser."""
    studio = Studio(opened)
    server = _server(studio, token, host)
    if browse is not None:
        threading.Thread(target=webbrowser.open, args=(browse,), daemon=True).start()
    try:
        server.run(sockets=[listening])
    finally:
        studio.jobs.close()


@contextlib.contextmanager
def serving(opened: Opened, token: str) -> Iterator[int]:
    """A studio that answers in the background, on this machine; the port."""
    studio = Studio(opened)
    server = _server(studio, token, "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()
            studio.jobs.close()


def _server(studio: Studio, token: str, host: str) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            studio.app(token, host),
            lifespan="off",
            ws="none",
            http="h11",
            log_level="critical",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=LONGEST_GOODBYE,
        )
    )
