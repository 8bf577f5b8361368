"""The model card: what a hub reads of it, and a recipe that gives the same weights again."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml

import prefmerge
from prefmerge.merging.card import BaseModel, base_model, model_card
from prefmerge.merging.receipt import Receipt, ReceiptInput, ReceiptInputs
from prefmerge.merging.recipe_text import recipe_text
from prefmerge.methods import METHODS
from prefmerge.preference import Preference
from tests.merging.receipts import FILES, FOLDERS, GOLDEN, merged, states


def head_of(card: str) -> dict[str, Any]:
    opening, head, _ = card.split("---\n", 2)
    assert opening == ""
    return yaml.safe_load(head)


def recipe_of(card: str) -> str:
    return card.partition("```yaml\n")[2].partition("```\n")[0]


def again(receipt: Receipt, text: str | None, folder: Path) -> Receipt:
    """The merge that a recipe file with this text gives, in the folder with the inputs."""
    assert text is not None
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    from prefmerge.merging.api import run

    return run(prefmerge.read_recipe(folder / "recipe.yaml"), folder / "again.safetensors", threads=1)


@pytest.mark.parametrize("case", [*FILES, *FOLDERS])
def test_its_recipe_gives_the_same_weights(case: str, tmp_path: Path) -> None:
    receipt = merged(case, tmp_path)
    second = again(receipt, recipe_text(receipt), tmp_path)
    assert second.fingerprint == receipt.fingerprint
    assert {**second.recipe, "preference": None} == {**receipt.recipe, "preference": None}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_recipe_that_gives_the_same_weights(method: str, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    named = dict(zip(("base", "cars", "birds"), states(), strict=False))
    for name, state in named.items():
        save_file(state, tmp_path / f"{name}.safetensors")
    most = METHODS[method].most
    paths = [tmp_path / f"{name}.safetensors" for name in ("cars", "birds")][:most]
    listed = [{"model": path.name} for path in paths]
    receipt = prefmerge.merge(
        tmp_path / "base.safetensors", paths, tmp_path / "out.safetensors", method=method, threads=1
    )
    text = recipe_text(receipt)
    if method == "karcher":  # its recipes always give it the base, which was no model of this merge
        assert text is None
        text = f"merge_method: karcher\nbase_model: base.safetensors\nmodels: {json.dumps(listed)}\n"
        receipt = again(receipt, text, tmp_path)
        text = recipe_text(receipt)
        (tmp_path / "again.safetensors").unlink()
        (tmp_path / "again.safetensors.receipt.json").unlink()
    assert again(receipt, text, tmp_path).fingerprint == receipt.fingerprint


def test_counts_and_checkpoints_that_are_called_alike_have_a_recipe(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    base, *tasks = states()[:3]
    save_file(base, tmp_path / "base.safetensors")
    for name, state in zip(("cars", "birds"), tasks, strict=True):
        (tmp_path / name / "checkpoint-9").mkdir(parents=True)
        save_file(state, tmp_path / name / "checkpoint-9" / "model.safetensors")
    paths = [tmp_path / name / "checkpoint-9" for name in ("cars", "birds")]
    receipt = prefmerge.merge(
        tmp_path / "base.safetensors",
        paths,
        tmp_path / "out.safetensors",
        preference=Preference.counts([40, 19]),
        scope="model",
        selection="paper",
    )
    text = recipe_text(receipt)
    assert text is not None
    models = yaml.safe_load(text)["models"]
    assert [model["model"] for model in models] == ["cars", "birds"]  # which the user sees in the table too
    for name, path in zip(("cars", "birds"), paths, strict=True):
        text = text.replace(f"model: {name}", f"model: {path}")
    assert again(receipt, text, tmp_path).fingerprint == receipt.fingerprint


def test_what_a_hub_reads(tmp_path: Path) -> None:
    receipt = merged("folder", tmp_path)
    card = (tmp_path / "out" / "README.md").read_text()
    assert head_of(card) == {
        "library_name": "transformers",  # no base_model: a hub refuses a name that is none of its models
        "tags": ["merge", "prefmerge"],
    }
    assert f"`{receipt.fingerprint}`" in card
    assert "| 1 | cars | 1 | 59 (100.0%) |" in card
    assert again(receipt, recipe_of(card), tmp_path).fingerprint == receipt.fingerprint
    assert not re.search(r"Fraction|\bNone\b|\bTrue\b|\bFalse\b|[\[{(]'|PosixPath", card)  # no Python


CARD = """---
license: apache-2.0
license_name: {a: mapping}
language: [en, de]
pipeline_tag: feature-extraction
library_name: sentence-transformers
base_model: [org/grandparent]
tags: [mine]
model-index: [{name: x}]
---
# Base
---
"""


def test_what_the_base_says_of_itself_is_kept(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(CARD)
    (tmp_path / "config.json").write_text('{"model_type": "bert", "_name_or_path": "/some/where/base"}')
    base = base_model(tmp_path, ["config.json"])
    kept = {"license": "apache-2.0", "language": ["en", "de"], "pipeline_tag": "feature-extraction"}
    assert base == BaseModel("org/grandparent", "sentence-transformers", kept)
    receipt = Receipt.load(GOLDEN / "folder.json")
    head = head_of(model_card(receipt, base))
    assert kept.items() <= head.items()
    assert (head["base_model"], head["library_name"]) == ("org/grandparent", "sentence-transformers")
    (tmp_path / "config.json").write_text('{"_name_or_path": "org/parent"}')
    assert base_model(tmp_path, []).hub == "org/parent"
    snapshot = tmp_path / "models--org--self" / "snapshots" / "0a1b"
    snapshot.mkdir(parents=True)
    assert base_model(snapshot, []).hub == "org/self"


def in_cache(entry: ReceiptInput, *names: str) -> ReceiptInput:
    """The input as it is where it came from the hub; `names` are two for an adapter over its model."""
    places = [f"/home/x/hub/models--{name.replace('/', '--')}/snapshots/0a1b" for name in names]
    return replace(entry, path="+".join(places))


def test_models_of_the_hub_are_listed_the_base_first() -> None:
    receipt = Receipt.load(GOLDEN / "folder.json")
    first, *rest = receipt.inputs.tasks
    for own, expected in (
        ((), "org/base"),
        (("me/cars",), ["org/base", "me/cars"]),
        (("org/base", "me/lora"), ["org/base", "me/lora"]),
        (("org/base",), "org/base"),
    ):
        tasks = (in_cache(first, *own) if own else first, *rest)
        made = replace(receipt, inputs=ReceiptInputs(base=in_cache(receipt.inputs.base, "org/base"), tasks=tasks))
        head = head_of(model_card(made))
        assert (head["base_model"], head["base_model_relation"]) == (expected, "merge")
    made = replace(receipt, inputs=ReceiptInputs(base=receipt.inputs.base, tasks=(in_cache(first, "me/cars"), *rest)))
    assert head_of(model_card(made))["base_model"] == "me/cars"


def test_the_hubs_own_reader_takes_it() -> None:
    hub = pytest.importorskip("huggingface_hub", reason="it reads cards with the extra hub")
    receipt = Receipt.load(GOLDEN / "folder.json")
    inputs = replace(receipt.inputs, base=in_cache(receipt.inputs.base, "org/base"))
    base = BaseModel(library="transformers", card={"license": "apache-2.0", "language": ["en", "de"]})
    card = hub.ModelCard(model_card(replace(receipt, inputs=inputs), base), ignore_metadata_errors=False)
    assert card.data.to_dict() == {
        "base_model": "org/base",
        "base_model_relation": "merge",
        "library_name": "transformers",
        "license": "apache-2.0",
        "language": ["en", "de"],
        "tags": ["merge", "prefmerge"],
    }
    assert card.text.lstrip().startswith("# A merged model")


@pytest.mark.parametrize(
    "text", ["", "---\n", "---\na: [\n---\n", "---\n- a\n---\n", "no card", "---\nx: &a [*a]\n---\n"]
)
def test_a_card_that_says_nothing_or_is_broken(text: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(text)
    assert base_model(tmp_path, []) == BaseModel()


@pytest.mark.parametrize(
    ("files", "config", "library"),
    [
        (["modules.json", "config.json"], {"model_type": "bert"}, "sentence-transformers"),
        (["model_index.json"], {}, "diffusers"),
        (["open_clip_config.json"], {}, "open_clip"),
        (["config.json"], {"architecture": "vit", "pretrained_cfg": {}}, "timm"),
        (["config.json"], {"model_type": "llama"}, "transformers"),
        ([], {}, None),
    ],
)
def test_which_library_loads_it(files: list[str], config: dict[str, Any], library: str | None, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert base_model(tmp_path, files).library == library


@pytest.mark.parametrize(
    "name", ["a: b", "- x", "```", "---", "it's", 'a"b', "{x}", "café 車", "yes", "1e3", "# no", "a\u202eb"]
)
def test_names_that_yaml_or_markdown_could_misread(name: str) -> None:
    receipt = Receipt.load(GOLDEN / "paper.json")
    inputs = replace(receipt.inputs, base=replace(receipt.inputs.base, name=name))
    card = model_card(replace(receipt, inputs=inputs, tasks=(name, *receipt.tasks[1:])))
    assert head_of(card) == {"tags": ["merge", "prefmerge"]}
    file = yaml.safe_load(recipe_of(card))
    assert file["models"][0]["name"] == name
    assert Fraction(str(file["parameters"]["prefer"][name])) == Fraction("0.7")
    assert card.replace("\n", "").isprintable()
