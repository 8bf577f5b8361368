"""Jobs of the studio, without a server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

from prefmerge.ground.progress import Progress
from prefmerge.studio.jobs import Cancelled, Jobs


def test_a_job_whose_event_loop_is_gone_is_cancelled():
    """The server may end before the jobs are closed: a job that goes on then has nobody to tell."""
    jobs, began, go_on, ended = Jobs(), threading.Event(), threading.Event(), threading.Event()
    raised: list[BaseException] = []

    def steps(progress: Progress) -> Iterator[int]:
        began.set()
        assert go_on.wait(30)
        try:
            progress(1, 2, "merging")
        except BaseException as error:
            raised.append(error)
            raise
        finally:
            ended.set()
        yield 1

    async def begin_and_leave() -> None:
        lines = jobs.lines("session", "write", steps, whole=True)
        waiting = asyncio.ensure_future(anext(lines))
        while not began.is_set():
            await asyncio.sleep(0.01)
        waiting.cancel()

    asyncio.run(begin_and_leave())
    go_on.set()
    assert ended.wait(30)  # and only then the jobs are closed
    jobs.close()
    assert [type(error) for error in raised] == [Cancelled]
