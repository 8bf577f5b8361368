"""The tables of docs/from-mergekit.md against the code: every method and key of mergekit, and what becomes of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from prefmerge.errors import RecipeError
from prefmerge.merging.parameters import every
from prefmerge.merging.recipe_file import read_recipe
from prefmerge.methods import METHODS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "from-mergekit.md").read_text(encoding="utf-8")
MODELS = "base_model: base.safetensors\nmodels: [{model: cars.safetensors}]\n"
DRAWN = {"dare_linear", "dare_ties", "della_linear", "della"}
# A value for each key that takes one, and the method to try it with where that is not ties.
TRIED = {
    "weight": "0.5",
    "density": "[0.5, 1]",
    "lambda": "{filter: mlp, value: 2}",
    "normalize": "true",
    "t": "[0, 1]",
    "gamma": "[0.1, 0.2]",
    "epsilon": "[0.1, 0.2]",
    "rescale": "false",
    "int8_mask": "true",
    "select_topk": "0.5",
    "filter_wise": "true",
    "nuslerp_row_wise": "true",
    "nuslerp_flatten": "true",
    "max_iter": "5",
    "tol": "0.001",
    "out_dtype": "bfloat16",
    "dtype": "float16",
    "tokenizer_source": "base",
    "tokenizer": "{source: base}",
    "chat_template": "auto",
}


def rows(heading: str) -> Iterator[list[str]]:
    """The rows of the table under a heading."""
    part = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    for line in part.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) > 2 and cells[0].startswith("`"):
            yield [cells[0].strip("`"), *cells[1:]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("base", "cars"):
        (tmp_path / f"{name}.safetensors").touch()
    return tmp_path


def refusal(folder: Path, text: str) -> str:
    (folder / "recipe.yaml").write_text(text)
    try:
        read_recipe(folder / "recipe.yaml")
    except RecipeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("method", "here"), [row[:2] for row in rows("Methods")])
def test_methods(folder: Path, method: str, here: str) -> None:
    assert here == ("not" if method not in METHODS else "other draws" if method in DRAWN else "same")
    if here == "not":
        assert "is a method of mergekit that prefmerge does not have" in refusal(folder, f"merge_method: {method}\n")
    else:
        assert METHODS[method].mergekit


def test_every_method_that_both_have_is_in_the_table() -> None:
    assert {row[0] for row in rows("Methods")} >= {name for name, method in METHODS.items() if method.mergekit}


@pytest.mark.parametrize(("key", "where", "here"), [row[:3] for row in rows("Keys")])
def test_keys(folder: Path, key: str, where: str, here: str) -> None:
    if key in ("merge_method", "base_model", "models", "parameters", "slices"):
        assert here == "same"
        return  # tests/methods/test_against_mergekit.py has them all
    one = every().get("scale" if key == "lambda" else "weights" if key == "weight" else key)
    honours = [name for name, method in METHODS.items() if one is not None and method.mergekit and method.honours(one)]
    method = "ties" if "ties" in honours or not honours else honours[0]
    value = TRIED.get(key, "1")
    line = f"{key}: {value}\n" if where == "top level" else f"parameters: {{{key}: {value}}}\n"
    said = refusal(folder, f"merge_method: {method}\n{line}{MODELS}")
    if here == "not":
        assert "is a key of mergekit that prefmerge does not support" in said
    else:
        assert said == ""


def test_every_key_of_mergekit_that_is_read_is_in_the_table() -> None:
    known = {key for one in every().values() for key in one.mergekit}
    assert {row[0] for row in rows("Keys")} >= known


def test_as_many_recipes_as_the_page_says() -> None:
    golden = ROOT / "tests" / "golden"
    recipes = [*golden.glob("*.yml"), *(golden / "vocabularies").glob("*.yml")]
    assert f"The tests run {len(recipes)} of mergekit's recipes unchanged" in PAGE
