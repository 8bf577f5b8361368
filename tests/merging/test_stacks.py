"""Stacks of slices: which tensor is where, what the configuration says, that transformers loads them, refusals."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from prefmerge import merge, read_recipe, verify
from prefmerge.checkpoints.paths import PathOfLayers, name_of, split_stack
from prefmerge.errors import CheckpointMismatch, CheckpointNotFound, RecipeError
from prefmerge.merging.api import run
from prefmerge.merging.opening import open_base
from prefmerge.merging.plan import make_plan
from prefmerge.merging.recipe import Recipe
from prefmerge.merging.stacks import Stack
from prefmerge.merging.sweep import sweep
from prefmerge.methods.by_layer import ByLayer

GOLDEN = Path(__file__).parents[1] / "golden"
BASE, CARS, BIRDS = (GOLDEN / f"deep_{name}" for name in ("base", "cars", "birds"))
UP = "model.layers.{}.mlp.up_proj.weight"


def slices(*several: str) -> str:
    """`base [0, 2], cars [0, 2]` for each slice."""
    rows = []
    for one in several:
        sources = (source.strip().split(" ", 1) for source in one.split(";"))
        listed = ", ".join(f"{{model: {GOLDEN}/deep_{name}, layer_range: {layers}}}" for name, layers in sources)
        rows.append(f"- sources: [{listed}]\n")
    return f"slices:\n{''.join(rows)}"


def read(tmp_path: Path, text: str) -> Any:
    (tmp_path / "recipe.yaml").write_text(text)
    return read_recipe(tmp_path / "recipe.yaml")


def merged(tmp_path: Path, text: str) -> dict[str, np.ndarray]:
    run(read(tmp_path, text), tmp_path / "out")
    assert verify(tmp_path / "out", inputs=True, rerun=True).skipped == ()
    return load_file(tmp_path / "out" / "model.safetensors")


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def test_a_receipt_names_the_files_of_all_models(tmp_path: Path) -> None:
    receipt = merge(f"{CARS}[0:2]|{BIRDS}[1:3]", [], tmp_path / "out", method="passthrough", sha256=True)
    names = ["deep_cars/model.safetensors", "deep_birds/model.safetensors"]
    assert [file.name for file in receipt.inputs.base.files] == names == list(receipt.inputs.base.sha256 or ())
    path = json.loads((tmp_path / "out" / "receipt.json").read_text())["inputs"]["base"]["path"]
    assert str(GOLDEN) not in path
    assert [(Path(part.path).name, part.first, part.last) for part in split_stack(path) or ()] == [
        ("deep_cars", 0, 2),
        ("deep_birds", 1, 3),
    ]


def test_how_a_stack_is_written(tmp_path: Path) -> None:
    assert split_stack("a[0:8]|org/b@v2[4:12]") == [PathOfLayers("a", 0, 8), PathOfLayers("org/b@v2", 4, 12)]
    assert split_stack("a[0:8]|b") is split_stack("a[x:8]") is split_stack("a") is None
    assert name_of(Path("x/cars[0:8]|birds.safetensors[4:12]|x/cars[0:1]")) == "cars-birds"
    (tmp_path / "a[0:8]").mkdir()
    assert split_stack(tmp_path / "a[0:8]") is None


def test_every_tensor_is_where_it_belongs(tmp_path: Path) -> None:
    stack = merged(tmp_path, "merge_method: passthrough\n" + slices("cars [0, 2]", "birds [1, 3]", "base [1, 3]"))
    cars, birds, base = weights(CARS), weights(BIRDS), weights(BASE)
    assert len(stack) == 6 * 9 + 3
    for layer, (model, own) in enumerate([(cars, 0), (cars, 1), (birds, 1), (birds, 2), (base, 1), (base, 2)]):
        for name in model:
            if f"layers.{own}." in name:
                np.testing.assert_array_equal(stack[name.replace(f".{own}.", f".{layer}.", 1)], model[name])
    np.testing.assert_array_equal(stack["model.embed_tokens.weight"], cars["model.embed_tokens.weight"])
    for name in ("model.norm.weight", "lm_head.weight"):
        np.testing.assert_array_equal(stack[name], base[name])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_hidden_layers"] == 6


def test_depth_is_counted_in_each_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN)
    with make_plan(read_recipe("stack_slerp.yml")) as planned:
        layers = [planned.layers[UP.format(i)] for i in range(5)]
    assert layers == [(0, 0), (Fraction(1, 2), 0), (1, 0), (0, 1), (1, 1)]


def test_values_of_slices() -> None:
    rules = ByLayer.of_slices([None, Fraction(1), ByLayer.read(Fraction, [{"filter": "mlp", "value": [2, 4]}])])
    both = rules.or_else(Fraction(9))
    assert [both.at("mlp", Fraction(1, 2), slice) for slice in range(3)] == [9, 1, 3]
    assert [both.at("norm", Fraction(1, 2), slice) for slice in range(3)] == [9, 1, 9]
    assert ByLayer.read(Fraction, both.to_json(str)) == both
    with pytest.raises(KeyError):
        rules.at("mlp", Fraction(0), 0)


def test_a_layer_that_is_there_twice_has_values_of_its_own_in_each_place(tmp_path: Path) -> None:
    text = slices("base [0, 2]; cars [0, 2]", "base [0, 2]; cars [0, 2]")
    text = text.replace("]\n- ", "]\n  parameters: {weight: [1, 0.5]}\n- ", 1)
    stack = merged(tmp_path, f"merge_method: task_arithmetic\nbase_model: {BASE}\nparameters: {{weight: 0.25}}\n{text}")
    base, cars = weights(BASE), weights(CARS)
    for layer, (own, weight) in enumerate([(0, 1), (1, 0.5), (0, 0.25), (1, 0.25)]):
        name = UP.format(own)
        expected = base[name] + weight * (cars[name] - base[name])
        np.testing.assert_allclose(stack[UP.format(layer)], expected, rtol=0, atol=1e-6)


def test_slices_of_one_model_over_one_another(tmp_path: Path) -> None:
    """mergekit refuses it: one input twice."""
    stack = merged(tmp_path, "merge_method: linear\n" + slices("base [0, 2]; base [1, 3]"))
    base = weights(BASE)
    for layer in (0, 1):
        expected = (base[UP.format(layer)] + base[UP.format(layer + 1)]) / 2
        np.testing.assert_allclose(stack[UP.format(layer)], expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(stack["lm_head.weight"], base["lm_head.weight"])


@pytest.mark.parametrize("name", ["stack_passthrough", "stack_slerp", "stack_linear", "stack_ties", "stack_part"])
def test_the_recipe_on_the_card_makes_it_again(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN)
    receipt = run(read_recipe(f"{name}.yml"), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    (tmp_path / "recipe.yaml").write_text(card.partition("```yaml\n")[2].partition("```")[0])
    assert run(read_recipe(tmp_path / "recipe.yaml"), tmp_path / "again").fingerprint == receipt.fingerprint


def test_a_slice_with_the_base_alone_is_the_base(tmp_path: Path) -> None:
    for method in ("slerp", "nuslerp", "task_arithmetic", "linear"):
        text = f"merge_method: {method}\nbase_model: {BASE}\n{slices('base [0, 2]', 'base [1, 3]; cars [1, 3]')}"
        run(read(tmp_path, text + "parameters: {weight: 0.5}\n" * (method != "slerp")), tmp_path / method)
        stack, base = weights(tmp_path / method), weights(BASE)
        for name in (UP.format(0), UP.format(1), "model.embed_tokens.weight"):
            np.testing.assert_allclose(stack[name], base[name], rtol=0, atol=1e-7, err_msg=f"{method}: {name}")
        assert np.abs(stack[UP.format(3)] - base[UP.format(2)]).max() > 0.01


def test_files_are_those_of_the_base_that_is_named(tmp_path: Path) -> None:
    for name in ("cars", "birds"):
        (tmp_path / name).mkdir()
        save_file(weights(GOLDEN / f"deep_{name}"), tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text(json.dumps({"num_hidden_layers": 3, "of": name}))
    rows = "".join(
        f"- sources: [{{model: {one}}}]\n" for one in ("cars, layer_range: [0, 1]", "cars, layer_range: [0, 1]")
    )
    for named, of in (("", "cars"), ("base_model: birds\n", "birds")):
        run(read(tmp_path, f"merge_method: passthrough\n{named}slices:\n{rows}"), tmp_path / f"out-{of}")
        config = json.loads((tmp_path / f"out-{of}" / "config.json").read_text())
        assert config == {"num_hidden_layers": 2, "of": of}
        verify(tmp_path / f"out-{of}", inputs=True, rerun=True)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"n_layer": 3}, {"n_layer": 5}),
        ({"num_layers": 3, "d_model": 8}, {"num_layers": 5, "d_model": 8}),
        ({"num_hidden_layers": 3, "layer_types": ["a", "b", "c"]}, {"num_hidden_layers": 5, "layer_types": [*"abcbc"]}),
        ({"num_hidden_layers": 3, "max_window_layers": 3}, {"num_hidden_layers": 5, "max_window_layers": 5}),
        ({"num_hidden_layers": 3, "max_window_layers": 1}, {"num_hidden_layers": 5, "max_window_layers": 1}),
        ({"num_hidden_layers": 3, "mlp_only_layers": [1]}, {"num_hidden_layers": 5, "mlp_only_layers": [1, 3]}),
        ({"text_config": {"num_hidden_layers": 3}}, {"text_config": {"num_hidden_layers": 5}}),
        ({"num_hidden_layers": 3, "rope": [1, 2, 3]}, {"num_hidden_layers": 5, "rope": [1, 2, 3]}),
    ],
)
def test_what_the_configuration_says_of_layers(before: dict[str, Any], after: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save_file(weights(BASE), tmp_path / "model" / "model.safetensors")
    (tmp_path / "model" / "config.json").write_text(json.dumps(before))
    merge(f"{tmp_path}/model[0:3]|{tmp_path}/model[1:3]", [], tmp_path / "out", method="passthrough")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == after


def test_blocks_threads_and_shards_change_nothing(tmp_path: Path) -> None:
    recipe = read(
        tmp_path,
        f"merge_method: ties\nbase_model: {BASE}\n" + slices("base [0, 3]; cars [0, 3]", "base [1, 3]; cars [1, 3]"),
    )
    prints = {
        run(recipe, tmp_path / f"{block}-{threads}", block=block, threads=threads, max_shard_size=size).fingerprint
        for block, threads, size in ((7, 1, None), (4096, 2, "4KB"), (1 << 18, 1, "100KB"))
    }
    assert len(prints) == 1


TWICE = slices("cars [0, 2]; birds [0, 2]", "cars [0, 2]; birds [0, 2]")


@pytest.mark.parametrize(
    ("method", "text", "message"),
    [
        ("ties", slices("cars [0, 2]; birds [1, 3]"), r"line 4: .* of different layers, and the base is none of them"),
        ("passthrough", slices("cars [0, 2]; birds [0, 2]"), "passthrough takes one source, found 2"),
        ("linear", slices("cars [0, 2]; birds [0, 3]"), "its sources are of 2 and 3 layers; each must be of as many"),
        (
            "sce",
            slices("base [0, 2]; cars [0, 2]; birds [0, 2]", "base [0, 2]; cars [0, 2]"),
            "and another slice has 3",
        ),
        (
            "linear",
            TWICE.replace("}]\n- ", "}]\n  parameters: {normalize: false}\n- "),
            "'normalize' differs from slice",
        ),
        ("linear", TWICE.replace(", layer_range: [0, 2]}]", "}]", 1), "'layer_range' is missing in a source"),
    ],
)
def test_slices_that_make_no_stack(method: str, text: str, message: str, tmp_path: Path) -> None:
    base = f"base_model: {BASE}\n" if method in ("ties", "sce") else ""
    with pytest.raises(RecipeError, match=message):
        read(tmp_path, f"merge_method: {method}\n{base or '# none'}{'' if base else chr(10)}{text}")


def test_models_that_make_no_stack(tmp_path: Path) -> None:
    wide = {name: np.zeros((4, *values.shape), np.float32) for name, values in weights(BASE).items()}
    save_file(wide, tmp_path / "wide.safetensors")
    other = {name.replace("model.layers", "transformer.h"): values for name, values in weights(BASE).items()}
    save_file(other, tmp_path / "other.safetensors")
    tied = {name: values for name, values in weights(BASE).items() if name != "lm_head.weight"}
    save_file(tied, tmp_path / "tied.safetensors")
    two = {f"{part}.{name}": values for name, values in weights(BASE).items() for part in ("encoder", "decoder")}
    save_file(two, tmp_path / "two.safetensors")
    for one, message in {
        f"{BASE}[0:2]|{tmp_path}/wide.safetensors[0:2]": "of its layers has shape .* one architecture and size",
        f"{BASE}[0:2]|{tmp_path}/other.safetensors[0:2]": r"its layers are called transformer\.h\.0 and so on",
        f"{BASE}[0:2]|{tmp_path}/tied.safetensors[0:2]": r"differ in 'lm_head\.weight', outside of the layers",
        f"{tmp_path}/two.safetensors[0:2]": r"it has 2 stacks of layers \(decoder\.model\.layers, encoder",
        f"{BASE}[0:4]": "it has 3 layers, and a slice ends at 4",
        f"{BASE}[0:0]": "a stack without a layer",
    }.items():
        with pytest.raises(CheckpointMismatch, match=message):
            open_base(one)


@pytest.mark.parametrize(
    ("slices", "problem"),
    [("gone[0:3]", "gone: no such file or folder."), ("FULL[0:9]", "FULL: it has 3 layers, and a slice ends at 9.")],
)
def test_what_is_wrong_with_one_model_is_said_of_the_whole_stack(slices: str, problem: str, tmp_path: Path) -> None:
    typed = f"{BASE}[0:2]|{slices}".replace("FULL", str(CARS))
    for base, task in ((typed, str(BASE)), (str(BASE), typed)):
        with pytest.raises((CheckpointNotFound, CheckpointMismatch)) as caught:
            merge(base, [task], tmp_path / "out", method="linear")
        assert str(caught.value).startswith(f"stack {typed}: {problem.replace('FULL', str(CARS))}")


@pytest.mark.parametrize(("layers", "count"), [("[0:2]", 2), (f"[0:3]|{BIRDS}[0:3]", 6)])
def test_a_stack_of_another_height_than_the_base_is_not_to_be_cut(layers: str, count: int, tmp_path: Path) -> None:
    with pytest.raises(CheckpointMismatch) as caught:
        merge(BASE, [f"{CARS}{layers}"], tmp_path / "out", names=["high"], method="linear")
    assert str(caught.value).startswith(f"task 'high' ({CARS}{layers}) ")
    assert str(caught.value).endswith(
        f"model.layers has {count} layers in high, and 3 in the base. Give models of as many layers: the base can be a "
        "stack too, such as BASE[0:8]|BASE[4:12]."
    )
    assert "--exclude" not in str(caught.value)


def test_one_stack_twice_is_one_input(tmp_path: Path) -> None:
    parts = f"{BASE}[0:2]|{CARS}[0:2]"
    with pytest.raises(CheckpointMismatch, match="Every input must be a checkpoint of its own"):
        merge(parts, [parts], tmp_path / "out")


def test_a_stack_of_a_model_with_tied_tensors(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="makes a file with tied tensors")
    tensors = {name: torch.from_numpy(values) for name, values in weights(BASE).items()}
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    torch.save(tensors, tmp_path / "tied.bin")
    stack = open_base(f"{tmp_path}/tied.bin[0:3]|{tmp_path}/tied.bin[2:3]")
    assert isinstance(stack, Stack)
    assert stack.aliases == {"model.embed_tokens.weight": "lm_head.weight"}
    np.testing.assert_array_equal(stack.raw(UP.format(3)), stack.raw(UP.format(2)))
    stack.close()


def tiny(kind: str) -> Any:
    transformers = pytest.importorskip("transformers", reason="makes and loads models")
    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
    wide = {**sizes, "intermediate_size": 24, "num_key_value_heads": 2}
    return {
        "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**wide)),
        "tied": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**wide, tie_word_embeddings=True)),
        "mistral": lambda: transformers.MistralForCausalLM(transformers.MistralConfig(**wide)),
        "qwen2": lambda: transformers.Qwen2ForCausalLM(
            transformers.Qwen2Config(**wide, use_sliding_window=True, sliding_window=4, max_window_layers=2)
        ),
        "gpt2": lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(vocab_size=40, n_embd=16, n_layer=4, n_head=2, n_positions=32)
        ),
        "gpt_neox": lambda: transformers.GPTNeoXForCausalLM(
            transformers.GPTNeoXConfig(**sizes, intermediate_size=24, max_position_embeddings=32)
        ),
        "opt": lambda: transformers.OPTForCausalLM(
            transformers.OPTConfig(**sizes, ffn_dim=24, max_position_embeddings=32, word_embed_proj_dim=16)
        ),
        "bert": lambda: transformers.BertLMHeadModel(
            transformers.BertConfig(**sizes, intermediate_size=24, is_decoder=True)
        ),
    }[kind]()


@pytest.mark.parametrize("kind", ["llama", "tied", "mistral", "qwen2", "gpt2", "gpt_neox", "opt", "bert"])
def test_transformers_loads_a_stack_and_it_computes_what_it_is(kind: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="makes and loads models")
    transformers = pytest.importorskip("transformers", reason="makes and loads models")
    torch.manual_seed(0)
    model = tiny(kind)
    model.save_pretrained(tmp_path / "model")
    rows = "".join(f"- sources: [{{model: model, layer_range: {layers}}}]\n" for layers in ([0, 3], [1, 2], [2, 4]))
    run(read(tmp_path, f"merge_method: passthrough\nslices:\n{rows}"), tmp_path / "out")
    assert verify(tmp_path / "out", inputs=True, rerun=True).skipped == ()
    loaded, info = type(model).from_pretrained(tmp_path / "out", local_files_only=True, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert loaded.config.num_hidden_layers == 6
    expected = stacked_by_hand(model, [0, 1, 2, 1, 2, 3])
    words = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(words).logits, expected.eval()(words, use_cache=False).logits)
        assert loaded.generate(words, max_new_tokens=3, do_sample=False).shape[1] > words.shape[1]
    assert transformers.AutoConfig.from_pretrained(tmp_path / "out").num_hidden_layers == 6


def stacked_by_hand(model: Any, order: list[int]) -> Any:
    """The model with its own layer modules in another order."""
    torch = pytest.importorskip("torch")
    name, layers = next(
        (name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.ModuleList)
    )
    parent = model.get_submodule(name.rpartition(".")[0])
    setattr(parent, name.rpartition(".")[2], torch.nn.ModuleList([layers[i] for i in order]))
    model.config.num_hidden_layers = len(order)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[i] for i in order]
    return model


@pytest.fixture
def longer(tmp_path: Path) -> Path:
    """`birds` with two tokens more."""
    folder = tmp_path / "longer"
    shutil.copytree(BIRDS, folder)
    tensors = weights(folder)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = np.concatenate([tensors[name], np.ones((2, tensors[name].shape[1]), np.float32)])
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_a_layer_that_is_there_twice_is_two_where_rows_are_moved_too(longer: Path, tmp_path: Path) -> None:
    rows = [(0, 2, 0.2), (1, 3, 0.9)]
    text = "".join(
        f"- sources:\n  - {{model: {BASE}, layer_range: [{first}, {last}]}}\n"
        f"  - {{model: {longer}, layer_range: [{first}, {last}], parameters: {{weight: {weight}}}}}\n"
        for first, last, weight in rows
    )
    text = f"merge_method: task_arithmetic\nbase_model: {BASE}\nrows_from: longer\nslices:\n{text}"
    made, base, task = merged(tmp_path, text), weights(BASE), weights(longer)
    layers = [(number, weight) for first, last, weight in rows for number in range(first, last)]
    for at, (number, weight) in enumerate(layers):
        before, after = (one[UP.format(number)].astype(np.float64) for one in (base, task))
        np.testing.assert_allclose(made[UP.format(at)], before + weight * (after - before), rtol=0, atol=1e-6)
    assert made["model.embed_tokens.weight"].shape[0] == base["model.embed_tokens.weight"].shape[0] + 2


def test_a_stack_has_one_vocabulary(longer: Path, tmp_path: Path) -> None:
    for path in (f"{CARS}[0:2]|{longer}[1:3]", f"{CARS}[0:0]|{longer}[0:3]"):
        with pytest.raises(CheckpointMismatch, match=r"a stack has one vocabulary\. Bring them to one first"):
            merge(path, [], tmp_path / "out", method="passthrough")


def test_a_slice_that_ends_before_it_begins(tmp_path: Path) -> None:
    with pytest.raises(CheckpointMismatch, match=r"the slice \[2:1\] ends before it begins"):
        merge(f"{CARS}[2:1]|{BIRDS}[0:3]", [], tmp_path / "out", method="passthrough")


def test_no_adapter_goes_over_a_stack(tmp_path: Path) -> None:
    (tmp_path / "lora").mkdir()
    factors = {"lora_A": (2, 8), "lora_B": (8, 2)}
    module = "base_model.model.model.layers.1.self_attn.q_proj"
    arrays = {f"{module}.{name}.weight": np.ones(shape, np.float32) for name, shape in factors.items()}
    save_file(arrays, tmp_path / "lora" / "adapter_model.safetensors")
    (tmp_path / "lora" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')
    with pytest.raises(CheckpointMismatch, match="a LoRA adapter over a stack, whose layers have other numbers"):
        merge(f"{BASE}[0:2]|{BASE}[1:3]", [tmp_path / "lora"], tmp_path / "out")


def test_a_stack_has_the_tokenizer_and_the_template_of_its_first_model(tmp_path: Path) -> None:
    for name in ("cars", "birds"):
        shutil.copytree(GOLDEN / f"deep_{name}", tmp_path / name)
        (tmp_path / name / "chat_template.jinja").write_text(f"{{{{ '{name}' }}}}")
    stack = f"{tmp_path / 'cars'}[0:2]|{tmp_path / 'birds'}[1:3]"
    merge(stack, [], tmp_path / "out", method="passthrough", chat_template="base")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ 'cars' }}"


def test_a_sweep_over_a_stack_writes_folders(tmp_path: Path) -> None:
    recipe = Recipe(base=f"{BASE}[0:2]|{BASE}[1:3]", tasks=[{"path": f"{CARS}[0:2]|{CARS}[1:3]"}], method="average")
    for resume in (False, True):
        made = sweep(recipe, tmp_path / "out", {"scale": ["0.5", "1"]}, resume=resume)
        assert [one.kept for one in made] == [resume, resume]
        assert all((one.out / "config.json").is_file() for one in made)
