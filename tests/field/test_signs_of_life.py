"""Journey 20: off a terminal a job that takes long says what it is at, how far it is and how long it still takes."""

from __future__ import annotations

import importlib.util
import shlex
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from prefmerge.cli import app, progress
from prefmerge.config import DataConfig, ModelConfig
from prefmerge.errors import PrefmergeError, UsageError
from prefmerge.ground.progress import listening, phase
from tests.field.made import put

LONG = 0.3  # seconds: ten times what is waited for here


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FIRST", 0.03)
    monkeypatch.setattr(progress, "EVERY", 0.06)


def silent(_: Any) -> None:
    with phase("loading the model"):
        time.sleep(LONG)


SHOWN: list[tuple[Callable[[], AbstractContextManager[Any]], Callable[[Any], None], str]] = [
    (lambda: progress.counting("samples"), silent, "Loading the model ..."),
    (progress.merging, silent, "Loading the model ..."),
    (progress.searching, silent, "Loading the model ..."),
    (progress.steps, silent, "Loading the model ..."),
    (progress.training, silent, "Loading the model ..."),
    (progress.experiment, silent, "Loading the model ..."),
    (lambda: progress.counting("samples"), lambda report: report(3, 7), "3 of 7 samples"),
    (progress.merging, lambda report: report(5 * 10**8, 10**9, "a.weight"), "a.weight, 500 of 1,000 MB"),
    (progress.searching, lambda report: report(3, 50, "trials, best 87.5 %"), "trials, best 87.5 %, 3 of 50 trials"),
    (progress.steps, lambda report: report(3, 7, "trying out: last"), "trying out: last, 3 of 7 samples"),
    (progress.experiment, lambda shown: shown.cells(3, 7, "a merge"), "3 of 7 pieces of work done"),
    (progress.experiment, lambda shown: shown.runs("seed-3", "making the head"), "seed-3: making the head ..."),
]


@pytest.mark.parametrize(("made", "done", "said"), SHOWN)
def test_journey_20_whatever_takes_long_is_said_again_and_again(
    made: Callable[[], AbstractContextManager[Any]],
    done: Callable[[Any], None],
    said: str,
    capsys: pytest.CaptureFixture[str],
):
    with made() as report:
        done(report)
        time.sleep(LONG)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(said)]
    assert len(lines) >= 2
    assert lines[1] == f"{said} (0 s so far)"


def test_journey_20_what_is_quick_says_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(progress, "FIRST", 5.0)
    monkeypatch.setattr(progress, "EVERY", 30.0)
    with progress.counting("samples") as report, phase("loading the model"):
        report(1, 2)
    assert capsys.readouterr().err == ""


def test_journey_20_a_phase_that_is_over_is_not_said(capsys: pytest.CaptureFixture[str]):
    with progress.counting("samples") as report:
        with phase("loading the model"):
            pass
        report(1, 2)
        time.sleep(LONG)
    said = capsys.readouterr().err
    assert "1 of 2 samples" in said
    assert "Loading" not in said


def test_journey_20_what_is_all_done_is_not_said_again(capsys: pytest.CaptureFixture[str]):
    with progress.counting("samples") as report:
        report(1, 2)
        report(2, 2)
        time.sleep(LONG)
    with progress.experiment() as shown:
        shown.cells(0, 1, "")
        shown.cells(1, 1, "a merge")
        time.sleep(LONG)
    assert capsys.readouterr().err.splitlines() == ["1 pieces of work, 0 of them done", "1/1 a merge"]


def test_journey_20_the_phase_around_a_phase_is_heard_again():
    heard: list[str] = []
    with listening(heard.append), phase("opening the tasks"):
        with phase("loading the model"):
            pass
        with pytest.raises(ZeroDivisionError), phase("checking"):
            raise ZeroDivisionError
    around = "opening the tasks"
    assert heard == [around, "loading the model", around, "checking", around, ""]


