"""Journeys 18, 19 and 26: reports, on a phone too, what their numbers cannot say, and a page for a merge."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import prefmerge
from prefmerge.lab import report, tables, target_tables
from prefmerge.lab.results import Results
from prefmerge.lab.table import Table, Value
from prefmerge.report.parts import HINT, NARROW
from tests.lab.made import ABOUT, made
from tests.report.pages import Page, lawful

METHODS = ("Baseline", "MAGMAX", "Tunable (Label)", "Tunable (OT)")


def results(about: dict[str, Any] | None = None, **how: Any) -> Results:
    plain = made(**{"methods": METHODS, "studies": ("places",), **how})
    return dataclasses.replace(plain, about={**ABOUT, **(about or {})})


def notes(table: Table | None) -> str:
    assert table is not None
    return " ".join(table.notes)


# 18: what is read first


def test_journey_18_the_average_stands_first():
    table = tables.environments(results(), "0.5")
    assert table is not None
    assert table.header[1] == "Average"
    best = tables.environments(results(), None)
    assert best is not None
    assert best.header[1:3] == ("Scale", "Average")
    minus = tables.differences(results(), "0.5")
    assert minus is not None
    assert minus.header[1] == "All targets"
    shares = tables.similarities(results())
    assert shares is not None
    assert shares.header[1] == "Average"


def test_journey_18_no_wide_table_begins_with_single_targets():
    """Of every table of a whole report: what is over all targets stands before what is of one."""
    chapters = report._chapters(results(studies=("places", "diversity", "alpha", "methods")), [], [])
    found = [part for chapter in chapters for part in chapter.parts if isinstance(part, Table)]
    wide = [one for one in found if len(one.header) > NARROW]
    assert len(wide) > 5
    for one in wide:
        single = [i for i, text in enumerate(one.header) if re.match(r"e\d|M ?=|\d+ tasks?\b", text)]
        over = [i for i, text in enumerate(one.header) if re.match("Average|All targets", text)]
        assert not single or min(over) < min(single), one.name


@pytest.mark.parametrize(("columns", "said"), [(3, 0), (6, 0), (7, 1), (12, 1)])
def test_journey_18_a_wide_table_says_that_it_scrolls(columns: int, said: int):
    row = tuple(Value("1") for _ in range(columns))
    table = Table("t", "Wide", tuple(f"e{i}" for i in range(columns)), (row,))
    assert table.html().count(HINT) == said
    assert HINT not in table.markdown()


def test_journey_18_few_sentences_stand_before_the_first_table():
    chapter = report.Chapter("Places", tuple(f"Sentence {i}." for i in range(8)), (Table("t", "c", ("a",), ()),))
    for text, mark in (
        (report.page(results(), [chapter]), "<table"),
        (report.markdown(results(), [chapter]), "| a |"),
    ):
        before, _, after = text.partition(mark)
        assert [len(re.findall(r"Sentence \d", part)) for part in (before, after)] == [report.LEAD, 8 - report.LEAD]


def test_journey_18_all_sentences_are_there_where_there_is_no_table():
    chapter = report.Chapter("Places", tuple(f"Sentence {i}." for i in range(8)))
    assert report.page(results(), [chapter]).count("Sentence") == 8
    assert report.markdown(results(), [chapter]).count("Sentence") == 8


@pytest.mark.parametrize(("pixels", "wide"), [(400, False), (900, False), (1800, True)])
def test_journey_18_a_wide_picture_scrolls_on_a_phone(pixels: int, wide: bool):
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + pixels.to_bytes(4) + (300).to_bytes(4)
    image = report.Image("p.png", "A picture.", header)
    assert image.width == pixels
    page = report.page(results(), [report.Chapter("Places", (), (image,))])
    assert ('<figure class="wide">' in page) == wide
    assert re.search(r"max-width: 48rem\).*figure\.wide img \{ max-width: none", page)


# 18: what numbers are


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        ("0.5", "Baseline at scale 0.5 is the base plus 0.5 times the last task vector, as in the authors' code"),
        ("1", None),
        (None, None),  # the best: chosen below
    ],
)
def test_journey_18_half_the_last_task_vector_is_not_the_last_checkpoint(scale: str | None, said: str | None):
    table = tables.environments(results(), scale)
    if scale is None:
        assert table is not None
        best = {row[0].text: row[1].text for row in table.rows}["Baseline"]
        said = f"Baseline at scale {best} is" if best != "1" else None
    assert ("Baseline at scale" in notes(table)) == (said is not None)
    assert (said or "") in notes(table)


def test_journey_18_the_note_on_baseline_stands_under_every_table_that_has_it():
    assert "0.5 times the last task vector" in notes(tables.differences(results(), "0.5"))
    assert "Baseline at scale" not in notes(tables.differences(results(methods=METHODS[1:]), "0.5"))
    names = ("MAGMAX", "MAGMAX + prior", "Baseline", "Baseline + prior")
    assert "0.5 times the last task vector" in notes(target_tables.overview(results(methods=names)))


@pytest.mark.parametrize(
    ("data", "tasks", "said"),
    [
        (["cifar100"], 5, None),
        (["CIFAR-100"], 5, None),  # a folder of that name
        (["cifar100"], 3, "of cifar100 in 5 tasks, ours of cifar100 in 3 tasks"),
        (["words.csv"], 5, "of cifar100 in 5 tasks, ours of words.csv in 5 tasks"),
        (["cifar10"], 5, "ours of cifar10 in 5 tasks"),
    ],
)
@pytest.mark.parametrize("kind", ["environments", "ablation"])
def test_journey_18_the_papers_numbers_beside_another_setting_are_said_to_be(
    data: list[str], tasks: int, said: str | None, kind: str
):
    paper = {"environments": "cifar100-5"} if kind == "environments" else {"ablation": "5"}
    made_of = results({"data": data}, tasks=tasks, paper=paper)
    table = tables.environments(made_of, "0.5") if kind == "environments" else tables.ablation(made_of)
    assert ("not to be compared" in notes(table)) == (said is not None)
    assert (said or "") in notes(table)


def test_journey_18_the_supplement_is_compared_by_its_column():
    paper = {"supplement": "vit-b-16-laion400m", "column": "ImageNet-R/5"}
    wrong = results({"data": ["cifar100"]}, studies=("methods",), paper=paper)
    assert "of ImageNet-R in 5 tasks, ours of cifar100 in 5 tasks" in notes(tables.methods(wrong))
    right = results({"data": ["imagenet_r"]}, studies=("methods",), paper=paper)
    assert "not to be compared" not in notes(tables.methods(right))


# 19: labels that cannot tell


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"classes of several tasks": [7, 7]}, "All tasks have the same classes, so labels cannot tell"),
        ({"classes of several tasks": [2, 7]}, "2 of 7 classes belong to several tasks."),
        ({}, None),
    ],
)
def test_journey_19_ranks_of_labels_that_cannot_tell_are_said_to_mean_nothing(
    about: dict[str, Any], said: str | None, tmp_path: Path
):
    shown = results(about)
    for table in (
        tables.environments(shown, "0.5"),
        tables.environments(shown, None),
        tables.differences(shown, "0.5"),
        tables.ablation(shown),
        tables.similarities(shown),
    ):
        assert ("labels cannot tell" in notes(table) or "cannot tell the tasks apart" in notes(table)) == bool(said)
        assert (said or "") in notes(table)
    from prefmerge.lab import findings

    first = findings.about_places(shown)[0]
    assert first.startswith(said) if said else "labels" not in first


def test_journey_19_own_entries_from_labels_are_among_them_and_others_are_not():
    recipe = {"methods": [{"name": "Sharp", "similarity": "label", "settings": {}}, "MAGMAX"]}
    about = {"classes of several tasks": [7, 7], "recipe": recipe}
    shown = results(about, methods=("MAGMAX", "Sharp"))
    assert "the preference of Sharp says no more" in notes(tables.environments(shown, "0.5"))
    shown = results(about, methods=("MAGMAX", "Tunable (OT)"))
    assert "labels cannot tell" not in notes(tables.environments(shown, "0.5"))


def test_journey_19_where_labels_decide_is_read_from_the_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("torch", reason="experiments need the extra train")
    from types import SimpleNamespace

    from prefmerge.lab import collect
    from prefmerge.runs import Run, RunTask
    from prefmerge.training import config_file

    monkeypatch.setattr(
        config_file, "run_config", lambda _: SimpleNamespace(data=[SimpleNamespace(name="/a/words.csv")])
    )
    for classes, said in (
        ([["cat", "dog"], ["dog", "cat"]], [2, 2]),
        ([["cat", "dog"], ["dog", "cow"]], [1, 3]),
        ([["cat"], ["dog"]], None),
    ):
        tasks = tuple(RunTask(f"task-{t}", "x", tuple(own)) for t, own in enumerate(classes))
        run = Run(tmp_path, "sequential", "base", tasks, about={"scenario": "domain-incremental"})
        ready: Any = SimpleNamespace(runs={"sequential": [SimpleNamespace(run=run)]})
        about = collect._data(ready)
        assert about.get("classes of several tasks") == said
        assert (about["data"], about["scenario"]) == (["words.csv"], "domain-incremental")


# 26: a page for a merge


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks, merged into `owned`, where elements have owners, and into `blend`, each with a report."""
    folder, rng = tmp_path_factory.mktemp("merged"), np.random.default_rng(0)
    for name in ("base", "cars", "birds", "digits"):
        (folder / name).mkdir()
        state = {f"layers.{i}.w": rng.standard_normal(40 + i).astype(np.float32) for i in range(2)}
        save_file(state, folder / name / "model.safetensors")
    tasks = [folder / name for name in ("cars", "birds", "digits")]
    prefmerge.merge(folder / "base", tasks, folder / "owned", preference="0.5,0.3,0.2", scale=0.7, seed=3, report=True)
    prefmerge.merge(folder / "base", tasks, folder / "blend", method="ties", report=True)
    return folder


