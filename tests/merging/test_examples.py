"""The recipes in examples/ are read without a word of complaint beyond what their comments announce."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from prefmerge.merging.recipe_file import read_recipe

FOLDER = Path(__file__).parents[2] / "examples"
RECIPES = sorted(FOLDER.glob("*.yaml"))


def test_there_are_examples() -> None:
    assert len(RECIPES) >= 4


@pytest.mark.parametrize("example", RECIPES, ids=lambda path: path.stem)
def test_an_example_is_read(example: Path, tmp_path: Path) -> None:
    for name in ("clip-base", "cars", "birds", "digits"):
        (tmp_path / name).mkdir()
    shutil.copy(example, tmp_path)
    recipe = read_recipe(tmp_path / example.name)
    text = example.read_text(encoding="utf-8")
    assert f"prefmerge merge examples/{example.name} -o merged/" in text
    assert re.search(r"^merge_method: (\w+)$", text, re.MULTILINE).group(1) == recipe.method  # type: ignore[union-attr]
    recipe.settings()  # a preference by name fits the tasks
    announced = {"ties": {"int8_mask", "the base is also listed"}}.get(example.stem, set())
    assert len(recipe.notes) == len(announced)
    assert all(any(note.startswith(a) for a in announced) for note in recipe.notes)
