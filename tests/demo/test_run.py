"""The demo end to end at one epoch: real files, a receipt each, numbers that belong to the files; interruptions."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the demo trains with torch (extra demo)")
pytest.importorskip("accelerate", reason="training is accelerate's (extra demo)")
pytest.importorskip("sklearn", reason="the demo's digits come with scikit-learn (extra demo)")
pytest.importorskip("matplotlib", reason="the demo draws with matplotlib (extra demo)")

import prefmerge
from prefmerge.continual.encoders.digits import DigitsEncoder
from prefmerge.continual.evaluation import evaluate_checkpoint, open_run
from prefmerge.continual.finetuning import Progress
from prefmerge.continual.heads import Head
from prefmerge.continual.kept import read_kept
from prefmerge.demo import run
from prefmerge.demo.digits import NAMES, SHOWN, TASKS, Digits, load_digits
from prefmerge.demo.evaluate import accuracies, right_images
from prefmerge.demo.model import BASE
from prefmerge.demo.report import verdicts
from prefmerge.demo.run import COMMON_SCALE
from prefmerge.demo.train import REGIME
from prefmerge.errors import MissingExtra, OutputExists, RunError
from prefmerge.runs import read_run

SURVEYED = (SHOWN, (2, 1))
QUICK = REGIME.model_copy(update={"learning_rate": 1e-3, "epochs": 1})


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """The folder, the result and the screen of one small run."""
    from rich.console import Console

    out = tmp_path_factory.mktemp("demo") / "out folder"
    console = Console(width=100, record=True, file=io.StringIO())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["prefmerge.demo.run"], "PLACES", SURVEYED)  # all twenty take half a minute
        result = run(out, 3, regime=QUICK, console=console)
    return out, result, console.export_text()


def test_numbers_are_those_of_the_files(done: tuple[Path, dict[str, Any], str]) -> None:
    out, result, _ = done
    digits, encoder, head = load_digits(), DigitsEncoder(BASE), Head.load(out / "head.safetensors")
    stored = json.loads((out / "demo.json").read_text())
    assert stored == json.loads(json.dumps(result))
    assert [row["method"] for row in stored["rows"][:5]] == ["base", "last", "average", "magmax", "tunable_magmax"]
    for row in stored["rows"]:
        right = right_images(out / row["file"], encoder, head, digits)
        found = accuracies(right, digits, digits.place(SHOWN))
        assert (row["place"], row["all_digits"], tuple(row["tasks"])) == (found.place, found.all_digits, found.tasks)
    assert len({row["all_digits"] for row in stored["rows"]}) > 1


def test_every_method_is_shown_at_its_default_and_at_the_common_scale(done: tuple[Path, dict[str, Any], str]) -> None:
    out, result, _ = done
    shown = {(row["method"], row["scale"]) for row in result["rows"]}
    assert {("magmax", 0.5), ("tunable_magmax", 0.5), ("average", 1.0), ("base", None), ("last", None)} <= shown
    assert {(method, COMMON_SCALE) for method in ("average", "magmax", "tunable_magmax")} <= shown
    for row in result["rows"]:
        if row["scale"] is not None:
            receipt = json.loads((out / f"{row['file']}.receipt.json").read_text())
            assert (receipt["recipe"]["method"], receipt["recipe"]["scale"]) == (row["method"], row["scale"])
            assert receipt["tasks"] == list(NAMES)


def test_the_run_folder_is_that_of_a_finetuning(done: tuple[Path, dict[str, Any], str]) -> None:
    out, _, _ = done
    manifest = json.loads((out / "run.json").read_text())
    assert (manifest["format"], manifest["training"]) == ("prefmerge-run/1", "sequential")
    made = read_run(out)
    assert made.finished
    assert [task.name for task in made.tasks] == list(NAMES)
    encoder, base = DigitsEncoder(BASE), DigitsEncoder(BASE).state()
    assert all((encoder.read(made.base_path)[name] == tensor).all() for name, tensor in base.items())
    for t, task in enumerate(made.tasks):
        assert task.classes == tuple(str(y) for y in TASKS[t])
        assert set(task.label_counts) == set(task.classes)
        assert any((w != base[name]).any() for name, w in encoder.read(made.task_path(t)).items())
    assert (made.about["seed"], made.about["scenario"]) == (3, "class-incremental")


def test_the_printed_command_does_the_same_merge(done: tuple[Path, dict[str, Any], str]) -> None:
    out, result, screen = done
    assert result["command"].replace(" ", "") in screen.replace("\n", "").replace(" ", "")
    words = shlex.split(result["command"])
    subprocess.run([sys.executable, "-m", *words], check=True, capture_output=True)
    assert (out / "merged" / "by-hand.safetensors").read_bytes() == (
        out / "merged" / "tunable_magmax.safetensors"
    ).read_bytes()


def test_screen_shows_every_row_and_the_chart_is_a_picture(done: tuple[Path, dict[str, Any], str]) -> None:
    out, result, screen = done
    for row in result["rows"]:
        line = next(
            line
            for line in screen.splitlines()
            if row["model"] in line and ("" if row["scale"] is None else f" {row['scale']:g} ") in line
        )
        assert f"{100 * row['place']:.1f}" in line
    assert (out / "demo.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_verdict_says_loses_when_it_loses() -> None:
    def rows(tunable: float) -> dict[str, Any]:
        survey = [{"scale": 0.5, "last": 0.6, "magmax": 0.5, "tunable_magmax": a} for a in (0.4, 0.5, 0.75)]
        both = (("magmax", 0.5), ("tunable_magmax", tunable))
        return {"rows": [{"model": m, "method": m, "scale": 0.5, "place": a} for m, a in both], "survey": survey}

    everywhere = (
        "; over all 3 such places it gains at 1 and loses at 1, with 55.0 % against 50.0 % "
        "(the last model, unmerged: 60.0 %)."
    )
    for tunable, best, here in (
        (0.25, "magmax, scale 0.5", "loses 25.0 points against"),
        (0.75, "tunable_magmax, scale 0.5", "gains 25.0 points on"),
        (0.5, "magmax, scale 0.5 and tunable_magmax, scale 0.5", "is level with"),
    ):
        first, second = verdicts(rows(tunable))
        assert first == f"Best at the place: {best}."
        assert second == f"At scale 0.5 the preference {here} MAGMAX here{everywhere}"


def test_survey_agrees_with_the_table(done: tuple[Path, dict[str, Any], str]) -> None:
    _, result, _ = done
    scales = {row["scale"] for row in result["rows"] if row["method"] == "tunable_magmax"}
    assert [(entry["place"], entry["scale"]) for entry in result["survey"]] == [
        ([NAMES[t] for t in tasks], scale) for scale in sorted(scales) for tasks in SURVEYED
    ]
    for entry in result["survey"][:: len(SURVEYED)]:
        for method, scale in (("last", None), ("magmax", entry["scale"]), ("tunable_magmax", entry["scale"])):
            row = next(row for row in result["rows"] if (row["method"], row["scale"]) == (method, scale))
            assert entry[method] == row["place"]


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_with_files_is_not_written_into(tmp_path: Path, force: bool) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputExists, match=r"holds something that is not a run of prefmerge"):
        run(tmp_path, quiet=True, force=force)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """40 training images and no chart: what is shown does not matter here."""
    digits = load_digits()
    fewer = Digits(digits.pixels, digits.labels, {**digits.parts, "train": digits.parts["train"][::25]})
    monkeypatch.setattr(sys.modules["prefmerge.demo.run"], "load_digits", lambda: fewer)
    monkeypatch.setattr(sys.modules["prefmerge.demo.run"], "draw", lambda *_: None)


def quick(out: Path, seed: int = 0, **how: Any) -> dict[str, Any]:
    return run(out, seed, regime=QUICK, survey=False, quiet=True, **how)


def begun(out: Path) -> int:
    """How often a task was begun."""
    return sum(json.loads(line)["event"] == "task" for line in (out / "log.jsonl").read_text().splitlines())


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_interrupted_demo_is_gone_on_with(few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []

    def interrupting(now: Progress) -> None:
        told.append(now.task)
        if now.task == 2 and now.step is not None:
            interrupted()

    whole, out = quick(tmp_path / "whole"), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        quick(out, watch=lambda: nullcontext(interrupting))
    assert sorted(set(told)) == [0, 1, 2]
    with monkeypatch.context() as patch:  # after the training and the merges, before the result
        patch.setattr(sys.modules["prefmerge.demo.run"], "draw", interrupted)
        with pytest.raises(KeyboardInterrupt):
            quick(out)
    assert begun(out) == len(TASKS) + 1  # the third one twice
    result = quick(out)
    assert begun(out) == len(TASKS) + 1
    assert result["rows"] == whole["rows"]
    merged = "merged/tunable_magmax.safetensors"
    assert (out / merged).read_bytes() == (tmp_path / "whole" / merged).read_bytes()


def test_a_finished_demo_is_begun_anew_only_by_force(few: None, tmp_path: Path) -> None:
    quick(tmp_path, 1)
    model = tmp_path / "tasks" / NAMES[0] / "model.safetensors"
    first = model.read_bytes()
    with pytest.raises(OutputExists, match=r"a demo is there already. Give another folder, or --force to begin it"):
        quick(tmp_path, 1)
    assert model.read_bytes() == first
    with pytest.raises(KeyboardInterrupt):
        quick(tmp_path, 2, force=True, watch=lambda: nullcontext(interrupted))
    quick(tmp_path, 2)  # the first one's result is no result of this one
    assert model.read_bytes() != first
    assert json.loads((tmp_path / "demo.json").read_text())["seed"] == 2
    assert begun(tmp_path) == len(TASKS)


def test_another_demo_is_not_gone_on_with(few: None, tmp_path: Path) -> None:
    quick(tmp_path, 1)
    (tmp_path / "demo.json").unlink()  # as if interrupted
    with pytest.raises(RunError, match="holds a run of another configuration: seed is 1 there, 2 now"):
        quick(tmp_path, 2)


@pytest.mark.parametrize("absent", ["torch", "accelerate", "sklearn", "matplotlib"])
def test_what_is_absent_is_asked_for_before_anything_is_done(
    absent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(MissingExtra, match=r"prefmerge demo needs .* pip install 'prefmerge\[demo\]'"):
        run(tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_the_demo_needs_neither_transformers_nor_datasets(tmp_path: Path) -> None:
    code = f"""
