"""Recipe files that are refused: the message names line, key and what is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefmerge.errors import CheckpointNotFound, PreferenceError, RecipeError
from prefmerge.merging.plan import make_plan
from prefmerge.merging.recipe_file import read_recipe
from tests.merging.test_recipe import MODELS, refusal


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty. Give at least merge_method, base_model and models."),
        ("- a\n", "line 1: the recipe: expected 'key: value' lines, found a list."),
        ("merge_method: [\n", "line 2: this is not YAML: "),
        (
            f"merge_metod: ties\n{MODELS}",
            "line 1: unknown key 'merge_metod'. Did you mean 'merge_method'? Known keys: ",
        ),
        ("merge_method: ties\nmerge_method: ties\n", "line 2: 'merge_method' appears twice."),
        (MODELS, "'merge_method' is missing. Methods: tunable_magmax, increments, magmax, max_abs, "),
        (
            "merge_method: ties\nbase_model: base.safetensors\n",
            "'models' is missing. List the task checkpoints under it, ",
        ),
        ("merge_method: ties\nmodels: [{model: cars.safetensors}]\n", "'base_model' is missing, and ties needs it: "),
        (
            f"merge_method: nearswap\n{MODELS}",
            "line 1: 'nearswap' is a method of mergekit that prefmerge does not have. Methods: ",
        ),
        (f"merge_method: magmx\n{MODELS}", "Did you mean 'magmax'?"),
        (
            "merge_method: ties\nslices: []\n",
            "slices: expected a list of slices, each with 'sources'. Whole models can be listed under 'models'.",
        ),
        (
            f"merge_method: ties\ntokenizer_source: dogs\n{MODELS}",
            "line 2: tokenizer_source: 'dogs' is none of the recipe's models; expected base or one of them.",
        ),
        (
            f"merge_method: ties\ntokenizer: {{source: base, tokens: {{a: {{source: dogs}}}}}}\n{MODELS}",
            "line 2: tokenizer: 'dogs' is none of the recipe's models; expected base or one of them.",
        ),
        (
            f"merge_method: ties\ntokenizer: {{source: base, tokens: {{a: {{force: true}}}}}}\n{MODELS}",
            "line 2: tokenizer: token 'a': 'source' is missing: a model, or kind: zero.",
        ),
        (
            f"merge_method: ties\ntokenizer: {{sorce: base}}\n{MODELS}",
            "line 2: tokenizer: unknown key 'sorce' in tokenizer. Did you mean 'source'? Keys: source, tokens, ",
        ),
        (
            f"merge_method: ties\ntokenizer: {{pad_to_multiple_of: 1.5}}\n{MODELS}",
            "line 2: tokenizer: expected a whole number, found '1.5'.",
        ),
        (
            f"merge_method: ties\ntokenizer: {{source: base}}\ntokenizer_source: base\n{MODELS}",
            "line 3: 'tokenizer', 'tokenizer_source' say the same; give one of them.",
        ),
        (f"merge_method: ties\nchat_template: [a]\n{MODELS}", "line 2: chat_template: expected a text, found "),
        (
            f"merge_method: ties\nparameters: {{adaptive_mass: 1}}\n{MODELS}",
            "line 2: 'adaptive_mass' in parameters is a key of mergekit that prefmerge does not support. It "
            "belongs to a method that ",
        ),
        (
            f"merge_method: ties\nparameters: {{rescale: true}}\n{MODELS}",
            "line 2: rescale: true belongs to methods that drop elements at random. ",
        ),
        (
            f"merge_method: ties\nparameters:\n  weigth: 1\n{MODELS}",
            "line 3: unknown key 'weigth' in parameters. Did you mean 'weight'? ",
        ),
        (
            f"merge_method: ties\nparameters: {{seed: 1}}\n{MODELS}",
            "line 2: unknown key 'seed' in parameters. It belongs in the top level.",
        ),
        (f"merge_method: ties\nscale: 1\n{MODELS}", "line 2: unknown key 'scale'. It belongs in parameters."),
        (
            f"merge_method: ties\nparameters: {{normalize: [true, false]}}\n{MODELS}",
            "line 2: parameters.normalize is a list (a gradient over layers in mergekit); it has one value for all "
            "layers. Give one.",
        ),
        (
            f"merge_method: ties\nparameters: {{normalize: {{filter: mlp, value: true}}}}\n{MODELS}",
            "line 2: parameters.normalize has conditions (filter and value in mergekit); it has one value for all "
            "tensors. Give one.",
        ),
        (
            f"merge_method: ties\n{MODELS}  - model: digits.safetensors\n    parameters:\n      density: [1, 0]\n",
            "line 9: models[2].parameters.density: expected a number above 0 and at most 1, found 0.",
        ),
        (
            f"merge_method: ties\nparameters: {{weight: []}}\n{MODELS}",
            "line 2: parameters.weight: expected a value, a list of values over the layers, or a list of {filter, "
            "value}, found an empty list.",
        ),
        (
            f"merge_method: ties\nparameters: {{weight: [{{filter: mlp, values: 1}}]}}\n{MODELS}",
            "line 2: parameters.weight: expected a value, a list of values over the layers, or a list of {filter, "
            "value}, found ",
        ),
        (
            f"merge_method: ties\nparameters: {{weight: {{filter: [mlp], value: 1}}}}\n{MODELS}",
            "line 2: parameters.weight: expected a part of tensor names as the filter, found ",
        ),
        (
            f"merge_method: ties\n{MODELS}  - modle: a\n",
            "line 7: unknown key 'modle' in models[2]. Did you mean 'model'? Known keys: model, name, parameters.",
        ),
        (
            f"merge_method: ties\n{MODELS}  - model: digits.safetensors\n    weight: 1\n",
            "line 8: unknown key 'weight' in models[2]. It belongs in ",
        ),
        (
            f"merge_method: ties\n{MODELS}  - name: a\n",
            "line 7: models[2]: 'model' is missing; it holds the path of a checkpoint.",
        ),
        (
            f"merge_method: ties\n{MODELS}  - model:\n",
            "line 7: models[2].model: expected the path of a checkpoint, found nothing.",
        ),
        (
            f"merge_method: ties\n{MODELS}  - model: {{model: [a]}}\n",
            "line 7: models[2].model.model: expected the path of a checkpoint, found a list.",
        ),
        (
            "merge_method: ties\nbase_model: base.safetensors\nmodels: cars.safetensors\n",
            "line 3: models: expected a list with one '- model: PATH' per task.",
        ),
        (
            f"merge_method: ties\ndtype: int8\n{MODELS}",
            "line 2: dtype: expected one of float64, float32, float16, bfloat16, found 'int8'.",
        ),
        (
            f"merge_method: ties\nparameters: {{density: 0}}\n{MODELS}",
            "line 2: parameters.density: expected a number above 0 and at most 1, found 0.",
        ),
        (
            f"merge_method: ties\nparameters: {{weight: .nan}}\n{MODELS}",
            "line 2: parameters.weight: expected a finite number, found '.nan'.",
        ),
        (
            f"merge_method: ties\nparameters: {{normalize: 1}}\n{MODELS}",
            "line 2: parameters.normalize: expected true or false, found '1'.",
        ),
        (
            f"merge_method: ties\nparameters: {{scale: 1, lambda: 1}}\n{MODELS}",
            "line 2: 'scale' and 'lambda' are two names of one parameter; give one of them.",
        ),
        (
            f"merge_method: tunable_magmax\nparameters: {{strength: 1.5}}\n{MODELS}",
            "line 2: parameters.strength: expected a number from 0 to 1, found 1.5.",
        ),
        (
            f"merge_method: tunable_magmax\nparameters: {{selection: best}}\n{MODELS}",
            "line 2: parameters.selection: expected paper, optimal, printed or released, found 'best'.",
        ),
        (
            f"merge_method: tunable_magmax\nparameters: {{passes: 0}}\n{MODELS}",
            "line 2: parameters.passes: expected a whole number of at least 1, found 0.",
        ),
        (
            f"merge_method: tunable_magmax\nseed: -1\n{MODELS}",
            "line 2: seed: expected a whole number of at least 0, found -1.",
        ),
        (f"merge_method: average\nexclude: [[a]]\n{MODELS}", "line 2: exclude: expected one value, found a list."),
    ],
)
def test_refusals(folder: Path, text: str, message: str) -> None:
    assert message in refusal(folder, text)


FAULTS = """merge_metod: ties
merge_method: ties
base_model: base.safetensors
models:
  - model: cars.safetensors
    parameters: {weigth: 1, density: 2}
  - model: gone.safetensors
  - name: birds
