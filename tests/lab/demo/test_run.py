"""The demo end to end at one epoch: real files, a receipt each, numbers that belong to the files; interruptions."""

# ruff: noqa: E402  (imports that need an extra come after asking for it)

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the demo trains with torch (extra demo)")
pytest.importorskip("accelerate", reason="training is accelerate's (extra demo)")
pytest.importorskip("sklearn", reason="the demo's digits come with scikit-learn (extra demo)")
pytest.importorskip("matplotlib", reason="the demo draws with matplotlib (extra demo)")

from typer.testing import CliRunner

import prefmerge
from prefmerge.cli import app
from prefmerge.errors import MissingExtra, OutputExists, RunError
from prefmerge.lab.demo import run
from prefmerge.lab.demo.digits import NAMES, SHOWN, TASKS, Digits, load_digits
from prefmerge.lab.demo.evaluate import accuracies, right_images
from prefmerge.lab.demo.model import BASE
from prefmerge.lab.demo.report import verdicts
from prefmerge.lab.demo.run import write_place
from prefmerge.lab.demo.train import REGIME
from prefmerge.models.encoders.digits import DigitsEncoder
from prefmerge.models.heads import Head
from prefmerge.runs import read_run
from prefmerge.training.job import TrainingProgress
from prefmerge.training.kept import read_kept
from prefmerge.training.opened import evaluate_checkpoint, open_run
from tests.lab.quick import two_candidates

QUICK = REGIME.model_copy(update={"learning_rate": 1e-3, "epochs": 1})
HEADS = ("without_prior", "with_prior")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """The folder, the result and the screen of one small run."""
    from rich.console import Console

    out = tmp_path_factory.mktemp("demo") / "out folder"
    console = Console(width=100, record=True, file=io.StringIO())
    result = run(out, 3, regime=QUICK, console=console)
    return out, result, console.export_text()


def test_numbers_are_those_of_the_files(done: tuple[Path, dict[str, Any], str]) -> None:
    out, result, _ = done
    digits, encoder = load_digits(), DigitsEncoder(BASE)
    place = digits.place(SHOWN)
    stored = json.loads((out / "demo.json").read_text())
    assert stored == json.loads(json.dumps(result))
    methods = ["base", "last", "average", "magmax", "tunable_magmax", "adapt", "adapt"]
    assert [row["method"] for row in stored["rows"]] == methods
    for row in stored["rows"]:
        for key, file in (("without_prior", "head.safetensors"), ("with_prior", row["head"])):
            right = right_images(out / row["file"], encoder, Head.load(out / file), digits)
            found = accuracies(right, digits, place)
            told = row[key]
            assert (told["place"], told["all_digits"]) == (found.place, found.all_digits)
            assert tuple(told["tasks"]) == found.tasks
            assert [one == "1" for one in told["right"]] == [right[i] for i in place.test]
    assert len({row["with_prior"]["all_digits"] for row in stored["rows"]}) > 1
    assert any(row["with_prior"]["right"] != row["without_prior"]["right"] for row in stored["rows"])


def test_estimates_are_those_that_adapt_wrote(done: tuple[Path, dict[str, Any], str]) -> None:
    out, result, _ = done
    ours = [row for row in result["rows"] if row["method"] == "adapt"]
    assert [row["file"] for row in ours] == ["from-labels", "from-images"]
    for row in ours:
        written = json.loads((out / row["file"] / "adapt.json").read_text())
        assert written["estimates"]["rows"][0]["accuracy"] == row["estimate"]
        assert written["chosen"]["name"] == row["chosen"]


def test_estimate_and_truth_come_from_different_images(done: tuple[Path, dict[str, Any], str]) -> None:
    out, _, _ = done
    digits = load_digits()
    test = {f"digit-{i}" for i in digits.place(SHOWN).test}
    kept = read_kept(read_run(out))
    assert kept is not None
    told = {one for task in kept.held_out for one in task.ids}
    photos = {file.stem for file in (out / "photos").iterdir()}
    assert told
    assert photos == {f"digit-{i}" for i in digits.place(SHOWN).photos}
    trained = {f"digit-{i}" for i in digits.parts["train"]}
    assert not test & (told | photos | trained)
    assert not told & (photos | trained)
    assert not photos & trained


