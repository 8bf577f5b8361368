"""Reports on merges and sweeps: what is kept against slow loops, what the page says, and that nothing else changes."""

from __future__ import annotations

import html
import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import prefmerge
from prefmerge import Receipt
from prefmerge.errors import OutputExists, UsageError
from prefmerge.merging import api
from prefmerge.merging.engine import merge_all
from prefmerge.merging.kept import KeptMagnitude, added
from prefmerge.merging.plan import make_plan
from prefmerge.merging.sinks import MemorySink
from prefmerge.merging.sweep import sweep
from prefmerge.vectors.workspace import Workspace
from tests.report.pages import Page, lawful

TASKS = ("cars", "birds", "flowers")
SHAPES = {"embed.w": (9, 5), "layers.0.w": (8, 6), "layers.0.b": (6,), "layers.1.w": (70,), "still": (4,), "one": ()}
EVIL = "<script>alert(1)</script>"


def states(seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """A base and three tasks; no task changes `still`."""
    rng = np.random.default_rng(seed)
    base = {name: np.asarray(rng.standard_normal(shape), np.float32) for name, shape in SHAPES.items()}
    made = {"base": base}
    for t, task in enumerate(TASKS):
        made[task] = {
            name: value if name == "still" else np.asarray(value + rng.normal(0, 1 + t, value.shape), np.float32)
            for name, value in base.items()
        }
    return made


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, state in states().items():
        (tmp_path / name).mkdir()
        save_file(state, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text('{"model_type": "bert"}')
    return tmp_path


def merged(folder: Path, out: str, **given: Any) -> Receipt:
    return prefmerge.merge(folder / "base", [folder / task for task in TASKS], folder / out, **given)


HOW: dict[str, dict[str, Any]] = {
    "default": {"preference": "0.6,0.3,0.1"},
    "whole": {"preference": "0.6,0.3,0.1", "scope": "model", "selection": "paper"},
    "half": {"scale": 0.25, "preference": "0.5,0.5,0", "sequential": True, "toward_last": 0.5},
    "magmax": {"method": "magmax"},
    "random": {"method": "random_mix"},
    "last": {"method": "last"},
    "linear": {"method": "linear", "scale": 0.5},
    "ties": {"method": "ties"},
    "increments": {"method": "increments", "sequential": True, "scale": 0.5, "boost": 1},
    "slerp-like": {"method": "karcher"},
}


@pytest.mark.parametrize("case", HOW)
@pytest.mark.parametrize(("threads", "block"), [(1, 7), (2, 1 << 16)])
def test_what_is_kept(files: Path, case: str, threads: int, block: int) -> None:
    """Against float64 loops over the merged vector itself."""
    how = HOW[case]
    recipe = api.recipe_of(files / "base", [files / task for task in TASKS], **how)
    with make_plan(recipe) as plan, Workspace(threads=threads, block=block) as work, plan.reading():
        sink = MemorySink(plan.layout)
        (outcome,) = merge_all([(plan, sink)], work, hashed=False, measured=True)
        scale = float(plan.settings.scale)
        merged = {name: np.array(sink.raw(name), np.float64) for name in SHAPES}
    made = states()
    assert set(outcome.magnitudes) == set(SHAPES) - {"still"}
    for name, kept in outcome.magnitudes.items():
        base = made["base"][name].astype(np.float64).ravel()
        taus = [made[task][name].astype(np.float64).ravel() - base for task in TASKS]
        most = sum(max(abs(tau[p]) for tau in taus) for p in range(base.size))
        change = [abs(float(value)) / scale for value in merged[name].ravel() - base]
        assert kept.most == pytest.approx(most, rel=1e-6)
        assert kept.kept == pytest.approx(sum(change), rel=1e-4)  # the merge was rounded to float32
        if name not in outcome.owned:
            assert kept.by_task is None
            continue
        assert kept.by_task is not None
        assert sum(kept.by_task) == pytest.approx(kept.kept, rel=1e-6)
        if how.get("toward_last"):
            continue
        for t, tau in enumerate(taus):  # no two tasks change an element alike here
            mine = sum(
                c
                for p, c in enumerate(change)
                if np.isclose(scale * tau[p], merged[name].ravel()[p] - base[p], atol=1e-5)
            )
            assert kept.by_task[t] == pytest.approx(mine, rel=1e-3, abs=1e-4)
    if case == "magmax":
        assert added(list(outcome.magnitudes.values())).share == pytest.approx(1)


def test_several_merges_of_one_reading_are_measured_as_each_alone(files: Path) -> None:
    def measured(*names: str) -> list[dict[str, KeptMagnitude]]:
        paths = [files / task for task in TASKS]
        plans = [make_plan(api.recipe_of(files / "base", paths, **HOW[name])) for name in names]
        first = plans[0]
        from prefmerge.merging.plan import plan_over

        inputs = (first.given_base, [task.checkpoint for task in first.tasks])
        over = [first, *(plan_over(plan.recipe, *inputs) for plan in plans[1:])]
        with Workspace(threads=2, block=16) as work, first.reading():
            outcomes = merge_all([(plan, MemorySink(plan.layout)) for plan in over], work, hashed=True, measured=True)
        for plan in plans:
            plan.close()
        return [outcome.magnitudes for outcome in outcomes]

    together = measured("default", "magmax", "linear", "whole")
    assert together == [measured(name)[0] for name in ("default", "magmax", "linear", "whole")]


def test_a_report_changes_nothing_of_the_model(files: Path) -> None:
    plain = merged(files, "plain", preference="1,0,0", selection="optimal")
    shown = merged(files, "shown", preference="1,0,0", selection="optimal", report=True)
    assert {path.name for path in (files / "shown").iterdir()} - {
        path.name for path in (files / "plain").iterdir()
    } == {"report.html"}
    assert plain.inputs == shown.inputs  # what is read for the report alone is not said to be read
    assert [task.covers for task in shown.inputs.tasks] == ["content", "header", "header"]
    for name in ("model.safetensors", "README.md", "config.json"):
        assert (files / "shown" / name).read_bytes() == (files / "plain" / name).read_bytes()
    assert prefmerge.verify(files / "shown", rerun=True)


def test_a_task_that_is_asked_for_nothing_may_hold_what_is_no_number(files: Path) -> None:
    broken = states()["flowers"]
    broken["layers.1.w"][3] = np.nan
    save_file(broken, files / "flowers" / "model.safetensors")
    merged(files, "out", preference="0.5,0.5,0", selection="optimal", report=True)
    page = lawful((files / "out" / "report.html").read_text())
    assert "block 1" not in [row[0] for row in page.rows if len(row) > 3 and row[1].endswith("%")]
    assert any(row[0] == "block 0" for row in page.rows)


def test_equal_merges_have_equal_reports(files: Path) -> None:
    for i, how in enumerate(({"threads": 1}, {"threads": 2, "max_memory": "1GB"})):
        merged(files, f"out{i}", preference="0.6,0.3,0.1", report=True, **how)
    assert (files / "out0" / "report.html").read_bytes() == (files / "out1" / "report.html").read_bytes()


def test_the_page_of_a_merge(files: Path) -> None:
    receipt = merged(files, "out", preference="cars=0.6,birds=0.3,flowers=0.1", scale=0.5, seed=7, report=True)
    source = (files / "out" / "report.html").read_text()
    page = lawful(source)
    assert str(files) not in source
    assert page.row("base")[1:3] == ["base", "float32"]
    assert page.row("birds")[1:3] == ["task 2", "float32"]
    assert page.row("the merged weights")[1:3] == ["output", "float32"]
    owned = receipt.owned
    assert owned is not None
    tasks = next(row for row in page.rows if row[0] == "birds" and "30.0 %" in row)
    assert f"{owned[1]:,}" in tasks
    for part in ("tunable_magmax", "optimal", "scale", "seed", receipt.fingerprint, "4 as the base has them"):
        assert part in page.shown
    layers = [row for row in page.rows if row[0] in ("block 0", "block 1", "embed", "one")]
    assert [row[0] for row in layers] == ["embed", "block 0", "block 1", "one"]
    assert len({row[1] for row in layers}) > 1  # not the same bar everywhere
    assert all(abs(sum(map(value, row[2:])) - value(row[1])) < 0.2 for row in layers)
    assert page.pictures == 2
    recipe = html.unescape(re.findall(r"<pre[^>]*>(.*?)</pre>", source, re.DOTALL)[1])
    (files / "recipe.yaml").write_text(recipe + "\n")
    again = api.run(prefmerge.read_recipe(files / "recipe.yaml"), files / "again")
    assert again.fingerprint == receipt.fingerprint


def value(cell: str) -> float:
    return float(cell.removesuffix(" %"))


@pytest.mark.parametrize("method", ["ties", "linear", "increments", "random_mix", "slerp"])
def test_every_kind_of_method_has_a_page(files: Path, method: str) -> None:
    tasks = [files / task for task in TASKS[: 1 if method == "slerp" else 3]]
    prefmerge.merge(files / "base", tasks, files / "out", method=method, report=True)
    page = lawful((files / "out" / "report.html").read_text())
    assert ("no element has an owner" in page.shown) == (method != "random_mix")
    assert "block 1" in {row[0] for row in page.rows}


def test_weights_of_tasks_stand_beside_them(files: Path) -> None:
    prefmerge.merge(
        files / "base",
        [files / task for task in TASKS],
        files / "out.safetensors",
        method="linear",
        weights=[1, 2, 3],
        as_task_vector=True,
        report=True,
    )
    source = (files / "out.safetensors.report.html").read_text()
    page = lawful(source)
    assert "2" in next(row for row in page.rows if row[0] == "birds" and row[1] != "task 2")
    assert "A merged task vector" in page.shown


@pytest.mark.parametrize("name", [EVIL, "a\x1b[2J\u202eb", '"><svg onload=x>', "سيارات", "long " * 200])
def test_hostile_names(files: Path, name: str) -> None:
    state = states()["cars"] | {f"layers.0.{EVIL}": np.ones(3, np.float32)}
    base = states()["base"] | {f"layers.0.{EVIL}": np.zeros(3, np.float32)}
    save_file(base, files / "base" / "model.safetensors")
    save_file(state, files / "cars" / "model.safetensors")
    prefmerge.merge(files / "base", [files / "cars"], files / "out", names=[name], method="magmax", report=True)
    page = lawful((files / "out" / "report.html").read_text())
    assert "script" not in page.tags


# Where it goes


def test_a_named_file(files: Path) -> None:
    merged(files, "out", method="magmax", report=files / "there.html")
    lawful((files / "there.html").read_text())
    assert not (files / "out" / "report.html").exists()
    merged(files, "out.safetensors", method="magmax", report=str(files / "there.html"))  # ours: it is replaced


@pytest.mark.parametrize(
    ("where", "error"), [("base", UsageError), ("base/model.safetensors", UsageError), ("mine.html", OutputExists)]
)
def test_a_report_is_refused_before_anything_is_merged(files: Path, where: str, error: type[Exception]) -> None:
    (files / "mine.html").write_text("<p>mine")
    with pytest.raises(error):
        merged(files, "out", method="magmax", report=files / where)
    assert not (files / "out").exists()
    assert (files / "mine.html").read_text() == "<p>mine"


# Sweeps


VARY = {"preference": ["uniform", "alpha:2"], "method": ["tunable-magmax", "ties"], "scale": ["0.5", "1"]}


def swept(files: Path, out: str, **how: Any) -> Page:
    recipe = api.recipe_of(files / "base", [files / task for task in TASKS])
    sweep(recipe, files / out, VARY, report=True, **how)
    return lawful((files / out / "report.html").read_text())


def test_the_page_of_a_sweep(files: Path) -> None:
    page = swept(files, "swept")
    models = json.loads((files / "swept" / "sweep.json").read_text())["models"]
    assert len(models) == 6
    for row in models:
        cells = next(cells for cells in page.rows if cells[0] == row["name"])
        total = row["kept"]["total"]
        assert cells[4] == f"{100 * total['kept'] / total['most']:.1f} %"
        assert cells[1:4] == [row["varied"].get(key, "-") for key in VARY]
        alone = Receipt.load(files / "swept" / row["name"] / "receipt.json")
        if alone.owned is not None:
            assert cells[5] == f"{100 * float(Fraction(alone.owned[0], sum(alone.owned))):.1f} %"
    assert page.row("layer")[1] == models[0]["name"]
    assert "prefmerge sweep recipe.yaml -o swept/ --vary 'prefer=uniform|alpha:2'" in page.shown
    assert not (files / "swept" / models[0]["name"] / "report.html").exists()


def test_a_sweep_that_resumes_has_the_same_report(files: Path) -> None:
    swept(files, "swept")
    first = (files / "swept" / "report.html").read_bytes()
    (files / "swept" / "report.html").unlink()
    for path in (files / "swept" / "method-ties_scale-1").iterdir():
        path.unlink()
    (files / "swept" / "method-ties_scale-1").rmdir()
    swept(files, "swept", resume=True)
    assert (files / "swept" / "report.html").read_bytes() == first


def test_what_was_not_measured_is_said(files: Path) -> None:
    recipe = api.recipe_of(files / "base", [files / task for task in TASKS])
    sweep(recipe, files / "swept", VARY)
    assert "kept" not in json.loads((files / "swept" / "sweep.json").read_text())["models"][0]
    page = swept(files, "swept", resume=True)
    assert page.row("method-ties_scale-1")[4] == "not known"
    assert load_file(files / "swept" / "method-ties_scale-1" / "model.safetensors")
