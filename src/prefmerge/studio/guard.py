"""Who may ask the studio, and what every answer says to the browser.

A request needs the address's token, in a header that no page of another origin can send; a Host that is this machine's,
because another name may have been bound to its address (DNS rebinding); an Origin, where there is one, that is the
Host. Only the page's own files are given without a token: they hold nothing of the user's. The browser is to take
nothing from elsewhere. Cost: none. Not here: what is answered (`server`).
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Collection
from urllib.parse import parse_qs, urlsplit

from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN = "x-studio-token"
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_EVERY = ("0.0.0.0", "::")  # addresses that mean all of this machine's


def new_token() -> str:
    """192 random bits."""
    return secrets.token_urlsafe(24)


class Guard:
    """Wraps the application. `host`: the address that it listens on. `open_paths`: what needs no token."""

    def __init__(self, app: ASGIApp, token: str, host: str, open_paths: Collection[str]) -> None:
        self.app, self.token, self.host, self.open_paths = app, token, host, open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", []),
                    *((name.encode(), value.encode()) for name, value in HEADERS.items()),
                ]
            await send(message)

        answer = self._refusal(scope)
        await (self.app if answer is None else answer)(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        if not self._ours(host):
            return PlainTextResponse("This address is not the studio's. Open the one that it printed.", 421)
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return PlainTextResponse("This request comes from another page.", 403)
        if scope["path"] in self.open_paths:
            return None
        if scope["path"] == "/" and scope["method"] in ("GET", "HEAD"):
            token = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        else:
            token = headers.get(TOKEN, "")
        if secrets.compare_digest(token.encode(), self.token.encode()):
            return None
        message = "the token is wrong or missing: open the address that `prefmerge studio` printed."
        if scope["path"] == "/":
            return PlainTextResponse(message[:1].upper() + message[1:], 403)
        return JSONResponse({"error": message, "field": ""}, 403)

    def _ours(self, host: str) -> bool:
        name = urlsplit(f"//{host}").hostname or ""
        if name in ("localhost", "127.0.0.1", "::1", self.host.lower()):
            return True
        if self.host not in _EVERY:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name == socket.gethostname().lower()
        return True  # a number cannot be bound to another address
