"""Whole recipes, as people publish them, in which tokenizers and chat templates are named: by the command line."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

import prefmerge
from prefmerge.cli import app
from prefmerge.merging.receipt import Receipt
from prefmerge.merging.recipe_file import read_recipe
from prefmerge.merging.recipe_text import recipe_text
from tests.golden.make_vocabularies import CHATML, IM_END, IM_START, TOOL

GOLDEN = Path(__file__).parents[1] / "golden" / "vocabularies"
EMBEDDINGS = "model.embed_tokens.weight"

RECIPES = {  # what it is -> the recipe, the rows of the output, and a token with the model whose row it keeps
    "ties, union": (
        """
merge_method: ties
base_model: base
models:
  - model: base
  - model: cars
    parameters: {density: 0.5, weight: 0.5}
  - model: birds
    parameters: {density: 0.5, weight: 0.3}
parameters: {normalize: true, int8_mask: true}
tokenizer_source: union
dtype: float32
""",
        42,
        (IM_START, "cars"),
    ),
    "linear, one of the models": (
        """
models:
  - model: base
    parameters: {weight: 1.0}
  - model: cars
    parameters: {weight: 0.3}
  - model: birds
    parameters: {weight: 0.5}
merge_method: linear
tokenizer_source: birds
dtype: float32
""",
        41,
        (TOOL, "birds"),
    ),
    "della, tokens": (
        """
merge_method: della
base_model: base
models:
  - model: cars
    parameters: {density: 0.7, weight: 0.5}
  - model: birds
    parameters: {density: 0.7, weight: 0.5}
tokenizer:
  source: base
  tokens:
    <|im_end|>: {source: cars, force: true}
    <|tool|>: {source: birds}
dtype: float32
""",
        40,
        (IM_END, "cars"),
    ),
    "arcee_fusion, tokens": (
        """
merge_method: arcee_fusion
base_model: base
models:
  - model: base
  - model: {model: {path: cars}}
tokenizer:
  source: union
  tokens:
    <|im_start|>:
      source: {kind: model_token, model: {model: {path: cars}}, token: <|im_start|>}
      force: true
dtype: float32
""",
        40,
        (IM_START, "cars"),
    ),
    "dare_ties over slices, union, chat template": (
        """
slices:
  - sources:
      - {model: base, layer_range: [0, 1]}
      - {model: cars, layer_range: [0, 1], parameters: {density: [0.5, 0.8], weight: 0.5}}
      - {model: birds, layer_range: [0, 1], parameters: {density: 0.6, weight: [0.1, 0.5]}}
merge_method: dare_ties
base_model: base
parameters: {int8_mask: true}
dtype: bfloat16
tokenizer_source: union
chat_template: auto
""",
        42,
        (IM_START, "cars"),
    ),
}


@pytest.mark.parametrize("what", RECIPES)
def test_a_whole_recipe(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, size, (token, giver) = RECIPES[what]
    for name in ("base", "cars", "birds"):
        shutil.copytree(GOLDEN / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    Path("recipe.yml").write_text(text)
    result = CliRunner().invoke(app, ["merge", "recipe.yml", "-o", "out"])
    assert result.exit_code == 0, result.output
    assert prefmerge.verify("out", inputs=True, rerun=True)
    config = json.loads(Path("out/config.json").read_text())
    assert config["vocab_size"] == size
    given = load_file(f"{giver}/model.safetensors")[EMBEDDINGS]
    at = {name: _ids(Path(name))[token] for name in ("out", giver)}
    with closing(prefmerge.open_checkpoint("out")) as made:
        width = given.shape[1]
        row = made.read(EMBEDDINGS, at["out"] * width, (at["out"] + 1) * width)
    expected = given[at[giver]]
    if what.startswith("dare"):
        bits = expected.view(np.uint32).astype(np.uint64)  # to bfloat16, to nearest-even
        np.testing.assert_array_equal(row, ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16))
        assert Path("out/chat_template.jinja").read_text() == CHATML
    else:
        np.testing.assert_allclose(row, expected, atol=1e-6)
    _generates(Path("out"))


def _ids(folder: Path) -> dict[str, int]:
    whole = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    return whole["model"]["vocab"] | {one["content"]: one["id"] for one in whole["added_tokens"]}


def _generates(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    coded = tokenizer("car bird", return_tensors="pt")
    made = model.generate(coded["input_ids"], max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert isinstance(tokenizer.decode(made[0]), str)
    assert model.get_input_embeddings().weight.shape[0] >= len(tokenizer)


@pytest.mark.parametrize("what", RECIPES)
def test_the_recipe_that_the_output_holds_means_the_same(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = RECIPES[what][0]
    for name in ("base", "cars", "birds"):
        shutil.copytree(GOLDEN / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    Path("recipe.yml").write_text(text)
    for recipe, out in (("recipe.yml", "out"), ("again.yml", "again")):
        result = CliRunner().invoke(app, ["merge", recipe, "-o", out])
        assert result.exit_code == 0, result.output
        Path("again.yml").write_text(recipe_text(Receipt.load(Path(out, "receipt.json"))) or "")
    assert Path("out/model.safetensors").read_bytes() == Path("again/model.safetensors").read_bytes()
    assert Path("out/tokenizer.json").read_bytes() == Path("again/tokenizer.json").read_bytes()
    assert read_recipe("again.yml").tokenizer == read_recipe("recipe.yml").tokenizer


def test_flags_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("base", "cars", "birds"):
        shutil.copytree(GOLDEN / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    line = ["merge", "base", "cars", "birds", "-o", "out", "--tokenizer-source", "union", "--chat-template", "cars"]
    assert CliRunner().invoke(app, line).exit_code == 0
    prefmerge.merge("base", ["cars", "birds"], "again", tokenizer={"source": "union"}, chat_template=CHATML)
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert Path("out", name).read_bytes() == Path("again", name).read_bytes()
    line = ["plan", "base", "cars", "birds", "--rows-from", "cars", "--json"]
    told = json.loads(CliRunner().invoke(app, line).output)
    assert (
        "embeddings have 40 rows: the first 40 are merged; what others have beyond them is left out." in told["notes"]
    )
