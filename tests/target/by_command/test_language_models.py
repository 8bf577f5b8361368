"""A search over layer-wise weights of two tiny language models, killed and resumed, better than every input."""

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

pytest.importorskip("optuna", reason="search needs the extra places")
pytest.importorskip("transformers", reason="two language models")


def test_layer_wise_weights_of_language_models_by_perplexity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with one_thread():
        train(tmp_path)
    (tmp_path / "client.py").write_text(CLIENT)
    command = f"{python('client.py')} socket {{model}}"
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
