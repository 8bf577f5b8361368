"""What answers for a model's weights, and where a search leaves what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="search on a target needs the extra places")

from prefmerge.data.examples import Examples, concatenated  # noqa: E402  # after the skip
from prefmerge.data.scenarios import Scenario, Task  # noqa: E402
from prefmerge.errors import CheckpointMismatch, OutputExists, RunError  # noqa: E402
from prefmerge.models.evaluation import right_answers  # noqa: E402
from prefmerge.models.features import embed  # noqa: E402
from prefmerge.target.search import SearchFolder, among_of, scorer  # noqa: E402
from tests.models.stubs import ToyEncoder, toy_head, toy_scenario  # noqa: E402


def weights_of(encoder: ToyEncoder) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in encoder.state().items()}


def test_the_answers_are_those_of_the_model_with_the_weights():
    scenario = toy_scenario(test=20)
    samples = concatenated([task.test for task in scenario.tasks])
    head = toy_head(scenario)
    reads: list[int] = []

    def read(at: Any) -> list[Any]:
        reads.append(len(at))
        return samples.read(at)

    watched = Examples(samples.ids, samples.labels, read, samples.fingerprint)
    score = scorer(ToyEncoder(), head, watched, among_of(scenario))
    seen = []
    for seed in (1, 2, 1):
        model = ToyEncoder(seed)
        expected = right_answers(embed(model, samples, batch=32), head, samples.labels, range(6))
        found = score(weights_of(model))
        assert found.dtype == bool
        assert found.tolist() == expected.tolist()
        seen.append(found.tolist())
    assert seen[0] == seen[2] != seen[1]
    assert reads == [len(samples)]  # the inputs are read once
    with pytest.raises(CheckpointMismatch, match="weights for 'third'"):
        score({"third": np.zeros(3, np.float32)})


def test_a_sample_is_named_among_the_classes_of_its_own_data_set():
    plain = toy_scenario(tasks=2, test=10)
    tasks = tuple(Task(one.name, one.classes, one.classes, one.train, one.test) for one in plain.tasks)
    scenario = Scenario("datasets", plain.inputs, plain.classes, tasks)
    among = among_of(scenario)
    assert [tuple(among(label)) for label in range(4)] == [(0, 1), (0, 1), (2, 3), (2, 3)]
    samples, head, model = concatenated([task.test for task in tasks]), toy_head(plain), ToyEncoder(3)
    found = scorer(ToyEncoder(), head, samples, among)(weights_of(model))
    embeddings = embed(model, samples, batch=32)
    expected = [
        right_answers(embeddings[part], head, samples.labels[part], task.among)
        for part, task in zip((slice(0, 20), slice(20, 40)), tasks, strict=True)
    ]
    assert found.tolist() == np.concatenate(expected).tolist()
    assert found.tolist() != right_answers(embeddings, head, samples.labels, range(4)).tolist()


def test_the_output_is_a_folder_or_a_preference_with_a_folder_beside_it(tmp_path: Path):
    assert SearchFolder.of(tmp_path / "found") == SearchFolder(
        tmp_path / "found", tmp_path / "found" / "preference.json"
    )
    assert SearchFolder.of(tmp_path / "my.json") == SearchFolder(tmp_path / "my.search", tmp_path / "my.json")


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputExists) as raised, SearchFolder.of(tmp_path).held(force=True):
        pass
    assert str(raised.value) == f"{tmp_path}: holds something that is not a search. Give a new or empty folder."
    with (
        pytest.raises(OutputExists, match=r"notes\.txt: is a file\. Give a new folder\."),
        SearchFolder.of(tmp_path / "notes.txt").held(force=True),
    ):
        pass
    (tmp_path / "preference.json").write_text("{}")
    with (
        pytest.raises(OutputExists, match=r"preference\.json: exists already\. Give another -o OUT, or --force"),
        SearchFolder.of(tmp_path / "preference.json").held(force=False),
    ):
        pass
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_two_searches_do_not_share_a_folder(tmp_path: Path):
    folder = SearchFolder.of(tmp_path / "found")
    with (
        folder.held(force=False),
        pytest.raises(RunError, match=r"found: another process is at work on this search\. Wait for it\."),
        folder.held(force=True),
    ):
        pass


def test_force_starts_again_and_removes_nothing_else(tmp_path: Path):
    folder = SearchFolder.of(tmp_path / "found")
    with folder.held(force=False):
        for name in ("study.journal", "search.json", "preference.json", "search.png", "notes.txt"):
            (folder.folder / name).write_text("")
    with folder.held(force=False):
        assert len(list(folder.folder.iterdir())) == 5
    with folder.held(force=True):
        assert [path.name for path in folder.folder.iterdir()] == ["notes.txt"]
