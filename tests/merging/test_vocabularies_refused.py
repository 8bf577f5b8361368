"""Vocabularies that cannot be brought together: what is refused, and what the message says to do."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import prefmerge
from prefmerge.cli import app
from prefmerge.errors import CheckpointMismatch, MethodError, RecipeError
from tests.golden.make_vocabularies import MERGES, TOOL, WORDS, save_model, tokenizer_json
from tests.merging.test_vocabularies import GOLDEN, TASKS, edit, merged
from tests.merging.test_vocabularies import models as models  # the fixture


def test_the_message_on_other_sizes_says_what_to_give(models: Path) -> None:
    with pytest.raises(CheckpointMismatch) as caught:
        merged(models)
    assert "tensor 'lm_head.weight' has shape (40, 8), the base has (48, 8)" in str(caught.value)
    assert (
        "Their vocabularies differ: give --tokenizer-source union (or base, or the name of a task) to merge the rows "
        "of one token with one another, or --rows-from base (or a task) to merge the rows that all have."
        in str(caught.value)
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tokenizer": "dogs"}, "--tokenizer-source: 'dogs' is none of the models: base, cars, birds."),
        ({"rows_from": "car"}, r"--rows-from: 'car' is none of the models: .*Did you mean 'cars'\?"),
        ({"rows_from": "base", "tokenizer": "base"}, "both say which rows the embeddings have"),
        (
            {"tokenizer": {"tokens": {TOOL: {"source": "cars"}}}},
            "to have the row of '<|tool|>' of cars, which has no such token",
        ),
        ({"tokenizer": "union", "as_task_vector": True}, "would belong to no model"),
    ],
)
def test_refusals(models: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises((RecipeError, CheckpointMismatch), match=message.replace("|", r"\|")):
        merged(models, **given)


def test_a_union_that_cannot_be_written(models: Path) -> None:
    edit(models / "birds" / "tokenizer.json", lambda whole: {**whole, "model": {**whole["model"], "type": "WordPiece"}})
    with pytest.raises(
        CheckpointMismatch, match=r"birds has 1 word that the base's lacks .*of two kinds: BPE and Word"
    ):
        merged(models, tokenizer="union")
    shutil.copy(GOLDEN / "birds" / "tokenizer.json", models / "birds")
    edit(models / "birds" / "tokenizer.json", lambda whole: {**whole, "decoder": {"type": "Metaspace"}})
    with pytest.raises(CheckpointMismatch, match="spell words in different ways"):
        merged(models, tokenizer="union")
    merged(models, tokenizer="base")
    (models / "base" / "tokenizer.json").unlink()
    (models / "base" / "tokenizer.model").write_bytes(b"\n\x0e")
    with pytest.raises(CheckpointMismatch, match=r"base: .* no tokenizer.json that says which tokens it has"):
        merged(models, "no", tokenizer="base")


def test_without_tokenizers_nothing_says_which_row_is_which(models: Path) -> None:
    for name in ("base", *TASKS):
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (models / name / file).unlink()
    with pytest.raises(CheckpointMismatch, match=r"base .* has no tokenizer.json, so .*use --rows-from"):
        merged(models, tokenizer="base")


def test_a_tokenizer_that_only_sentencepiece_reads(models: Path) -> None:
    """What all models share may stay unread; else nobody knows which row is which."""
    rng = np.random.default_rng(10)
    for name in ("base", *TASKS):
        save_model(models / name, rng, tokenizer_json(WORDS, MERGES, []), 38)
        (models / name / "tokenizer.json").unlink()
        if name != "birds":
            (models / name / "tokenizer.model").write_bytes(b"\n\x0e")
    plain, again = merged(models, "plain"), merged(models, "again", tokenizer="base")
    assert (plain / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    (models / "cars" / "tokenizer.model").write_bytes(b"\n\x0f")
    with pytest.raises(CheckpointMismatch, match=r"base: .* no tokenizer.json that says which tokens it has"):
        merged(models, "no", tokenizer="base")


def test_a_token_needs_a_source(models: Path) -> None:
    with pytest.raises(MethodError, match="tokenizer: token '<a>': 'source' is missing"):
        merged(models, tokenizer={"tokens": {"<a>": {"force": True}}})


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("base", "--chat-template: base has no chat template. Name another model."),
        ("catml", "--chat-template: 'catml' is no chat template that prefmerge has, and none of the models."),
    ],
)
def test_a_plan_refuses_a_chat_template_as_merge_does(models: Path, template: str, message: str) -> None:
    for name in ("base", *TASKS):
        (models / name / "chat_template.jinja").unlink(missing_ok=True)
        edit(models / name / "tokenizer_config.json", lambda whole: {**whole, "chat_template": None})
    given: dict[str, Any] = {"rows_from": "base", "chat_template": template}
    tasks = [models / name for name in TASKS]
    for made in (
        lambda: prefmerge.plan(models / "base", tasks, **given),
        lambda: prefmerge.merge(models / "base", tasks, models / "no", **given),
    ):
        with pytest.raises((RecipeError, CheckpointMismatch)) as caught:
            made()
        assert str(caught.value).startswith(message)
    words = ["--rows-from", "base", "--chat-template", template]
    places = [str(models / name) for name in ("base", *TASKS)]
    for command in (["plan"], ["merge", "-o", str(models / "no"), "--dry-run"]):
        done = CliRunner().invoke(app, [*command, *places, *words], prog_name="prefmerge")
        assert (done.exit_code, message in done.stderr) == (1, True)
    ignored = ["merge", *places, "-o", str(models / "no.safetensors"), "--dry-run", *words]
    assert CliRunner().invoke(app, ignored, prog_name="prefmerge").exit_code == 0
