"""Fine-tuning: the same bytes for a seed, whatever torch's threads; a head that never sees other classes."""

# ruff: noqa: E402  (imports that need an extra come after asking for it)

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the demo trains with torch (extra demo)")
pytest.importorskip("sklearn", reason="the demo's digits come with scikit-learn (extra demo)")

from torch import Tensor

from prefmerge.demo import train
from prefmerge.demo.digits import TASKS, Digits, load_digits
from prefmerge.demo.model import load_base
from prefmerge.demo.train import Regime, fine_tune, fine_tune_in_sequence

QUICK = Regime(learning_rate=1e-3, epochs=1, batch=16)


@pytest.fixture(scope="module")
def few() -> Digits:
    """The digits with 40 training images: 8 a task or so."""
    digits = load_digits()
    return Digits(digits.pixels, digits.labels, {**digits.parts, "train": digits.parts["train"][::25]})


@pytest.fixture(scope="module")
def shipped() -> tuple[dict[str, Tensor], Tensor]:
    return load_base()


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_seed_gives_the_same_bytes_on_any_number_of_threads(
    few: Digits, shipped: tuple[dict[str, Tensor], Tensor]
) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = fine_tune_in_sequence(*shipped, few, QUICK, 5)
        torch.set_num_threads(2)
        two = fine_tune_in_sequence(*shipped, few, QUICK, 5)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert len(one) == len(TASKS)
    assert all(same(a, b) for a, b in zip(one, two, strict=True))
    other = fine_tune_in_sequence(*shipped, few, QUICK, 6)
    assert not same(one[0], other[0])


def test_every_task_starts_from_the_one_before_with_a_new_optimizer(
    few: Digits, shipped: tuple[dict[str, Tensor], Tensor]
) -> None:
    base, head = shipped
    states = fine_tune_in_sequence(base, head, few, QUICK, 2)
    by_hand = base
    for t, classes in enumerate(TASKS):
        by_hand = fine_tune(by_hand, head, *few.tensors(few.ids("train", t)), classes, QUICK, 2000 + t)
        assert same(states[t], by_hand)


def test_rows_of_other_classes_do_not_matter(few: Digits, shipped: tuple[dict[str, Tensor], Tensor]) -> None:
    base, head = shipped
    images, labels = few.tensors(few.ids("train", 1))
    spoilt = head.clone()
    spoilt[[0, 1, 4, 5, 6, 7, 8, 9]] = float("nan")
    tuned = fine_tune(base, head, images, labels, TASKS[1], QUICK, 0)
    assert same(tuned, fine_tune(base, spoilt, images, labels, TASKS[1], QUICK, 0))
    swapped = head.clone()
    swapped[[2, 3]] = head[[3, 2]]
    assert not same(tuned, fine_tune(base, swapped, images, labels, TASKS[1], QUICK, 0))


def test_labels_of_another_task_are_refused(few: Digits, shipped: tuple[dict[str, Tensor], Tensor]) -> None:
    base, head = shipped
    with pytest.raises(ValueError, match=r"labels \[2, 3\] are not all among the task's classes \[0, 1\]"):
        fine_tune(base, head, *few.tensors(few.ids("train", 1)), TASKS[0], QUICK, 0)


def test_a_rate_of_zero_changes_nothing_and_the_base_is_never_touched(
    few: Digits, shipped: tuple[dict[str, Tensor], Tensor]
) -> None:
    base, head = shipped
    before = {name: tensor.clone() for name, tensor in base.items()}
    images, labels = few.tensors(few.ids("train", 0))
    assert same(base, fine_tune(base, head, images, labels, TASKS[0], Regime(learning_rate=0.0, epochs=1), 0))
    assert not same(base, fine_tune(base, head, images, labels, TASKS[0], QUICK, 0))
    assert same(base, before)


def test_gradients_are_clipped_and_the_rate_follows_its_schedule(
    few: Digits, shipped: tuple[dict[str, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, head = shipped
    rates: list[float] = []
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def spy(self: Any, *rest: object) -> object:
        rates.append(self.param_groups[0]["lr"])
        norms.append(float(torch.stack([p.grad.norm() for group in self.param_groups for p in group["params"]]).norm()))
        return step(self, *rest)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    regime = Regime(learning_rate=1e-3, epochs=10, batch=4, warmup=0.25, clip=0.01)
    images, labels = few.tensors(few.ids("train", 0))
    seen: list[tuple[int, int]] = []
    fine_tune(base, head, images, labels, TASKS[0], regime, 0, lambda step, steps: seen.append((step, steps)))
    steps = 10 * -(-len(images) // 4)
    assert seen == [(k + 1, steps) for k in range(steps)]
    assert max(norms) <= 0.01 * (1 + 1e-4)
    warm = round(0.25 * steps)
    assert rates[:warm] == pytest.approx([1e-3 * (k + 1) / warm for k in range(warm)])
    assert all(later < earlier for earlier, later in zip(rates[warm:], rates[warm + 1 :], strict=False))
    assert 0 < rates[-1] < 2e-5


def test_the_module_has_no_second_regime() -> None:
    assert [name for name, value in vars(train).items() if isinstance(value, Regime)] == []
