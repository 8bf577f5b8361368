"""The pages that are made from the code say what the code says, and all of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main

import prefmerge
from pages.reference import pages
from pages.reference.markdown import comments, of_docstring, table
from prefmerge import errors
from prefmerge.cli import app
from prefmerge.config import FinetuneConfig
from prefmerge.ground.yaml_file import Section
from prefmerge.lab.recipe import Experiment
from prefmerge.merging.recipe_keys import levels

pytest.importorskip("torch", reason="the reference names what needs it too")
DOCS = Path(__file__).parents[2] / "docs"
NAMES = ["parameters.md", "commands.md", "keys.md", "python.md"]


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return pages()


@pytest.mark.parametrize("name", NAMES)
def test_the_page_is_what_the_code_says(name: str, made: dict[str, str]) -> None:
    assert sorted(made) == sorted(NAMES)
    assert (DOCS / name).read_text(encoding="utf-8") == made[name], "write it again: python -m pages.reference"


def test_every_flag_of_every_command_is_told(made: dict[str, str]) -> None:
    group: Any = typer.main.get_command(app)
    sections = dict(re.findall(r"^## (\w+)$(.*?)(?=^## |\Z)", made["commands.md"], re.MULTILINE | re.DOTALL))
    assert list(sections) == group.list_commands(None)
    for name, text in sections.items():
        told = set(re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", text))
        shown = [one for one in group.get_command(None, name).params if not one.hidden]  # old spellings are not
        assert {flag for one in shown for flag in one.opts if flag[0] == "-"} <= told


def test_every_key_is_told(made: dict[str, str]) -> None:
    rows = re.findall(r"^\| `([^`]+)` \|(?:.*\|)? (.+) \|$", made["keys.md"], re.MULTILINE)
    told = {key for key, what in rows if len(what.strip()) > 5}
    keys = {key for several in levels().values() for key in several}
    keys |= {key for section in sections_in(FinetuneConfig) | sections_in(Experiment) for key in section.model_fields}
    assert {key for key, _ in rows} - told == set()
    assert keys <= told


def sections_in(section: type[Section]) -> set[type[Section]]:
    """The section and all that its fields hold, as their annotations are written."""
    module = vars(__import__(section.__module__, fromlist=["x"]))
    words = {word for kind in section.__annotations__.values() for word in re.findall(r"\w+", str(kind))}
    inner = {module[word] for word in words if isinstance(module.get(word), type)}
    return {section}.union(*(sections_in(one) for one in inner if issubclass(one, Section) and one is not section))


def test_every_public_name_is_told(made: dict[str, str]) -> None:
    headings = set(re.findall(r"^#+ (?:class )?(\w+)$", made["python.md"], re.MULTILINE))
    assert {name for name in prefmerge.__all__ if name != "__version__"} <= headings
    assert {"Adapted", "Checked", "Measured", "Preferred", "VerifyReport"} <= headings
    tree = {name for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, Exception)}
    assert all(f"`{name}`" in made["python.md"] for name in tree)


def test_every_member_of_every_class_is_told(made: dict[str, str]) -> None:
    classes = re.findall(r"^### class (\w+)$(.*?)(?=^##)", made["python.md"], re.MULTILINE | re.DOTALL)
    assert {"Receipt", "Adapted", "Measured", "ReceiptTotals", "Estimate", "OwnedRow"} <= {name for name, _ in classes}
    rows = [
        (name, *row) for name, text in classes for row in re.findall(r"^\| (`.+?`) \| (.*?) ?\|$", text, re.MULTILINE)
    ]
    assert len(rows) > 300
    assert [f"{name}.{member}" for name, member, what in rows if len(what.strip()) < 3] == []


def test_comments_above_and_behind_a_field_are_its_text() -> None:
    class Some:
        # of nothing

        first: int = 1  # behind it
        # Above it,
        # twice.
        second: str = "# not a comment"
        third: tuple[int, ...] = (
            1,
            2,
        )  # behind several lines
        _ = 0  # no field
        fourth: int

    assert comments(Some) == {
        "first": "behind it",
        "second": "Above it, twice.",
        "third": "behind several lines",
        "fourth": "",
    }


def test_examples_in_docstrings_become_python() -> None:
    assert of_docstring("One.\n\n    f(1)\n      more\n\nTwo.\nThree.") == (
        "One.\n\n```python\nf(1)\n  more\n```\n\nTwo.\nThree."
    )


def test_a_cell_keeps_its_bars() -> None:
    assert table(["a"], [["x|y"]]) == ["| a |", "| --- |", "| x\\|y |"]
