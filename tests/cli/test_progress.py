"""Progress: a bar on a terminal, elsewhere lines or nothing; always on stderr."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from prefmerge.cli import progress


def now(**told: Any) -> Any:
    """What a training tells of task 2 of 3."""
    given = {"task": 1, "tasks": 3, "name": "birds", "step": None, "fisher": None, "done": False, "resumed": False}
    return SimpleNamespace(**{**given, **told})


def step(number: int, epoch: int = 0) -> Any:
    return SimpleNamespace(step=number, steps=8, epoch=epoch, loss=0.5, accuracy=0.75, seconds_left=61.0)


def test_where_nobody_looks_nothing_is_drawn():
    with progress.counting("samples") as a, progress.merging() as b, progress.searching() as c:
        assert (a, b, c) == (None, None, None)


def test_bars_are_drawn_on_stderr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with progress.counting("samples") as counted:
        assert counted is not None
        counted(3, 7)
    with progress.merging() as merged:
        assert merged is not None
        merged(500, 1000, f"merging {'a' * 40}.weight")
    with progress.searching() as searched:
        assert searched is not None
        searched(3, 50, "trials, best 87.5 %")
    with progress.working() as worked:
        worked(3, 9, "a cell")
    with progress.training() as trained:
        trained(now())
        trained(now(step=step(4)))
        trained(now(fisher=(5, 6)))
    shown = capsys.readouterr()
    assert shown.out == ""
    for text in (
        "samples",
        "3/7",
        f"...{'a' * 22}.weight",
        "0.5/1.0 kB",
        "trials, best 87.5 %",
        "3/50",
        "3/9",
        "a cell",
    ):
        assert text in shown.err
    for text in ("2/3 birds", "4/8", "steps", "Fisher information: 5 of 6 samples"):
        assert text in shown.err


def test_pieces_of_work_are_lines_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    times = iter([100.0, 160.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    with progress.working() as worked:
        worked(2, 9, "")
        worked(3, 9, "a cell")
    assert capsys.readouterr().err == "9 pieces of work, 2 of them done\n3/9 a cell; about 6 min left\n"


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
        "2/3 birds: going on where it was interrupted",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (7265, "2 h 1 min")]
)
def test_durations(seconds: float, text: str):
    assert progress.duration(seconds) == text
