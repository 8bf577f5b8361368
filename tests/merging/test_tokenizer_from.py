"""--tokenizer-from: an output has the tokenizer of a task, or a message says why it cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

import prefmerge
from prefmerge.cli import app
from prefmerge.errors import CheckpointMismatch, PrefmergeError, UsageError

ROWS = 6


def tokenizer_json(tokens: int) -> str:
    model = {"type": "WordLevel", "vocab": {f"t{i}": i for i in range(tokens - 1)}}
    return json.dumps({"model": model, "added_tokens": [{"id": tokens - 1, "content": "<end>"}]})


def checkpoint(folder: Path, seed: int, files: dict[str, str], embedding: str = "model.embed_tokens.weight") -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    shapes = {embedding: (ROWS, 4), "w": (3, 3)}
    state = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(state, folder / "model.safetensors")


OF_BASE = {
    "tokenizer.json": tokenizer_json(ROWS),
    "vocab.txt": "of the base",
    "tokenizer_config.json": "{}",
    "config.json": json.dumps({"vocab_size": ROWS}),
    "preprocessor_config.json": '{"of": "base"}',
}
OF_CARS = {
    "tokenizer.json": tokenizer_json(ROWS),
    "tokenizer_config.json": '{"name_or_path": "/home/zaphod/cars", "of": "cars"}',
    "chat_template.jinja": "{{ cars }}",
    "additional_chat_templates/tools.jinja": "{{ tools }}",
    "spiece.model": "cars",
    "preprocessor_config.json": '{"of": "cars"}',
    "optimizer.pt": "no part of it",
}


@pytest.fixture
def inputs(tmp_path: Path) -> list[Path]:
    checkpoint(tmp_path / "base", 0, OF_BASE)
    checkpoint(tmp_path / "cars", 1, OF_CARS)
    checkpoint(tmp_path / "birds", 2, {})
    return [tmp_path / name for name in ("base", "cars", "birds")]


@pytest.mark.parametrize("by", ["python", "command"])
def test_the_files_of_the_task_take_the_place_of_the_base_s(by: str, inputs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    if by == "python":
        prefmerge.merge(inputs[0], inputs[1:], out, tokenizer_from="cars")
    else:
        line = ["merge", *map(str, inputs), "-o", str(out), "--tokenizer-from", "cars"]
        assert CliRunner().invoke(app, line).exit_code == 0
    for name in ("tokenizer.json", "chat_template.jinja", "additional_chat_templates/tools.jinja", "spiece.model"):
        assert (out / name).read_text() == OF_CARS[name]
    assert json.loads((out / "tokenizer_config.json").read_text()) == {"name_or_path": "cars", "of": "cars"}
    assert not (out / "vocab.txt").exists()  # of the base's tokenizer
    assert not (out / "optimizer.pt").exists()
    assert (out / "preprocessor_config.json").read_text() == OF_BASE["preprocessor_config.json"]
    notes = json.loads((out / "receipt.json").read_text())["notes"]
    files = ", ".join(sorted(OF_CARS.keys() - {"preprocessor_config.json", "optimizer.pt"}))
    assert f"the tokenizer is that of task 'cars': {files}." in notes
    without = prefmerge.merge(inputs[0], inputs[1:], tmp_path / "plain")
    assert prefmerge.verify(out, inputs=True, rerun=True).fingerprint == without.fingerprint
    assert (tmp_path / "plain" / "vocab.txt").exists()


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"tokenizer.json": tokenizer_json(ROWS + 1)}, "7 tokens, and the embeddings of the output have 6 rows"),
        ({"tokenizer.json": tokenizer_json(ROWS - 1)}, "5 tokens, and the embeddings of the output have 6 rows"),
        ({"tokenizer.json": tokenizer_json(ROWS - 1), "config.json": '{"vocab_size": 6}'}, None),  # rows to spare
        ({"tokenizer.json": tokenizer_json(ROWS), "config.json": '{"text_config": {"vocab_size": 8}}'}, "8 tokens"),
        ({"vocab.txt": "a\nb\nc\nd\ne\nf\n"}, None),
        ({"vocab.txt": "a\nb\nc\nd\ne\n"}, "5 tokens"),
        ({"vocab.json": '{"a": 0, "b": 4}', "added_tokens.json": '{"<end>": 5}', "merges.txt": ""}, None),
        ({"vocab.json": '{"a": 0, "b": 5}', "added_tokens.json": '{"<end>": 6}', "merges.txt": ""}, "7 tokens"),
        ({"tokenizer.json": json.dumps({"model": {"vocab": [["a", 0.0]] * 6}})}, None),  # unigrams
        ({"tokenizer.json": "{"}, None),  # says nothing of its size
    ],
)
def test_a_vocabulary_of_another_size_is_refused(
    files: dict[str, str], told: str | None, inputs: list[Path], tmp_path: Path
) -> None:
    checkpoint(inputs[2], 2, files)
    if told is None:
        prefmerge.merge(inputs[0], inputs[1:], tmp_path / "out", tokenizer_from="birds")
        return
    with pytest.raises(CheckpointMismatch, match=f"--tokenizer-from birds: its vocabulary has {told}"):
        prefmerge.merge(inputs[0], inputs[1:], tmp_path / "out", tokenizer_from="birds")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_as_large_as_the_base_s_fits_where_both_have_rows_to_spare(
    inputs: list[Path], tmp_path: Path
) -> None:
    for folder in (inputs[0], inputs[2]):
        (folder / "tokenizer.json").write_text(tokenizer_json(ROWS - 2))
    (inputs[0] / "config.json").unlink()
    prefmerge.merge(inputs[0], inputs[1:], tmp_path / "out", tokenizer_from="birds")


@pytest.mark.parametrize(
    ("out", "task", "error", "told"),
    [
        (
            "out",
            "birds",
            CheckpointMismatch,
            "birds holds no tokenizer, such as tokenizer.json or vocab.txt.",
        ),
        (
            "out",
            "car",
            UsageError,
            "'car' is no task; the tasks are cars, birds. Did you mean 'cars'?",
        ),
        ("out.safetensors", "cars", UsageError, "--tokenizer-from has no use for an output that is one file"),
        ("out", "alone", CheckpointMismatch, "--tokenizer-from alone: the task is no folder, so it has no tokenizer"),
    ],
)
def test_what_cannot_be_had(
    out: str, task: str, error: type[PrefmergeError], told: str, inputs: list[Path], tmp_path: Path
) -> None:
    tasks: list[Any] = [*inputs[1:]]
    if task == "alone":
        (inputs[2] / "model.safetensors").rename(tmp_path / "alone.safetensors")
        tasks = [inputs[1], tmp_path / "alone.safetensors"]
    with pytest.raises(error) as raised:
        prefmerge.merge(inputs[0], tasks, tmp_path / out, tokenizer_from=task)
    assert told in str(raised.value)
    assert not (tmp_path / out).exists()


def test_where_no_tensor_is_called_as_embeddings_are_a_note_says_so(tmp_path: Path) -> None:
    checkpoint(tmp_path / "base", 0, OF_BASE, embedding="table")
    checkpoint(tmp_path / "cars", 1, OF_CARS, embedding="table")
    receipt = prefmerge.merge(tmp_path / "base", [tmp_path / "cars"], tmp_path / "out", tokenizer_from="cars")
    assert any(note.endswith("so whether it fits is not known.") for note in receipt.notes)
