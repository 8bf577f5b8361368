"""LoRA adapters as tasks: what PEFT makes of them when it merges one, to rounding, and the same bytes everywhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from prefmerge import merge, open_checkpoint, verify
from prefmerge.checkpoints.adapter import open_adapter
from prefmerge.errors import CheckpointCorrupt, CheckpointMismatch, CheckpointNotFound, PrefmergeError
from prefmerge.merging.api import run
from prefmerge.merging.engine import merge_into
from prefmerge.merging.opening import open_task
from prefmerge.merging.plan import make_plan
from prefmerge.merging.recipe import Recipe
from prefmerge.merging.recipe_file import read_recipe
from prefmerge.merging.sinks import MemorySink
from prefmerge.vectors.workspace import Workspace

torch = pytest.importorskip("torch", reason="makes models")
transformers = pytest.importorskip("transformers", reason="makes models")
peft = pytest.importorskip("peft", reason="makes adapters")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # PEFT asks transformers for it
    pytest.mark.filterwarnings("ignore::UserWarning"),  # PEFT tells its own users what it decides
]

LLAMA = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 24,
    "vocab_size": 40,
    "max_position_embeddings": 32,
}


def llama(**more: Any) -> Any:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA, **more))


def gpt2() -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=40, n_positions=32, n_embd=16, n_layer=2, n_head=2)
    return transformers.GPT2LMHeadModel(config)


def vit() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    return transformers.ViTForImageClassification(transformers.ViTConfig(image_size=16, patch_size=8, **sizes))


# What is called, the model, and the settings of LoraConfig.
ADAPTERS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "attention": (llama, {"target_modules": ["q_proj", "v_proj"]}),
    "all linear": (llama, {"target_modules": "all-linear", "r": 4, "lora_alpha": 3}),
    "patterns": (
        llama,
        {
            "target_modules": ["q_proj", "k_proj", "down_proj"],
            "rank_pattern": {"q_proj": 3, "layers.1.mlp.down_proj": 5},
            "alpha_pattern": {"k_proj": 24, r"layers\.0\.self_attn\.q_proj": 1},
        },
    ),
    "rslora": (llama, {"target_modules": ["o_proj", "up_proj"], "use_rslora": True, "r": 6}),
    "embedding": (llama, {"target_modules": ["embed_tokens", "q_proj"]}),
    "whole modules": (llama, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}),
    "fan in, fan out": (gpt2, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "biases": (gpt2, {"target_modules": ["c_attn"], "fan_in_fan_out": True, "bias": "all"}),
    "bias of the factors": (gpt2, {"target_modules": ["c_attn"], "fan_in_fan_out": True, "lora_bias": True}),
    "convolution and head": (vit, {"target_modules": ["projection", "query"], "modules_to_save": ["classifier"]}),
    "dropout and gaussian": (
        llama,
        {"target_modules": ["v_proj"], "lora_dropout": 0.1, "init_lora_weights": "gaussian"},
    ),
}


def trained(model: Any, folder: Path, seed: int = 1, **settings: Any) -> Any:
    """An adapter with random factors over the model, saved in `folder`; and PEFT's model."""
    adapted = peft.get_peft_model(model, peft.LoraConfig(**{"r": 2, "lora_alpha": 16, **settings}))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    adapted.save_pretrained(folder)
    return adapted


