"""What `import prefmerge` gives: every name is shown, documented and loaded when it is first used."""

from __future__ import annotations

import inspect
import pydoc
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import prefmerge
from prefmerge.analysis import Inventory, Measured, Ownership
from prefmerge.errors import UsageError

NAMES = [name for name in prefmerge.__all__ if name != "__version__"]
CALLS = [name for name in NAMES if name.islower()]
NEEDS_TORCH = {"adapt", "check", "evaluate", "finetune", "search"}


def test_dir_shows_every_name_before_it_is_used() -> None:
    code = "import sys, prefmerge; print(*dir(prefmerge)); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    shown, loaded = (line.split() for line in done.stdout.splitlines())
    assert set(prefmerge.__all__) <= set(shown)
    heavy = {"numpy", "numba", "pydantic", "torch", "transformers", "matplotlib", "typer", "yaml"}
    assert not heavy & set(loaded)
    assert {name for name in loaded if name.startswith("prefmerge")} == {"prefmerge", "prefmerge.version"}


def test_a_name_that_there_is_not() -> None:
    with pytest.raises(AttributeError, match="module 'prefmerge' has no attribute 'mergge'"):
        prefmerge.__getattr__("mergge")


@pytest.mark.parametrize("name", NAMES)
def test_help_says_what_it_is(name: str) -> None:
    one = getattr(prefmerge, name)
    assert inspect.getdoc(one)
    text = pydoc.plain(pydoc.render_doc(one))
    assert name in text or one.__name__ in text


@pytest.mark.parametrize("name", CALLS)
def test_a_function_has_an_example_and_a_signature_without_gaps(name: str) -> None:
    one = getattr(prefmerge, name)
    assert re.search(rf"^ {{4}}.*prefmerge\.{name}\(", inspect.getdoc(one) or "", re.MULTILINE), inspect.getdoc(one)
    parameters = inspect.signature(one).parameters.values()
    assert not [each.name for each in parameters if each.kind in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
    assert all(each.annotation is not each.empty for each in parameters)


def test_what_needs_no_torch_comes_without_it() -> None:
    names = [name for name in NAMES if name not in NEEDS_TORCH]
    code = f"import sys; sys.modules['torch'] = None; import prefmerge; [getattr(prefmerge, n) for n in {names}]"
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


@pytest.fixture
def checkpoints(tmp_path: Path) -> list[Path]:
    for name, value in (("base", 0.0), ("cars", 1.0), ("birds", -2.0)):
        save_file({"w": np.full((2, 3), value, np.float32)}, tmp_path / f"{name}.safetensors")
    return [tmp_path / f"{name}.safetensors" for name in ("base", "cars", "birds")]


def test_inspect_looks_at_one_model_or_at_task_vectors(checkpoints: list[Path], tmp_path: Path) -> None:
    prefmerge.merge(checkpoints[0], checkpoints[1:], tmp_path / "out.safetensors", method="magmax")
    merged = prefmerge.inspect(tmp_path / "out.safetensors")
    assert isinstance(merged, Ownership)
    assert merged.total.owned == (0, 6)
    assert isinstance(prefmerge.inspect(checkpoints[0], by="tensor"), Inventory)
    measured = prefmerge.inspect(checkpoints[0], checkpoints[1:], names=["a", "b"])
    assert isinstance(measured, Measured)
    assert measured.tasks == ("a", "b")


def test_inspect_refuses_arguments_of_the_other_case(checkpoints: list[Path]) -> None:
    with pytest.raises(UsageError, match=r"are for task vectors\. Give tasks too"):
        prefmerge.inspect(checkpoints[0], label="x")  # pyright: ignore[reportCallIssue]
    with pytest.raises(UsageError, match="by is for one model"):
        prefmerge.inspect(checkpoints[0], checkpoints[1:], by="tensor")  # pyright: ignore[reportCallIssue]


def test_prefer_from_labels(checkpoints: list[Path], tmp_path: Path) -> None:
    (tmp_path / "seen.txt").write_text("taxi\ntaxi\ntaxi\nwren\n")
    (tmp_path / "tasks.json").write_text('{"cars": {"taxi": 5}, "birds": {"wren": 5}}')
    given = {"checkpoints": checkpoints, "task_labels": tmp_path / "tasks.json"}
    chosen = prefmerge.prefer(labels=tmp_path / "seen.txt", draws=0, **given)
    assert chosen.shares.tolist() == [0.75, 0.25]
    assert chosen.low is None
    sure = prefmerge.prefer(labels=str(tmp_path / "seen.txt"), **given)
    assert sure.low is not None
    assert sure.shares.tolist() == [0.75, 0.25]


def test_prefer_with_nothing_gives_all_tasks_the_same(checkpoints: list[Path]) -> None:
    assert prefmerge.prefer(checkpoints=checkpoints).shares.tolist() == [0.5, 0.5]


def test_prefer_from_embeddings(tmp_path: Path) -> None:
    near, far = np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32)[:, ::-1] + 1
    np.savez(tmp_path / "tasks.npz", cars=near, birds=far)
    np.savez(tmp_path / "seen.npz", cars=near, birds=near)
    given = {"inputs": tmp_path / "seen.npz", "task_samples": [tmp_path / "tasks.npz"], "draws": 0}
    chosen = prefmerge.prefer(similarity="mmd", gamma=1.0, **given)
    assert chosen.shares[0] > chosen.shares[1]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"labels": "a", "pairs": "b"}, "--labels and --pairs: give one of them."),
        ({"run": "r", "checkpoints": ["a"]}, "--run r already says which checkpoints to take"),
        ({"labels": "a", "gamma": 2}, "--gamma has no use with --labels."),
        ({"inputs": "a", "similarity": "mmd", "solver": "exact"}, "--solver has no use with --similarity mmd."),
        ({"draws": 3}, "--draws has no use without --labels, --inputs or --pairs."),
        ({"labels": "a", "level": 1}, "--level 1: expected a number between 0 and 1"),
        ({}, "nothing to go by."),
    ],
)
def test_prefer_refuses_what_makes_no_sense(given: dict[str, object], problem: str) -> None:
    with pytest.raises(UsageError, match=re.escape(problem)):
        prefmerge.prefer(**given)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"max_memory": 0}, "memory '0' must be positive."),
        ({"max_memory": None}, "memory None is not a size"),
        ({"threads": 0}, "threads is 0; expected at least 1."),
        ({"names": "ab"}, "names is one name, 'ab'; give a list of names, one for each task."),
        ({"tasks": "cars"}, "tasks is one path, 'cars'; give a list of paths, one for each task."),
    ],
)
def test_merge_refuses_what_makes_no_sense(given: dict[str, object], problem: str, tmp_path: Path) -> None:
    asked = {"base": "base", "tasks": ["cars", "birds"], "out": tmp_path / "out", **given}
    with pytest.raises(UsageError, match=re.escape(problem)):
        prefmerge.merge(**asked)  # pyright: ignore[reportArgumentType, reportCallIssue]