import sys
for name in ("transformers", "datasets", "open_clip"):
    sys.modules[name] = None  # an import of it fails, as where it is not installed
import prefmerge.demo.run
from prefmerge.demo.digits import Digits, load_digits
from prefmerge.demo.train import REGIME
d = load_digits()
few = Digits(d.pixels, d.labels, {{**d.parts, "train": d.parts["train"][::25]}})
sys.modules["prefmerge.demo.run"].load_digits = lambda: few
prefmerge.demo.run({str(tmp_path / "out")!r}, regime=REGIME.model_copy(update={{"epochs": 1}}), survey=False)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "demo.json").is_file()


def test_importing_the_demo_is_cheap() -> None:
    heavy = ("torch", "accelerate", "sklearn", "matplotlib")
    code = f"import sys, prefmerge.demo; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
    assert prefmerge.__version__


def test_a_moved_demo_is_a_run_like_any_other(done: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    """Evaluated on the images that it kept: those of the digits' part for validation, which nothing trains on."""
    moved = shutil.copytree(done[0], tmp_path / "moved")
    digits = load_digits()
    opened = open_run(moved)
    assert opened.judged_on == "held-out"
    assert [len(task.test) for task in opened.scenario.tasks] == [40] * len(TASKS)
    found = evaluate_checkpoint(opened.run.last_path, moved, device="cpu")
    encoder = DigitsEncoder(BASE)
    right = right_images(opened.run.last_path, encoder, Head.load(moved / "head.safetensors"), digits, "validation")
    assert found.overall.right == sum(right.values())
    kept = read_kept(opened.run)
    assert kept is not None
    assert set(kept.held_out[2].ids) == {f"digit-{i}" for i in digits.ids("validation", 2)}
