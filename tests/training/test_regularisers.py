"""LwF and EWC: losses and gradients against loops and differences, the Fisher information against its closed form."""

# ruff: noqa: E402  (imports that need an extra come after asking for it)

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="regularisers are torch's (extra train)")

from torch.nn import functional

from prefmerge.config import EwcConfig, LwfConfig
from prefmerge.errors import CheckpointMismatch, DataError
from prefmerge.models.heads import Head
from prefmerge.training.regularisers import Ewc, Lwf, Regulariser, blended, fisher
from tests.models.stubs import D, E, ToyTower, toy_head, toy_scenario
from tests.oracles import continual as oracle


class DoubleHead(Head):
    """The head in float64, where differences can be trusted to 1e-8."""

    def logits(self, embeddings: Any, classes: Any = None, scale: float | None = None) -> Any:
        rows = self.rows.double()[list(range(len(self.classes)) if classes is None else classes)]
        return (self.scale if scale is None else scale) * functional.normalize(embeddings, dim=-1) @ rows.T


def double_head() -> DoubleHead:
    head = toy_head(toy_scenario())
    return DoubleHead(head.rows, head.scale, head.classes, head.kind)


def double_tower(seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ToyTower(dropout=0.5).double()


def inputs(n: int = 7, seed: int = 3) -> Any:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, D)))


def flat(tower: Any) -> Any:
    return torch.cat([p.detach().reshape(-1) for p in tower.parameters()]).numpy()


def put(tower: Any, values: np.ndarray) -> None:
    torch.nn.utils.vector_to_parameters(torch.from_numpy(values.copy()), tower.parameters())


def gradients(tower: Any, value: Any) -> np.ndarray:
    result = torch.autograd.grad(value, list(tower.parameters()), allow_unused=True)
    pairs = zip(result, tower.parameters(), strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in pairs]).numpy()


@pytest.mark.parametrize(("temperature", "scale"), [(2.0, None), (2.0, 3.0), (1.0, None), (0.5, 7.0)])
def test_lwf_is_the_cross_entropy_of_softened_answers(temperature: float, scale: float | None):
    old, new, head, x = double_tower(0), double_tower(1).eval(), double_head(), inputs()
    config = LwfConfig(coefficient=0.3, temperature=temperature)
    classes = (0, 3, 1)
    result = Lwf(old, head, classes, config, scale).per_sample({"x": x}, new(x))
    assert result is not None
    with torch.no_grad():
        before, now = (head.logits(tower(x), classes, scale).tolist() for tower in (old, new))
    # Both in float64; exp and log of other libraries agree to a few units in the last place.
    assert result.tolist() == pytest.approx([0.3 * v for v in oracle.lwf(before, now, temperature)], rel=1e-12)


def test_lwf_gradient_against_differences():
    old, new, head, x = double_tower(0), double_tower(1).eval(), double_head(), inputs()
    lwf = Lwf(old, head, range(4), LwfConfig())

    def loss() -> Any:
        result = lwf.per_sample({"x": x}, new(x))
        assert result is not None
        return result.sum()

    def at(values: np.ndarray) -> float:
        put(new, values)
        return float(loss().detach())

    here = flat(new)
    wanted = oracle.slope(at, here, 1e-6)
    put(new, here)
    assert np.abs(wanted).max() > 1e-3  # there is a slope to be wrong about
    # Central differences are off by step^2 / 6 times a third derivative (some 1e3 here), and by 1e-15 / step.
    assert gradients(new, loss()) == pytest.approx(wanted, abs=1e-8)


def test_lwf_leaves_the_old_model_alone():
    old, new, head, x = double_tower(0).train(), double_tower(1), double_head(), inputs()
    lwf = Lwf(old, head, (0, 1), LwfConfig())
    one, two = (lwf.per_sample({"x": x}, new.eval()(x)) for _ in range(2))
    assert one is not None
    assert two is not None
    assert torch.equal(one, two)  # the old tower's dropout is off
    one.sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in old.parameters())
    assert all(p.grad is not None for p in new.parameters())


def test_lwf_of_the_same_model_is_at_its_minimum():
    old, new, head, x = double_tower(0), double_tower(0).eval(), double_head(), inputs()
    result = Lwf(old, head, range(6), LwfConfig()).per_sample({"x": x}, new(x))
    assert result is not None
    assert np.abs(gradients(new, result.sum())).max() < 1e-13
    assert float(result.detach().min()) > 0  # an entropy: a cross-entropy, not a divergence


