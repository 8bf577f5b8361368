"""Recipe files that are refused: the message names line, key and what is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefmerge.errors import PreferenceError, RecipeError
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
            "line 2: slices: expected one, over all layers of its models, found a list. prefmerge merges whole "
            "models. List them under 'models'.",
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
