"""Cells run in one namespace and keep what they show, as in Jupyter."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from pages.notebook import as_markdown, code_cells, read_notebook, run_cells, text_of, write_notebook

pytest.importorskip("matplotlib")
import matplotlib

ROOT = Path(__file__).parents[2]


def notebook_of(*cells: str) -> dict[str, Any]:
    return {
        "cells": [{"cell_type": "code", "metadata": {}, "source": cell.splitlines(keepends=True)} for cell in cells]
    }


def test_a_cell_shows_what_it_prints_and_its_last_value() -> None:
    notebook = notebook_of("a = 1\nprint(a)\na + 1", "print(a)\na;", "a = 3", "None", "def f():\n    return a\nf()")
    run_cells(notebook)
    cells = code_cells(notebook)
    assert [text_of(cell["outputs"]) for cell in cells] == ["1\n2", "1\n", "", "", "3"]
    assert [one["output_type"] for one in cells[0]["outputs"]] == ["stream", "execute_result"]
    assert [cell["execution_count"] for cell in cells] == [1, 2, 3, 4, 5]


def test_a_cell_that_fails_ends_the_run() -> None:
    with pytest.raises(ZeroDivisionError):
        run_cells(notebook_of("1 / 0"))


def test_open_figures_are_pictures() -> None:
    matplotlib.use("agg")
    notebook = notebook_of("import matplotlib.pyplot as plt\nfigure, axes = plt.subplots()\naxes.plot([1, 2]);", "1;")
    run_cells(notebook)
    first, second = code_cells(notebook)
    (shown,) = first["outputs"]
    assert base64.b64decode(shown["data"]["image/png"]).startswith(b"\x89PNG")
    assert second["outputs"] == []
    told = as_markdown(notebook)
    assert told.count("](data:image/png;base64,") == 1
    assert told.endswith("```python\n1;\n```\n")


def test_it_is_written_as_it_was_read(tmp_path: Path) -> None:
    for file in (ROOT / "examples").glob("*.ipynb"):
        write_notebook(read_notebook(file), tmp_path / file.name)
        assert (tmp_path / file.name).read_text() == file.read_text()
        assert json.loads(file.read_text())["nbformat"] == 4
        assert "/work" not in file.read_text()