def test_what_is_seen_of_the_place_is_as_a_user_has_it(done: tuple[Path, dict[str, Any], str]) -> None:
    from PIL import Image

    out, result, _ = done
    digits, encoder = load_digits(), DigitsEncoder(BASE)
    place = digits.place(SHOWN)
    labels = (out / "seen.csv").read_text().splitlines()
    assert (labels[0], labels[1:]) == ("label", [str(digits.labels[i]) for i in place.meta])
    assert result["place"]["images_given"] == len(place.photos)
    for i in place.photos:
        with Image.open(out / "photos" / f"digit-{i}.png") as image:
            colour = image.convert("RGB")  # as `adapt` reads it
        _, (read,) = encoder.keep([colour])
        np.testing.assert_allclose(read, digits.pixels[i][None], atol=0.5 / 255 + 1e-6)
        large = colour.resize((24, 24), Image.Resampling.NEAREST)
        torch.testing.assert_close(encoder.prepare([large])["images"], encoder.prepare([read])["images"])


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


def test_the_printed_commands_make_the_same_models(
    done: tuple[Path, dict[str, Any], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, result, screen = done
    monkeypatch.setenv("PREFMERGE_CACHE", str(tmp_path))
    assert len(result["commands"]) == 2
    for line, what in zip(result["commands"], ("labels", "images"), strict=True):
        assert line.replace(" ", "") in screen.replace("\n", "").replace(" ", "")
        name, *words = shlex.split(line)
        typed = CliRunner().invoke(app, words, prog_name=name)
        assert (name, typed.exit_code) == ("prefmerge", 0), typed.output
        for file in ("model.safetensors", "head.safetensors"):
            assert (out / f"by-hand-from-{what}" / file).read_bytes() == (out / f"from-{what}" / file).read_bytes()


def test_screen_shows_every_row_and_the_chart_is_a_picture(done: tuple[Path, dict[str, Any], str]) -> None:
    out, result, screen = done
    assert f"The target: {result['place']['title']}. It gives us" in " ".join(screen.split())
    for row in result["rows"]:
        line = next(line for line in screen.splitlines() if line.startswith(f"{row['model']}  "))
        numbers = [f"{100 * row[head]['place']:.1f}" for head in HEADS]
        if row["method"] == "adapt":
            numbers += [f"{100 * row['estimate'][key]:.1f}" for key in ("value", "low", "high")]
        assert re.findall(r"\d+\.\d", line) == numbers
    assert all(line in " ".join(screen.split()) for line in verdicts(result))
    assert (out / "demo.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def told(method: str, without: str, with_prior: str, **more: Any) -> dict[str, Any]:
    """A row whose images are named right (1) or not."""
    heads = {
        head: {"place": right.count("1") / len(right), "all_digits": right.count("1") / len(right), "right": right}
        for head, right in zip(HEADS, (without, with_prior), strict=True)
    }
    return {"model": method, "method": method, "estimate": None, "chosen": "a merge", **heads, **more}


@pytest.mark.parametrize(
    ("average", "expected"),
    [
        (
            "1111111100",
            "Next best: average with the prior, 10.0 points less (standard error 9.5, no clear difference).",
        ),
        ("1111111110", "Something else is as good: average with the prior."),
        (
            "1111111111",
            "Something else wins: average with the prior has 10.0 points more (standard error 9.5, no clear "
            "difference).",
        ),
    ],
)
def test_the_verdict_says_what_wins(average: str, expected: str) -> None:
    rows = [
        told("last", "1111100000", "1111100000"),
        told("average", "1000000000", average),
        told("adapt", "1111000000", "1111111110", estimate={"value": 0.95, "low": 0.92, "high": 1.0}),
    ]
    first, second = verdicts({"rows": rows})
    assert first == (
        "Adapt: 90.0 %, 40.0 points more than the last checkpoint (standard error 15.5). The truth is outside the "
        "interval of its estimate."
    )
    assert second == expected


def test_the_verdict_says_loses_and_what_it_costs() -> None:
    one = {"value": 0.3, "low": 0.2, "high": 0.5}
    rows = [
        told("last", "1111100000", "1111000000"),
        told("adapt", "1000000000", "0111100000", estimate=one, chosen="last checkpoint"),
        told("adapt", "1000000000", "1111100000"),
    ]
    rows[2]["with_prior"]["all_digits"] = 0.25
    assert verdicts({"rows": rows}) == [
        "Adapt: 40.0 %, 10.0 points less than the last checkpoint (standard error 9.5, no clear difference). The truth "
        "is inside the interval of its estimate. It kept the last checkpoint: all of the change is the head's.",
        "Adapt: 50.0 %, as much as the last checkpoint (standard error 0.0, no clear difference).",
        "Something else is as good: last as it is.",
        "The price: 25.0 % over all ten digits alike, where the last checkpoint has 50.0 %. Use it at the target only.",
    ]


def test_another_place_leaves_no_photo_behind(tmp_path: Path) -> None:
    digits = load_digits()
    for tasks in (SHOWN, (2, 1)):
        place = digits.place(tasks)
        seen = write_place(tmp_path, digits, place)
        assert {file.name for file in seen.photos.iterdir()} == {f"digit-{i}.png" for i in place.photos}


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_with_files_is_not_written_into(tmp_path: Path, force: bool) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputExists, match=r"holds something that is not a run of prefmerge"):
        run(tmp_path, quiet=True, force=force)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@contextmanager
def patched() -> Iterator[None]:
    """40 training images and no chart: what is shown does not matter here."""
    digits = load_digits()
    fewer = Digits(digits.pixels, digits.labels, {**digits.parts, "train": digits.parts["train"][::25]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["prefmerge.lab.demo.run"], "load_digits", lambda: fewer)
        patch.setattr(sys.modules["prefmerge.lab.demo.run"], "draw", lambda *_: None)
        # One checkpoint and one merge to choose from: judging a dozen takes longer than all else here.
        patch.setattr("prefmerge.target.adapt.candidates", two_candidates)
        yield


@pytest.fixture
def few() -> Iterator[None]:
    with patched():
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder and the result of a demo of seed 1 that is finished, made once. Copy it to change it."""
    out = tmp_path_factory.mktemp("finished") / "out"
    with patched():
        return out, quick(out, 1)


def quick(out: Path, seed: int = 0, **how: Any) -> dict[str, Any]:
    return run(out, seed, regime=QUICK, quiet=True, **how)


def begun(out: Path) -> int:
    """How often a task was begun."""
    return sum(json.loads(line)["event"] == "task" for line in (out / "log.jsonl").read_text().splitlines())


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_interrupted_demo_is_gone_on_with(
    few: None, finished: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []

    def interrupting(now: TrainingProgress) -> None:
        told.append(now.task)
        if now.task == 2 and now.step is not None:
            interrupted()

    whole, out = finished[0], tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        quick(out, 1, watch=lambda: nullcontext(interrupting))
    assert sorted(set(told)) == [0, 1, 2]
    with monkeypatch.context() as patch:  # after the training and the merges, before the result
        patch.setattr(sys.modules["prefmerge.lab.demo.run"], "draw", interrupted)
        with pytest.raises(KeyboardInterrupt):
            quick(out, 1)
    assert begun(out) == len(TASKS) + 1  # the third one twice
    result = quick(out, 1)
    assert begun(out) == len(TASKS) + 1
    assert result["rows"] == finished[1]["rows"]
    merged = "merged/tunable_magmax.safetensors"
    assert (out / merged).read_bytes() == (whole / merged).read_bytes()


def test_a_finished_demo_is_begun_anew_only_by_force(
    few: None, finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out = shutil.copytree(finished[0], tmp_path / "out")
    model = out / "tasks" / NAMES[0] / "model.safetensors"
    first = model.read_bytes()
    with pytest.raises(OutputExists, match=r"a demo is there already. Give another folder, or --force to replace it"):
        quick(out, 1)
    assert model.read_bytes() == first
    with pytest.raises(KeyboardInterrupt):
        quick(out, 2, force=True, watch=lambda: nullcontext(interrupted))
    quick(out, 2)  # the first one's result is no result of this one
    assert model.read_bytes() != first
    assert json.loads((out / "demo.json").read_text())["seed"] == 2
    assert begun(out) == len(TASKS)


def test_another_demo_is_not_gone_on_with(few: None, finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out = shutil.copytree(finished[0], tmp_path / "out")
    (out / "demo.json").unlink()  # as if interrupted
    with pytest.raises(RunError, match="holds a run of another configuration: seed is 1 there, 2 now"):
        quick(out, 2)


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
import prefmerge.lab.demo.run
from prefmerge.lab.demo.digits import Digits, load_digits
from prefmerge.lab.demo.train import REGIME
d = load_digits()
few = Digits(d.pixels, d.labels, {{**d.parts, "train": d.parts["train"][::25]}})
sys.modules["prefmerge.lab.demo.run"].load_digits = lambda: few
import prefmerge.target.adapt as adapt
every = adapt.candidates
adapt.candidates = lambda *mix: every(*mix)[:3]  # two checkpoints and a merge
prefmerge.lab.demo.run({str(tmp_path / "out")!r}, regime=REGIME.model_copy(update={{"epochs": 1}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "demo.json").is_file()


def test_importing_the_demo_is_cheap() -> None:
    heavy = ("torch", "accelerate", "sklearn", "matplotlib")
    code = f"import sys, prefmerge.lab.demo; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
    assert prefmerge.__version__


def test_journey_8_a_moved_demo_is_a_run_like_any_other(done: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
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
