"""docs/papers.md has what the plans of the recipes count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import papers
from prefmerge.lab import published

for package in ("torch", "ot", "sklearn"):
    pytest.importorskip(package, reason="an experiment needs the extra places")

DATA: dict[str, Any] = json.loads(papers.RESULT.read_text())
ROWS = {row["recipe"]: row for row in DATA["rows"]}


def test_the_page_is_what_the_result_says() -> None:
    page = papers.PAGE.read_text()
    assert page.count(papers.MARK) == 2
    assert papers.document(DATA, json.loads(papers.SPEED.read_text())) == page.split(papers.MARK)[1].strip()
    for tower, words in (("b", "35 x 10^9 operations in ViT-B/16"), ("l", "162 x 10^9 in ViT-L/14")):
        assert words in page
        assert words.startswith(f"{papers.forward(tower) / 1e9:.0f} ")


def test_every_recipe_with_published_numbers_is_there() -> None:
    assert list(ROWS) == [file.stem for file in papers.recipes()]
    made = {table for row in DATA["rows"] for table in row["tables"]}
    assert {f"Tunable MAGMAX, table {n}" for n in (2, 3, 5, 6, 7, 8)} | {"table 4"} <= made
    assert published.number("environments", "cifar100-20") == 2


def test_a_recipe_takes_what_was_counted(tmp_path: Path) -> None:
    assert papers.counted(papers.RECIPES / "imagenet-r-5.yaml", tmp_path) == ROWS["imagenet-r-5"]


@pytest.mark.parametrize(("name", "samples", "epochs", "tasks", "trainings"), [
    ("cifar100-5", 50_000, 10, 5, 3), ("cub200-5-vit-l-14", 5994, 30, 5, 15), ("cifar100-50", 50_000, 10, 50, 3),
])  # fmt: skip
def test_trainings_and_disk_by_hand(name: str, samples: int, epochs: int, tasks: int, trainings: int) -> None:
    row = ROWS[name]
    assert (row["trainings"], row["trained_samples"]) == (trainings, trainings * samples * epochs)
    seeds = 3
    models = seeds * (tasks + 1)  # in sequence
    if trainings > seeds:  # independent, LwF, EWC with two more, joint
        models += seeds * (3 * (tasks + 1) + 2 + 2)
    assert row["disk_bytes"] == 4 * papers.parameters(row["tower"]) * (models + 3)
    work = papers.forward(row["tower"]) * (row["encoded_samples"] + 3 * row["trained_samples"])
    assert row["operations"] == pytest.approx(work)
    assert row["assumed_seconds"] == pytest.approx(work / papers.ASSUMED)


@pytest.mark.parametrize("tower", papers.TOWERS)
def test_towers_have_as_many_numbers_as_those_of_clip(tower: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    layers, width, tokens, patch, shared = papers.TOWERS[tower]
    config = transformers.CLIPVisionConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=width // 64,
        image_size=224, patch_size=patch, projection_dim=shared,
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.CLIPVisionModelWithProjection(config)
    assert sum(one.numel() for one in model.parameters()) == papers.parameters(tower)
    assert (224 // patch) ** 2 + 1 == tokens
