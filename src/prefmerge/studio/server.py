"""The studio as an application for a web server, and the server.

    GET  /               the page                       POST /api/measure   accuracies of the dials' merge
    GET  /page/FILE      its script and style           POST /api/layers    owners and magnitude by layer
    GET  /api/start      tasks, methods, parameters     POST /api/front     the points of a sweep
    GET  /api/alive      that it is there               POST /api/labels    dials from labels
    POST /api/byhand     command and recipe             POST /api/inputs    dials from inputs
                                                        POST /api/write     the model

Nothing is kept of a page between its requests, so two pages do not mix. Every path is made here: a page can name the
folder of an output and nothing else. Cost: none until it is asked. Not here: who may ask (`guard`).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from prefmerge.errors import PrefmergeError
from prefmerge.ground.progress import Progress
from prefmerge.merging.plan import make_plan
from prefmerge.methods.by_layer import ByLayer
from prefmerge.methods.parameters import PREFERENCE, SCALE
from prefmerge.preference import Preference
from prefmerge.studio import controls, front, given, written
from prefmerge.studio.asked import Refused, Wanted, read_asked, recipe_of, refused
from prefmerge.studio.guard import Guard
from prefmerge.studio.jobs import Jobs, Steps
from prefmerge.studio.layers import Layers
from prefmerge.studio.measured import Meter
from prefmerge.studio.opened import Opened

PAGE = Path(__file__).parent / "page"
FILES = {
    "studio.js": "text/javascript",
    "dials.js": "text/javascript",
    "charts.js": "text/javascript",
    "studio.css": "text/css",
    "icon.svg": "image/svg+xml",
}
MOST_JSON = 256 << 10  # bytes of a request that holds no file
_SESSION = re.compile(r"[0-9a-f]{16,64}")


class Studio:
    """One studio: what it works on, and its answers."""

    def __init__(self, opened: Opened) -> None:
        self.opened, self.jobs, self.layers = opened, Jobs(), Layers(opened.threads)
        self.measured = Meter(opened) if opened.source is not None else None

    def app(self, token: str, host: str) -> ASGIApp:
        """The application, guarded."""
        routes = [
            Route("/", _page, methods=["GET"]),
            *(Route(f"/page/{name}", _file_of(name), methods=["GET"]) for name in FILES),
            Route("/api/alive", _alive, methods=["GET"]),
            Route("/api/start", self.start, methods=["GET"]),
            *(
                Route(f"/api/{name}", answer, methods=["POST"])
                for name, answer in {
                    "byhand": self.by_hand,
                    "measure": self.measure,
                    "layers": self.by_layer,
                    "front": self.front,
                    "labels": self.labels,
                    "inputs": self.inputs,
                    "write": self.write,
                }.items()
            ),
        ]
        app = Starlette(routes=routes, exception_handlers={Refused: _refused, HTTPException: _no_such})
        return Guard(app, token, host, {f"/page/{name}" for name in FILES})

    async def start(self, _: Request) -> Response:
        """What the page begins with."""
        opened, names = self.opened, list(self.opened.names)
        preference = opened.start[PREFERENCE] if opened.start.method else None
        assert not isinstance(preference, ByLayer), "it is refused when it is opened"
        shares = (preference or Preference.uniform()).shares(names)
        source = opened.source
        return JSONResponse(
            {
                "path": str(opened.path),
                "out_dir": str(opened.out_dir),
                "run": opened.run is not None,
                "measurable": opened.measurable,
                "kind": None if source is None else source.kind,
                "inputs": source is not None and (opened.measurable or source.tasks.embeddings is not None),
                "notes": list(() if source is None else source.notes),
                "tasks": [{"name": name, "classes": self._classes(t)} for t, name in enumerate(names)],
                "dials": front.in_units(shares),
                "method": opened.start.method,
                "methods": controls.methods(len(names)),
                "limits": {"labels": given.MOST_LABELS, "inputs": given.MOST_INPUTS},
            }
        )

    def _classes(self, task: int) -> list[str]:
        source = self.opened.source
        return [] if source is None else [source.tasks.classes[c] for c in source.tasks.of_task[task]]

    async def by_hand(self, request: Request) -> Response:
        """The command, the recipe, and what every parameter is. Reads headers only."""
        body = await _json(request)
        asked = read_asked(body, self.opened.names)
        recipe = recipe_of(self.opened.start, asked)
        out = self.opened.out_dir / (body["name"] if written.is_plain(body.get("name")) else "NAME")
        try:
            with make_plan(recipe) as planned:
                made = written.by_hand(self.opened, asked, planned, out)
                return JSONResponse(
                    {
                        "command": made.command,
                        "recipe": made.recipe,
                        "used": controls.used(planned.recipe),
                        "notes": list(planned.notes),
                    }
                )
        except PrefmergeError as error:
            raise refused(error) from error

    async def measure(self, request: Request) -> Response:
        """Accuracies of the merge, and of what stands beside it."""
        asked, measured = await self._asked(request), self._measurable()

        def job(progress: Progress) -> Iterator[Any]:
            yield {"tasks": measured.models([asked.settings()], progress)[0]}
            yield {"beside": measured.beside(progress)}

        return self._told(request, "measure", job)

    async def by_layer(self, request: Request) -> Response:
        """Owners and magnitude by layer."""
        recipe = recipe_of(self.opened.start, await self._asked(request))

        def job(progress: Progress) -> Iterator[Any]:
            yield self.layers.of(recipe, progress)

        return self._told(request, "layers", job)

    async def front(self, request: Request) -> Response:
        """The points of a sweep, as they are measured."""
        asked, measured = await self._asked(request), self._measurable()
        recipe = recipe_of(self.opened.start, asked)
        try:
            with make_plan(recipe) as planned:
                scale = SCALE.text(planned.recipe[SCALE])
        except PrefmergeError as error:
            raise refused(error) from error
        groups = front.grid(asked, self.opened.names, scale)

        def job(progress: Progress) -> Iterator[Any]:
            done, total = 0, sum(map(len, groups))
            for group in groups:
                progress(done, total, "measuring the front")
                rows = measured.models([one.settings() for one in group], lambda *_, n=done: progress(n, total, "…"))
                done += len(group)
                points = [{**front.point(one), "tasks": row} for one, row in zip(group, rows, strict=True)]
                yield {"points": points, "done": done, "total": total}

        return self._told(request, "front", job)

    async def labels(self, request: Request) -> Response:
        """Dials from labels."""
        files = await _files(request, given.MOST_LABELS, "labels")
        if len(files) != 1:
            raise Refused(f"expected one file of labels, found {len(files)}.", "labels")
        return JSONResponse(given.labels(self.opened, files[0]))

    async def inputs(self, request: Request) -> Response:
        """Dials from inputs without labels."""
        measured = self.measured
        if measured is None:
            raise Refused("a recipe has no samples to compare inputs with. Start the studio with a run.", "inputs")
        files = await _files(request, given.MOST_INPUTS, "inputs")

        def job(progress: Progress) -> Iterator[Any]:
            yield given.inputs(measured, files, progress)

        return self._told(request, "inputs", job)

    async def write(self, request: Request) -> Response:
        """The model, as a folder."""
        body = await _json(request)
        asked = read_asked(body, self.opened.names)
        recipe = recipe_of(self.opened.start, asked)
        out = written.checked_name(body.get("name"), self.opened.out_dir)

        def job(progress: Progress) -> Iterator[Any]:
            receipt = written.write(self.opened, recipe, out, progress)
            owned = receipt.totals.owned
            yield {"written": str(out), "owned": None if owned is None else list(owned), "notes": list(receipt.notes)}

        return self._told(request, "write", job, whole=True)

    async def _asked(self, request: Request) -> Wanted:
        return read_asked(await _json(request), self.opened.names)

    def _measurable(self) -> Meter:
        if self.measured is None or not self.opened.measurable:
            raise Refused("there are no samples that training has not seen, so no accuracy can be measured.")
        return self.measured

    def _told(self, request: Request, kind: str, job: Steps, *, whole: bool = False) -> Response:
        session = request.headers.get("x-studio-session", "")
        if not _SESSION.fullmatch(session):
            raise Refused("the page has no session. Load it again.", status=400)
        return StreamingResponse(
            self.jobs.lines(session, kind, job, whole=whole), media_type="application/x-ndjson; charset=utf-8"
        )


async def _page(_: Request) -> Response:
    return Response((PAGE / "studio.html").read_bytes(), media_type="text/html; charset=utf-8")


def _file_of(name: str) -> Callable[[Request], Any]:
    async def answer(_: Request) -> Response:
        return Response((PAGE / name).read_bytes(), media_type=f"{FILES[name]}; charset=utf-8")

    return answer


async def _alive(_: Request) -> Response:
    return JSONResponse({"alive": True})


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return JSONResponse({"error": str(error), "field": error.field}, error.status)


async def _no_such(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": f"there is no such address here ({error.detail}).", "field": ""}, error.status_code)


async def _body(request: Request, most: int, field: str) -> bytes:
    """The body, of at most so many bytes: a longer one is refused before it is read."""
    parts, size = [], 0
    stated = request.headers.get("content-length", "0")
    if stated.isdecimal() and int(stated) > most:
        raise _too_large(most, field)
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise _too_large(most, field)
        parts.append(part)
    return b"".join(parts)


def _too_large(most: int, field: str) -> Refused:
    return Refused(f"this is more than the studio takes at once, {most / (1 << 20):g} MiB. Give fewer.", field, 413)


async def _json(request: Request, most: int = MOST_JSON, field: str = "") -> dict[str, Any]:
    try:
        body = json.loads(await _body(request, most, field), parse_constant=str)  # NaN is refused where it stands
    except (ValueError, RecursionError) as error:
        raise Refused(f"this is not JSON: {error}.", status=400) from error
    if not isinstance(body, dict):
        raise Refused("expected a JSON object.", status=400)
    return body


async def _files(request: Request, most: int, field: str) -> list[given.File]:
    """{"files": [{"name": "seen.csv", "base64": "..."}]}; of `most` bytes."""
    body = await _json(request, most * 4 // 3 + MOST_JSON, field)
    try:
        return [(str(one["name"]), base64.b64decode(one["base64"], validate=True)) for one in body["files"]]
    except (KeyError, TypeError, ValueError) as error:
        raise Refused("expected files, each with its name and its bytes in base64.", status=400) from error
