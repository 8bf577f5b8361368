"""What documents name is there: links and their anchors, files, modules, commands and their flags.

Not here: running the commands (tests/cli/test_documents_run.py).
"""

from __future__ import annotations

import functools
import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from benchmarks import common
from prefmerge.cli import app
from tests.documents import commands, documents

LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")
FILE = re.compile(r"`((?:src|tests|benchmarks|examples|docs)/[\w./-]+\w)`")
MODULE = re.compile(r"\bpython -m ([\w.]+)|`(prefmerge(?:\.[a-z_]+)+)")
COMMAND = re.compile(r"^ {4,}prefmerge ([a-z]+)(.*)$", re.MULTILINE)  # what a command printed names commands too
REPLACED = "benchmarks/real_model.py"  # docs/targets.md says what was measured with it

every_document = pytest.mark.parametrize("document", documents(), ids=lambda file: file.name)


@every_document
def test_links_and_files_are_there(document: Path):
    text = document.read_text()
    links = [document.parent / one for one, _ in LINK.findall(text) if one and not one.startswith("http")]
    files = [common.ROOT / one for one in FILE.findall(text) if "scratch" not in one and one != REPLACED]
    assert [str(one) for one in (*links, *files) if not one.exists()] == []


@every_document
def test_anchors_are_there(document: Path):
    for name, anchor in LINK.findall(document.read_text()):
        if anchor and not name.startswith("http"):
            page = document.parent / name if name else document
            assert anchor in anchors(page.read_text()), f"{document.name}: {name}#{anchor}"


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


def test_every_page_is_in_the_readme():
    listed = {name for name, _ in LINK.findall((common.ROOT / "README.md").read_text())}
    pages = {f"docs/{file.name}" for file in (common.ROOT / "docs").iterdir() if file.is_file()}
    assert pages - listed == set()


@every_document
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


@every_document
def test_commands_have_these_flags(document: Path):
    text = document.read_text()
    for name, rest in COMMAND.findall(text):
        assert_takes(name, re.findall(r"(?<![\w-])--?[a-z][a-z-]*", rest.partition("#")[0]))
    for command in commands(text):
        program, name, *words = shlex.split(command)
        if program == "prefmerge":
            assert_takes(name, [word for word in words if re.match(r"--?[a-z]", word)])


def assert_takes(name: str, flags: list[str]) -> None:
    known = flags_of_commands().get(name)
    assert known is not None, f"prefmerge {name}"
    assert set(flags) <= known, f"prefmerge {name}"


@functools.cache
def flags_of_commands() -> dict[str, set[str]]:
    """The flags of every command. To make the commands takes a tenth of a second, so it is done once."""
    group: Any = typer.main.get_command(app)
    names = group.list_commands(None)
    return {name: {flag for one in group.get_command(None, name).params for flag in one.opts} for name in names}


def test_the_tree_names_every_package():
    tree = (common.ROOT / "CONTRIBUTING.md").read_text()
    packages = [one.name for one in (common.ROOT / "src" / "prefmerge").iterdir() if (one / "__init__.py").exists()]
    assert [one for one in packages if f"      {one}/ " not in tree] == []


@pytest.mark.parametrize("file", sorted(common.RESULTS.glob("*.json")), ids=lambda file: file.stem)
def test_a_result_names_no_path_of_the_machine_that_made_it(file: Path):
    assert re.findall(r'"/[^"]*/[^"]*"', file.read_text(encoding="utf-8")) == []
