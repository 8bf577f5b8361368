"""`prefmerge studio` on the command line, and the commands that docs/studio.md shows."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("starlette", reason="the studio is an application of Starlette's (extra studio)")

import prefmerge.studio.serving
from prefmerge.cli import app
from prefmerge.cli.studio import PORT

DOCUMENT = Path(__file__).parents[2] / "docs" / "studio.md"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What would have been served."""
    kept: list[dict[str, Any]] = []

    def serve(opened: Any, listening: socket.socket, token: str, host: str, browse: str | None) -> None:
        kept.append({"opened": opened, "port": listening.getsockname()[1], "token": token, "browse": browse})

    monkeypatch.setattr(prefmerge.studio.serving, "serve", serve)
    return kept


def call(*words: str) -> Any:
    return CliRunner().invoke(app, ["studio", *words], prog_name="prefmerge")


def test_the_commands_of_the_document_work(
    served: list[dict[str, Any]], recipe: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(run, tmp_path / "demo-out")
    shutil.copytree(recipe.parent, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    lines = re.findall(r"^    (prefmerge studio .*)$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(lines) == 3
    for line in lines:  # the port that a page names may be another's here
        done = call(*shlex.split(line.replace("--port 7870", "--port 0"))[2:])
        assert done.exit_code == 0, done.output
    assert [str(one["opened"].path) for one in served] == ["demo-out", "recipe.yaml", "demo-out"]
    assert [one["browse"] is None for one in served] == [False, False, True]
    assert [one["opened"].measurable for one in served] == [True, False, True]


def test_the_document_says_the_limits_and_the_extra():
    from prefmerge.studio.given import MOST_INPUTS, MOST_LABELS

    text = " ".join(DOCUMENT.read_text(encoding="utf-8").split())
    assert f"At most {MOST_LABELS >> 20} MiB of labels and {MOST_INPUTS >> 20} MiB of inputs" in text
    assert "prefmerge[studio]" in text


def test_the_address_is_printed_with_a_token_of_its_own(served: list[dict[str, Any]], recipe: Path):
    tokens = set()
    for _ in range(3):
        done = call(str(recipe), "--port", "0")
        address = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=(\S+)", done.stderr)
        assert address is not None
        assert (int(address[1]), address[2]) == (served[-1]["port"], served[-1]["token"])
        tokens.add(address[2])
    assert len(tokens) == 3
    assert min(map(len, tokens)) >= 32


def test_a_port_that_is_taken(served: list[dict[str, Any]], recipe: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = call(str(recipe), "--port", str(port))
        assert done.exit_code == 2
        assert f"--port {port}: Address already in use" in done.stderr
    try:
        holding = socket.create_server(("127.0.0.1", PORT))
    except OSError:
        return  # someone else has it
    with holding:
        assert call(str(recipe)).exit_code == 0
        assert served[-1]["port"] != PORT


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent"], "absent"),
        (["absent.yaml"], "does not exist"),
        (["{recipe}", "-o", "absent/deeper"], "-o absent/deeper: No such file or directory"),
        (["{recipe}", "-o", "{recipe}"], "File exists. Give the folder"),
        (["{recipe}", "--host", "256.1.1.1", "--port", "0"], "--host 256.1.1.1 --port 0: "),
        (["{recipe}", "--port", "70000"], "less than or equal to 65535"),
    ],
)
def test_what_cannot_be_served_is_said(served: list[dict[str, Any]], recipe: Path, words: list[str], message: str):
    done = call(*(word.format(recipe=recipe) for word in words))
    assert done.exit_code in (1, 2)
    assert message in done.stderr
    assert served == []


@pytest.mark.parametrize("module", ["starlette", "uvicorn"])
def test_an_absent_extra_is_named(recipe: Path, monkeypatch: pytest.MonkeyPatch, module: str):
    monkeypatch.setitem(sys.modules, module, None)
    done = call(str(recipe))
    assert done.exit_code == 1
    assert "studio needs an optional dependency. Install it with: pip install 'prefmerge[studio]'" in done.stderr


def test_a_recipe_needs_no_extra_but_this_one():
    code = f"""
import sys
for name in {("torch", "transformers", "sklearn", "scipy", "matplotlib", "httpx")!r}:
    sys.modules[name] = None  # an import of it fails, as where it is not installed
import prefmerge.studio.serving
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.stderr == ""


def test_it_answers_until_it_is_interrupted(recipe: Path, tmp_path: Path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    line = [
        sys.executable,
        "-m",
        "prefmerge",
        "studio",
        str(recipe),
        "-o",
        str(tmp_path),
        "--no-browser",
        "--port",
        "0",
    ]
    streams: dict[str, Any] = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, **streams, env=environment) as process:
        try:
            assert process.stderr is not None
            address = re.search(r"http://\S+", process.stderr.readline())
            assert address is not None
            with urllib.request.urlopen(address[0], timeout=120) as page:
                assert b"prefmerge studio" in page.read()
            process.send_signal(signal.SIGINT)
            out, rest = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 130
    assert out == ""
    assert rest == "error: interrupted; nothing is left half written.\n"
