"""A parameter is declared once, and everything that users see of it is made from that."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from prefmerge.errors import MethodError
from prefmerge.merging.parameters import METHOD, every
from prefmerge.methods import METHODS, register
from prefmerge.methods.parameters import SCALE, SEED
from prefmerge.methods.tunable import TunableMagmax

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "prefmerge"

SCRIPT = """
import contextlib, io, json, sys
from pathlib import Path
import tests.methods.slope  # the one file
from prefmerge.cli import main

def call(*words):
    sys.argv = ["prefmerge", *words]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as done:
            return [done.code or 0, out.getvalue(), err.getvalue()]

told = {"help": call("merge", "--help"), "plan_help": call("plan", "--help")}
told["heavy"] = [name for name in ("numpy", "numba") if name in sys.modules]
models = ["base.safetensors", "cars.safetensors", "birds.safetensors"]
told["merged"] = call("merge", *models, "-o", "out", "--method", "slope", "--tilt", "1/2", "--first-task", "2")
told["wrong"] = call("plan", *models, "--method", "slope", "--first-task", "0")
told["ignored"] = call("plan", *models, "--method", "last", "--tilt", "2")
told["plan"] = call("plan", "recipe.yaml", "--json")
from prefmerge.target.search.space import Space
from prefmerge.preference import Preference
space = Space.parse("tilt,scale,method=slope")
told["dimensions"] = space.dimensions(2)
first = Preference.uniform()
told["settings"] = {k: str(v) for k, v in space.settings({"tilt": 0.7491, "scale": 0.5}, ["a", "b"], first).items()}
told["page"] = __import__("prefmerge.cli.listing", fromlist=["page"]).page()
from prefmerge.merging.recipe import Recipe
receipt = json.loads(Path("out/receipt.json").read_text())
again = Recipe.from_settings(receipt["recipe"], base="b", tasks=["c", "d"])
told["again"] = again.settings() == receipt["recipe"]
import prefmerge
states = ["base.safetensors", ["cars.safetensors", "birds.safetensors"]]
given = {"tilt": "1/2", "first_task": 2}
prefmerge.merge(*states, "named.safetensors", method="slope", parameters=given)
prefmerge.merge(*states, "by-keyword.safetensors", method="slope", **given)
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slope")
    for name, value in (("base", 1.0), ("cars", 3.0), ("birds", 5.0)):
        save_file({"w": np.full((2, 3), value, np.float32)}, folder / f"{name}.safetensors")
    (folder / "recipe.yaml").write_text(
        "merge_method: slope\nbase_model: base.safetensors\nmodels:\n- model: cars.safetensors\n"
        "- model: birds.safetensors\nparameters: {tilt: 2, lambda: 3}\n",
        encoding="utf-8",
    )
    return folder


