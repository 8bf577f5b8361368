"""A cluster of Ray: connected to for a block of code, how much of it there is, and what its workers raise.

    with connected(address): slots = places_for(threads)

Source: Ray (Moritz et al. 2018). Cost: a local cluster takes seconds to start. Not here: what workers do (`on_ray`,
`in_sections`, `lab.on_ray`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from typing import Any

from prefmerge.errors import OutputError, PrefmergeError, UsageError, require
from prefmerge.ground.words import counted

PATIENCE = 10  # seconds for a cluster to answer
TRIES = 4  # of a piece of work whose worker is lost


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """A cluster, for the block; one that this process has found before stays connected. `address`: of a cluster, or
    `local` for one on this machine that ends with the block.

    Raises MissingExtra, UsageError where no cluster answers.
    """
    require("--ray", "ray", "ray")
    _require_answer(address)
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Without an address Ray would join what RAY_ADDRESS names, or what runs here already.
    given: dict[str, Any] = {"address": address} | ({"include_dashboard": False} if address == "local" else {})
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **given)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"--ray {address}: no cluster answers there ({error}). Give the address of one, or `local`."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Raise UsageError where nobody answers at HOST:PORT, which Ray itself would go on asking for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()
        except (OSError, OverflowError) as error:
            raise UsageError(
                f"--ray {address}: nobody answers there ({error}). Give the address of a cluster that runs, or `local`."
            ) from error


def places_for(threads: int) -> int:
    """How many workers of so many threads the cluster has room for at once, one at least. Raises UsageError where no
    machine has so many processors.
    """
    import ray

    each = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    most = max(each, default=0)
    if threads > most:
        raise UsageError(
            f"--threads {threads}: the largest machine of the cluster has {counted(most, 'processor')}. Give "
            f"--threads {most} or less, or leave it out."
        )
    return max(1, sum(processors // threads for processors in each))


@contextlib.contextmanager
def said(target: object) -> Iterator[None]:
    """What a worker raised, as it would be raised here. `target`: the output that messages name."""
    import ray.exceptions as raised

    try:
        yield
    except raised.RayTaskError as error:
        cause = error.cause
        raise (cause if isinstance(cause, PrefmergeError) else OutputError(f"{target}: {cause}")) from error
    except raised.RayError as error:
        raise OutputError(
            f"{target}: the workers that merged a part of it were lost {TRIES} times ({type(error).__name__}). Look "
            "for what ends them, such as too little memory; --resume keeps what is finished."
        ) from error
