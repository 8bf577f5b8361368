"""The figures: what is drawn where, for few and many tasks, one seed and three, and the same look for a method."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from prefmerge import plotting
from prefmerge.lab import figure_tables, figures, tables
from prefmerge.lab.entries import PAPERS
from prefmerge.lab.results import Results
from prefmerge.preference import Preference, budgets, exact
from tests.lab.made import ABOUT, KINDS, made

pytest.importorskip("matplotlib", reason="figures need the extra plot")
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.patches import Rectangle

FEW = ("MAGMAX", *KINDS.values())


@pytest.fixture(scope="module")
def whole() -> Results:
    return dataclasses.replace(made(methods=FEW), about={**ABOUT, "parameters": 1000})


def panels(picture: figures.Picture | None) -> list[Axes]:
    assert picture is not None
    return [axes for axes in picture.figure.axes if axes.get_visible()]


def heights(axes: Axes) -> list[float]:
    return [one.get_height() for one in axes.patches if isinstance(one, Rectangle)]


def bars_of(axes: Axes) -> list[ErrorbarContainer]:
    return [one for one in axes.containers if isinstance(one, ErrorbarContainer)]


@pytest.mark.parametrize(("tasks", "seeds"), [(5, (3, 4)), (20, (3, 4, 5)), (50, (3,))])
def test_there_is_a_figure_of_each_kind(tasks: int, seeds: Sequence[int], tmp_path: Path):
    found = figures.all_of(made(tasks, seeds, ("0.5", "1"), PAPERS))
    assert [picture.name for picture in found] == [
        "environments-scale-0.5",
        "environments-scale-1",
        "differences",
        "similarities",
        "alpha",
        "budgets",
        "diversity",
        "tasks",
    ]
    for picture in found:
        labelled = [picture.figure.get_supxlabel(), *(axes.get_xlabel() for axes in picture.figure.axes)]
        assert any(labelled), picture.name
        assert picture.caption.endswith(".")
        assert len(seeds) > 1 or "seeds" not in picture.caption
    (tmp_path / "alpha.png").write_bytes(found[4].drawn())
    assert (tmp_path / "alpha.png").read_bytes().startswith(b"\x89PNG")


def test_equal_results_give_equal_bytes(whole: Results, tmp_path: Path):
    for name in ("a", "b"):
        picture = figures.alpha(whole)
        assert picture is not None
        (tmp_path / f"{name}.png").write_bytes(picture.drawn())
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_environments_are_drawn_where_the_table_says(whole: Results):
    picture, table = figures.environments(whole, "1"), tables.environments(whole, "1")
    assert table is not None
    axes = panels(picture)
    assert [one.get_title().split("\n")[0] for one in axes] == ["e1", "e2", "e3", "e4", "e5", "Average"]
    for panel, column in zip(axes, (2, 3, 4, 5, 6, 1), strict=True):  # a table has the average first
        drawn = [bar[0].get_xdata()[0] for bar in bars_of(panel)]
        assert [f"{value:.1f}" for value in drawn] == [row[column].text.split()[0] for row in table.rows]
    names = [text.get_text() for text in axes[0].get_yticklabels()]
    assert names == [row[0].text for row in table.rows]
    colours = [to_hex(bar[0].get_color()).upper() for bar in bars_of(axes[0])]
    assert colours == [plotting.style_of(name).colour.upper() for name in names]


def test_differences_are_drawn_with_their_intervals(whole: Results):
    axes = panels(figures.differences(whole))
    assert [one.get_title() for one in axes] == ["scale 0.5", "scale 1", "each at its best scale"]
    for panel, scale in zip(axes, ("0.5", "1", None), strict=True):
        for bar, one in zip(bars_of(panel), tables.comparisons(whole, scale), strict=True):
            assert bar[0].get_xdata()[0] == pytest.approx(100 * one.overall.mean)
            ends = bar[2][0].get_segments()[0][:, 0]
            assert one.overall.interval is not None
            assert ends == pytest.approx([100 * end for end in one.overall.interval])
            text = f"{one.overall.won}/{one.overall.tied}/{one.overall.lost}"
            assert text in [note.get_text() for note in panel.texts]


def test_one_scale_has_no_panel_of_best_scales():
    axes = panels(figures.differences(made(scales=("1",), methods=FEW, studies=("places",))))
    assert [one.get_title() for one in axes] == ["scale 1"]


def test_similarities_show_the_place_first(whole: Results):
    axes = panels(figures.similarities(whole))
    assert [one.get_title() for one in axes] == [
        "the target",
        "Label",
        "OT",
        "Cos",
        "MMD",
        "",
    ]  # and the scale of colours
    first = np.asarray(axes[0].images[0].get_array())
    assert first.shape == (25, 5)
    assert first[0] == pytest.approx(whole.environments[0].truth(whole.tasks))
    ot = np.asarray(axes[2].images[0].get_array())
    several = [s.shares for s in whole.similarities if (s.environment, s.variant, s.kind) == ("e1", 0, "ot")]
    assert ot[0] == pytest.approx(np.mean(several, axis=0))


def test_alpha_has_both_tasks_and_magmax_at_every_scale(whole: Results):
    table = tables.alpha(whole)
    assert table is not None
    for panel, scale in zip(panels(figures.alpha(whole)), ("0.5", "1"), strict=True):
        assert panel.get_xscale() == "log"
        assert [text.get_text() for text in panel.get_xticklabels()] == ["0.25", "0.5", "1", "2", "4"]
        rows = [row for row in table.rows if row[0].text == scale]
        for bar, column in zip(bars_of(panel), (2, 3), strict=True):
            drawn = [f"{value:.1f}" for value in bar[0].get_ydata()]
            assert drawn == [row[column].text.split()[0] for row in rows[:-1]]
        lines = {line.get_label(): line for line in panel.lines}
        for name, column in (("MAGMAX, first task", 2), ("MAGMAX, last task", 3)):
            assert f"{np.asarray(lines[name].get_ydata())[0]:.1f}" == rows[-1][column].text.split()[0]
            assert to_hex(lines[name].get_color()).upper() == plotting.style_of("MAGMAX").colour.upper()


def test_budgets_are_those_of_a_merge(whole: Results):
    axes = panels(figures.allotted(whole))
    for panel, alpha in zip(axes, figure_tables.ALPHAS, strict=True):
        expected = budgets(Preference.geometric(exact(alpha)).shares(whole.tasks), 1000)
        assert [height * 1e6 for height in heights(panel)] == pytest.approx(list(expected))
    assert axes[0].get_ylabel() == "elements (millions)"
    unknown = figures.allotted(dataclasses.replace(whole, about={}))
    assert panels(unknown)[0].get_ylabel() == "elements (%)"
    assert sum(heights(panels(unknown)[0])) == pytest.approx(100)


def test_diversity_is_over_the_number_of_tasks(whole: Results):
    picture, table = figures.diversity(whole), tables.environments(whole, "0.5", study="diversity")
    assert table is not None
    panel = panels(picture)[0]
    assert [text.get_text() for text in panel.get_xticklabels()] == ["1", "2", "3", "5"]
    for bar, row in zip(bars_of(panel), table.rows, strict=True):
        drawn = [f"{value:.1f}" for value in bar[0].get_ydata()]
        assert drawn == [cell.text.split()[0] for cell in row[2:]]  # after the average
        assert bar.get_label() == row[0].text


def test_tasks_one_by_one(whole: Results):
    panel = panels(figures.tasks(whole))[0]
    labels = [bar.get_label() for bar in bars_of(panel)]
    assert labels == ["Zero-shot", "Baseline, scale 1", "MAGMAX, scale 0.5", "MAGMAX, scale 1"]
    several = [
        one.accuracies for one in whole.task_scores if (one.study, one.method, one.scale) == ("methods", "MAGMAX", "1")
    ]
    assert bars_of(panel)[3][0].get_ydata() == pytest.approx(100 * np.mean(several, axis=0))


def test_one_seed_has_no_bars():
    one = made(seeds=(3,), methods=FEW)
    for picture in (figures.alpha(one), figures.diversity(one), figures.tasks(one)):
        assert picture is not None
        assert "one seed" in picture.caption
        assert not any(bar.has_yerr for panel in panels(picture) for bar in bars_of(panel))


def test_missing_cells_leave_gaps(whole: Results):
    less = dataclasses.replace(
        whole, scores=tuple(s for s in whole.scores if (s.method, s.environment) != ("Tunable (OT)", "e1"))
    )
    first, *_, last = panels(figures.environments(less, "1"))
    assert len(bars_of(first)) == len(FEW) - 1
    assert len(bars_of(last)) == len(FEW) - 1  # no average over fewer environments


def test_nothing_to_draw():
    assert figures.all_of(Results("empty", ("a",), (3,), ("1",))) == []
