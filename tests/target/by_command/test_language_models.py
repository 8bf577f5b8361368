"""Two tiny language models: a search over layer-wise weights, killed and resumed, and `adapt`, by their perplexity."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.target.by_command.language import CLIENT, one_thread, perplexity, serving, train
from tests.target.by_command.models import python

pytest.importorskip("optuna", reason="search needs the extra search")
pytest.importorskip("transformers", reason="two language models")


COMMAND = f"{python('client.py')} socket {{model}}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("language")
    with one_thread():
        train(folder)
    (folder / "client.py").write_text(CLIENT)
    return folder


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for one in trained.iterdir():
        (tmp_path / one.name).symlink_to(one)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_ladder_for_a_mix_by_perplexity(place: Path):
    words = ["adapt", "base", "animals", "sums", "--prefer", "animals=0.5,sums=0.5", "--unordered", "-o", "site"]
    words += ["--score", f"{COMMAND} search", "--lower-is-better", "--confirm", f"{COMMAND} confirm"]
    with one_thread(), serving(place / "socket") as asked:
        subprocess.run([sys.executable, "-m", "prefmerge", *words], check=True, capture_output=True)
        assert max(Counter(asked).values()) == 1
    result = json.loads((place / "site" / "adapt.json").read_text())
    best, *others = result["scored"]["compared"]
    assert [one["what"] for one in others if one["what"] == "base"] == ["base"]
    assert len(others) >= 3
    assert result["scored"]["chosen"] == best["number"]
    assert all(best["score"] < one["score"] for one in others)
    with one_thread():
        assert perplexity("site", "confirm") == pytest.approx(best["score"], rel=1e-5)


def test_layer_wise_weights_of_language_models_by_perplexity(place: Path):
    tmp_path, command = place, COMMAND
    words = ["search", "base", "animals", "sums", "-o", "found", "--score", f"{command} search", "--lower-is-better"]
    words += ["--confirm", f"{command} confirm", "--space", "weights:3=0..0.8", "--trials", "24", "--patience", "15"]
    line = [sys.executable, "-m", "prefmerge", *words, "--model", "merged"]
    with one_thread(), serving(tmp_path / "socket") as asked:
        killed = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while len(asked) < 12 and killed.poll() is None:
            time.sleep(0.01)
        killed.kill()
        assert killed.wait() == -signal.SIGKILL
        assert not (tmp_path / "merged").exists()
        subprocess.run(line, check=True, capture_output=True)
        counted = Counter(asked)
    result = json.loads((tmp_path / "found" / "search.json").read_text())
    best, *inputs = result["compared"]
    assert [one["what"] for one in inputs if one["what"] == "base"] == ["base"]
    assert len(inputs) == 3
    assert result["chosen"]["number"] == best["number"]
    assert all(best["score"] < one["score"] for one in inputs)
    # The kill loses the candidate that was at work, and nothing else.
    assert sum(count - 1 for count in counted.values()) <= 1
    # Layer by layer is what won: more than one weight for each task.
    assert all(len(set(weights)) > 1 for weights in result["chosen"]["settings"]["weights"])
    assert perplexity("merged", "confirm") == pytest.approx(best["score"], rel=1e-5)
    again = [sys.executable, "-m", "prefmerge", "merge", "found/recipe.yaml", "-o", "again"]
    subprocess.run(again, check=True, capture_output=True)
    first, second = (tmp_path / name / "model.safetensors" for name in ("merged", "again"))
    assert first.read_bytes() == second.read_bytes()
