"""A sweep: each model is what merge makes, and what is there already is kept only where it is the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from prefmerge import Receipt, merge
from prefmerge.errors import MethodError, OutputExists, PreferenceError, UsageError
from prefmerge.merging import sweep as work
from prefmerge.merging.api import recipe_of
from prefmerge.merging.sweep import combinations, sweep
from tests.merging.test_candidates import files

VARY = {"method": ["ties", "magmax"], "scale": ["0.5", "1"], "density": ["0.2", "0.5"]}
NAMES = [
    "method-ties_scale-0.5_density-0.2",
    "method-ties_scale-0.5_density-0.5",
    "method-ties_scale-1_density-0.2",
    "method-ties_scale-1_density-0.5",
    "method-magmax_scale-0.5",
    "method-magmax_scale-1",
]


def test_each_model_is_what_merge_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(work, "TOGETHER", 4)
    base, tasks = files(tmp_path)
    models = sweep(recipe_of(base, tasks), tmp_path / "swept", VARY)
    assert [one.combination.name for one in models] == NAMES
    assert not any(one.kept for one in models)
    for one in models:
        alone = merge(base, tasks, tmp_path / "alone.safetensors", force=True, **one.combination.varied)  # pyright: ignore
        assert one.out.read_bytes() == (tmp_path / "alone.safetensors").read_bytes()
        assert Receipt.load(f"{one.out}.receipt.json").fingerprint == alone.fingerprint
    rows = json.loads((tmp_path / "swept" / "sweep.json").read_text())["models"]
    assert [row["name"] for row in rows] == NAMES
    assert rows[4]["varied"] == {"method": "magmax", "scale": "0.5"}


def test_what_is_the_same_is_kept_and_the_rest_is_made(tmp_path: Path):
    base, tasks = files(tmp_path)
    recipe, out = recipe_of(base, tasks), tmp_path / "swept"
    first = sweep(recipe, out, {"scale": ["0.5", "1"]})
    times = [one.out.stat().st_mtime_ns for one in first]
    with pytest.raises(OutputExists, match=r"scale-0\.5\.safetensors: already exists; --resume keeps what"):
        sweep(recipe, out, {"scale": ["0.5", "2"]})
    first[1].out.unlink()
    more = sweep(recipe, out, {"scale": ["0.5", "2"]}, resume=True)
    assert [one.kept for one in more] == [True, False]
    assert first[0].out.stat().st_mtime_ns == times[0]
    with pytest.raises(OutputExists, match=r"scale-0\.5\.safetensors: was made otherwise\."):
        sweep(recipe_of(base, tasks, seed=1), out, {"scale": ["0.5"]}, resume=True)
    changed = load_file(tasks[0])
    changed["deep.weight"] = changed["deep.weight"] + np.float32(1)
    save_file(changed, tasks[0])
    with pytest.raises(OutputExists, match="was made otherwise"):
        sweep(recipe, out, {"scale": ["0.5"]}, resume=True)
    again = sweep(recipe, out, {"scale": ["0.5"]}, resume=True, force=True)
    assert [one.kept for one in again] == [False]


def test_folders_are_swept_into_folders(tmp_path: Path):
    base, tasks = files(tmp_path)
    for path in (base, *tasks):
        folder = tmp_path / path.stem
        folder.mkdir()
        path.rename(folder / "model.safetensors")
    (tmp_path / "base" / "config.json").write_text("{}")
    recipe = recipe_of(tmp_path / "base", [tmp_path / one.stem for one in tasks])
    (model,) = sweep(recipe, tmp_path / "swept", {"preference": ["alpha:2"]})
    assert model.out == tmp_path / "swept" / "preference-alpha-2"
    assert (model.out / "config.json").exists()
    assert sweep(recipe, tmp_path / "swept", {"preference": ["alpha:2"]}, resume=True)[0].kept


@pytest.mark.parametrize(
    ("vary", "error", "message"),
    [
        ({}, UsageError, "nothing to vary: give --vary NAME=ONE|ANOTHER"),
        ({"scael": ["1"]}, UsageError, "--vary: 'scael' is not a parameter of a recipe. Did you mean 'scale'?"),
        ({"scale": []}, UsageError, "--vary scale: give values, such as scale=ONE|ANOTHER."),
        ({"scale": ["fast"]}, MethodError, "scale: expected a finite number, found 'fast'."),
        ({"preference": ["1,2", "1, 2", "1-2"]}, PreferenceError, "preference"),
        (
            {"seed": [str(i) for i in range(1001)]},
            UsageError,
            "--vary asks for 1001 models; a sweep makes 1000",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(vary: dict[str, list[str]], error: type[Exception], message: str):
    with pytest.raises(error, match=re.escape(message)):
        combinations(recipe_of("base", ["cars", "birds"]), vary)


def test_two_ways_to_write_one_value_are_one_model():
    made = combinations(recipe_of("base", ["cars", "birds"]), {"scale": ["1", "1.0", "0.5"], "seed": ["1", "2"]})
    assert [one.name for one in made] == [f"scale-{scale}_seed-{seed}" for scale in ("1", "0.5") for seed in (1, 2)]


def test_rows_of_earlier_sweeps_stay_while_their_models_do(tmp_path: Path):
    base, tasks = files(tmp_path)
    recipe, out = recipe_of(base, tasks), tmp_path / "swept"

    def names() -> list[str]:
        return [row["name"] for row in json.loads((out / "sweep.json").read_text())["models"]]

    sweep(recipe, out, {"scale": ["0.5", "1", "2"]})
    before = json.loads((out / "sweep.json").read_text())["models"]
    (out / "scale-1.safetensors").unlink()
    sweep(recipe, out, {"method": ["magmax"]})
    assert names() == ["scale-0.5", "scale-2", "method-magmax"]
    assert json.loads((out / "sweep.json").read_text())["models"][:2] == [before[0], before[2]]
    sweep(recipe, out, {"scale": ["2"]}, resume=True)
    assert names() == ["scale-0.5", "method-magmax", "scale-2"]
    table = json.loads((out / "sweep.json").read_text())
    table["models"] += [{"name": "../base"}, {"name": 3}, "x"]
    (out / "sweep.json").write_text(json.dumps(table))
    sweep(recipe, out, {"scale": ["2"]}, resume=True)
    assert names() == ["scale-0.5", "method-magmax", "scale-2"]
    (out / "sweep.json").write_text("{")
    sweep(recipe, out, {"scale": ["2"]}, resume=True)
    assert names() == ["scale-2"]
