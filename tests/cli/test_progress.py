"""Progress: a bar on a terminal, elsewhere lines; always on stderr."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from prefmerge.cli import progress
from prefmerge.ground import words


def now(**told: Any) -> Any:
    """What a training tells of task 2 of 3."""
    given = {
        "task": 1,
        "tasks": 3,
        "name": "birds",
        "step": None,
        "fisher": None,
        "done": False,
        "resumed": False,
        "note": None,
    }
    return SimpleNamespace(**{**given, **told})


def step(number: int, epoch: int = 0) -> Any:
    return SimpleNamespace(step=number, steps=8, epoch=epoch, loss=0.5, accuracy=0.75, seconds_left=61.0)


def test_bars_are_drawn_on_stderr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with progress.counting("samples") as counted:
        counted(3, 7)
    with progress.merging() as merged:
        merged(500, 1000, f"merging {'a' * 40}.weight")
    with progress.searching() as searched:
        searched(3, 50, "trials, best 87.5 %")
    with progress.experiment() as shown:
        shown.cells(3, 9, "a cell")
        shown.runs("seed-3", now(step=step(2)))
        shown.runs("seed-4", "loading the model")
        shown.say("There are 2 tasks.")
    with progress.training() as trained:
        trained(now())
        trained(now(step=step(4)))
        trained(now(fisher=(5, 6)))
    printed = capsys.readouterr()
    assert printed.out == ""
    for text in (
        "samples",
        "3/7",
        f"...{'a' * 22}.weight",
        "0.5/1.0 kB",
        "trials, best 87.5 %",
        "3/50",
        "3/9",
        "a cell",
        "seed-3: 2/3 birds",
        "seed-4: loading the model ...",
        "There are 2 tasks.",
    ):
        assert text in printed.err
    for text in ("2/3 birds", "4/8", "steps", "Fisher information: 5 of 6 samples"):
        assert text in printed.err


def test_pieces_of_work_are_lines_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with progress.experiment() as shown:
        shown.cells(2, 9, "")
        clock[0] = 160.0  # loading and compiling
        shown.cells(3, 9, "a cell")
        clock[0] = 170.0
        shown.cells(4, 9, "another")
    assert capsys.readouterr().err.splitlines() == [
        "9 pieces of work, 2 of them done",
        "3/9 a cell",
        "4/9 another; about 50 s left",
    ]


def test_a_training_is_a_line_for_each_task_and_epoch(capsys: pytest.CaptureFixture[str]):
    with progress.training() as trained:
        for told in (
            {},
            {"step": step(1)},
            {"step": step(2)},
            {"fisher": (1, 2)},
            {"step": step(5, epoch=1)},
            {"done": True},
            {"resumed": True},
        ):
            trained(now(**told))
    assert capsys.readouterr().err.splitlines() == [
        "2/3 birds: begins",
        "2/3 birds: epoch 1, step 1 of 8, loss 0.500, accuracy 0.750, 1 min 1 s left",
        "2/3 birds: epoch 2, step 5 of 8, loss 0.500, accuracy 0.750, 1 min 1 s left",
        "2/3 birds: done",
        "2/3 birds: resumes",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (7265, "2 h 1 min")]
)
def test_durations(seconds: float, text: str):
    assert words.duration(seconds) == text
