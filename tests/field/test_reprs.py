"""What a notebook shows of what the public calls give: short, whatever it holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import prefmerge
from prefmerge.ground.brief import brief
from prefmerge.models.evaluation import Count, Evaluation
from prefmerge.runs import Run, RunTask

MOST = 1500  # characters


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and two tasks of 300 tensors."""
    folder = tmp_path_factory.mktemp("files")
    for seed, name in enumerate(("base", "cars", "birds")):
        rng = np.random.default_rng(seed)
        tensors = {f"layers.{i}.weight": rng.standard_normal((3, 3)).astype(np.float32) for i in range(300)}
        save_file(tensors, folder / f"{name}.safetensors")
    return [folder / f"{name}.safetensors" for name in ("base", "cars", "birds")]


def test_journey_25_a_receipt_and_a_plan_are_short(files: list[Path], tmp_path: Path):
    base, *tasks = files
    receipt = prefmerge.merge(base, tasks, tmp_path / "out.safetensors")
    text = repr(receipt)
    assert len(text) < MOST
    assert text.startswith("Receipt(format='prefmerge-receipt/1', recipe={")
    assert "tasks=('cars', 'birds')" in text
    assert len(json.dumps(receipt.to_json())) > 20 * MOST, "what it holds is not"
    with prefmerge.plan(base, tasks) as plan:
        assert len(repr(plan)) < MOST


def test_journey_25_checkpoints_and_what_inspect_gives_are_short(files: list[Path], tmp_path: Path):
    base, *tasks = files
    prefmerge.merge(base, tasks, tmp_path / "out.safetensors")
    shown = [
        prefmerge.open_checkpoint(base),
        prefmerge.inspect(tmp_path / "out.safetensors"),
        prefmerge.inspect(base),
        prefmerge.inspect(base, tasks),
    ]
    assert [len(repr(one)) < MOST for one in shown] == [True] * 4
    assert repr(shown[0]).startswith("SafetensorsFile(name='base', path=")


def test_journey_25_runs_evaluations_and_preferences_are_short(tmp_path: Path):
    counts = {f"class {c}": 100 for c in range(1000)}
    run = Run(tmp_path, "sequential", "base", tuple(RunTask(f"task-{t}", f"tasks/{t}", (), counts) for t in range(50)))
    evaluation = Evaluation(tuple(Count(f"task-{t}", 9, 3, 4) for t in range(50)), about={"classes": list(counts)})
    (tmp_path / "labels.txt").write_text("class 1\n" * 9)
    (tmp_path / "tasks.json").write_text(json.dumps({f"task-{t}": counts for t in range(50)}))
    preferred = prefmerge.prefer(labels=tmp_path / "labels.txt", task_labels=tmp_path / "tasks.json", draws=0)
    assert [len(repr(one)) < MOST for one in (run, evaluation, preferred)] == [True] * 3


def test_journey_25_a_field_that_is_large_or_absent_does_not_matter():
    from dataclasses import dataclass, field

    @dataclass
    class Whole:
        values: np.ndarray
        words: str
        hidden: int = field(default=0, repr=False)

        __repr__ = brief

    assert repr(Whole(np.zeros((1000, 9)), "x" * 5000)).startswith("Whole(values=ndarray(1000, 9), words='xxx")
    assert len(repr(Whole(np.zeros(3), "x" * 5000))) < 120
