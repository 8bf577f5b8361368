"""Commands that are ended at any moment, by any signal: nothing partial, nothing left behind, and the same result.

In the suite some moments of a merge; `pytest tests/field --attacks 100` for as many of every command.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.field.at_any_moment import COMMANDS, OF_WEIGHTS, SCRATCH

IN_THE_SUITE = {"merge": 10, "replace": 10, "resume": 6, "resume-folder": 6, "sweep": 4}
RESUMES = ("adapt", "search", "finetune", "bench", "bench-jobs", "sweep")  # parts of these stay for the next run
KEEPS = ("resume", "resume-folder", "sweep")
KEPT = re.compile(r".*\.prefmerge-[0-9a-f]{12}\.tmp")  # what stays hidden beside an output, to resume from


def inputs(folder: Path) -> None:
    for seed, name in enumerate(("base", "t1", "t2")):
        (folder / name).mkdir()
        rng = np.random.default_rng(seed)
        state = {f"{i}.w": rng.standard_normal((100, 250)).astype(np.float32) for i in range(4)}
        save_file(state, folder / f"{name}.safetensors", {"format": "pt"})
        save_file(state, folder / name / "model.safetensors", {"format": "pt"})
    from prefmerge import merge

    merge(folder / "base", [folder / "t2", folder / "t1"], folder / "old", method="last")


def of_a_run(folder: Path) -> None:
    """A tiny run, and configurations that make one more and compare methods on it."""
    from prefmerge.training.config_file import read_config
    from prefmerge.training.finetuning import finetune
    from tests.lab.conftest import CONFIG, words
    from tests.models.tiny import tiny_bert

    tiny_bert(folder / "tiny")
    words(folder / "train.csv", 20, 0)
    words(folder / "test.csv", 20, 1)
    words(folder / "seen.csv", 3, 2)
    text = CONFIG.replace("METHOD", "sequential").replace("SEED", "1").replace("HELD_OUT", "12")
    (folder / "finetune.yaml").write_text(text)
    mixes = "[{name: even, ratios: [1, 1]}]"
    methods = "scales: [0.5]\nmethods: [Baseline, Tunable (Label)]\nstudies: [places, alpha]\nalpha: {values: [1]}\n"
    text = f"runs: [run]\n{methods}environments: {{size: 20, variants: [42], mixes: {mixes}}}\nbatch: 16\n"
    (folder / "bench.yaml").write_text(text)
    finetune(read_config(folder / "finetune.yaml"), folder / "run")


def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, run: bool) -> Path:
    """A folder for commands, with or without a run, and the environment that they need."""
    place = tmp_path / "place"
    for variable, folder in zip(("PREFMERGE_CACHE", "TMPDIR"), SCRATCH, strict=True):
        (place / folder).mkdir(parents=True)
        monkeypatch.setenv(variable, str(place / folder))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # threads that wait for one another are slow beside other tests
    inputs(place)
    if run:
        pytest.importorskip("transformers", reason="needs the extra train")
        of_a_run(place)
    return place


@pytest.mark.parametrize("command", COMMANDS)
def test_attack_m3_at_any_moment(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    moments = request.config.getoption("--attacks")
    of_weights = command in OF_WEIGHTS
    if not moments and not of_weights:
        pytest.skip("minutes for each command that loads torch: run with --attacks N")
    place = prepared(tmp_path, monkeypatch, run=not of_weights)
    moments = moments or IN_THE_SUITE[command]
    line = [sys.executable, "-m", "tests.field.at_any_moment", str(place), command, str(moments), "1"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ends = [json.loads(text) for text in done.stdout.splitlines()]
    assert len(ends) == moments + 1
    for end in ends:
        assert "Traceback" not in end["said"], end
        if end["signal"] in (0, signal.SIGKILL):
            assert end["code"] in (0, -signal.SIGKILL), end
        else:  # below 0: before anything was begun
            assert end["code"] in (0, 128 + end["signal"], -end["signal"]), (end["said"], end)
        if end["signal"] != signal.SIGKILL:
            kept = [path for path in end["hidden"] if command in KEEPS and KEPT.fullmatch(path)]
            assert end["hidden"] == kept, end
        assert end["there"] or (command in RESUMES and end["code"]), end
        if end["code"] == 0:
            assert (end["there"], end["hidden"]) == ("new", []), end
        assert not end["outlived"], end
    assert (ends[-1]["code"], ends[-1]["there"]) == (0, "new"), ends[-1]
    assert ends[-1]["hidden"] == []
    shutil.rmtree(place)
