"""A studio on a tiny recipe, one on a tiny run, each answering on this machine; and a client without a package."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

pytest.importorskip("starlette", reason="the studio is an application of Starlette's (extra studio)")
pytest.importorskip("uvicorn", reason="the studio is served by uvicorn (extra studio)")

from prefmerge.studio.opened import Opened, open_path
from prefmerge.studio.serving import serving

TOKEN = "the-token-of-the-tests"
NAMES = ("cars", "birds", "ships")


@dataclass(frozen=True)
class Client:
    """Asks one studio. `session`: of the page that it plays."""

    opened: Opened
    port: int
    session: str = "0123456789abcdef"
    headers: dict[str, str] = field(default_factory=dict)

    def ask(self, path: str, body: Any = None, method: str = "POST", **headers: str) -> tuple[int, Any]:
        """(status, the JSON or the text of the answer). Bytes, and an iterator of them, go as they are."""
        status, text, _ = self.raw(path, body, method, **headers)
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text

    def raw(
        self, path: str, body: Any = None, method: str = "POST", **headers: str
    ) -> tuple[int, str, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        sent = {"X-Studio-Token": TOKEN, "X-Studio-Session": self.session, **self.headers}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if isinstance(body, bytes | Iterator) or body is None else json.dumps(body).encode()
        try:
            connection.request(method, path, content, {name: value for name, value in sent.items() if value})
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), answer.headers
        finally:
            connection.close()

    def job(self, path: str, body: Any) -> list[Any]:
        """The results of a job. An error is one, whole."""
        status, text, _ = self.raw(path, body)
        assert status == 200, text
        lines = [json.loads(line) for line in text.splitlines()]
        return [line.get("result", line) for line in lines if "progress" not in line]

    def dials(self, *shares: float, method: str = "tunable_magmax", **values: str) -> dict[str, Any]:
        """What the page sends; alike, where no share is given."""
        count = len(self.opened.names)
        return {"dials": list(shares) or [1.0, *[0.0] * (count - 1)], "method": method, "values": values}


def files(**contents: str | bytes) -> dict[str, Any]:
    """What the page sends of dropped files: `seen__csv` is seen.csv."""
    return {
        "files": [
            {
                "name": name.replace("__", "."),
                "base64": base64.b64encode(text.encode() if isinstance(text, str) else text).decode(),
            }
            for name, text in contents.items()
        ]
    }


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of three tasks, beside its checkpoints."""
    folder = tmp_path_factory.mktemp("recipe")
    rng = np.random.default_rng(0)
    base = {f"layers.{i}.w": rng.standard_normal((9, 7)).astype(np.float32) for i in range(3)}
    save_file(base, folder / "base.safetensors")
    for name in NAMES:
        moved = {key: value + rng.standard_normal(value.shape).astype(np.float32) for key, value in base.items()}
        save_file(moved, folder / f"{name}.safetensors")
    models = "".join(f"- model: {name}.safetensors\n" for name in NAMES)
    text = f"merge_method: tunable_magmax\nbase_model: base.safetensors\nmodels:\n{models}parameters: {{scale: 0.7}}\n"
    (folder / "recipe.yaml").write_text(text)
    return folder / "recipe.yaml"


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's run, trained for one epoch on a part of its digits."""
    pytest.importorskip("torch", reason="a run is trained with torch (extra demo)")
    pytest.importorskip("accelerate", reason="training is accelerate's (extra demo)")
    pytest.importorskip("sklearn", reason="the demo's digits come with scikit-learn (extra demo)")
    from prefmerge.lab.demo.digits import Digits, load_digits
    from prefmerge.lab.demo.model import load_base
    from prefmerge.lab.demo.train import REGIME, fine_tune_in_sequence

    out = tmp_path_factory.mktemp("studio") / "my-run"
    quick = REGIME.model_copy(update={"learning_rate": 1e-3, "epochs": 1})
    digits = load_digits()
    parts = {**digits.parts, **{name: digits.parts[name][::3] for name in ("train", "validation")}}
    few = Digits(digits.pixels, digits.labels, parts)
    fine_tune_in_sequence(*load_base(), few, out, 3, quick)
    return out


@pytest.fixture
def of_recipe(recipe: Path, tmp_path: Path) -> Iterator[Client]:
    opened = open_path(recipe, tmp_path)
    with serving(opened, TOKEN) as port:
        yield Client(opened, port)


@pytest.fixture(scope="module")
def of_run(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """One for all tests of a file: loading the encoder takes longer than they do."""
    opened = open_path(run, tmp_path_factory.mktemp("models"))
    with serving(opened, TOKEN) as port:
        yield Client(opened, port)
