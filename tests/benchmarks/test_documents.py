"""What documents name is there: links, files, modules, commands and their flags."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import typer.main

from benchmarks import common
from prefmerge.cli import app

DOCUMENTS = [*(common.ROOT / name for name in ("README.md", "CONTRIBUTING.md")), *(common.ROOT / "docs").glob("*.md")]
LINK = re.compile(r"\]\(([^)#\s]+)")
FILE = re.compile(r"`((?:src|tests|benchmarks|examples|docs)/[\w./-]+\w)`")
MODULE = re.compile(r"\bpython -m ([\w.]+)|`(prefmerge(?:\.[a-z_]+)+)")
COMMAND = re.compile(r"^ {4,}prefmerge ([a-z]+)(.*)$", re.MULTILINE)
REPLACED = "benchmarks/real_model.py"  # docs/targets.md says what was measured with it

documents = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)


@documents
def test_links_and_files_are_there(document: Path):
    text = document.read_text()
    links = [document.parent / one for one in LINK.findall(text) if not one.startswith("http")]
    files = [common.ROOT / one for one in FILE.findall(text) if "scratch" not in one and one != REPLACED]
    assert [str(one) for one in (*links, *files) if not one.exists()] == []


@documents
def test_modules_are_there(document: Path):
    for names in MODULE.findall(document.read_text()):
        name = next(filter(None, names))
        assert there(name), f"{document.name}: {name}"


def there(name: str) -> bool:
    """Whether a module, or a name in one, exists."""
    try:
        if importlib.util.find_spec(name) is not None:
            return True
    except ModuleNotFoundError:  # the parent is a module, no package
        pass
    parent, _, last = name.rpartition(".")
    return bool(parent) and hasattr(importlib.import_module(parent), last)


@documents
def test_commands_have_these_flags(document: Path):
    group: Any = typer.main.get_command(app)
    for name, rest in COMMAND.findall(document.read_text()):
        assert name in group.list_commands(None), f"{document.name}: prefmerge {name}"
        flags = {flag for one in group.get_command(None, name).params for flag in one.opts}
        asked = re.findall(r"(?<![\w-])--?[a-z][a-z-]*", rest.partition("#")[0])
        assert set(asked) <= flags, f"{document.name}: prefmerge {name}{rest}"


def test_the_readme_names_every_package():
    tree = (common.ROOT / "README.md").read_text()
    packages = [one.name for one in (common.ROOT / "src" / "prefmerge").iterdir() if (one / "__init__.py").exists()]
    assert [one for one in packages if f"      {one}/ " not in tree] == []


@pytest.mark.parametrize("file", sorted(common.RESULTS.glob("*.json")), ids=lambda file: file.stem)
def test_a_result_names_no_path_of_the_machine_that_made_it(file: Path):
    assert re.findall(r'"/[^"]*/[^"]*"', file.read_text(encoding="utf-8")) == []
