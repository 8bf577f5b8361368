"""Outputs that are finished: kept on resuming where merging would make the very same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from prefmerge import merge
from prefmerge.errors import OutputExists
from prefmerge.merging import pieces
from prefmerge.merging.api import recipe_of, run
from prefmerge.merging.recipe_documents import merge_recipes
from prefmerge.merging.sweep import sweep
from tests.field.attacked import call
from tests.merging.test_candidates import files
from tests.merging.test_resuming import Stop, after, left


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece for every tensor, so that what is kept does not depend on the time."""
    monkeypatch.setattr(pieces, "EVERY", 0.0)


def folders(base: Path, tasks: list[Path]) -> tuple[Path, list[Path]]:
    """The same checkpoints as folders, the base's with files beside its weights."""
    places = [path.with_suffix("") for path in (base, *tasks)]
    for path, place in zip((base, *tasks), places, strict=True):
        place.mkdir()
        path.rename(place / "model.safetensors")
    (places[0] / "config.json").write_text('{"torch_dtype": "float32", "_name_or_path": "/home/someone/base"}')
    (places[0] / "tokenizer.json").write_text("{}")
    return places[0], places[1:]


@pytest.mark.parametrize("given", [{}, {"dtype": "bfloat16"}, {"as_task_vector": True}, {"preference": "1,0"}])
def test_a_finished_output_is_kept(given: dict[str, Any], tmp_path: Path) -> None:
    base, tasks = folders(*files(tmp_path, tasks=2))
    first = merge(base, tasks, tmp_path / "out", resume=True, report=True, max_shard_size=300, **given)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    again = merge(base, tasks, tmp_path / "out", resume=True, max_shard_size=300, **given)
    assert again == first
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    with pytest.raises(OutputExists):
        merge(base, tasks, tmp_path / "out", max_shard_size=300, **given)
    with pytest.raises(OutputExists):
        merge(base, tasks, tmp_path / "out", resume=True, sha256=True, max_shard_size=300, **given)
    with pytest.raises(OutputExists):
        merge(base, tasks[:1], tmp_path / "out", resume=True, max_shard_size=300)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "vocab.txt", None])
def test_an_output_beside_which_a_file_would_be_another_is_not_kept(name: str | None, tmp_path: Path) -> None:
    base, tasks = folders(*files(tmp_path, tasks=2))
    recipe, vary = recipe_of(base, tasks), {"scale": ["0.5"]}
    sweep(recipe, tmp_path / "swept", vary)
    (tmp_path / "swept" / "scale-0.5" / "scores.txt").touch()  # of the user's
    assert sweep(recipe, tmp_path / "swept", vary, resume=True)[0].kept
    config = '{"torch_dtype": "float16", "_name_or_path": "/home/someone/base"}'
    if name is None:
        (base / "tokenizer.json").unlink()
    else:
        (base / name).write_text(config if name == "config.json" else "[]")
    with pytest.raises(OutputExists, match="was made otherwise"):
        sweep(recipe, tmp_path / "swept", vary, resume=True)


def test_an_output_with_other_numbers_added_is_not_kept(tmp_path: Path) -> None:
    base, tasks = files(tmp_path, tasks=2)
    state = load_file(base)
    name = max(state, key=lambda one: state[one].size)
    recipe, out = recipe_of(base, tasks, scale="0.5"), tmp_path / "swept" / "scale-0.5.safetensors"
    added = {name: np.full(state[name].size, 0.1, np.float32)}
    run(recipe, out, added=added)
    with pytest.raises(OutputExists, match="was made otherwise"):
        sweep(recipe, out.parent, {"scale": ["0.5"]}, resume=True)
    with pytest.raises(OutputExists):
        run(recipe, out, resume=True)
    assert run(recipe, out, added=added, resume=True).added is not None
    with pytest.raises(OutputExists):
        run(recipe, out, added={name: added[name] * 2}, resume=True)


def test_over_an_older_output_what_is_finished_stays(tmp_path: Path) -> None:
    base, tasks = files(tmp_path, tasks=2)
    vary = {"scale": ["0.5"]}
    sweep(recipe_of(base, tasks, seed=1), tmp_path / "swept", vary)
    with pytest.raises(Stop), after(2):
        sweep(recipe_of(base, tasks), tmp_path / "swept", vary, resume=True, force=True, threads=1)
    (one,) = sweep(recipe_of(base, tasks), tmp_path / "swept", vary, resume=True, force=True)
    assert (one.kept, one.receipt.run.kept) == (False, 2)
    assert left(one.out) == []


def test_recipes_over_older_outputs_keep_what_is_finished(tmp_path: Path) -> None:
    base, tasks = files(tmp_path, tasks=2)
    models = f"[{{model: {tasks[0].name}, parameters: {{weight: W}}}}]"
    text = f"base_model: {base.name}\nmerge_method: linear\nmodels: {models}\n"
    document, out = tmp_path / "recipes.yaml", tmp_path / "out"
    document.write_text("\n---\n".join(f"name: {name}\n{text}".replace("W", "1") for name in ("one", "two")))
    merge_recipes(document, out)
    document.write_text(document.read_text().replace("weight: 1", "weight: 2"))
    with pytest.raises(Stop), after(2):
        merge_recipes(document, out, resume=True, force=True, threads=1)
    assert merge_recipes(document, out, resume=True, force=True)["one"].run.kept == 2


def test_what_the_command_says_of_a_finished_output(tmp_path: Path) -> None:
    base, tasks = files(tmp_path, tasks=2)
    out = tmp_path / "out.safetensors"
    line = ["merge", base, *tasks, "-o", out, "--resume"]
    call(*line)
    said = call(*line)
    assert (said.code, said.stdout, said.stderr) == (0, f"kept: {out} was made so already.\n", "")
    assert json.loads(call(*line, "--json").stdout) == json.loads(Path(f"{out}.receipt.json").read_text())
    assert call(*line, "--scale", "0.25").code == 1
