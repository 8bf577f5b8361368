"""`--compare`: a model that the user has stands beside the candidates, on the same samples, and is never chosen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

pytest.importorskip("transformers", reason="adapt needs the extra places")
pytest.importorskip("sklearn", reason="adapt needs the extra places")

import torch

from prefmerge.errors import CheckpointMismatch, CheckpointNotFound, UsageError
from prefmerge.models.head_file import FrozenHead
from prefmerge.target.adapt import adapt
from prefmerge.target.compared import NOT_COMPARED, open_compared
from prefmerge.target.source import open_source
from tests.target.classifiers import World, make


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make("text", tmp_path_factory.mktemp("text"))


def test_the_last_checkpoint_under_another_name_has_its_numbers(world: World, tmp_path: Path):
    """As a folder and as a .pt; a third model with noise in its place is worse. An output of adapt has one row."""
    weights = load_file(world.root / "second" / "model.safetensors")
    torch.save({name: torch.from_numpy(tensor.copy()) for name, tensor in weights.items()}, tmp_path / "pickled.pt")
    shutil.copytree(world.root / "second", tmp_path / "folder")
    shutil.copytree(world.root / "second", tmp_path / "adapted")
    (tmp_path / "adapted" / "adapt.json").write_text("{}")
    given = [tmp_path / "folder", tmp_path / "pickled.pt", tmp_path / "adapted"]
    made = adapt(world.asked(compare=given))
    assert made.estimates is not None
    rows = {(row.name, row.how): row.accuracy for row in made.estimates.rows}
    for how in ("as it is", "with the prior", "with a fitted bias"):
        assert rows["folder (yours)", how] == rows["pickled (yours)", how] == rows["last checkpoint", how]
    assert {how for name, how in rows if name == "adapted (yours)"} == {"as it is"}
    assert [note for note in made.notes if note.startswith("adapted (yours) was adapted before.")]
    assert not any("yours" in one.name for one in made.pool)
    assert str(tmp_path) not in json.dumps(made.to_json())
    without = adapt(world.asked())
    assert without.estimates is not None
    assert without.chosen == made.chosen
    assert without.estimates.rows == made.estimates.rows[: len(without.estimates.rows)]


def test_another_architecture_is_refused(world: World, tmp_path: Path):
    weights = load_file(world.root / "second" / "model.safetensors")
    name = next(iter(weights))
    save_file({**weights, name: np.zeros((3, 5), np.float32)}, tmp_path / "shape.safetensors")
    save_file({"w": np.zeros(3, np.float32)}, tmp_path / "names.safetensors")
    with pytest.raises(CheckpointMismatch, match=rf"shape\.safetensors: '{name}' has shape \(3, 5\)"):
        adapt(world.asked(compare=tmp_path / "shape.safetensors"))
    with pytest.raises(CheckpointMismatch, match=r"names\.safetensors: lacks"):
        adapt(world.asked(compare=tmp_path / "names.safetensors"))
    with pytest.raises(CheckpointNotFound, match=r"--compare gone: no such file or folder"):
        adapt(world.asked(compare="gone"))
    with pytest.raises(UsageError, match="have one name"):
        open_compared([world.root / "second", world.root / "second"], open_source(world.asked()))


def test_a_head_beside_a_model_that_answers_by_itself_is_refused(world: World, tmp_path: Path):
    head = FrozenHead(np.zeros((4, 3), np.float32), 1.0, ("ab", "cd", "ef", "gh"), "prototype")
    (tmp_path / "headed").mkdir()
    (tmp_path / "headed" / "head.safetensors").write_bytes(head.to_bytes())
    with pytest.raises(UsageError, match="answers with a head"):
        open_compared([tmp_path / "headed"], open_source(world.asked()))


def test_where_nothing_judges_nothing_is_compared(world: World):
    labels = world.root / "task-labels.json"
    labels.write_text(json.dumps({"first": {"ab": 3, "cd": 3}, "second": {"ef": 3, "gh": 3}}))
    made = adapt(world.asked(task_samples=(), task_labels=labels, compare=world.root / "second"))
    assert NOT_COMPARED in made.notes