def unloaded(adapted: Any, folder: Path) -> dict[str, np.ndarray]:
    """The weights that PEFT makes of model and adapter."""
    adapted.merge_and_unload().save_pretrained(folder)
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_is_the_model_that_peft_makes_of_it(kind: str, tmp_path: Path) -> None:
    make, settings = ADAPTERS[kind]
    model = make()
    model.save_pretrained(tmp_path / "base")
    expected = unloaded(trained(model, tmp_path / "adapter", **settings), tmp_path / "unloaded")
    merge(tmp_path / "base", [tmp_path / "adapter"], tmp_path / "out", method="last", scale=1)
    merged, base = load_file(tmp_path / "out" / "model.safetensors"), load_file(tmp_path / "base" / "model.safetensors")
    assert merged.keys() == base.keys()
    changed = [name for name in merged if not np.array_equal(merged[name], base[name])]
    assert changed
    for name in merged:
        np.testing.assert_allclose(merged[name], expected[name], rtol=2e-6, atol=2e-7, err_msg=name)
    for name in set(merged) - set(changed):
        assert np.array_equal(expected[name], base[name]), name


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and adapters over it; `cars-full` is what PEFT makes of `cars`."""
    folder = tmp_path_factory.mktemp("adapters")
    llama().save_pretrained(folder / "base")
    for seed, name in enumerate(("cars", "birds", "boats"), 1):
        adapted = trained(llama(), folder / name, seed, target_modules=["q_proj", "down_proj"])
        unloaded(adapted, folder / f"{name}-full")
    return folder


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("how", [{}, {"method": "magmax"}, {"method": "ties"}, {"importance": "step"}])
def test_adapters_and_whole_models_merge_alike(made: Path, tmp_path: Path, how: dict[str, Any]) -> None:
    adapters = [made / name for name in ("cars", "birds", "boats")]
    mixed = [made / "cars", made / "birds-full", made / "boats"]
    for name, tasks in (("a", adapters), ("b", mixed)):
        receipt = merge(made / "base", tasks, tmp_path / name, names=["cars", "birds", "boats"], **how)
        assert receipt.inputs.tasks[0].task_vector
        assert verify(tmp_path / name, inputs=True, rerun=True).skipped == ()
    for name, values in weights(tmp_path / "a").items():
        far = np.abs(values - weights(tmp_path / "b")[name]) > 1e-5  # where two tasks are nearly equal, either may win
        assert far.mean() < 0.02, name


def stored(made: Path, block: int, threads: int) -> dict[str, bytes]:
    tasks = [{"path": str(made / name)} for name in ("cars", "birds")]
    with (
        make_plan(Recipe(base=str(made / "base"), tasks=tasks)) as plan,
        Workspace(threads=threads, block=block) as work,
    ):
        sink = MemorySink(plan.layout)
        merge_into(plan, sink, work)
        return {name: sink.raw(name).tobytes() for name in sink.arrays}


def test_no_block_size_and_no_number_of_threads_changes_a_byte(made: Path) -> None:
    first = stored(made, 1 << 16, 1)
    assert all(stored(made, block, threads) == first for block, threads in ((7, 1), (100, 3), (1000, 2)))


def test_an_adapter_over_another_model(made: Path, tmp_path: Path) -> None:
    given = f"{made / 'birds-full'}+{made / 'cars'}"
    receipt = merge(made / "base", [given], tmp_path / "out", method="last", scale=1)
    assert receipt.inputs.tasks[0].path == given
    assert "task 'cars': content fingerprint" in verify(tmp_path / "out", inputs=True, rerun=True).passed
    base, birds, cars = (weights(made / name) for name in ("base", "birds-full", "cars-full"))
    for name, values in weights(tmp_path / "out").items():
        expected = base[name] + (birds[name] - base[name]) + (cars[name] - base[name])
        np.testing.assert_allclose(values, expected, rtol=2e-6, atol=2e-6, err_msg=name)


def test_a_recipe_names_model_and_adapter_as_mergekit_does(made: Path, tmp_path: Path) -> None:
    text = "merge_method: task_arithmetic\nbase_model: base\nmodels:\n- model: base+cars\n  parameters: {weight: 1}\n"
    (made / "recipe.yaml").write_text(text)
    recipe = read_recipe(made / "recipe.yaml")
    receipt = run(recipe, tmp_path / "out")
    assert receipt.tasks == ("cars",)
    for name, values in weights(tmp_path / "out").items():
        np.testing.assert_allclose(values, weights(made / "cars-full")[name], rtol=2e-6, atol=2e-7)


def test_what_is_read_of_a_product_is_not_all_of_it(made: Path) -> None:
    base = open_checkpoint(made / "base")
    vector = open_task(made / "cars", base)
    name = "model.layers.0.mlp.down_proj.weight"
    whole = vector.raw(name)
    assert np.array_equal(vector.read(name, 13, 200), whole[13:200])
    a, b = (
        load_file(made / "cars" / "adapter_model.safetensors")[f"base_model.model.{name[:-7]}.lora_{side}.weight"]
        for side in "AB"
    )
    np.testing.assert_allclose(whole.reshape(16, 24), 8.0 * (b.astype(float) @ a.astype(float)), rtol=1e-7)


def changed(made: Path, folder: Path, config: dict[str, Any] | None = None, **tensors: np.ndarray | None) -> Path:
    """The adapter `cars` with other settings or tensors (None: without)."""
    shutil.copytree(made / "cars", folder)
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | (config or {})))
    state = load_file(folder / "adapter_model.safetensors")
    for end, values in tensors.items():
        for name in [name for name in state if name.endswith(end.replace("__", "."))]:
            if values is None:
                del state[name]
            else:
                state[name] = values
    save_file(state, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "IA3"}, "an adapter of type 'IA3'; prefmerge reads LoRA only"),
        ({"use_dora": True}, "an adapter with DoRA"),
        ({"layer_replication": [[0, 2]]}, "replicated layers"),
        ({"trainable_token_indices": [1]}, "single trained tokens"),
        ({"init_lora_weights": "pissa_niter_4"}, "began as pissa_niter_4, which changes the base's weights"),
        ({"lora_alpha": "big"}, "alpha is 'big', not a number"),
        ({"alpha_pattern": {"(": 3}}, "is no pattern"),
        ({"alpha_pattern": [3]}, "is no pattern"),
    ],
)
def test_what_is_more_than_factors_is_refused(made: Path, tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(PrefmergeError, match=message):
        open_adapter(changed(made, tmp_path / "other", config))


def test_damaged_adapters_are_named(made: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointCorrupt, match=r"has '.*lora_A\.weight' and not its other factor"):
        open_adapter(changed(made, tmp_path / "half", q_proj__lora_B__weight=None))
    with pytest.raises(CheckpointMismatch, match="make no product"):
        open_adapter(changed(made, tmp_path / "rank", q_proj__lora_B__weight=np.zeros((16, 3), np.float32)))
    (tmp_path / "half" / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointCorrupt, match=r"adapter_config\.json: not a readable configuration"):
        open_adapter(tmp_path / "half")


def test_an_adapter_of_another_model_is_refused(made: Path, tmp_path: Path) -> None:
    wide = changed(made, tmp_path / "wide", q_proj__lora_B__weight=np.zeros((20, 2), np.float32))
    with pytest.raises(CheckpointMismatch, match=r"make a weight of shape \(20, 16\), and the base's has \(16, 16\)"):
        merge(made / "base", [wide], tmp_path / "out")
    gpt2().save_pretrained(tmp_path / "gpt2")
    with pytest.raises(CheckpointMismatch, match="an adapter for 4 tensors that the base does not have"):
        merge(tmp_path / "gpt2", [made / "cars"], tmp_path / "out")


def test_a_base_with_other_prefixes(made: Path, tmp_path: Path) -> None:
    save_file(
        {name.removeprefix("model."): values for name, values in weights(made / "base").items()},
        tmp_path / "b.safetensors",
    )
    merge(tmp_path / "b.safetensors", [made / "cars"], tmp_path / "out.safetensors", method="last", scale=1)
    expected = {name.removeprefix("model."): values for name, values in weights(made / "cars-full").items()}
    for name, values in load_file(tmp_path / "out.safetensors").items():
        np.testing.assert_allclose(values, expected[name], rtol=2e-6, atol=2e-7)


def test_a_nan_in_a_factor_is_named(made: Path, tmp_path: Path) -> None:
    bad = changed(made, tmp_path / "nan", q_proj__lora_A__weight=np.full((2, 16), np.nan, np.float32))
    with pytest.raises(PrefmergeError, match=r"task 'nan' .*q_proj\.weight' holds nan"):
        merge(made / "base", [bad], tmp_path / "out")


def test_where_a_whole_model_is_needed_an_adapter_is_refused(made: Path) -> None:
    with pytest.raises(CheckpointNotFound, match=r"a LoRA adapter, not a whole model\. It can be a task"):
        open_checkpoint(made / "cars")
    with pytest.raises(CheckpointNotFound, match="a LoRA adapter"):
        merge(made / "cars", [made / "birds"], made / "out")
    with pytest.raises(CheckpointMismatch, match="is no LoRA adapter, so it cannot be added"):
        merge(made / "base", [f"{made / 'base'}+{made / 'birds-full'}"], made / "out")


# Names that could be several tensors


def clip() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = {"text_config": sizes | {"vocab_size": 40}, "vision_config": sizes | {"image_size": 16, "patch_size": 8}}
    return transformers.CLIPModel(transformers.CLIPConfig(**config, projection_dim=8))


def test_an_adapter_of_one_of_two_towers_is_not_laid_on_the_other(tmp_path: Path) -> None:
    clip().save_pretrained(tmp_path / "clip")
    tower = transformers.CLIPVisionModel.from_pretrained(tmp_path / "clip")
    trained(tower, tmp_path / "vision", target_modules=["q_proj"])
    with pytest.raises(CheckpointMismatch, match=r"may be 'text_model\..*', 'vision_model\..*' of the base"):
        merge(tmp_path / "clip", [tmp_path / "vision"], tmp_path / "out")


def test_shapes_tell_the_towers_apart(tmp_path: Path) -> None:
    narrow = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    wide = {**narrow, "hidden_size": 16, "image_size": 16, "patch_size": 8}
    config = transformers.CLIPConfig(text_config={**narrow, "vocab_size": 40}, vision_config=wide, projection_dim=8)
    transformers.CLIPModel(config).save_pretrained(tmp_path / "clip")
    tower = transformers.CLIPVisionModel.from_pretrained(tmp_path / "clip")
    trained(tower, tmp_path / "vision", target_modules=["q_proj"])
    merge(tmp_path / "clip", [tmp_path / "vision"], tmp_path / "out", method="last")
    base, merged = weights(tmp_path / "clip"), weights(tmp_path / "out")
    changed = {name for name in base if not np.array_equal(base[name], merged[name])}
    assert changed == {f"vision_model.encoder.layers.{i}.self_attn.q_proj.weight" for i in (0, 1)}


def test_no_layer_stands_for_another(made: Path, tmp_path: Path) -> None:
    deep = {**LLAMA, "num_hidden_layers": 6}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**deep))
    trained(model, tmp_path / "last", target_modules=["q_proj"], layers_to_transform=[5])
    with pytest.raises(CheckpointMismatch, match=r"does not have: 'model\.layers\.5\.self_attn\.q_proj\.weight'"):
        merge(made / "base", [tmp_path / "last"], tmp_path / "out")


@pytest.mark.parametrize("modules", [["attn.c_proj", "score"], ["c_attn", "score"], ["attn.c_proj", "c_attn", "score"]])
def test_modules_stored_either_way_in_one_model(modules: list[str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=40, n_positions=32, n_embd=16, n_layer=2, n_head=2, pad_token_id=0)
    model = transformers.GPT2ForSequenceClassification(config)
    model.save_pretrained(tmp_path / "base")
    expected = unloaded(trained(model, tmp_path / "adapter", target_modules=modules), tmp_path / "unloaded")
    merge(tmp_path / "base", [tmp_path / "adapter"], tmp_path / "out", method="last", scale=1)
    for name, values in weights(tmp_path / "out").items():
        np.testing.assert_allclose(values, expected[name], rtol=2e-6, atol=2e-7, err_msg=name)


# What else may be given and written


def test_one_adapter_over_two_models(made: Path, tmp_path: Path) -> None:
    given = [f"{made / 'cars-full'}+{made / 'boats'}", f"{made / 'birds-full'}+{made / 'boats'}", made / "boats"]
    receipt = merge(made / "base", given, tmp_path / "out", names=["a", "b", "c"], method="magmax")
    assert receipt.tasks == ("a", "b", "c")
    with pytest.raises(CheckpointMismatch, match="which is task 1 too"):
        merge(made / "base", [given[0], given[0]], tmp_path / "out", names=["a", "b"], force=True)


def test_a_task_vector_of_adapters(made: Path, tmp_path: Path) -> None:
    tasks = [made / "cars", made / "birds"]
    merge(made / "base", tasks, tmp_path / "vector.safetensors", method="magmax", as_task_vector=True)
    merge(made / "base", [tmp_path / "vector.safetensors"], tmp_path / "a", method="last", scale=1)
    merge(made / "base", tasks, tmp_path / "b", method="magmax", scale=1)
    for name, values in weights(tmp_path / "a").items():
        assert np.array_equal(values, weights(tmp_path / "b")[name]), name


def test_a_base_with_an_adapter_is_to_be_made_first(made: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointMismatch, match=r"the base must be one model\. Make it first: prefmerge merge "):
        merge(f"{made / 'base'}+{made / 'cars'}", [made / "birds"], tmp_path / "out")


def test_an_adapter_is_called_after_its_folder(made: Path, tmp_path: Path) -> None:
    receipt = merge(made / "base", [made / "cars" / "adapter_model.safetensors"], tmp_path / "out")
    assert receipt.tasks == ("cars",)


def test_an_adapter_beside_a_model_is_mentioned(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "cars-full", tmp_path / "both")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(made / "birds" / name, tmp_path / "both")
    receipt = merge(made / "base", [tmp_path / "both"], tmp_path / "out")
    assert any("the LoRA adapter beside the model is not read" in note for note in receipt.notes)
