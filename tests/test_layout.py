"""Imports point one way, and the core stays light."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

from tests.import_graph import Import, circles, imports, module_of, upward

SOURCE = Path(__file__).parents[1] / "src" / "prefmerge"
FILES = sorted(SOURCE.rglob("*.py"))
# From bottom to top: a module may import from its own row and the rows before it.
LAYERS = [
    "shown",
    "errors",
    "version",
    "ground",
    "report",
    "plotting",
    "runs",
    "preference",
    "checkpoints",
    "outputs",
    "vectors",
    "methods",
    "merging",
    "analysis",
    "config",
    "data",
    "models",
    "training",
    "target",
    "lab",
    "studio",
    "cli",
    "__main__",
]


@functools.cache
def found() -> list[Import]:
    return imports({file_of(path): path.read_text(encoding="utf-8") for path in FILES})


@functools.cache
def from_above() -> dict[str, list[Import]]:
    """The imports from a higher layer, by file."""
    by_file: dict[str, list[Import]] = {}
    for each in upward(found(), LAYERS):
        by_file.setdefault(each.file, []).append(each)
    return by_file


def file_of(path: Path) -> str:
    return path.relative_to(SOURCE.parent).as_posix()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_one_way(path: Path):
    file = file_of(path)
    if path != SOURCE / "__init__.py":
        assert module_of(file).split(".")[1] in LAYERS, f"{file} belongs to no layer; add it to LAYERS at its place"
    above = [f"line {each.line} imports {each.target}" for each in from_above().get(file, ())]
    assert not above, f"{file} takes from what lies above it: {'; '.join(above)}. See LAYERS"


def test_no_files_import_one_another_in_a_circle():
    where = {(each.source, each.target): f"{each.file}:{each.line}" for each in found()}
    told = [
        "; ".join(f"{where[pair]} imports {pair[1]}" for pair in zip(circle, circle[1:] + circle[:1], strict=True))
        for circle in circles(found())
    ]
    assert not told, "circles of imports (in a function or for types alone they count too):\n" + "\n".join(told)


def test_every_file_that_is_no_code_is_packaged():
    project = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["prefmerge"]
    packaged = {path for pattern in patterns for path in SOURCE.glob(pattern)}
    assert all(any(SOURCE.glob(pattern)) for pattern in patterns)
    files = {path for path in SOURCE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    files -= set(FILES)
    assert files == packaged


def test_tensors_are_walked_in_one_place():
    """`Workspace.walk` is the one scheduler: the engine merges with it, the analysis measures with it, and a method
    that must know all of every matrix before the first block looks at them with it.
    """
    walkers = {
        path.relative_to(SOURCE).as_posix()
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "walk"
        and not (isinstance(node.func.value, ast.Name) and node.func.value.id in ("ast", "os"))
    }
    assert walkers == {"analysis/task_vectors.py", "merging/engine.py", "methods/opcm.py"}


# The checker itself, on a package of few files: `low` lies below `high`.
SMALL = {
    "pack/__init__.py": """
        from typing import TYPE_CHECKING

        if TYPE_CHECKING:
            from pack.high.work import job
        _HOMES = {"task": "pack.high.work", "word": "pack.low.words"}

        def __getattr__(name):
            import importlib

            return getattr(importlib.import_module(_HOMES[name]), name)
        """,
    "pack/low/__init__.py": "from pack.low.words import word",
    "pack/low/words.py": "word = 1",
    "pack/low/more.py": "",
    "pack/high/__init__.py": """
        def __getattr__(name):
            if name == "effort":
                from pack.high.work import effort

                return effort
            raise AttributeError(name)
        """,
    "pack/high/work.py": "from pack.low import word",
    "pack/high/tools.py": "",
}


def small(**files: str) -> list[Import]:
    """The imports of SMALL with other texts in some files, named `low_more` for pack/low/more.py."""
    changed = {f"pack/{name.replace('_', '/', 1)}.py": text for name, text in files.items()}
    return imports({file: textwrap.dedent(text) for file, text in (SMALL | changed).items()})


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("from pack import high", "pack.high"),
        ("from pack import high as h", "pack.high"),
        ("import pack.high", "pack.high"),
        ("import os, pack.high as h", "pack.high"),
        ("from pack.high import work", "pack.high.work"),
        ("from pack.high import nothing", "pack.high"),
        ("from pack.high import effort", "pack.high.work"),
        ("from pack.high import *", "pack.high"),
        ("from pack.high.work import job", "pack.high.work"),
        ("from pack import job", "pack.high.work"),
        ("from pack import task", "pack.high.work"),
        ("from pack import *", "pack.high.work"),
        ("import pack", "pack"),
        ("import pack\npack.job()", "pack.high.work"),
        ("import pack.low.words\npack.task.name", "pack.high.work"),
        ("import pack as p\np.high.work.job()", "pack.high.work"),
        ("from pack import high as h\nh.effort()", "pack.high.work"),
        ("from .. import high", "pack.high"),
        ("from .. import job", "pack.high.work"),
        ("from ..high import work", "pack.high.work"),
        ("from ..high.work import job as j", "pack.high.work"),
        ("def f():\n    from pack import high", "pack.high"),
        ("class C:\n    async def f(self):\n        import pack.high.work", "pack.high.work"),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pack import high", "pack.high"),
        ("try:\n    import pack.high\nexcept ImportError:\n    pass", "pack.high"),
        ("import importlib\nimportlib.import_module('pack.high')", "pack.high"),
        ("import importlib\nimportlib.import_module('.high', 'pack')", "pack.high"),
        ("import importlib\nimportlib.import_module('..high', package='pack.low')", "pack.high"),
        ("import importlib as i\ni.import_module('..high', __package__)", "pack.high"),
        ("from importlib import import_module\nimport_module(name='pack.high')", "pack.high"),
        ("from importlib import import_module as load\nload(f'pack.high.{1}')", "pack.high.tools"),
        ("from importlib import import_module as load\nfor name in ['pack.high']:\n    load(name)", "pack.high"),
        ("__import__('pack.high')", "pack.high"),
    ],
)
@pytest.mark.parametrize("file", ["pack/low/more.py", "pack/low/__init__.py"])
def test_every_way_to_import_from_above_is_seen(file: str, text: str, target: str):
    name = "low_more" if file.endswith("more.py") else "low___init__"
    above = upward(small(**{name: text}), ["low", "high"])
    assert (file, target) in {(each.file, each.target) for each in above}
    assert {each.file for each in above} == {file}
    assert {each.line for each in above if each.target == target} <= set(range(1, text.count("\n") + 2))


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("from pack.low import word", {"pack.low"}),
        ("from pack.low import words", {"pack.low.words"}),
        ("from ..low import more", {"pack.low.more"}),
        ("from pack import word", {"pack.low.words"}),
        ("import pack\npack.word", {"pack", "pack.low.words"}),
        ("import pack.low.words\npack.low.words.word.real", {"pack.low.words"}),
        ("from . import tools", {"pack.high.tools"}),
        ("import importlib\nimportlib.import_module('pack.low')", {"pack.low"}),
    ],
)
def test_imports_from_below_and_beside_are_lawful(text: str, targets: set[str]):
    found = small(high_more=text)
    assert {each.target for each in found if each.file == "pack/high/more.py"} == targets
    assert upward(found, ["low", "high"]) == []
    assert circles(found) == []


@pytest.mark.parametrize(
    "text",
    [
        "import json.tool",
        "from os import path",
        "from . import words",
        "import importlib\nimportlib.import_module('os')",
    ],
)
def test_imports_from_elsewhere_and_from_one_folder_are_lawful(text: str):
    assert upward(small(low_more=text), ["low", "high"]) == []
    assert circles(small(low_more=text)) == []


@pytest.mark.parametrize("text", ["from pack.high import work", "import pack\npack.high.work.job"])
def test_a_folder_without_an_init_file_is_a_package_too(text: str):
    found = imports({"pack/__init__.py": "", "pack/low.py": text, "pack/high/work.py": ""})
    assert {each.target for each in upward(found, ["low", "high"])} == {"pack.high.work"}


def test_a_table_of_lazy_names_counts_however_it_is_used():
    table = "HOMES = {'job': 'work'}\ndef __getattr__(name): return getattr(load('pack.high.' + HOMES[name]), name)"
    found = small(high___init__=table, low_more="from pack.high import job")
    assert [each.target for each in found if each.file == "pack/high/__init__.py"] == ["pack.high.work"]
    assert [each.target for each in upward(found, ["low", "high"])] == ["pack.high.work"]


TYPES_ALONE = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pack.low.more import thing"


@pytest.mark.parametrize(
    ("files", "circle"),
    [
        ({"low_words": "from pack.low import more", "low_more": "import pack.low.words"}, ("more", "words")),
        ({"low_words": "def f():\n    from . import more", "low_more": "from .words import word"}, ("more", "words")),
        ({"low_words": TYPES_ALONE, "low_more": "from pack.low import words"}, ("more", "words")),
        ({"low_words": "from pack.low import word"}, ("", "words")),
        ({"low_words": "from pack import __version__"}, None),
        (
            {"low_words": "from . import more", "low_more": "from . import end", "low_end": "from . import words"},
            ("end", "words", "more"),
        ),
    ],
    ids=["two", "in a function", "for types", "with its own package", "with the whole package", "three"],
)
def test_a_circle_is_seen(files: dict[str, str], circle: tuple[str, ...] | None):
    expected = tuple(f"pack.low.{name}".rstrip(".") for name in circle) if circle else ("pack", "pack.low.words")
    assert circles(small(**files)) == [expected]


def test_each_group_of_circles_is_told_once_by_a_shortest():
    two = small(low_words="from . import more", low_more="from . import words, end", low_end="from . import words")
    assert circles(two) == [("pack.low.more", "pack.low.words")]
    apart = small(low_words="from . import more", low_more="from . import words", high_tools="from pack import job")
    assert circles(apart) == [("pack.low.more", "pack.low.words")]
    both = small(
        low_words="from . import more",
        low_more="from . import words",
        high_tools="from pack import job",
        high_work="from . import tools",
    )
    assert circles(both) == [("pack.high.tools", "pack.high.work"), ("pack.low.more", "pack.low.words")]


def test_a_name_of_the_package_is_not_its_submodule_of_that_name():
    package = {"pack/__init__.py": "", "pack/run/__init__.py": "from pack.run.run import run", "pack/run/run.py": ""}
    (taken,) = [
        each for each in imports(package | {"pack/a.py": "from pack.run import run"}) if each.source == "pack.a"
    ]
    assert taken.target == "pack.run"
    package["pack/run/__init__.py"] = "from pack.run import run"
    (taken,) = [
        each for each in imports(package | {"pack/a.py": "from pack.run import run"}) if each.source == "pack.a"
    ]
    assert taken.target == "pack.run.run"


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("layers", "heavy"),
    [
        (LAYERS[: LAYERS.index("models")], {"torch", "transformers", "datasets", "accelerate"}),
        (["data"], {"matplotlib", "pandas", "PIL"}),
    ],
    ids=["below models", "data"],
)
def test_importing_every_module_loads_nothing_heavy(layers: list[str], heavy: set[str]):
    names = [name for name in map(module_of, map(file_of, FILES)) if name.partition(".")[2].split(".")[0] in layers]
    assert "prefmerge.data.hub" in names
    code = f"import importlib, sys\nfor name in {names}: importlib.import_module(name)\nprint(*sys.modules)"
    assert not heavy & set(python(code).split())


def test_importing_the_package_loads_nothing_heavy():
    loaded = python("import sys, prefmerge, prefmerge.cli; print(*sorted(sys.modules))").split()
    assert not {"numpy", "numba", "pydantic", "torch", "transformers", "matplotlib"} & set(loaded)


def test_merging_safetensors_needs_no_torch(tmp_path: Path):
    python(
        f"""
        import sys
        for name in ("torch", "transformers", "matplotlib", "sklearn", "scipy"):
            sys.modules[name] = None  # an import of it fails, as where it is not installed
        import numpy as np
        from safetensors.numpy import save_file
        import prefmerge
        rng = np.random.default_rng(0)
        for name in ("base", "a", "b"):
            save_file({{"w": rng.standard_normal((8, 8)).astype(np.float32)}}, r"{tmp_path}/" + name + ".safetensors")
        from prefmerge.cli import main
        sys.argv = ["prefmerge", "merge", r"{tmp_path}/base.safetensors", r"{tmp_path}/a.safetensors",
                    r"{tmp_path}/b.safetensors", "-o", r"{tmp_path}/out", "--prefer", "0.8,0.2"]
        try:
            main()
        except SystemExit as done:
            assert not done.code, done.code
        assert prefmerge.verify(r"{tmp_path}/out")
        try:
            prefmerge.open_checkpoint(r"{tmp_path}/x.pt")
        except prefmerge.PrefmergeError:
            pass
        """
    )
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert (tmp_path / "out" / "receipt.json").is_file()