parameters: {normalize: 3, seed: 1}
dtype: int8
tokenizer: {source: union, token: {}}
"""


def test_everything_that_is_wrong_is_said_at_once_by_line(folder: Path) -> None:
    message = refusal(folder, FAULTS)
    first, *rows = message.splitlines()
    assert first == "9 faults."
    starts = [
        "line 1: unknown key 'merge_metod'. Did you mean 'merge_method'?",
        "line 6: unknown key 'weigth' in models[0].parameters. Did you mean 'weight'?",
        "line 6: models[0].parameters.density: expected a number above 0 and at most 1, found 2.",
        "line 7: models[1].model: 'gone.safetensors' is neither in ",
        "line 8: models[2]: 'model' is missing; ",
        "line 9: unknown key 'seed' in parameters. It belongs in the top level.",
        "line 9: parameters.normalize: expected true or false, found '3'.",
        "line 10: dtype: expected one of ",
        "line 11: tokenizer: unknown key 'token' in tokenizer. Did you mean 'tokens'?",
    ]
    assert [row.strip()[: len(start)] for row, start in zip(rows, starts, strict=True)] == starts


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("merge_method", "merge_metod"), ("base_model", "base_modle"), ("models", "modles"), ("- model", "- modle")],
)
def test_a_mistyped_key_is_one_fault(folder: Path, right: str, wrong: str) -> None:
    message = refusal(folder, f"merge_method: ties\n{MODELS.lstrip()}".replace(right, wrong, 1))
    assert message.startswith("line ")
    assert f"unknown key {wrong.removeprefix('- ')!r}" in message
    assert f"Did you mean {right.removeprefix('- ')!r}? Known keys: " in message


def test_the_rest_is_read_where_the_method_is_not_known(folder: Path) -> None:
    message = refusal(folder, f"merge_method: tise\n{MODELS}parameters: {{weight: .nan}}\n")
    assert message.startswith("2 faults.\n  line 1: method 'tise' is not known; ")
    assert "\n  line 7: parameters.weight: expected a finite number" in message
    assert "base_model" not in message
    alone = "models: [{model: cars.safetensors, parameters: {scale: 2}}]\n"
    assert refusal(folder, f"merge_method: passthrugh\n{alone}").startswith("line 1: method 'passthrugh' is not known")


def test_what_the_method_would_ignore_is_a_fault_among_others(folder: Path) -> None:
    message = refusal(folder, f"merge_method: average\ndtype: int8\n{MODELS}parameters: {{strength: 0.5}}\n")
    assert message.startswith("2 faults.\n  line 2: dtype: ")
    assert "\n  line 8: 'strength' has no use with method average; " in message


def test_many_faults_are_counted(folder: Path) -> None:
    rows = "".join(f"- {{model: m{i}.safetensors}}\n" for i in range(40))
    with pytest.raises(CheckpointNotFound) as caught:
        read_recipe_of(folder, f"merge_method: ties\nbase_model: base.safetensors\nmodels:\n{rows}")
    assert "40 faults." in str(caught.value)
    assert str(caught.value).endswith("  and 28 more")


def read_recipe_of(folder: Path, text: str) -> None:
    (folder / "recipe.yaml").write_text(text)
    read_recipe(folder / "recipe.yaml")


def test_a_hub_id_that_cannot_be_had_says_where_it_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(what: object, beside: object = None) -> Path:
        raise CheckpointNotFound(f"{what}: not on the hub.")

    monkeypatch.setattr("prefmerge.merging.opening.fetch", refused)
    models = "base_model: bsae/model\nmodels: [{model: cars.safetensors}]\n"
    (folder / "recipe.yaml").write_text(f"merge_method: ties\n{models}")
    recipe = read_recipe(folder / "recipe.yaml")
    with pytest.raises(CheckpointNotFound, match=r"^recipe .*recipe\.yaml, line 2: base_model: .*bsae/model"):
        make_plan(recipe.with_overrides(dtype="float32"))


def test_a_preference_that_makes_no_sense_names_its_place(folder: Path) -> None:
    message = refusal(
        folder, f"merge_method: tunable_magmax\nparameters:\n  prefer: [1, -1]\n{MODELS}", PreferenceError
    )
    assert message == "line 3: parameters.prefer: preference: share 2 is -1; shares cannot be negative."


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"recipe .*gone\.yaml does not exist\.$"):
        read_recipe(tmp_path / "gone.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="this is not YAML: it is no UTF-8 text"):
        read_recipe(tmp_path / "bytes.yaml")
