"""Checkpoints that name their tensors otherwise than the model that evaluates them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from prefmerge.config import ModelConfig
from prefmerge.errors import CheckpointMismatch
from prefmerge.models.encoders import Encoder, load_encoder
from prefmerge.models.encoders.weights import put_arrays
from tests.models.tiny import tiny_dinov2


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    folder = tmp_path_factory.mktemp("models") / "dinov2"
    tiny_dinov2(folder)
    return load_encoder(ModelConfig(id=str(folder)))


@pytest.fixture
def wanted(encoder: Encoder) -> dict[str, Tensor]:
    """Weights that a checkpoint has; the encoder does not hold them."""
    return {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in encoder.state().items()}


def holds(encoder: Encoder, weights: dict[str, Tensor]) -> bool:
    return all(torch.equal(encoder.state()[name], tensor) for name, tensor in weights.items())


def inside(name: str) -> str:
    return name.replace("attention.", "attention._checkpoint_wrapped_module.", 1)


WRAPPED: dict[str, Callable[[str], str]] = {
    "DataParallel": lambda name: f"module.{name}",
    "compiled": lambda name: f"_orig_mod.{name}",
    "sharded": lambda name: f"_fsdp_wrapped_module.{name}",
    "a trainer's module": lambda name: f"net.backbone.{name}",
    "in the middle": inside,
    "several at once": lambda name: f"module._orig_mod.model.{inside(name)}",
}


@pytest.mark.parametrize("how", WRAPPED)
def test_journey_21_wrapped_names_are_loaded(how: str, encoder: Encoder, wanted: dict[str, Tensor], tmp_path: Path):
    torch.save({"state_dict": {WRAPPED[how](name): own for name, own in wanted.items()}}, tmp_path / "task.ckpt")
    assert not holds(encoder, wanted)
    encoder.load(tmp_path / "task.ckpt")
    assert holds(encoder, wanted)


def test_journey_21_a_head_and_buffers_that_only_the_checkpoint_has(
    encoder: Encoder, wanted: dict[str, Tensor], tmp_path: Path
):
    more = {"classifier.weight": torch.ones(3, 4), "module.dinov2.embeddings.position_ids": torch.arange(9)}
    save_file({**{f"module.dinov2.{name}": own for name, own in wanted.items()}, **more}, tmp_path / "t.safetensors")
    encoder.load(tmp_path / "t.safetensors")
    assert holds(encoder, wanted)


def test_journey_21_what_a_wrapped_checkpoint_lacks_is_said_alone(
    encoder: Encoder, wanted: dict[str, Tensor], tmp_path: Path
):
    first, second, *_ = (name for name, tensor in wanted.items() if tensor.dim() == 2)
    del wanted[first]
    wanted[second] = wanted[second][:1].clone()
    save_file({f"module.{name}": own for name, own in wanted.items()}, tmp_path / "t.safetensors")
    before = {name: tensor.clone() for name, tensor in encoder.state().items()}
    with pytest.raises(CheckpointMismatch) as error:
        encoder.load(tmp_path / "t.safetensors")
    ours, its = tuple(before[second].shape), tuple(wanted[second].shape)
    assert str(error.value).startswith(
        f"{tmp_path / 't.safetensors'}: lacks 1 of the model's {len(before)} tensors: {first!r}; {second!r} has shape "
        f"{its}, the model's has {ours}. Expected a checkpoint of the tower"
    )
    assert holds(encoder, before)


def test_journey_21_codes_of_a_quantised_model_are_no_weights(
    encoder: Encoder, wanted: dict[str, Tensor], tmp_path: Path
):
    name = next(name for name, tensor in wanted.items() if tensor.dim() == 2)
    save_file({**wanted, name: (100 * wanted[name]).to(torch.int8)}, tmp_path / "t.safetensors")
    with pytest.raises(CheckpointMismatch, match=f"'{name}' is int8, the model's is float32"):
        encoder.load(tmp_path / "t.safetensors")


def test_journey_21_merges_over_a_wrapped_base_reach_the_model(
    encoder: Encoder, wanted: dict[str, Tensor], tmp_path: Path
):
    save_file({f"module.{name}": own for name, own in wanted.items()}, tmp_path / "base.safetensors")
    merged = {f"module.{name}": own.numpy() for name, own in wanted.items() if own.is_floating_point()}
    with pytest.raises(CheckpointMismatch, match="no such tensor"):
        put_arrays(encoder, merged)
    put_arrays(encoder, merged, tmp_path / "base.safetensors")
    assert holds(encoder, wanted)
