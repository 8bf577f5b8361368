"""What a merged model keeps, measured after the merge: the same as while merging, from the inputs or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

import prefmerge
from prefmerge.analysis import Ownership
from prefmerge.cli import app
from prefmerge.errors import CheckpointNotFound, UsageError, VerificationFailed
from tests.report.pages import lawful

TASKS = ("cars", "birds", "digits")
SHAPES = {
    "embed.w": (30, 5),
    "layers.0.w": (8, 6),
    "layers.1.w": (260, 300),
    "still": (4,),
    "one": (),
}  # 78,000 > CHUNK
HOW: dict[str, dict[str, Any]] = {
    "default": {"preference": "0.6,0.3,0.1"},
    "whole": {"preference": "0.6,0.3,0.1", "scope": "model", "selection": "paper"},
    "magmax": {"method": "magmax", "dtype": "bfloat16"},
    "ties": {"method": "ties"},
    "increments": {"method": "increments", "sequential": True, "boost": 1},
    "vector": {"method": "magmax", "as_task_vector": True},
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("inputs"), np.random.default_rng(0)
    base = {name: np.asarray(rng.standard_normal(shape), np.float32) for name, shape in SHAPES.items()}
    ids = np.arange(70_000, dtype=np.int32)  # copied, and longer than a block
    states = {"base": base}
    for t, task in enumerate(TASKS):
        states[task] = {
            name: value if name == "still" else np.asarray(value + rng.normal(0, 1 + t, value.shape), np.float32)
            for name, value in base.items()
        }
    for name, state in states.items():
        (folder / name).mkdir()
        save_file({**state, "ids": ids}, folder / name / "model.safetensors")
    return folder


def merged(inputs: Path, out: Path, **how: Any) -> prefmerge.Receipt:
    return prefmerge.merge(inputs / "base", [inputs / task for task in TASKS], out, **how)


def call(*words: object) -> Any:
    done = CliRunner().invoke(app, [str(word) for word in words], prog_name="prefmerge")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


@pytest.mark.parametrize("case", HOW)
def test_it_is_what_a_report_of_the_merge_says(inputs: Path, tmp_path: Path, case: str) -> None:
    out = tmp_path / ("vector.safetensors" if case == "vector" else "out")
    merged(inputs, out, report=tmp_path / "then.html", **HOW[case])
    before = sorted(tmp_path.rglob("*"))
    found = prefmerge.inspect(out, with_inputs=True, threads=2, report=tmp_path / "now.html")
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "now.html"])
    assert (tmp_path / "now.html").read_text() == (tmp_path / "then.html").read_text()
    assert isinstance(found, Ownership)
    assert found.total.kept is not None
    kept = [row.kept for row in found.rows if row.kept is not None]
    assert sum(one.kept for one in kept) == pytest.approx(found.total.kept.kept)
    assert [row.name for row in found.rows if row.kept is None] == ["ids", "still"]
    assert found.formats == ("float32, int32",) * 4


def test_a_row_for_each_tensor(inputs: Path, tmp_path: Path) -> None:
    merged(inputs, tmp_path / "out", **HOW["default"])
    file = tmp_path / "page.html"
    done = call("inspect", tmp_path / "out", "--with-inputs", "--by", "tensor", "--report", file, "--json")
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert "kept" not in rows["still"]
    kept = rows["layers.1.w"]["kept"]
    assert sum(kept["by_task"]) == pytest.approx(kept["kept"])
    page = lawful(file.read_text())
    assert page.row("layers.1.w")[1] == f"{100 * kept['kept'] / kept['most']:.1f} %"
    assert "What each tensor keeps" in page.shown


def test_the_table_has_it_where_it_was_asked_for(inputs: Path, tmp_path: Path) -> None:
    for name, how in (("owned", HOW["default"]), ("blend", HOW["ties"])):
        merged(inputs, tmp_path / name, **how)
        plain = call("inspect", tmp_path / name)
        assert "What each layer keeps of the changes is not in a receipt. --with-inputs measures it." in plain.stdout
        done = call("inspect", tmp_path / name, "--with-inputs")
        found = prefmerge.inspect(tmp_path / name, with_inputs=True)
        assert isinstance(found, Ownership)
        row = next(line.split() for line in done.stdout.splitlines() if line.startswith("block 1"))
        kept = next(row.kept for row in found.rows if row.name == "block 1")
        assert kept is not None
        assert kept.share is not None
        assert row[4:6] == [f"{100 * kept.share:.1f}", "%"]
        assert "The whole model keeps" in done.stdout


def test_what_was_added_is_no_part_of_the_changes(inputs: Path, tmp_path: Path) -> None:
    from prefmerge.merging import api

    added = {"layers.0.w": np.full(48, 3, np.float32)}
    recipe = api.recipe_of(inputs / "base", [inputs / task for task in TASKS], method="magmax")
    api.run(recipe, tmp_path / "out", added=added)
    found = prefmerge.inspect(tmp_path / "out", with_inputs=True)
    assert isinstance(found, Ownership)
    assert found.total.kept is not None
    assert found.total.kept.share == pytest.approx(1)


def test_inputs_that_are_gone_or_changed(inputs: Path, tmp_path: Path) -> None:
    own = tmp_path / "inputs"
    for name in ("base", *TASKS):
        (own / name).mkdir(parents=True)
        (own / name / "model.safetensors").write_bytes((inputs / name / "model.safetensors").read_bytes())
    merged(own, tmp_path / "out", method="magmax")
    (own / "cars" / "model.safetensors").write_bytes((own / "birds" / "model.safetensors").read_bytes())
    with pytest.raises(VerificationFailed, match=r"gives other elements, fingerprint .*`prefmerge verify OUT --with-i"):
        prefmerge.inspect(tmp_path / "out", with_inputs=True)
    (own / "cars" / "model.safetensors").unlink()
    (own / "cars").rmdir()
    refused = call("inspect", tmp_path / "out", "--with-inputs", "--report", tmp_path / "page.html")
    assert refused.exit_code == 1
    assert "inputs are no longer where they were: " in refused.stderr
    assert "leave out --with-inputs" in refused.stderr
    assert not (tmp_path / "page.html").exists()
    with pytest.raises(CheckpointNotFound):
        prefmerge.inspect(tmp_path / "out", with_inputs=True)
    assert isinstance(prefmerge.inspect(tmp_path / "out"), Ownership)


def test_what_cannot_be_asked(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"base has no receipt, so it is not known what it was merged from"):
        prefmerge.inspect(inputs / "base", with_inputs=True)
    with pytest.raises(UsageError, match="with_inputs is for a merged model"):
        prefmerge.inspect(inputs / "base", [inputs / "cars"], with_inputs=True)  # pyright: ignore[reportCallIssue]
    refused = call("inspect", inputs / "base", inputs / "cars", "--with-inputs")
    assert (refused.exit_code, "--with-inputs is for one merged model" in refused.stderr) == (2, True)