def test_journey_20_the_time_left_leaves_the_start_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """100 s of loading, then a sample a second."""
    pace = progress._Pace()
    assert pace.left(0, 60, 100.0) == ""
    assert pace.left(10, 60, 110.0) == "; about 50 s left"
    assert pace.left(60, 60, 160.0) == ""
    assert pace.left(0, 60, 500.0) == ""  # the next model
    assert pace.left(30, 60, 515.0) == "; about 15 s left"


def test_journey_20_a_closed_stderr_ends_no_job(monkeypatch: pytest.MonkeyPatch):
    class Closed:
        def write(self, _: str) -> None:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

        def isatty(self) -> bool:
            return False

    monkeypatch.setattr("sys.stderr", Closed())
    with progress.counting("samples") as report:
        report(1, 2)
        time.sleep(LONG)


# The commands


def stops(*_: Any, **__: Any) -> None:
    """In place of a command's job: a long phase, and an end."""
    with phase("loading the model"):
        time.sleep(LONG)
    raise UsageError("that is enough.")


@pytest.mark.parametrize(
    ("line", "job"),
    [
        ("merge {0}/base.safetensors {0}/cars.safetensors -o {0}/out", "merging.many.make_plan"),
        ("inspect {0}/base.safetensors {0}/cars.safetensors", "analysis.measure"),
        ("finetune {0}/words.yaml -o {0}/run", "training.finetuning.finetune"),
        ("bench {0}/bench.yaml -o {0}/out", "lab.bench.run"),
        ("bench {0}/bench.yaml -o {0}/out --dry-run", "lab.prepare.planned"),
        ("evaluate --run {0}/run", "training.opened.open_run"),
        ("evaluate {0}/m --run {0}/run", "training.opened.evaluate_checkpoint"),
        ("prefer --run {0}/run --inputs {0}", "target.prefer.prefer"),
        ("prefer --run {0}/run --pairs {0}", "target.prefer.prefer"),
        ("search --run {0}/run --pairs {0} --out {0}/s", "target.api.searched"),
        ("adapt --run {0}/run --inputs {0}", "target.api.adapted"),
    ],
)
def test_journey_20_every_long_command_says_what_it_is_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, job: str
):
    if importlib.util.find_spec("accelerate") is None:
        pytest.skip("these commands load models, for which they need the extra train")
    module, _, name = f"prefmerge.{job}".rpartition(".")
    monkeypatch.setattr(importlib.import_module(module), name, stops)
    for file in ("base", "cars"):
        put(tmp_path / f"{file}.safetensors", {"a.weight": np.ones((3, 4), np.float32)})
    (tmp_path / "words.yaml").write_text("model: tiny\ndata: {name: words.csv}\n")
    (tmp_path / "bench.yaml").write_text("runs: [run]\n")
    done = CliRunner().invoke(app, shlex.split(line.format(tmp_path)), prog_name="prefmerge")
    assert "that is enough" in done.stderr
    assert "Loading the model ..." in done.stderr


@pytest.mark.parametrize(
    ("job", "given", "said"),
    [
        ("data.load.load_corpus", (DataConfig(name="nowhere.csv"), 0), "opening the data"),
        ("models.encoders.load_encoder", (ModelConfig(id="/nowhere"),), "loading the model"),
        ("models.heads.make_head", ("text", None, None), "making the head"),
        ("training.samples.check_samples", (None, Path("/nowhere")), "checking the samples"),
    ],
)
def test_journey_20_each_silent_step_is_a_phase_wherever_it_is_taken(job: str, given: tuple[Any, ...], said: str):
    pytest.importorskip("transformers", reason="needs the extra train")
    module, _, name = f"prefmerge.{job}".rpartition(".")
    heard: list[str] = []
    with listening(heard.append), pytest.raises((PrefmergeError, AttributeError)):
        getattr(importlib.import_module(module), name)(*given)
    assert heard == [said, ""]