@pytest.fixture(scope="module")
def told(folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = [{str(ROOT)!r}]\n{SCRIPT}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_method_in_one_file_has_its_flags_and_help(told: dict[str, Any]) -> None:
    for name in ("help", "plan_help"):
        text = " ".join(told[name][1].split())
        assert "last or slope." in text
        assert "--tilt X slope: how much more each task weighs. Default 1." in text
        assert "--first-task N slope: the task to begin with. Default 1 (in a recipe file: 2)." in text
        assert "magmax and max-abs, 0.25 for slope, else 1." in text
    assert told["heavy"] == []


def test_its_parameters_decide_the_merge_and_are_in_the_receipt(folder: Path, told: dict[str, Any]) -> None:
    assert told["merged"][0] == 0, told["merged"]
    receipt = json.loads((folder / "out" / "receipt.json").read_text(encoding="utf-8"))
    assert receipt["recipe"] | {"method": "slope", "scale": 0.25, "tilt": "0.5", "first_task": 2} == receipt["recipe"]
    assert list(receipt["recipe"])[-6:] == ["tilt", "first_task", "dtype", "exclude", "as_task_vector", "preference"]
    assert (load_file(folder / "out" / "model.safetensors")["w"] == 1 + 0.25 * 0.5 * 4).all()
    card = (folder / "out" / "README.md").read_text(encoding="utf-8")
    assert "  tilt: 0.5\n  first_task: 2\n" in card
    assert told["again"] is True


def test_its_parameters_are_given_in_python_by_name_or_by_keyword(folder: Path, told: dict[str, Any]) -> None:
    assert told["merged"][0] == 0
    for name in ("named", "by-keyword"):
        assert (load_file(folder / f"{name}.safetensors")["w"] == 1 + 0.25 * 0.5 * 4).all()


def test_its_parameters_are_keys_of_a_recipe_file(told: dict[str, Any]) -> None:
    recipe = json.loads(told["plan"][1])["recipe"]
    assert (recipe["tilt"], recipe["first_task"], recipe["scale"]) == ("2", 2, 3.0)


def test_its_parameters_are_checked(told: dict[str, Any]) -> None:
    assert told["wrong"][0] == 2
    assert "first_task: expected a whole number of at least 1, found 0." in told["wrong"][2]
    assert told["ignored"][0] == 2
    assert "--tilt has no use with method last; it is for slope. Leave it out or" in told["ignored"][2]


def test_its_parameters_are_searched_and_listed(told: dict[str, Any]) -> None:
    assert told["dimensions"] == {"scale": [0.1, 1.5], "tilt": [0.5, 2.0]}
    assert told["settings"] == {"method": "slope", "scale": "0.5", "tilt": "0.7"}
    assert (
        "| `tilt` | `--tilt` | `tilt` | slope: how much more each task weighs. Default 1. | 0.5 to 2 |" in told["page"]
    )


def test_what_others_declare_otherwise_is_refused() -> None:
    class Other(TunableMagmax):
        name = "other"

    other = Other()
    other.parameters = (SCALE, replace(SEED, help="something else"))
    with pytest.raises(MethodError, match="declares the parameter 'seed' in its own way"):
        register(other)
    other.parameters = (SCALE.but(2.0), replace(SEED, default=1))
    with pytest.raises(MethodError, match="declares the parameter 'seed' in its own way"):
        register(other)
    other.parameters = (SEED,)
    with pytest.raises(MethodError, match="'other' declares no scale"):
        register(other)
    assert "other" not in METHODS


# Where a parameter's name is written beside its declaration: as the key of something else, or for what it means.
OTHERWISE = {
    "scale": {"merging/candidates.py"},  # in a message
    "seed": {f"target/search/{name}.py" for name in ("tuning", "by_score", "outcome")},  # of the search
    "importance": {"methods/records.py"},  # a buffer
    "start": {"target/search/trial.py"},  # trials to begin with
    "passes": {"merging/recording.py", "methods/protocol.py"},  # counts of elements
    "dtype": {"merging/configs.py"},  # of a model's config
    "exclude": {
        "merging/recording.py",
        "merging/engine.py",
        "merging/plan.py",
        "cli/show.py",
    },  # what becomes of a tensor
    "as_task_vector": {"merging/candidates.py"},  # another kind of output
}


def parsed(*packages: str) -> list[tuple[str, ast.Module]]:
    return [
        (path.relative_to(SOURCE).as_posix(), ast.parse(path.read_text(encoding="utf-8")))
        for package in packages
        for path in sorted((SOURCE / package).rglob("*.py"))
    ]


def test_a_parameter_has_one_declaration() -> None:
    files = parsed("methods", "merging", "target/search", "cli")
    written: dict[str, set[str]] = {}
    declared: dict[str, list[str]] = {}
    for file, tree in files:
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                written.setdefault(node.value, set()).add(file)
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Parameter":
                declared.setdefault(getattr(node.args[0], "value", ""), []).append(file)
            if isinstance(node, ast.arg) and file == "cli/merging.py":  # a flag that is listed by hand
                written.setdefault(node.arg, set()).add(file)
    for name in (METHOD.name, *every()):
        assert len(declared[name]) == 1, f"{name!r} is declared in {declared[name]}"
        elsewhere = written[name] - {declared[name][0]} - OTHERWISE.get(name, set())
        assert not elsewhere, f"{name!r} is declared in {declared[name][0]}, and written in {elsewhere}"


def test_what_is_excepted_is_there() -> None:
    written = {
        (file, node.value)
        for file, tree in parsed("methods", "merging", "target/search", "cli")
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
    }
    assert all((file, name) in written for name, files in OTHERWISE.items() for file in files)
