"""Figures: names are shown as they are, numbers as matplotlib writes them, failures in one message."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefmerge import plotting
from prefmerge.errors import OutputError

pytest.importorskip("matplotlib")


def test_a_name_begins_no_formula(tmp_path: Path):
    name = r"cost $\foo$"  # no formula that matplotlib knows: drawn as one it fails
    figure = plotting.new_figure(4, 3)
    axes = figure.add_subplot()
    axes.barh([0, 1], [1, 10], label=name)
    axes.set_yticks([0, 1], [name, "b"])
    axes.set_xscale("log")
    axes.set_title(name)
    axes.text(1, 0, name)
    figure.legend(loc="outside lower center")
    plotting.save(figure, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000
    powers = [text for text in axes.get_xticklabels() if "mathdefault" in text.get_text()]
    assert powers
    assert all(text.get_parse_math() for text in powers)  # 10 with an exponent


def test_a_figure_that_cannot_be_written(tmp_path: Path):
    with pytest.raises(OutputError, match="the picture cannot be written"):
        plotting.save(plotting.new_figure(1, 1), tmp_path / "none" / "picture.png")


def test_the_same_figure_gives_the_same_bytes(tmp_path: Path):
    for name in ("a.png", "b.png"):
        figure = plotting.new_figure(2, 2)
        figure.add_subplot().plot([1, 2], **plotting.style_of("MAGMAX").line())
        plotting.save(figure, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
