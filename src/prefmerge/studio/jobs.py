"""Work that takes a while, reported line by line.

    {"progress": [done, all, "measuring"]}     any number of these
    {"result": ...}                            or several, of work in steps
    {"error": "...", "field": "scale"}         and it is over

A job is an iterator of results; each step runs in the one thread that has the encoder, so jobs take turns. A newer job
of the same page and kind ends the older one, and so does a page that is gone; at the next progress. Cost: a thread. Not
here: what is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from prefmerge.errors import PrefmergeError
from prefmerge.ground.progress import Progress, listening
from prefmerge.studio.asked import Refused, refused

Steps = Callable[[Progress], Iterator[Any]]
_OVER = object()


class Cancelled(Exception):
    """Nobody waits for this job any more."""


class Jobs:
    """The jobs of all pages of one studio."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "studio")
        self._latest: dict[tuple[str, str], threading.Event] = {}
        self._closed = threading.Event()

    def close(self) -> None:
        """End all jobs, each at its next progress. A model that is half written is removed."""
        self._closed.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def lines(self, session: str, kind: str, job: Steps, *, whole: bool = False) -> AsyncIterator[bytes]:
        """The lines of the job. `whole`: neither a newer job nor a page that is gone ends it."""
        ended = threading.Event()
        if not whole:
            self._latest.pop((session, kind), threading.Event()).set()
            self._latest[session, kind] = ended
        loop, told = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any]]()

        def go_on() -> None:
            if self._closed.is_set() or (ended.is_set() and not whole):
                raise Cancelled

        def progress(done: int, total: int, what: str) -> None:
            go_on()
            try:
                loop.call_soon_threadsafe(told.put_nowait, {"progress": [done, total, what]})
            except RuntimeError as error:  # the server has ended, and its loop with it; `close` comes after
                raise Cancelled from error

        steps = iter(job(progress))

        def step() -> Any:
            go_on()
            with listening(lambda what: progress(0, 0, what) if what else None):
                return next(steps, _OVER)

        try:
            while True:
                working = asyncio.ensure_future(loop.run_in_executor(self._pool, step))
                working.add_done_callback(_looked_at)
                async with contextlib.aclosing(_until(working, told)) as lines:
                    async for line in lines:
                        yield line
                result = working.result()
                if result is _OVER:
                    return
                yield _line({"result": result})
        except Cancelled:
            yield _line({"cancelled": True})
        except Refused as error:
            yield _line({"error": str(error), "field": error.field})
        except PrefmergeError as error:
            yield _line({"error": str(refused(error)), "field": ""})
        except Exception:  # a bug of ours: the page shows that there is one, and the studio lives
            traceback.print_exc()
            yield _line({"error": "the studio failed; what it failed at stands where it was started.", "field": ""})
        finally:
            ended.set()
            if self._latest.get((session, kind)) is ended:
                del self._latest[session, kind]


async def _until(working: asyncio.Future[Any], told: asyncio.Queue[dict[str, Any]]) -> AsyncGenerator[bytes]:
    """The lines until the step is done."""
    while True:
        waiting = asyncio.ensure_future(told.get())
        try:
            await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not waiting.done():
                waiting.cancel()
        if waiting.done() and not waiting.cancelled():
            yield _line(waiting.result())
        if working.done() and told.empty():
            return


def _looked_at(done: asyncio.Future[Any]) -> None:
    """Where the page is gone, nobody asks what came of it."""
    if not done.cancelled():
        done.exception()


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, allow_nan=False).encode() + b"\n"
