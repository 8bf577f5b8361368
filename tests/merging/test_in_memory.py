"""Models in memory: the same values as from their files, and no change of what the user holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import prefmerge
from prefmerge.errors import CheckpointMismatch, UsageError
from tests.merging.test_adapters import ADAPTERS, llama, trained

torch = pytest.importorskip("torch", reason="makes models")
peft = pytest.importorskip("peft", reason="makes adapters")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # PEFT asks transformers for it
    pytest.mark.filterwarnings("ignore::UserWarning"),  # PEFT tells its own users what it decides
]


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_in_memory_is_the_one_in_its_files(kind: str, tmp_path: Path):
    make, settings = ADAPTERS[kind]
    model = make()
    model.save_pretrained(tmp_path / "base")
    adapted = trained(model, tmp_path / "adapter", **settings)
    prefmerge.merge(tmp_path / "base", [tmp_path / "adapter"], tmp_path / "out", method="magmax", scale=1)
    expected = load_file(tmp_path / "out" / "model.safetensors")
    for base in (make(), adapted):
        merged, receipt = prefmerge.merge_state_dicts(base, [adapted], method="magmax", scale=1)
        again = make()
        again.load_state_dict(merged)
        again.save_pretrained(tmp_path / "again")  # under the names that files have
        values = load_file(tmp_path / "again" / "model.safetensors")
        assert values.keys() == expected.keys()
        assert all(np.array_equal(values[name], expected[name]) for name in expected)
        assert receipt.inputs.tasks[0].task_vector


def test_the_adapters_of_one_model_by_their_names(tmp_path: Path):
    base = llama()
    base.save_pretrained(tmp_path / "base")
    for seed, name in enumerate(("cars", "birds"), 1):
        trained(llama(), tmp_path / name, seed, target_modules=["q_proj", "down_proj"])
    model = peft.PeftModel.from_pretrained(base, tmp_path / "cars", adapter_name="cars")
    model.load_adapter(tmp_path / "birds", adapter_name="birds")
    before = {name: one.clone() for name, one in model.state_dict().items()}
    merged, receipt = prefmerge.merge_state_dicts(model, ["cars", "birds"], preference="cars=0.8,birds=0.2")
    tasks = [tmp_path / "cars", tmp_path / "birds"]
    prefmerge.merge(tmp_path / "base", tasks, tmp_path / "out", preference="cars=0.8,birds=0.2")
    expected = load_file(tmp_path / "out" / "model.safetensors")
    assert all(np.array_equal(merged[name].numpy(), expected[name]) for name in expected)
    assert receipt.tasks == ("cars", "birds")
    assert all(torch.equal(before[name], one) for name, one in model.state_dict().items())
    with pytest.raises(UsageError, match=r"the model has no adapter 'boats'; it has 'cars', 'birds'"):
        prefmerge.merge_state_dicts(model, ["cars", "boats"])
    model.set_adapter("birds")
    alone, _ = prefmerge.merge_state_dicts(model, [model], method="last")
    prefmerge.merge(tmp_path / "base", [tmp_path / "birds"], tmp_path / "alone", method="last")
    expected = load_file(tmp_path / "alone" / "model.safetensors")
    assert all(np.array_equal(alone[name].numpy(), expected[name]) for name in expected)


def test_modules_are_their_state_dicts():
    base, cars, birds = (torch.nn.Linear(3, 2) for _ in range(3))
    merged, _ = prefmerge.merge_state_dicts(base, [cars, birds], method="magmax", scale=0.5)
    states = [one.state_dict() for one in (base, cars, birds)]
    expected, _ = prefmerge.merge_state_dicts(states[0], states[1:], method="magmax", scale=0.5)
    assert all(torch.equal(merged[name], expected[name]) for name in expected)
    base.load_state_dict(merged)


def test_what_is_no_model():
    layer = torch.nn.Linear(3, 2)
    with pytest.raises(UsageError, match="base is a PosixPath, which is no state dict"):
        prefmerge.merge_state_dicts(Path("base"), [layer])
    with pytest.raises(UsageError, match="task 'task-1' is a int, which is no state dict"):
        prefmerge.merge_state_dicts(layer, [3])
    with pytest.raises(UsageError, match="names an adapter of the base, and the base has none"):
        prefmerge.merge_state_dicts(layer, ["cars"])


def test_an_adapter_that_is_more_than_factors(tmp_path: Path):
    model = peft.get_peft_model(llama(), peft.LoraConfig(target_modules=["q_proj"], use_dora=True))
    with pytest.raises(CheckpointMismatch, match=r"adapter 'task-1': an adapter with"):
        prefmerge.merge_state_dicts(llama(), [model])


def test_an_adapter_that_is_in_the_weights_already():
    model = peft.get_peft_model(llama(), peft.LoraConfig(target_modules=["q_proj"]))
    model.merge_adapter()
    for base, tasks in ((model, ["default"]), (llama(), [model])):
        with pytest.raises(UsageError, match=r"an adapter merged into its weights. Call unmerge_adapter\(\) first"):
            prefmerge.merge_state_dicts(base, tasks)
    model.unmerge_adapter()
    prefmerge.merge_state_dicts(model, ["default"])


def test_one_task_in_place_of_a_list():
    layer = torch.nn.Linear(3, 2)
    for one in (layer, layer.state_dict(), "cars"):
        with pytest.raises(UsageError, match="give a list, with one for each task"):
            prefmerge.merge_state_dicts(layer, one)  # pyright: ignore[reportArgumentType]


def test_an_embedding_that_is_tied_and_saved_whole():
    """The head is the embedding: what the adapter says of one holds for both."""
    base = llama(tie_word_embeddings=True)
    settings = {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}
    model = peft.get_peft_model(llama(tie_word_embeddings=True), peft.LoraConfig(**settings))
    with torch.no_grad():
        model.base_model.model.model.embed_tokens.modules_to_save["default"].weight.add_(1)
    merged, _ = prefmerge.merge_state_dicts(base, [model], method="last")
    expected = base.state_dict()["model.embed_tokens.weight"] + 1
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.allclose(merged[name], expected, rtol=0, atol=1e-6)
