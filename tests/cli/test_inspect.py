"""`prefmerge inspect` of a base and its tasks: tables, JSON, pictures, runs, and what is wrong usage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from prefmerge.analysis import Measured
from tests.cli.conftest import Result, tensors

Call = Callable[[str], Result]
THREE = "base.safetensors cars.safetensors birds.safetensors"


def a_run(folder: Path, training: str, seed: int, base: int = 0, done: bool = True) -> None:
    """A run folder as `prefmerge finetune` leaves it, as far as inspect reads it."""
    names = ("one", "two", "three")
    (folder / "tasks").mkdir(parents=True)
    save_file(tensors(base), folder / "base.safetensors")
    for i, name in enumerate(names):
        save_file({**tensors(seed + i), "ids": np.arange(3)}, folder / "tasks" / f"{name}.safetensors")
    tasks = [{"name": f"task {name}", "file": f"tasks/{name}.safetensors", "done": done} for name in names]
    manifest = {"format": "prefmerge-run/1", "training": training, "base": "base.safetensors", "tasks": tasks}
    (folder / "run.json").write_text(json.dumps(manifest))


def test_tables(call: Call) -> None:
    done = call(f"inspect {THREE}")
    assert (done.code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "tasks: 2 task vectors of 159 elements. Task by task:"
    words = [line.split() for line in lines]
    assert ["block", "0", "100"] in [row[:3] for row in words]
    data = json.loads(call(f"inspect {THREE} --json").stdout)
    found = Measured.from_json(data["sets"][0])
    cars = next(row for row in words if row[:1] == ["cars"])
    assert cars[1:3] == [f"{100 * found.contributions()[0]:.1f}", "%"]
    assert cars[3:6] == ["0.0", "%", f"{found.mean_magnitudes()[0]:.2e}"]
    first = next(row for row in words if row[:2] == ["first", "2"])
    assert first[2:] == [part for signs in found.signs for part in (f"{100 * signs.share()[1]:.1f}", "%")]
    assert all(sentence in done.stdout for sentence in data["findings"] if "disagree" not in sentence)
    assert data["pictures"] == []


def test_by_tensor_and_without_some(call: Call) -> None:
    shown = call(f"inspect {THREE} --by tensor --exclude head.* --threads 1").stdout
    assert any(line.split()[:2] == ["layers.0.w", "100"] for line in shown.splitlines())
    assert "head.w" not in shown


def test_pictures(call: Call, folder: Path) -> None:
    pytest.importorskip("matplotlib")
    done = call(f"inspect {THREE} --png drawn")
    assert done.stdout.splitlines()[-1].startswith("Pictures: drawn/sign_conflicts.png, drawn/magnitudes.png, ")
    names = ("sign_conflicts", "magnitudes", "distributions", "cosine")
    assert sorted(path.stem for path in (folder / "drawn").iterdir()) == sorted(names)


def test_a_run_against_another(call: Call, folder: Path) -> None:
    a_run(folder / "my-run", "sequential", 1)
    a_run(folder / "my-run-independent", "independent", 11)
    shown = call("inspect --run my-run --against my-run-independent").stdout
    assert "sequential: 3 task vectors of 159 elements, sequential fine-tuning." in shown
    assert "Signs that differ, pair by pair, independent, % of what both changed:" in shown
    assert "task one" in shown
    data = json.loads(call("inspect --run my-run --against my-run-independent --json").stdout)
    assert [one["training"] for one in data["sets"]] == ["sequential", "independent"]
    a_run(folder / "again", "sequential", 21)
    data = json.loads(call("inspect --run my-run --against again --json").stdout)
    assert [one["label"] for one in data["sets"]] == ["my-run", "again"]
    data = json.loads(call("inspect base cars --against birds --json").stdout)
    assert [(one["label"], one["tasks"]) for one in data["sets"]] == [("tasks", ["cars"]), ("birds", ["birds"])]
    data = json.loads(
        call("inspect base.safetensors cars --against my-run/tasks/one.safetensors --against birds --json").stdout
    )
    assert data["sets"][1]["tasks"] == ["one", "birds"]


def test_other_bases_are_not_compared(call: Call, folder: Path) -> None:
    a_run(folder / "here", "sequential", 1)
    a_run(folder / "there", "independent", 11, base=5)
    done = call("inspect --run here --against there --png drawn")
    assert (done.code, done.stdout) == (1, "")
    assert "'sequential' and 'independent' are task vectors over different bases" in done.stderr
    assert not (folder / "drawn").exists()


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("inspect base --run x", 2, "--run x already says which checkpoints to take. Leave base out."),
        ("inspect base --against cars", 2, "--against is for task vectors; base is alone. Give a base and its tasks."),
        ("inspect base --threads 2", 2, "--threads is for task vectors; base is alone. Give a base and its tasks."),
        (f"inspect {THREE} --by row", 2, "--by: expected layer or tensor, found 'row'."),
        (f"inspect {THREE} --png a.png", 2, "--png a.png: the analyses of task vectors are several pictures."),
        (f"inspect {THREE} --png no/where", 2, "--png no/where: there is no folder no. Make it, or choose another."),
        (f"inspect {THREE} --exclude nothing.*", 1, "'nothing.*' matches no tensor"),
        ("inspect --run gone", 1, "gone: not a run of prefmerge: no such folder."),
        (
            "inspect base.safetensors cars.safetensors cars.safetensors",
            1,
            "task 2 is cars.safetensors, which is task 1 too.",
        ),
    ],
)
def test_errors(call: Call, folder: Path, line: str, code: int, message: str) -> None:
    before = sorted(folder.rglob("*"))
    done = call(line)
    assert (done.code, done.stdout, done.exception) == (code, "", None)
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert sorted(folder.rglob("*")) == before


def test_nothing_to_inspect(call: Call) -> None:
    done = call("inspect")
    assert (done.code, done.stdout) == (2, "")
    assert "give a merged model or a checkpoint, a base and its tasks, or --run RUN." in done.stderr


def test_a_run_must_be_finished(call: Call, folder: Path) -> None:
    a_run(folder / "half", "sequential", 1, done=False)
    done = call("inspect --run half")
    assert done.code == 1
    assert "task 'task one' is not trained yet (3 of 3 are missing)." in done.stderr
