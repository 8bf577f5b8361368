"""What evaluates: checkpoints that name their tensors otherwise, images that several models see."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from prefmerge.config import ModelConfig
from prefmerge.data.examples import Examples
from prefmerge.errors import CheckpointMismatch, EncoderError
from prefmerge.models import features
from prefmerge.models.encoders import Augmentation, Encoder, load_encoder
from prefmerge.models.encoders.weights import put_arrays
from prefmerge.models.features import embed
from prefmerge.models.matrix import evaluate_matrix
from prefmerge.models.prepared import ROOM, Room, decoded_once
from tests.models.stubs import ToyEncoder, toy_head, toy_run, toy_scenario
from tests.models.tiny import SIZES, picture, tiny_bert, tiny_dinov2


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


# Images of an evaluation.


class Counting:
    """Reads pictures, and counts them."""

    def __init__(self, count: int) -> None:
        self.pictures = [picture(i, SIZES[i % len(SIZES)], ("RGB", "L")[i % 2]) for i in range(count)]
        self.read: list[int] = []
        self.threads: set[int] = set()

    def examples(self) -> Examples:
        count = len(self.pictures)
        return Examples(tuple(f"p{i}" for i in range(count)), np.zeros(count, np.int64), self, lambda at: str(list(at)))

    def __call__(self, at: Sequence[int]) -> list[Any]:
        self.read += list(at)
        self.threads.add(threading.get_ident())
        return [self.pictures[i] for i in at]


def test_journey_7_images_are_decoded_once_for_all_models(encoder: Encoder):
    source, room = Counting(40), Room()
    once = decoded_once(encoder, source.examples(), room)
    plain = embed(encoder, source.examples(), batch=32)
    source.read.clear()
    for _ in range(3):
        np.testing.assert_array_equal(embed(encoder, once, batch=32), plain)
    assert sorted(source.read) == list(range(40))
    assert once.fingerprint([1, 2]) == source.examples().fingerprint([1, 2]), "caches hit as before"
    assert room.left < ROOM


def test_journey_7_what_there_is_no_room_for_is_decoded_each_time(encoder: Encoder):
    source = Counting(40)
    plain = embed(encoder, source.examples(), batch=32)
    once = decoded_once(encoder, source.examples(), Room(1))
    source.read.clear()
    for _ in range(2):
        np.testing.assert_array_equal(embed(encoder, once, batch=32), plain)
    kept = 80 - len(source.read)
    assert 0 < kept < 40


def test_journey_7_images_are_read_in_several_threads_and_keep_their_order(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
):
    source = Counting(70)
    monkeypatch.setattr(features, "READERS", 4)
    wide = embed(encoder, source.examples(), batch=70)
    assert len(source.threads) > 1
    monkeypatch.setattr(features, "READERS", 1)
    np.testing.assert_array_equal(embed(encoder, source.examples(), batch=70), wide)
    one_by_one = torch.cat([encoder.tower(**encoder.prepare([one])) for one in source.pictures]).detach().numpy()
    np.testing.assert_allclose(wide, one_by_one, rtol=1e-4, atol=1e-5)  # batches round otherwise


def test_journey_7_a_matrix_decodes_each_image_once(tmp_path: Path):
    """The stub counts what it prepares; the images are vectors."""
    scenario = toy_scenario()
    reads: list[int] = []

    def counted(examples: Examples) -> Examples:
        def read(at: Sequence[int]) -> list[Any]:
            reads.extend(at)
            return examples.read(at)

        return replace(examples, read=read)

    counting = replace(scenario, tasks=tuple(replace(task, test=counted(task.test)) for task in scenario.tasks))
    run = toy_run(tmp_path / "run", scenario)
    report = evaluate_matrix(ToyEncoder(), run, toy_head(scenario), counting)
    assert len(reads) == sum(len(task.test) for task in scenario.tasks)
    assert report.matrix().shape == (3, 3)


# The size of images.


def test_journey_4_images_of_a_size_that_is_asked_for(encoder: Encoder, tmp_path: Path):
    small = load_encoder(ModelConfig(id=encoder.name, image_size=14))
    assert small.prepare([picture(1, (50, 40))])["pixel_values"].shape == (1, 3, 14, 14)
    assert encoder.prepare([picture(1, (50, 40))])["pixel_values"].shape[2] != 14
    crop = Augmentation()
    assert small.prepare([picture(1, (50, 40))], crop, [3])["pixel_values"].shape == (1, 3, 14, 14)
    assert small.preprocessing != encoder.preprocessing, "no features of another size come from the cache"
    small.save(tmp_path / "saved")
    for image_size in (14, None):  # what was saved is prepared for in the same way, asked or not
        again = load_encoder(ModelConfig(id=str(tmp_path / "saved"), image_size=image_size))
        np.testing.assert_array_equal(
            again.prepare([picture(1, (50, 40))])["pixel_values"], small.prepare([picture(1, (50, 40))])["pixel_values"]
        )


def test_journey_4_a_size_where_there_is_none(tmp_path: Path):
    tiny_bert(tmp_path / "bert")
    with pytest.raises(EncoderError, match="image_size is for image backbones"):
        load_encoder(ModelConfig(id=str(tmp_path / "bert"), image_size=14))
