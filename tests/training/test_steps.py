"""One task's fine-tuning: the recipe's numbers against a bare loop, and what must not change a bit."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from prefmerge.config import EwcConfig, LwfConfig, TrainingConfig
from prefmerge.data.scenarios import Scenario
from prefmerge.errors import DataError
from prefmerge.models.encoders.protocol import Augmentation, Batch, Encoder
from prefmerge.training.batches import crop_seed, order_of, targets_of
from prefmerge.training.regularisers import Ewc, Lwf, Regulariser
from prefmerge.training.steps import StepReport, fine_tune, learning_rate_at, warm_steps
from tests.models.stubs import ToyEncoder, toy_head, toy_scenario

RECIPE = TrainingConfig(batch=5, learning_rate=0.01, warmup_steps=3, device="cpu", threads=1, workers=0)


def trained(
    config: TrainingConfig = RECIPE,
    *,
    dropout: float = 0.5,
    seed: int = 7,
    epochs: int = 3,
    scenario: Scenario | None = None,
    **how: Any,
) -> dict[str, Tensor]:
    """The toy's weights after its first task."""
    scenario = scenario or toy_scenario()
    encoder, task = ToyEncoder(dropout=dropout), scenario.tasks[0]
    fine_tune(encoder, toy_head(scenario), task.train, task.classes, config, epochs=epochs, seed=seed, **how)
    return {name: tensor.clone() for name, tensor in encoder.state().items()}


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def far(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def test_the_recipe_against_a_bare_loop():
    """AdamW with weight decay, cosine after a linear warm-up, clipping, batches in the drawn order: written out."""
    scenario = toy_scenario()
    task, head = scenario.tasks[0], toy_head(scenario)
    encoder = ToyEncoder(dropout=0.0)
    inputs = torch.from_numpy(np.array(task.train.read(range(len(task.train)))))
    labels = torch.tensor([task.classes.index(label) for label in task.train.labels.tolist()])
    leaves = list(encoder.tower.parameters())
    optimizer = torch.optim.AdamW(leaves, lr=0.01, weight_decay=0.1)
    generator = torch.Generator().manual_seed(7)
    count, batch, warm, epochs = len(labels), 5, 3, 3
    steps, step = epochs * math.ceil(count / batch), 0
    clipped = 0
    for _ in range(epochs):
        order = torch.randperm(count, generator=generator)
        for start in range(0, count, batch):
            chosen = order[start : start + batch]
            rate = (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * rate
            unit = functional.normalize(encoder.tower(inputs[chosen]), dim=-1)
            loss = functional.cross_entropy(head.scale * unit @ head.rows[list(task.classes)].T, labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            clipped += float(torch.nn.utils.clip_grad_norm_(leaves, 1.0)) > 1
            optimizer.step()
            step += 1
    assert clipped > 0  # or the clipping would not be compared
    ours = trained(RECIPE.model_copy(update={"augmentation": False}), dropout=0.0)
    # One is PyTorch's fused AdamW, the other is not: they differ in the last bits of each of 12 steps of size 0.01.
    assert far(ours, encoder.state()) < 1e-6
    assert far(ours, ToyEncoder().state()) > 1e-2


def test_each_number_of_the_recipe_matters():
    plain = trained()
    for change in (
        {"learning_rate": 0.02},
        {"weight_decay": 0.0},
        {"warmup_steps": 4},
        {"clip_norm": None},
        {"batch": 6},
        {"logit_scale": 3.0},
        {"augmentation": False},
    ):
        assert not same(plain, trained(RECIPE.model_copy(update=change))), change
    assert not same(plain, trained(seed=8))


def test_the_learning_rate_of_every_step():
    rates = [learning_rate_at(step, 10, 4, 1.0) for step in range(10)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[7] == pytest.approx(0.5)  # half way from step 4 to 10
    assert all(a > b for a, b in itertools.pairwise(rates[4:]))
    # The papers' 500 steps may outlast a task, which then never leaves the warm-up.
    assert learning_rate_at(99, 100, 500, 1.0) == pytest.approx(0.2)
    assert warm_steps(TrainingConfig(), 100) == 500
    assert warm_steps(TrainingConfig(warmup_fraction=0.1), 100) == 10
    assert warm_steps(TrainingConfig(warmup_fraction=0.1), 3) == 1


def test_the_order_is_one_generators():
    generator = torch.Generator().manual_seed(3)
    assert [order_of(9, 3, epoch) for epoch in range(4)] == [
        torch.randperm(9, generator=generator).tolist() for _ in range(4)
    ]


def test_the_same_seed_gives_the_same_bits_and_leaves_the_callers_generator_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = trained()
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(2)
    assert same(first, trained())


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_no_bit(workers: int):
    assert same(trained(), trained(RECIPE.model_copy(update={"workers": workers})))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_pieces_of_a_batch_add_up_to_it(size: int):
    """Gradients of pieces are those of the batch up to the order of sums: float32 rounding over 12 steps."""
    whole, pieces = trained(dropout=0.0), trained(RECIPE.model_copy(update={"micro_batch": size}), dropout=0.0)
    assert far(whole, pieces) < 1e-5


@pytest.mark.parametrize("stop", [1, 2])
def test_resuming_after_an_epoch_gives_the_same_bits(stop: int, tmp_path: Path):
    class Killed(Exception):
        pass

    def on_step(step: StepReport) -> None:
        if step.epoch == stop:
            raise Killed

    state = tmp_path / "state"
    with pytest.raises(Killed):
        trained(state=state, on_step=on_step)
    assert state.is_dir()
    seen: list[int] = []
    assert same(trained(state=state, on_step=lambda step: seen.append(step.epoch)), trained())
    assert min(seen) == stop


def test_what_is_reported():
    seen: list[StepReport] = []
    trained(on_step=seen.append)
    assert [(one.epoch, one.step, one.steps) for one in seen] == [(0, 4, 12), (1, 8, 12), (2, 10, 12), (2, 12, 12)]
    assert all(0 <= one.accuracy <= 1 and one.loss > 0 and one.seconds_left >= 0 for one in seen)
    assert seen[-1].seconds_left == 0


class Nothing(Regulariser):
    """A regulariser whose parts are zero, and are added."""

    def per_sample(self, batch: Batch, embeddings: Tensor) -> Tensor | None:
        return 0.0 * embeddings.sum(dim=1)

    def per_step(self, parameters: Mapping[str, Tensor]) -> Tensor | None:
        return 0.0 * sum(p.square().sum() for p in parameters.values())  # pyright: ignore[reportReturnType]


def regulariser(kind: str, coefficient: float) -> Regulariser:
    scenario = toy_scenario()
    if kind == "lwf":
        old = ToyEncoder(seed=5).tower
        return Lwf(old, toy_head(scenario), scenario.tasks[1].classes, LwfConfig(coefficient=coefficient))
    anchor = {name: p.detach().clone() for name, p in ToyEncoder(seed=5).tower.named_parameters()}
    ones = {name: torch.ones_like(p) for name, p in anchor.items()}
    return Ewc(anchor, ones, EwcConfig(coefficient=coefficient))


@pytest.mark.parametrize("kind", ["lwf", "ewc"])
def test_a_coefficient_of_zero_is_plain_fine_tuning_bit_for_bit(kind: str):
    assert same(trained(regulariser=regulariser(kind, 0.0)), trained())
    assert same(trained(regulariser=Nothing()), trained())
    assert not same(trained(regulariser=regulariser(kind, 0.3)), trained())


def test_a_strong_anchor_holds():
    held = trained(regulariser=regulariser("ewc", 1e4), epochs=40)
    anchor = ToyEncoder(seed=5).state()
    assert far(held, anchor) < 0.2 < far(trained(epochs=40), anchor)


def test_a_label_of_another_task_is_refused():
    task = toy_scenario().tasks[0]
    with pytest.raises(ValueError, match=r"labels \[1\] are not among the task's classes \[0\]"):
        targets_of(task.train, [0])


def test_crops_have_seeds_of_their_own():
    seeds = {crop_seed(seed, epoch, at) for seed in range(3) for epoch in range(3) for at in range(50)}
    assert len(seeds) == 450
    assert all(0 <= one < 2**63 for one in seeds)


def test_an_unknown_parameter_is_left_alone():
    """A tower may hold parameters that its embedding does not use (a pooler): they keep their bits."""

    class Spare(ToyEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.tower.register_parameter("spare", torch.nn.Parameter(torch.ones(3)))

    scenario = toy_scenario()
    encoder: Encoder = Spare()
    task = scenario.tasks[0]
    fine_tune(encoder, toy_head(scenario), task.train, task.classes, RECIPE, epochs=1, seed=0)
    assert torch.equal(encoder.state()["spare"], torch.ones(3))


def test_the_augmentation_is_the_configured_one():
    asked: list[Augmentation | None] = []

    class Asked(ToyEncoder):
        def prepare(
            self, inputs: Any, augmentation: Augmentation | None = None, seeds: Any = None
        ) -> dict[str, Tensor]:
            asked.append(augmentation)
            return super().prepare(inputs, augmentation, seeds)

    scenario = toy_scenario()
    task = scenario.tasks[0]
    config = RECIPE.model_copy(update={"crop_scale": (0.5, 0.8)})
    fine_tune(Asked(), toy_head(scenario), task.train, task.classes, config, epochs=1, seed=0)
    assert set(asked) == {Augmentation(scale=(0.5, 0.8))}


@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_be_read_is_said_without_a_workers_traceback(workers: int):
    def broken(_: Any) -> list[Any]:
        raise DataError("cats/1.png: cannot be read as an image.")

    scenario = toy_scenario()
    task = scenario.tasks[0]
    config = RECIPE.model_copy(update={"workers": workers})
    examples = dataclasses.replace(task.train, read=broken)
    with pytest.raises(DataError) as raised:
        fine_tune(ToyEncoder(), toy_head(scenario), examples, task.classes, config, epochs=1, seed=0)
    assert str(raised.value) == "cats/1.png: cannot be read as an image."
