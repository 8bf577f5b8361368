"""Who may ask the studio: the token, the host, the origin, and what the browser is told."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the studio is an application of Starlette's (extra studio)")

from prefmerge.studio.guard import Guard
from tests.studio.conftest import TOKEN, Client

API = ("byhand", "measure", "layers", "front", "labels", "inputs", "write")


@pytest.mark.parametrize("name", API)
def test_every_request_needs_the_token(of_recipe: Client, name: str):
    for token in ("", "x", TOKEN + "x", "\xe4"):
        status, told = of_recipe.ask(f"/api/{name}", of_recipe.dials(), X_Studio_Token=token)
        assert (status, told["error"]) == (
            403,
            "the token is wrong or missing: open the address that `prefmerge studio` printed.",
        )
    assert of_recipe.ask(f"/api/{name}?token={TOKEN}", of_recipe.dials(), X_Studio_Token="")[0] == 403
    assert of_recipe.ask(f"/api/{name}", method="GET")[0] == 405
    assert list(of_recipe.opened.out_dir.iterdir()) == []


def test_the_page_needs_the_token_and_its_files_do_not(of_recipe: Client):
    assert of_recipe.ask(f"/?token={TOKEN}", method="GET", X_Studio_Token="")[0] == 200
    for path in ("/", "/?token=wrong", "/?token="):
        status, text = of_recipe.ask(path, method="GET", X_Studio_Token="")
        assert (status, text) == (
            403,
            "The token is wrong or missing: open the address that `prefmerge studio` printed.",
        )
    for path in ("/page/studio.js", "/page/studio.css", "/page/dials.js", "/page/charts.js", "/page/icon.svg"):
        assert of_recipe.ask(path, method="GET", X_Studio_Token="")[0] == 200
    for path in ("/page/../server.py", "/page/%2e%2e/server.py", "/page/", "/page/studio.html", "/etc/passwd"):
        assert of_recipe.ask(path, method="GET")[0] == 404


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200),
        ("localhost:{port}", 200),
        ("LOCALHOST", 200),
        ("evil.example:{port}", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example:{port}", 421),
        ("evil.example@127.0.0.1.x", 421),
    ],
)
def test_a_name_that_was_bound_to_this_machine_is_refused(of_recipe: Client, host: str, status: int):
    told = of_recipe.ask("/api/start", method="GET", Host=host.format(port=of_recipe.port))
    assert told[0] == status


def test_on_every_address_only_numbers_and_this_machines_names_are_taken():
    guard = Guard(lambda *_: None, TOKEN, "0.0.0.0", ())  # pyright: ignore[reportArgumentType]
    assert all(map(guard._ours, ("192.168.1.5:7870", "localhost", "[fe80::1]:80")))
    assert not any(map(guard._ours, ("evil.example", "", "192.168.1.5.evil.example:7870")))


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://localhost"])
def test_a_page_of_another_origin_is_refused(of_recipe: Client, origin: str):
    assert of_recipe.ask("/api/write", {**of_recipe.dials(), "name": "x"}, Origin=origin)[0] == 403
    ours = f"http://127.0.0.1:{of_recipe.port}"
    assert of_recipe.ask("/api/byhand", of_recipe.dials(), Origin=ours)[0] == 200


def test_the_browser_is_told_to_take_nothing_from_elsewhere(of_recipe: Client):
    for path in (f"/?token={TOKEN}", "/page/studio.js", "/api/start", "/nothing", "/?token=x"):
        _, text, headers = of_recipe.raw(path, method="GET")
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["access-control-allow-origin"] is None
        assert str(Path.home()) not in text


def test_the_page_takes_nothing_from_elsewhere_and_writes_no_markup():
    from prefmerge.studio.server import PAGE

    for file in PAGE.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text
        assert "https://" not in text
        assert not any(word in text for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval("))