@pytest.mark.parametrize(("coefficient", "classes"), [(0.0, (0, 1)), (0.3, ())])
def test_lwf_that_adds_nothing_does_not_even_run_the_old_model(coefficient: float, classes: tuple[int, ...]):
    class Unused(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            raise AssertionError("the old model was run")

    lwf = Lwf(Unused(), double_head(), classes, LwfConfig(coefficient=coefficient))
    assert lwf.per_sample({"x": inputs()}, torch.ones(7, E)) is None
    assert lwf.per_step({}) is None


def penalty(tower: Any, anchor: Mapping[str, Any], weights: Mapping[str, Any], coefficient: float) -> Any:
    result = Ewc(anchor, weights, EwcConfig(coefficient=coefficient)).per_step(dict(tower.named_parameters()))
    assert result is not None
    return result


def some_fisher(tower: Any, seed: int = 5) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {name: torch.from_numpy(rng.exponential(size=p.shape)) for name, p in tower.named_parameters()}


@pytest.mark.parametrize("coefficient", [1.0, 1e6])
def test_ewc_penalty_and_gradient(coefficient: float):
    before, tower = double_tower(0), double_tower(1)
    anchor, weights = dict(before.named_parameters()), some_fisher(tower)
    F = torch.cat([w.reshape(-1) for w in weights.values()]).numpy()
    result = penalty(tower, anchor, weights, coefficient)
    assert float(result.detach()) == pytest.approx(oracle.ewc(flat(tower), flat(before), F, coefficient), rel=1e-12)
    got = gradients(tower, result)
    assert got == pytest.approx(coefficient * F * (flat(tower) - flat(before)), rel=1e-12)

    def at(values: np.ndarray) -> float:
        put(tower, values)
        return float(penalty(tower, anchor, weights, coefficient).detach())

    # Of a quadratic, central differences are exact but for rounding: 1e-16 of the penalty over the step.
    assert got == pytest.approx(oracle.slope(at, flat(tower), 1e-4), rel=1e-6, abs=1e-9 * coefficient)


def test_ewc_does_not_move_its_anchor_with_the_model():
    tower = double_tower(0)
    ewc = Ewc(dict(tower.named_parameters()), some_fisher(tower), EwcConfig(coefficient=2.0))
    parameters = dict(tower.named_parameters())
    at_rest = ewc.per_step(parameters)
    assert at_rest is not None
    assert float(at_rest.detach()) == 0.0
    with torch.no_grad():
        for parameter in parameters.values():
            parameter += 1.0  # in place, as optimisers do
    moved = ewc.per_step(parameters)
    assert moved is not None
    assert float(moved.detach()) == pytest.approx(sum(float(f.sum()) for f in some_fisher(tower).values()), rel=1e-12)


def test_ewc_leaves_parameters_without_fisher_free():
    tower = double_tower(1)
    weights = {"first.bias": some_fisher(tower)["first.bias"]}
    got = gradients(tower, penalty(tower, dict(double_tower(0).named_parameters()), weights, 1.0))
    assert np.count_nonzero(got) == 5


def test_ewc_with_coefficient_zero_adds_nothing():
    tower = double_tower(1)
    ewc = Ewc(dict(double_tower(0).named_parameters()), some_fisher(tower), EwcConfig(coefficient=0))
    assert ewc.per_step(dict(tower.named_parameters())) is None
    assert ewc.per_sample({"x": inputs()}, torch.ones(7, E)) is None


def test_plain_fine_tuning_adds_nothing():
    assert Regulariser().per_sample({"x": inputs()}, torch.ones(7, E)) is None
    assert Regulariser().per_step({}) is None


def test_ewc_of_another_model():
    tower = double_tower(0)
    anchor, weights = dict(tower.named_parameters()), some_fisher(tower)
    with pytest.raises(
        CheckpointMismatch,
        match=r"EWC: the Fisher information has the tensor 'other', the anchor has not\. Use one model throughout\.",
    ):
        Ewc(anchor, {**weights, "other": weights["first.bias"]}, EwcConfig())
    with pytest.raises(
        CheckpointMismatch,
        match=r"tensor 'first.bias' has shape \(5,\) in the anchor, \(4,\) in the Fisher information",
    ):
        Ewc(anchor, {**weights, "first.bias": torch.ones(4)}, EwcConfig())
    with pytest.raises(CheckpointMismatch, match=r"the tensor 'first.weight', the model has not"):
        Ewc(anchor, weights, EwcConfig()).per_step({})


def cross_entropy(embeddings: Any, label: Any) -> Any:
    return functional.cross_entropy(embeddings, label)


class Linear(torch.nn.Module):
    """Logits W x: the model whose Fisher information is known."""

    def __init__(self, weights: np.ndarray) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.from_numpy(weights))
        self.unused = torch.nn.Parameter(torch.ones(2))

    def forward(self, x: Any) -> Any:
        return x @ self.weight.T


