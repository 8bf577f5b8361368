"""Journeys 14 to 17: what an experiment takes is known before, and what is finished is not done again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from prefmerge.cli import app
from prefmerge.lab import bench
from prefmerge.lab import report as reporting
from prefmerge.lab.forecast import BACKWARD, WHILE_TRAINING, Forecast, Rates, WorkAhead
from prefmerge.lab.jobs import Queue
from prefmerge.lab.kinds import Counts, FixedSpec, MeasureSpec, Spec
from prefmerge.lab.results import Results
from tests.lab.conftest import words
from tests.lab.made import made
from tests.lab.test_cells import KEPT, SPECS, cell, folder

pytest.importorskip("transformers", reason="experiments need the extra train")

RECIPE = """\
finetune:
  model: tiny
  data: {name: train.csv, test: test.csv}
  scenario: {kind: class-incremental, tasks: 3}
  training: {epochs: 2, batch: 8, device: cpu}
  head: prototype
seeds: [1, 2]
trainings: [sequential, joint]
scales: [0.5, 1]
methods: [MAGMAX, Tunable (Label), Best checkpoint]
studies: [places, methods, analysis]
environments: {size: 40, variants: [42], mixes: [{name: even, ratios: [1, 1]}]}
batch: 16
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, words and a recipe; nothing is trained."""
    from tests.models.tiny import tiny_bert

    at = tmp_path_factory.mktemp("planned")
    tiny_bert(at / "tiny")
    words(at / "train.csv", 20, 0)
    words(at / "test.csv", 20, 1)
    (at / "words.yaml").write_text(RECIPE)
    (at / "no-model.yaml").write_text(RECIPE.replace("model: tiny", "model: ./nowhere"))
    (at / "no-data.yaml").write_text(RECIPE.replace("train.csv", "lost.csv"))
    return at


def call(line: str) -> Result:
    return CliRunner().invoke(app, shlex.split(line), prog_name="prefmerge")


def everything(at: Path) -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in at.rglob("*")}


# 14 and 15


@pytest.fixture(scope="module")
def ahead(place: Path) -> dict[str, Any]:
    """What a dry run says as JSON; it changes nothing."""
    (place / "out").mkdir()
    (place / "out" / "recipe.yaml").write_text("of another experiment\n")
    before = everything(place)
    done = call(f"bench {place}/words.yaml -o {place}/out --dry-run --json --jobs 3")
    assert done.exit_code == 0, done.stderr
    assert everything(place) == before
    return json.loads(done.stdout)


def test_journey_14_a_dry_run_writes_nothing(ahead: dict[str, Any], place: Path):
    assert (place / "out" / "recipe.yaml").read_text() == "of another experiment\n"
    assert not (place / "out" / "environments.json").exists()


def test_journey_15_a_dry_run_counts(ahead: dict[str, Any]):
    """By hand: 2 seeds, 2 scales, 3 tasks, 120 training and test samples, one environment of 4 shown and 36 judged."""
    assert ahead["trainings"] == [f"{kind}-seed-{seed}" for kind in ("sequential", "joint") for seed in (1, 2)]
    assert ahead["trained_samples"] == 4 * 120 * 2
    magmax, single, checkpoints, at_target = 2 * 2, 2 * 2 + 2, 2 * 2, 2 * 2 * 2
    by_labels, measured = 2, 1  # encode nothing
    assert ahead["cells"] == magmax + single + checkpoints + at_target + by_labels + measured
    assert len(set(ahead["to_do"])) == ahead["cells"]
    assert ahead["merges"] == magmax + 3 * checkpoints + at_target
    assert ahead["evaluations"] == ahead["merges"] + single
    assert ahead["encoded_samples"] == (magmax + single) * 120 + 3 * checkpoints * 4 + at_target * 36
    models = 2 * (3 + 1) + 2 * (1 + 1)
    assert ahead["disk_bytes"] == ahead["model_bytes"] * (models + WHILE_TRAINING * 3) > 0
    assert ahead["free_bytes"] > 0
    assert ahead["seconds"] > 0
    assert (ahead["problem"], ahead["device"], ahead["jobs"]) == (None, "cpu", 3)


@pytest.mark.parametrize(
    ("recipe", "said", "printed"),
    [
        ("no-model.yaml", "the experiment cannot be done here: ", "24 merges, 30 evaluations, 1,536 samples"),
        ("no-data.yaml", "lost.csv", ""),
    ],
)
def test_journey_15_what_cannot_be_opened_is_said(place: Path, recipe: str, said: str, printed: str):
    done = call(f"bench {place}/{recipe} -o {place}/{recipe}.out --dry-run")
    assert done.exit_code == 1
    assert said in done.stderr
    assert printed in done.stdout
    assert not (place / f"{recipe}.out").exists()


def forecast(**what: Any) -> Forecast:
    plain = Forecast(1, (), (), 0, WorkAhead(), Rates(per_second=100.0, merge_seconds=2.0), 0, 10**9, 4, 0)
    return replace(plain, **what)


@pytest.mark.parametrize(
    ("what", "seconds", "said"),
    [
        ({"count": WorkAhead(3, 3, 1000)}, 16.0, "4 at once, on shared cores."),
        ({"trained_samples": 1000, "jobs": 1}, BACKWARD * 10.0, "one after another."),
        ({"count": WorkAhead(0, 0, 1000), "accelerators": 2}, 5.0, "4 at once, in turns on 2 accelerators."),
        (
            {"count": WorkAhead(0, 0, 1000), "accelerators": 1, "jobs": 1},
            10.0,
            "one after another, on one accelerator.",
        ),
        (
            {"disk": 740 * 10**9},
            0.0,
            "Disk: about 740.0 GB for checkpoints; 1.0 GB are free.\nThat is more than is free",
        ),
        ({"measured": Rates(problem="tiny: is gone")}, None, "Model: tiny: is gone."),
    ],
)
def test_journey_15_time_disk_and_places_in_words(what: dict[str, Any], seconds: float | None, said: str):
    one = forecast(**what)
    assert one.seconds == seconds
    assert said in "\n".join(one.lines())


# 16: one cell a scale

SEVERAL: list[tuple[str, Any]] = [(title, spec) for title, spec, _ in SPECS if len(getattr(spec, "scales", ())) == 2]


@pytest.mark.parametrize(("title", "spec"), SEVERAL, ids=[title for title, _ in SEVERAL])
def test_journey_16_each_scale_of_an_older_cell_is_taken(tmp_path: Path, title: str, spec: Spec[Any]):
    out = folder(tmp_path)
    kept = cell(title, spec).load(out)
    assert kept is not None
    whole = kept.to_json()
    for scale in ("0.5", "1.0"):
        one = cell(title, replace(spec, scales=(scale,)))  # pyright: ignore[reportArgumentType]
        assert one.key not in KEPT
        result = one.load(out)
        assert result is not None
        assert result.to_json()["scales"] == {scale: whole["scales"][scale]}
        assert one.called == f"{title}, scale {scale}"
    for other in ({"scales": ("2.0",)}, {"scales": ("0.5",), "batch": 17}):
        assert cell(title, replace(spec, **other)).load(out) is None  # pyright: ignore[reportArgumentType]


def test_journey_16_a_damaged_older_cell_is_not_taken_and_what_comes_after_it_says_so(tmp_path: Path):
    title, spec = next((title, spec) for title, spec in SEVERAL if spec.kind == "checkpoints")
    before = cell(title, replace(spec, scales=("0.5",)))
    after = cell("seed 1, even variant 0, Best checkpoint", MeasureSpec(), before)
    out = folder(tmp_path)
    assert list(after.before(out, Counts).scales) == ["0.5"]
    (file,) = (out / "cells").glob(f"{before._words}-*.json")
    file.write_text(file.read_text()[:200])
    assert before.load(out) is None
    with pytest.raises(Exception, match="cannot be read, and seed 1, even variant 0, Best checkpoint needs it"):
        after.before(out, Counts)


def test_journey_16_one_merge_serves_the_scales_that_follow_one_another():
    from prefmerge.lab import work
    from prefmerge.lab.work import Bench

    merged: list[dict[str, Any]] = []
    candidates = SimpleNamespace(
        vector=lambda **settings: merged.append(settings) or settings,
        at_scales=lambda vector, scales: [{} for _ in scales],
    )
    encoder = SimpleNamespace(load_arrays=lambda _: None)
    there: Any = SimpleNamespace(
        _merged=None, candidates=candidates, opened=SimpleNamespace(encoder=encoder), embedded=lambda *_: "embeddings"
    )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "put_arrays", lambda *_: None)
        for settings, scale in (({"a": 1}, "0.5"), ({"a": 1}, "1"), ({"a": 2}, "1"), ({"a": 1}, "1")):
            assert list(Bench.embedded_at(there, settings, [scale], None, 1)) == [(scale, "embeddings")]  # pyright: ignore[reportArgumentType]
    assert merged == [{"a": 1}, {"a": 2}, {"a": 1}]


def test_journey_16_a_worker_gets_the_other_scales_of_its_merge():
    def at(title: str, scale: str) -> Any:
        return cell(title, FixedSpec({}, (scale,), "all", 1, 16))

    queue = Queue([at("a", "0.5"), at("a", "1"), at("b", "0.5"), at("b", "1")], lambda *_: None)
    first = queue.take(None, [None])
    second = queue.take(None, [first])
    assert first is not None
    assert second is not None
    assert (first.title, second.title) == ("a", "b")
    third, fourth = queue.take(second, [first]), queue.take(first, [second])
    assert third is not None
    assert fourth is not None
    assert (third.called, fourth.called) == ("b, scale 1", "a, scale 1")


# 17: a report that is whole is not drawn again


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., bool]:
    """Ask for the report; whether it was drawn."""
    pytest.importorskip("matplotlib")
    times: list[int] = []

    def write(results: Results, out: Path, *_: Any) -> list[Path]:
        times.append(1)
        files = [out / "report.html", out / "figures" / "alpha.png"]
        for file in files:
            file.parent.mkdir(exist_ok=True)
            file.write_text(results.title)
        return files

    monkeypatch.setattr(reporting, "write", write)
    monkeypatch.setattr(bench, "_analysis_figures", lambda _: ([], []))

    def ask(**what: Any) -> bool:
        before = len(times)
        files = bench.report(replace(made(studies=()), **what), tmp_path)
        assert [file.name for file in files] == ["report.html", "alpha.png"]
        return len(times) > before

    return ask


def lost(at: Path) -> None:
    (at / "figures" / "alpha.png").unlink()


def torn(at: Path) -> None:
    (at / "report.html").write_text("Made res")


def remeasured(at: Path) -> None:
    (at / "analysis").mkdir()
    (at / "analysis" / "sequential.json").write_text("{}")


def unread(at: Path) -> None:
    (at / "report.json").write_text('{"made_of": ')


@pytest.mark.parametrize("happens", [lost, torn, remeasured, unread])
def test_journey_17_a_report_is_drawn_again_only_where_something_changed(
    drawn: Callable[..., bool], tmp_path: Path, happens: Callable[[Path], None]
):
    assert [drawn(), drawn()] == [True, False]
    happens(tmp_path)
    assert [drawn(), drawn()] == [True, False]


def test_journey_17_other_results_are_drawn(drawn: Callable[..., bool]):
    assert [drawn(), drawn(title="other"), drawn(title="other"), drawn()] == [True, True, False, True]
