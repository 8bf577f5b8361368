"""Behind every figure of a report are its numbers: those that are drawn, on the page and as a file."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from prefmerge.analysis import Measured
from prefmerge.analysis.figures import cell_shares, drawn_cells
from prefmerge.lab import figure_tables, figures, report, vector_tables
from prefmerge.lab.results import Results
from prefmerge.lab.table import Table
from prefmerge.lab.table_parts import MISSING
from tests.analysis.test_figures import two
from tests.lab.made import ABOUT, made
from tests.lab.test_figures import FEW, bars_of, heights, panels
from tests.report.pages import lawful

pytest.importorskip("matplotlib", reason="figures need the extra plot")


@pytest.fixture(scope="module")
def whole() -> Results:
    return dataclasses.replace(made(methods=FEW), about={**ABOUT, "parameters": 1000})


def behind(results: Results, name: str) -> Table:
    table = figure_tables.behind(results, name)
    assert table is not None
    return table


def numbers(table: Table, column: int, **where: str) -> list[str]:
    """The means of a column, of the rows whose words are these."""
    at = {table.header.index(key.replace("_", " ")): value for key, value in where.items()}
    rows = [row for row in table.rows if all(row[i].text == value for i, value in at.items())]
    return [row[column].text.split()[0] for row in rows]


def test_every_figure_has_a_table_of_its_own(whole: Results):
    for picture in figures.all_of(whole):
        table = behind(whole, picture.name)
        assert table.name == f"figure-{picture.name}"
        assert table.rows
        assert {len(row) for row in table.rows} == {len(table.header)}
    assert figure_tables.behind(whole, "another") is None


def test_environments(whole: Results):
    table = behind(whole, "environments-scale-1")
    for panel in panels(figures.environments(whole, "1")):
        name = panel.get_title().split("\n")[0]
        drawn = [f"{bar[0].get_xdata()[0]:.1f}" for bar in bars_of(panel)]
        assert numbers(table, 2, Environment=name) == drawn
        small = [f"{x:.1f}" for line in panel.lines if line.get_marker() == "." for x in np.asarray(line.get_xdata())]
        listed = [cell.text for row in table.rows if row[1].text == name for cell in row[3:]]
        assert [text for text in listed if text] == small


def test_differences(whole: Results):
    table = behind(whole, "differences")
    for panel, scale in zip(panels(figures.differences(whole)), ("0.5", "1", "best"), strict=True):
        assert numbers(table, 2, Scale=scale) == [f"{bar[0].get_xdata()[0]:+.1f}" for bar in bars_of(panel)]
        lows = [bar[2][0].get_segments()[0][0, 0] for bar in bars_of(panel)]
        assert numbers(table, 3, Scale=scale) == [f"{low:+.1f}" for low in lows]
        counts = ["/".join(cell.text for cell in row[5:8]) for row in table.rows if row[1].text == scale]
        assert counts == [note.get_text() for note in panel.texts]
    one = made(scales=("1",), methods=FEW, studies=("places",))
    assert {row[1].text for row in behind(one, "differences").rows} == {"1"}


def test_similarities(whole: Results):
    table = behind(whole, "similarities")
    for panel in panels(figures.similarities(whole))[:-1]:
        drawn = np.asarray(panel.images[0].get_array())
        rows = [row for row in table.rows if row[1].text == panel.get_title()]
        assert [[cell.text for cell in row[2:]] for row in rows] == [[f"{100 * x:.1f}" for x in row] for row in drawn]
    assert [row[0].text for row in table.rows][:2] == ["e1, 0", "e1, 0"]


def test_alpha(whole: Results):
    table = behind(whole, "alpha")
    for panel, scale in zip(panels(figures.alpha(whole)), ("0.5", "1"), strict=True):
        for bar, column in zip(bars_of(panel), (2, 3), strict=True):
            assert numbers(table, column, Scale=scale)[:-1] == [f"{value:.1f}" for value in bar[0].get_ydata()]
        assert numbers(table, 1, Scale=scale)[-1] == "MAGMAX"


def test_budgets(whole: Results):
    for results, form in ((whole, lambda x: f"{round(1e6 * x):,}"), (made(methods=FEW), lambda x: f"{x:.1f}")):
        table = behind(dataclasses.replace(results, about=whole.about if results is whole else {}), "budgets")
        shown = figures.allotted(results if results is whole else dataclasses.replace(results, about={}))
        for panel, column in zip(panels(shown), (1, 2), strict=True):
            assert numbers(table, column) == [form(height) for height in heights(panel)]


def test_diversity_and_tasks(whole: Results):
    table = behind(whole, "diversity")
    for panel, scale in zip(panels(figures.diversity(whole)), ("0.5", "1"), strict=True):
        for bar in bars_of(panel):
            (row,) = [row for row in table.rows if (row[0].text, row[1].text) == (bar.get_label(), scale)]
            assert [cell.text.split()[0] for cell in row[2:]] == [f"{value:.1f}" for value in bar[0].get_ydata()]
    assert table.header[2:] == ("1 task", "2 tasks", "3 tasks", "5 tasks")
    table = behind(whole, "tasks")
    for bar, column in zip(bars_of(panels(figures.tasks(whole))[0]), range(1, 5), strict=True):
        assert table.header[column] == bar.get_label()
        assert numbers(table, column) == [f"{value:.1f}" for value in bar[0].get_ydata()]


def test_what_is_missing_is_a_dash(whole: Results):
    less = dataclasses.replace(
        whole, scores=tuple(s for s in whole.scores if (s.method, s.environment) != ("Tunable (OT)", "e1"))
    )
    assert numbers(behind(less, "environments-scale-1"), 2, Method="Tunable (OT)", Environment="e1") == [MISSING]


# On the page


@pytest.fixture(scope="module")
def sets() -> list[Measured]:
    first, second = two(4)
    return [first, dataclasses.replace(second, training="independent")]


def test_they_stand_below_each_figure_and_in_files(
    whole: Results, sets: list[Measured], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    one = figures.allotted(whole)
    assert one is not None
    monkeypatch.setattr(figures, "all_of", lambda _: [one])
    pictures = [tmp_path / f"{name}.png" for name in ("sign_conflicts", "cosine", "mine")]
    for path in pictures:
        path.write_bytes(b"\x89PNG")
    paths = report.write(whole, tmp_path / "out", pictures, vector_tables.behind(sets))
    source = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    page = lawful(source)
    figured = re.findall(r"</figure>(<details><summary>The numbers</summary>.*?</details>)?", source, re.DOTALL)
    assert [bool(one) for one in figured] == [True, True, True, False]  # nobody knows the numbers of a user's picture
    assert page.row(whole.tasks[0])[0] == whole.tasks[0]
    files = {path.stem for path in paths if path.parent.name == "tables"}
    assert {"figure-budgets", "figure-sign-conflicts", "figure-signs-0", "figure-cosines-1", "figure-norms-0"} <= files
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    for name in re.findall(r"\]\((tables/[^)]*)\)", text):
        assert (tmp_path / "out" / name).is_file()
    assert "The numbers: [figure-budgets.csv](tables/figure-budgets.csv)" in text


def test_task_vectors(sets: list[Measured]):
    found = vector_tables.behind(sets)
    assert list(found) == ["sign_conflicts", "magnitudes", "distributions", "cosine"]
    by_name = {table.name: table for several in found.values() for table in several}
    first, second = sets
    T = len(first.tasks)
    rows = by_name["figure-sign-conflicts"].rows
    assert [row[0].text for row in rows] == [f"first {t + 1}" for t in range(T)]
    assert [row[1].text for row in rows[1:]] == [f"{100 * x:.1f}" for x in first.signs[0].share()[1:]]
    assert rows[0][1].text == MISSING
    assert by_name["figure-sign-conflicts"].header[3] == f"{second.label}, all that changed"
    by_layer = by_name["figure-signs-by-layer"].rows
    assert [row[0].text for row in by_layer] == [part.name for part in first.by("layer")]
    assert by_layer[0][2].text == f"{100 * first.by('layer')[0].conflict_share(1):.1f}"
    cosines = by_name["figure-cosines-0"].rows
    assert cosines[1][1].text == f"{first.cosines()[1, 0]:.3f}"
    assert ("figure-cosines-of-steps-0" in by_name, "figure-cosines-of-steps-1" in by_name) == (True, False)
    assert by_name["figure-norms-0"].header == ("task", "task vector", "step")
    taken = by_name["figure-taken-0"].rows
    shares = cell_shares(first.contributed[1], drawn_cells(sets), first.elements)
    assert [row[2].text for row in taken] == [f"{100 * share:.3g}" for share in shares]
    assert [row[1].text for row in by_name["figure-contributions-1"].rows] == [
        f"{100 * share:.1f}" for share in (*second.contributions(), second.tied())
    ]
    types = by_name["figure-magnitudes-0"].rows
    assert len(types) % 2 == 0
    for table in by_name.values():
        assert {len(row) for row in table.rows} == {len(table.header)}
    assert vector_tables.behind([]) == {}
    assert vector_tables.behind([first]).keys() == found.keys()
