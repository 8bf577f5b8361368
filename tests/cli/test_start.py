"""What a command loads before it works: little, and nothing that it does not use. Modules are counted, not seconds."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
from safetensors.numpy import save_file

from prefmerge.cli import app, commands
from prefmerge.cli.app import paths_by_flag

# What only other commands need, or other inputs. The first merge on a machine also loads what compiles.
UNUSED = {
    *("torch", "matplotlib", "xml", "asyncio", "ray", "http", "rich.progress", "rich.syntax"),
    *("prefmerge.merging.recipe_file", "prefmerge.merging.recipe_documents", "prefmerge.merging.verify"),
    *("prefmerge.merging.on_ray", "prefmerge.merging.worker", "prefmerge.merging.page", "prefmerge.merging.sweep"),
    *("prefmerge.report.charts", "prefmerge.analysis", "prefmerge.target", "prefmerge.training", "prefmerge.models"),
    *("prefmerge.lab", "prefmerge.studio", "prefmerge.data", "prefmerge.config"),
}
OF_THE_COMPILER = {"numba", "llvmlite", "yaml", "scipy", "numpy.ma"}  # numba loads the last three
MAIN = """
import json, sys
from prefmerge.cli import main
sys.argv[0] = "prefmerge"
try:
    main()
except SystemExit as end:
    code = end.code
import gc
print(json.dumps([code, gc.get_threshold(), sorted(sys.modules)]), file=sys.stderr)
"""


def after(*line: str, folder: Path | None = None) -> tuple[int, list[int], set[str]]:
    """The exit code of a command line, the collector's thresholds, and the modules that it loaded."""
    done = subprocess.run([sys.executable, "-c", MAIN, *line], cwd=folder, capture_output=True, text=True)
    code, thresholds, modules = json.loads(done.stderr.splitlines()[-1])
    return code, thresholds, set(modules)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files, and a merge of them, so that its kernels are on the disk."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "cars", "birds")):
        values = np.random.default_rng(seed).standard_normal((4, 4)).astype(np.float32)
        save_file({"w": values}, folder / f"{name}.safetensors")
    assert after("merge", *INPUTS, "-o", "merged.safetensors", folder=folder)[0] == 0
    return folder


INPUTS = ("base.safetensors", "cars.safetensors", "birds.safetensors")
COMMANDS = {
    "merge": ("merge", *INPUTS, "-o", "out.safetensors"),
    "plan": ("plan", *INPUTS),
    "inspect": ("inspect", "base.safetensors"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_loads_nothing_that_it_does_not_use(models: Path, name: str) -> None:
    code, _, modules = after(*COMMANDS[name], folder=models)
    assert code == 0
    own = {"merge": {"llvmlite"}, "inspect": {"prefmerge.analysis"}}.get(name, set())
    assert not ((UNUSED | OF_THE_COMPILER) - own) & modules


@pytest.mark.parametrize("line", [("merge", "--wrong"), ("sweep", "--wrong"), ("inspect", "--wrong"), ("nothing",)])
def test_a_wrong_flag_is_refused_at_once(line: tuple[str, ...]) -> None:
    code, _, modules = after(*line)
    assert code == 2
    assert not ({"pydantic", "numpy", "rich", "prefmerge.merging.recipe"} | UNUSED | OF_THE_COMPILER) & modules


@pytest.mark.parametrize("line", ["--help", "--version", "nothing"])
def test_where_no_command_runs_little_but_typer_is_loaded(line: str) -> None:
    modules = after(line)[2]
    assert not {"pydantic", "tempfile", "socket", "hashlib", "ctypes", "html", "logging"} & modules
    assert len([one for one in modules if one.startswith("prefmerge")]) <= 16


def test_a_command_collects_cycles_seldom() -> None:
    _, thresholds, _ = after("--version")
    assert thresholds == list(commands.COLLECTED_AFTER)


def test_who_imports_the_command_line_keeps_its_own_collector() -> None:
    code = "import gc; was = gc.get_threshold(); import prefmerge.cli, prefmerge; prefmerge.plan; "
    subprocess.run([sys.executable, "-c", f"{code}assert gc.get_threshold() == was"], check=True)


def test_cycles_go_all_the_same() -> None:
    assert gc.isenabled()
    assert all(0 < one <= 20_000 for one in commands.COLLECTED_AFTER)


class OfClick:
    """A parameter as those versions of typer have it that stand on click: its type is one of click's."""

    def __init__(self, opts: list[str], kind: Any, is_flag: bool = False) -> None:
        self.opts, self.type, self.is_flag = opts, kind, is_flag


class TyperPath:
    """A type as click calls it."""


@pytest.mark.parametrize("newer", [False, True])
def test_paths_are_known_whichever_typer_there_is(newer: bool) -> None:
    wanted = {"--out": True, "-o": True, "--prefer": False}
    if newer:
        command: Any = typer.main.get_command(app)
        merge = command.get_command(command.make_context("prefmerge", ["merge"]), "merge")
        assert wanted.items() <= paths_by_flag(merge.params).items()
        assert "--force" not in paths_by_flag(merge.params)
        return
    older = [OfClick(["--out", "-o"], TyperPath()), OfClick(["--prefer"], "text"), OfClick(["inputs"], TyperPath())]
    assert paths_by_flag([*older, OfClick(["--force"], "text", is_flag=True)]) == wanted