def closed_form() -> tuple[Any, Any, Any, np.ndarray]:
    rng = np.random.default_rng(0)
    W, x, y = rng.standard_normal((3, 4)), rng.standard_normal((10, 4)), rng.integers(0, 3, 10)
    return (
        Linear(W),
        torch.from_numpy(x),
        torch.from_numpy(y),
        oracle.softmax_fisher(W.tolist(), x.tolist(), y.tolist()),
    )


@pytest.mark.parametrize("batch", [1, 3, 10])
def test_fisher_of_a_linear_softmax_is_its_closed_form_whatever_the_batches(batch: int):
    tower, x, y, wanted = closed_form()
    batches = [({"x": x[i : i + batch]}, y[i : i + batch]) for i in range(0, 10, batch)]
    result = fisher(tower, batches, cross_entropy)
    assert result["weight"].numpy() == pytest.approx(wanted, rel=1e-12)
    assert not result["unused"].any()


def test_fisher_is_not_the_square_of_the_batch_gradient():
    tower, x, y, wanted = closed_form()
    (summed,) = torch.autograd.grad(functional.cross_entropy(tower(x), y), [tower.weight])
    result = fisher(tower, [({"x": x}, y)], cross_entropy)["weight"]
    assert float((result / summed.square()).min()) > 1.0  # by Jensen's inequality, strictly for samples that differ
    assert result.numpy() == pytest.approx(wanted, rel=1e-12)


def test_fisher_is_taken_in_eval_mode_and_leaves_no_trace():
    tower, head, x = double_tower(2).train(), double_head(), inputs()
    tower.second.eval()  # a part that its owner keeps in eval mode
    tower.first.bias.requires_grad_(False)
    before = [torch.full_like(p, 0.5) for p in tower.parameters()]
    for p, g in zip(tower.parameters(), before, strict=True):
        p.grad = g.clone()
    calls: list[int] = []

    def run() -> dict[str, Any]:
        return fisher(
            tower,
            [({"x": x}, torch.arange(7) % 6)],
            lambda e, label: functional.cross_entropy(head.logits(e), label),
            calls.append,
        )

    state = torch.random.get_rng_state()
    with torch.no_grad():  # as a caller may be
        one, two = run(), run()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert set(one) == {"first.weight", "second.weight"}
    assert all(torch.equal(one[name], two[name]) and not one[name].requires_grad for name in one)
    assert [m.training for m in (tower, tower.first, tower.dropout, tower.second)] == [True, True, True, False]
    assert all(p.grad is not None and torch.equal(p.grad, g) for p, g in zip(tower.parameters(), before, strict=True))
    assert calls == [1, 2, 3, 4, 5, 6, 7] * 2


def test_fisher_of_half_precision_does_not_underflow():
    tower, x, y, _ = closed_form()
    tower = tower.bfloat16()
    result = fisher(tower, [({"x": x.bfloat16()}, y)], lambda e, label: cross_entropy(e.float(), label))
    assert result["weight"].dtype == torch.float32


def test_modes_come_back_after_an_error():
    tower, x, y, _ = closed_form()
    tower.train()

    def broken(embeddings: Any, label: Any) -> Any:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fisher(tower, [({"x": x}, y)], broken)
    assert tower.training


def test_fisher_of_no_sample():
    with pytest.raises(DataError, match="EWC: no sample to compute the Fisher information from"):
        fisher(closed_form()[0], [], cross_entropy)


def test_blended():
    old, new = {"a": torch.tensor([4.0, 0.0])}, {"a": torch.tensor([1.0, 2.0])}
    assert blended(old, new, 0.25)["a"].tolist() == [1.75, 1.5]
    assert blended(old, new, 0)["a"].tolist() == [1.0, 2.0]
    assert blended(None, new, 0.25)["a"].tolist() == [1.0, 2.0]
    for one, other in (({}, new), (old, {})):
        with pytest.raises(CheckpointMismatch, match="has the tensor 'a'"):
            blended(one, other, 0.5)
