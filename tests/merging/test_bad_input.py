"""What bad input gets: one message that names file and tensor and says what to do, and nothing at the target."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from prefmerge import PrefmergeError, merge
from tests.methods.problems import state_dicts


@dataclass
class Case:
    base: Path
    tasks: list[Path]
    out: Path
    options: dict


Breakage = Callable[[Case], object]


def change(path: Path, **tensors: np.ndarray | None) -> None:
    state = load_file(path)
    for name, value in tensors.items():
        if value is None:
            del state[name.replace("__", ".")]
        else:
            state[name.replace("__", ".")] = value
    save_file(state, path)


def lie_about_offsets(path: Path) -> None:
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    header["deep.weight"]["data_offsets"][1] += 4
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def pickled_code(case: Case) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple:
            return (print, ("run",))

    case.tasks[1] = case.out.parent / "birds.pt"
    case.tasks[1].write_bytes(pickle.dumps({"deep.weight": Evil()}))


def index_that_leaves(case: Case) -> None:
    folder = case.out.parent / "folder"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "../base.safetensors"}}))
    case.tasks[1] = folder


def with_nan(value: float) -> np.ndarray:
    values = np.zeros(29, np.float32)
    values[7] = value
    return values


BREAKAGES: dict[str, tuple[Breakage, str]] = {
    "missing tensor": (
        lambda c: change(c.tasks[1], deep__weight=None),
        r"task 'birds' \(birds.safetensors\) lacks 1 of the base's tensors: 'deep.weight'.*--exclude 'deep.weight'",
    ),
    "extra tensor": (
        lambda c: change(c.tasks[1], head=np.ones(3, np.float32)),
        r"task 'birds' \(birds.safetensors\) has 1 tensors that the base lacks: 'head'.*--exclude 'head'",
    ),
    "many missing": (
        lambda c: change(c.base, **{f"x{i}": np.ones(1, np.float32) for i in range(9)}),
        r"lacks 9 of the base's tensors: 'x0', 'x1', 'x2', 'x3', 'x4' and 4 more",
    ),
    "another shape": (
        lambda c: change(c.tasks[1], deep__bias=np.zeros(30, np.float32)),
        r"task 'birds' \(birds.safetensors\): tensor 'deep.bias' has shape \(30,\), the base has \(29,\)",
    ),
    "another dtype family": (
        lambda c: change(c.tasks[1], deep__bias=np.zeros(29, np.int64)),
        r"task 'birds' \(birds.safetensors\): tensor 'deep.bias' is int64, the base has float32",
    ),
    "truncated": (lambda c: c.tasks[1].write_bytes(c.tasks[1].read_bytes()[:-10]), "birds.safetensors"),
    "empty file": (lambda c: c.tasks[1].write_bytes(b""), "birds.safetensors"),
    "no header": (lambda c: c.tasks[1].write_bytes(b"\xff" * 100), "birds.safetensors"),
    "offsets that lie": (lambda c: lie_about_offsets(c.tasks[1]), r"birds.safetensors.*deep.weight"),
    "NaN in a task": (
        lambda c: change(c.tasks[1], deep__bias=with_nan(np.nan)),
        r"task 'birds' \(birds.safetensors\): tensor 'deep.bias' holds nan at element 7.*--exclude",
    ),
    "infinity in the base": (
        lambda c: change(c.base, deep__bias=with_nan(np.inf)),
        r"base \(base.safetensors\): tensor 'deep.bias' holds inf at element 7",
    ),
    "short preference": (
        lambda c: c.options.update(preference="0.5,0.5"),
        "has 2 shares, but there are 3 tasks: cars, birds, digits",
    ),
    "negative preference": (
        lambda c: c.options.update(preference="0.5,-0.5,1"),
        "share 2 is -0.5; shares cannot be negative",
    ),
    "zero preference": (lambda c: c.options.update(preference="0,0,0"), "every share is zero"),
    "NaN preference": (lambda c: c.options.update(preference="nan,1,1"), "share 1: expected a finite number"),
    "unknown task": (lambda c: c.options.update(preference="bird=1"), "names 'bird'.*Did you mean 'birds'"),
    "no task": (lambda c: c.tasks.clear(), "no task given"),
    "too many tasks": (
        lambda c: (
            c.options.update(selection="paper"),
            c.tasks.extend(Path(shutil.copy(c.tasks[0], c.out.parent / f"t{i}.safetensors")) for i in range(62)),
        ),
        "65 tasks compete, but selection 'paper' holds at most 64",
    ),
    "the same file twice": (lambda c: c.tasks.append(c.tasks[0]), "task 4 is .*cars.safetensors, which is task 1 too"),
    "the base as a task": (lambda c: c.tasks.append(c.base), "task 4 is .*base.safetensors, which is the base too"),
    "two tasks of one name": (
        lambda c: c.options.update(names=["cars", "cars", "digits"]),
        "two tasks are called 'cars'",
    ),
    "output is an input": (lambda c: setattr(c, "out", c.tasks[1]), "would overwrite task 'birds'"),
    "output exists": (lambda c: c.out.write_bytes(b"mine"), "already exists.*--force"),
    "nothing there": (lambda c: c.tasks[1].unlink(), "birds.safetensors"),
    "unsafe pickle": (pickled_code, "birds.pt"),
    "index that leaves its folder": (index_that_leaves, r"\.\./base.safetensors"),
    "exclude that matches nothing": (
        lambda c: c.options.update(exclude=["heads.*"]),
        "--exclude 'heads.\\*' matches no tensor",
    ),
    "independent run": (
        lambda c: (
            (c.base.parent / "run.json").write_text(
                json.dumps(
                    {
                        "format": "prefmerge-run/1",
                        "training": "independent",
                        "base": c.base.name,
                        "tasks": [{"name": t.stem, "file": t.name} for t in c.tasks],
                    }
                )
            ),
            c.options.update(importance="step"),
        ),
        "were fine-tuned independently. Use --importance magnitude",
    ),
}


@pytest.fixture
def case(tmp_path: Path) -> Case:
    base, tasks = state_dicts(3)
    save_file(base, tmp_path / "base.safetensors")
    paths = [tmp_path / f"{name}.safetensors" for name in ("cars", "birds", "digits")]
    for path, task in zip(paths, tasks, strict=True):
        save_file(task, path)
    return Case(tmp_path / "base.safetensors", paths, tmp_path / "out.safetensors", {})


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(("breakage", "message"), BREAKAGES.values(), ids=list(BREAKAGES))
def test_one_message_and_nothing_written(case: Case, breakage: Breakage, message: str):
    if "birds.pt" in message:
        pytest.importorskip("torch", reason="reading a pickle needs the torch extra")
    breakage(case)
    before = snapshot(case.base.parent)
    with pytest.raises(PrefmergeError, match=f"(?s){message}") as error:
        merge(case.base, case.tasks, case.out, **case.options)
    assert error.value.exit_code == 1
    assert "\n" not in str(error.value) or "pt" in message  # one message; the pickle's shows a line of code to run
    assert snapshot(case.base.parent) == before


def test_no_space(case: Case, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))  # type: ignore[attr-defined]
    before = snapshot(case.base.parent)
    with pytest.raises(PrefmergeError, match=r"out.safetensors: needs \d+ bytes"):
        merge(case.base, case.tasks, case.out)
    assert snapshot(case.base.parent) == before
