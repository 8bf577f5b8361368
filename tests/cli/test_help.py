"""Help texts: quick, complete, and every example in them works."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import prefmerge
import prefmerge.lab.demo
from prefmerge.cli import progress
from prefmerge.cli.options import EXAMPLES
from tests.cli.conftest import Result

HEAVY = ("numpy", "numba", "yaml", "rich", "safetensors", "torch", "matplotlib")  # pydantic is typer's own


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("line", ["--help", "merge --help", "--version", "merge"])
def test_help_imports_nothing_heavy(line: str) -> None:
    done = python(
        f"import sys; from prefmerge.cli import main; sys.argv = ['prefmerge', *{line.split()!r}]\n"
        f"try: main()\nexcept SystemExit: pass\nprint([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("line", "modules"), [("--help", []), ("verify --help", ["prefmerge.cli.merging"]), ("unheard-of", [])]
)
def test_only_the_module_of_the_command_is_imported(line: str, modules: list[str]) -> None:
    done = python(
        f"import sys; from prefmerge.cli import main, app; sys.argv = ['prefmerge', *{line.split()!r}]\n"
        f"try: main()\nexcept SystemExit: pass\nfrom prefmerge.cli.commands import COMMANDS\n"
        f"homes = dict.fromkeys(f'prefmerge.cli.{{home}}' for home, _ in COMMANDS.values())\n"
        f"print([home for home in homes if home in sys.modules], file=sys.stderr)"
    )
    assert done.stderr.splitlines()[-1] == str(modules)


def test_the_phrases_of_the_commands_are_whole(call: Callable[[str], Result]) -> None:
    lines = call("--help").stdout.partition("Commands:\n")[2].splitlines()
    assert sorted(line.split()[0] for line in lines) == sorted(EXAMPLES)
    assert all(line.endswith(".") and not line.endswith("..") for line in lines)


def test_every_command_has_help_with_its_examples(call: Callable[[str], Result]) -> None:
    listed = call("--help")
    assert listed.code == 0
    for command, lines in EXAMPLES.items():
        assert f"\n  {command} " in listed.stdout
        shown = call(f"{command} --help")
        assert shown.code == 0
        assert all(f"\n    {line}\n" in shown.stdout for line in lines)


def test_the_examples_work(call: Callable[[str], Result], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")  # one of them draws
    asked: list[Any] = []
    monkeypatch.setattr(prefmerge.lab.demo, "run", lambda out, seed, **how: asked.append((out, seed, how)) or {})
    for lines in EXAMPLES.values():
        for line in lines:
            if "my-run" in line or "score.py" in line or "--private" in line:
                continue  # test_training_commands.py, test_search_by_command.py and test_push.py run what they do
            words = shlex.split(line)
            assert words[0] == "prefmerge"
            done = call(" ".join(words[1:]))
            assert (done.code, done.stderr, done.exception) == (0, "", None), line
            assert done.stdout or words[1] == "demo", line
    assert {
        "merged.safetensors",
        "merged.safetensors.receipt.json",
        "merged",
        "from-recipe.safetensors",
        "ownership.png",
    } <= {p.name for p in folder.iterdir()}
    assert asked == [
        (Path("demo-out"), 1, {"quiet": False, "force": False, "watch": progress.training})
    ]  # the demo itself is tested in tests/demo


def test_version(call: Callable[[str], Result]) -> None:
    assert call("--version").stdout == f"prefmerge {prefmerge.__version__}\n"


def test_as_a_module(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "prefmerge", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: prefmerge ")
    assert done.stderr == ""


def test_an_unknown_command_is_met_with_the_nearest() -> None:
    done = python("import sys; from prefmerge.cli import main; sys.argv[1:] = ['merg', 'base']; main()")
    assert done.returncode == 2
    assert "No such command 'merg'. Did you mean 'merge'?" in done.stderr
