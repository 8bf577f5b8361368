"""Journey 23: three independent fine-tunes. Some methods are for tasks that were trained one after another: that is
said where it is not known that they were, with what suits the others.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from prefmerge.cli import app
from prefmerge.runs import Run, RunTask

NAMES = ("cars", "birds", "digits")
FOR_OTHERS = {  # what is for tasks in sequence, and the remedy
    "--method magmax": "Use max_abs, which is the same rule for tasks that were trained independently",
    "--method last": "Use tunable-magmax, ties or average",
    "--method increments": "Use another method, such as tunable-magmax.",
    "--importance step": "Use --importance magnitude.",
    "--toward-last 0.5": "Leave it out.",
    "--carry 0.5": "Leave it out.",
}
STRICT = ("--method increments", "--importance step", "--toward-last 0.5")  # refused where it is known
FOR_ALL = ("max_abs", "ties", "average", "linear", "task_arithmetic", "random_mix")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(1)
    for name in ("base", *NAMES):
        save_file({"w": rng.standard_normal(40).astype(np.float32)}, tmp_path / f"{name}.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_run(folder: Path, training: Any) -> None:
    run = Run(folder, training, "base.safetensors", tuple(RunTask(name, f"{name}.safetensors") for name in NAMES))
    (folder / "run.json").write_text(json.dumps(run.to_json()), encoding="utf-8")


def told(words: str, code: int = 0) -> str:
    """What `plan` says of the three checkpoints, whatever the width of the terminal."""
    files = [f"{name}.safetensors" for name in ("base", *NAMES)]
    done = CliRunner().invoke(app, ["plan", *files, *words.split()], prog_name="prefmerge")
    assert done.exit_code == code, done.output
    return done.stderr if code else done.stdout


@pytest.mark.parametrize("words", FOR_OTHERS)
def test_journey_23_what_assumes_an_order_says_so_where_none_is_known(folder: Path, words: str) -> None:
    text = told(words)
    assert "is for tasks that were trained one after another, in the order given, and it is not known" in text
    remedy = FOR_OTHERS[words]
    assert f"If they were not, {remedy[0].lower()}{remedy[1:]}" in text
    assert "is for tasks" not in told(f"{words} --sequential")
    make_run(folder, "sequential")
    assert "is for tasks" not in told(words)


@pytest.mark.parametrize("words", FOR_OTHERS)
def test_journey_23_what_assumes_an_order_says_so_where_the_run_has_none(folder: Path, words: str) -> None:
    make_run(folder, "independent")
    text = told(words, code=int(words in STRICT))
    if words in STRICT:
        assert "says that the tasks were fine-tuned independently" in text
    else:
        assert "in the order given, and their run says that these were trained independently." in text
    assert FOR_OTHERS[words] in text


@pytest.mark.parametrize("method", FOR_ALL)
def test_journey_23_methods_for_any_tasks_have_nothing_to_say(folder: Path, method: str) -> None:
    assert "one after" not in told(f"--method {method}")


def test_journey_23_the_default_says_what_it_took_for_granted(folder: Path) -> None:
    assert "If it was, add --sequential: then the default is scale 1 and importance step." in told("")
    make_run(folder, "independent")
    text = told("")
    assert "not known" not in text
    assert "Their run says that the tasks were trained independently" in text
    assert "so the default is scale 0.5 and importance magnitude." in text


def test_journey_23_one_task_has_no_order(folder: Path) -> None:
    done = CliRunner().invoke(app, ["plan", "base.safetensors", "cars.safetensors", "--method", "last"])
    assert done.exit_code == 0
    assert "one after another" not in done.stdout


def test_journey_23_a_damaged_manifest_says_nothing_of_an_order(folder: Path) -> None:
    (folder / "run.json").write_text('{"format": "prefmerge-run/1", ', encoding="utf-8")
    assert "it is not known that these were" in told("--method magmax")
