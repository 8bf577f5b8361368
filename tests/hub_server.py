"""A stand-in for the Hugging Face hub: folders as repositories over HTTP, with what huggingface_hub asks for.

    with Hub(tmp_path / "repositories") as hub:      ORG/NAME/REVISION/files...
        HF_ENDPOINT=hub.address

Every file that is fetched is in `hub.fetched`. A repository in `hub.private` is answered for the right token only.
Whoever has the token may make repositories and commit to their main branch; what is stored as a large file is in
`hub.large`, by its SHA-256.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

TOKEN = "hf_" + "s" * 34


class Hub:
    """The repositories in a folder, at `address`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.fetched, self.listed = folder, [], 0
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.broken: int | None = None  # the status of every answer
        self.deaf: set[str] = set()  # words of paths that nothing may be sent to
        self.large: dict[str, bytes] = {}
        self.commits: list[dict[str, object]] = []  # their first lines
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """From now on nobody answers."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def commit(self, repository: str, revision: str) -> str | None:
        """The commit that a branch, or a commit, is; None where there is none."""
        for place in self.folder.glob(f"{repository}/*"):
            commit = hashlib.sha1(f"{repository}/{place.name}".encode()).hexdigest()
            if revision in (place.name, commit):
                return commit
        return None

    def place(self, repository: str, commit: str) -> Path:
        return next(one for one in self.folder.glob(f"{repository}/*") if self.commit(repository, one.name) == commit)


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(body=True)

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_POST(self) -> None:
            self.take(self.body())

        def body(self) -> bytes:
            if self.headers.get("transfer-encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("content-length", 0)))
            parts: list[bytes] = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def do_PUT(self) -> None:
            content = self.body()
            oid = self.path.rpartition("/")[2]
            if hashlib.sha256(content).hexdigest() == oid:
                hub.large[oid] = content
            self.send(200 if oid in hub.large else 400)

        def take(self, content: bytes) -> None:
            """What is sent: a new repository, a card to check, what is to come, a commit."""
            path = self.path.partition("?")[0].strip("/")
            if hub.broken is not None or any(word in path for word in hub.deaf):
                self.send(hub.broken or 403)
            elif not self.knows_the_token():
                self.send(401)
            elif path == "api/repos/create":
                self.create(json.loads(content))
            elif path == "api/validate-yaml":
                self.say({"errors": [], "warnings": []})
            elif "/preupload/" in path:
                files = json.loads(content)["files"]
                for file in files:
                    large = file["path"].endswith(".safetensors")
                    file |= {"uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
                self.say({"files": files})
            elif path.endswith(".git/info/lfs/objects/batch"):
                objects = json.loads(content)["objects"]
                for one in objects:
                    one["actions"] = {"upload": {"href": f"{hub.address}/large/{one['oid']}"}}
                self.say({"objects": objects, "transfer": "basic"})
            elif "/commit/" in path:
                self.commit(path, [json.loads(line) for line in content.splitlines()])
            else:
                self.send(404)

        def create(self, asked: dict[str, Any]) -> None:
            repository = f"{asked['organization']}/{asked['name']}"
            if (hub.folder / repository).is_dir():
                self.send(409)
                return
            (hub.folder / repository / "main").mkdir(parents=True)
            if asked.get("visibility") == "private" or asked.get("private"):
                hub.private.add(repository)
            self.say({"url": f"{hub.address}/{repository}"})

        def commit(self, path: str, lines: list[dict[str, Any]]) -> None:
            _, _, org, name, _, revision = path.split("/")
            place = hub.folder / org / name / revision
            if not place.is_dir():
                self.send(404, code="RepoNotFound")
                return
            for line in lines:
                one = line["value"]
                if line["key"] == "header":
                    hub.commits.append(one)
                else:
                    large = line["key"] == "lfsFile"
                    (place / one["path"]).parent.mkdir(parents=True, exist_ok=True)
                    (place / one["path"]).write_bytes(
                        hub.large[one["oid"]] if large else base64.b64decode(one["content"])
                    )
            oid = hub.commit(f"{org}/{name}", revision)
            self.say({"commitUrl": f"{hub.address}/{org}/{name}/commit/{oid}", "commitOid": oid})

        def say(self, content: Any) -> None:
            self.send(200, json.dumps(content).encode(), kind="application/json")

        def answer(self, body: bool) -> None:
            parts = self.path.partition("?")[0].strip("/").split("/")
            api = parts[:2] == ["api", "models"]
            org, name, *rest = parts[2:] if api else parts
            repository = f"{org}/{name}"
            kind, revision, *path = rest or ["revision", "main"]
            commit = hub.commit(repository, revision)
            if hub.broken is not None:
                self.send(hub.broken)
            elif not (hub.folder / repository).is_dir() or (repository in hub.private and not self.knows_the_token()):
                self.send(401, code="RepoNotFound")
            elif repository in hub.gated:
                self.send(403, code="GatedRepo")
            elif commit is None:
                self.send(404, code="RevisionNotFound")
            elif api:
                self.listing(hub.place(repository, commit), commit, kind)
            else:
                self.file(hub.place(repository, commit), "/".join(path), commit, body)

        def knows_the_token(self) -> bool:
            return self.headers.get("authorization") == f"Bearer {TOKEN}"

        def listing(self, place: Path, commit: str, kind: str) -> None:
            hub.listed += 1
            files = sorted(path for path in place.rglob("*") if path.is_file())
            names = [path.relative_to(place).as_posix() for path in files]
            sizes = [path.stat().st_size for path in files]
            content: Any = [
                {"type": "file", "path": name, "size": size, "oid": hashlib.sha1(name.encode()).hexdigest()}
                for name, size in zip(names, sizes, strict=True)
            ]
            if kind != "tree":
                siblings = [{"rfilename": name, "size": size} for name, size in zip(names, sizes, strict=True)]
                content = {
                    "id": "x/y",
                    "sha": commit,
                    "siblings": siblings,
                    "private": self.is_private(place),
                    "tags": [],
                }
            self.send(200, json.dumps(content).encode(), kind="application/json")

        def is_private(self, place: Path) -> bool:
            return place.parent.relative_to(hub.folder).as_posix() in hub.private

        def file(self, place: Path, name: str, commit: str, body: bool) -> None:
            if not (place / name).is_file():
                self.send(404, code="EntryNotFound")
                return
            content = (place / name).read_bytes()
            if body:
                hub.fetched.append(name)
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            self.send(200, content, {"ETag": etag, "X-Repo-Commit": commit}, body=body)

        def send(
            self,
            status: int,
            content: bytes = b"",
            headers: dict[str, str] | None = None,
            *,
            code: str = "",
            kind: str = "application/octet-stream",
            body: bool = True,
        ) -> None:
            self.send_response(status)
            all_of_them = {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}
            for key, value in (all_of_them | ({"X-Error-Code": code} if code else {})).items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