def page_of(merged: Path, name: str) -> Page:
    return lawful((merged / name / "report.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["owned", "blend"])
def test_journey_26_a_merge_has_one_page_that_stands_alone(merged: Path, name: str):
    page = page_of(merged, name)  # what it loads, and scripts, are against the law of reports
    assert [path.name for path in (merged / name).rglob("*.html")] == ["report.html"]
    assert str(merged) not in page.source


def test_journey_26_the_page_says_what_was_merged(merged: Path):
    page = page_of(merged, "owned")
    for role, name in (("base", "base"), ("task 1", "cars"), ("task 2", "birds"), ("task 3", "digits")):
        assert page.row(name)[:3] == [name, role, "float32"]
    assert page.row("the merged weights")[1] == "output"
    assert "3 tasks over base , merged" in " ".join(page.shown.split())


def test_journey_26_the_page_says_how(merged: Path):
    page = page_of(merged, "owned")
    receipt = prefmerge.Receipt.load(merged / "owned" / "receipt.json")
    for key in ("method", "selection", "importance", "strength", "scope", "scale", "seed"):
        assert key in page.shown
        assert str(receipt.recipe[key]) in page.shown
    assert receipt.fingerprint in page.shown
    assert "prefmerge merge recipe.yaml" in page.shown


def test_journey_26_the_page_says_who_owns_what(merged: Path):
    page = page_of(merged, "owned")
    owned = prefmerge.Receipt.load(merged / "owned" / "receipt.json").owned
    assert owned is not None
    for task, count in zip(("cars", "birds", "digits"), owned, strict=True):
        assert any(row[0] == task and f"{count:,}" in row for row in page.rows)
    layers = {row[0]: row for row in page.rows if row[0] in ("block 0", "block 1")}
    assert layers["block 0"][1] != layers["block 1"][1]  # what each keeps, and not the same bar everywhere
    assert "no element has an owner" in page_of(merged, "blend").shown
