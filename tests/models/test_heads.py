"""Heads against loops in float64 over an encoder whose embeddings are known."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from prefmerge.data.examples import Examples
from prefmerge.data.scenarios import ClassInfo, Scenario, Task
from prefmerge.errors import DataError, EncoderError, RunError
from prefmerge.models.encoders.protocol import Augmentation, Encoder
from prefmerge.models.heads import Head, make_head, prototype_head, text_head

# Rows are float32 of size up to 1, after a handful of float32 operations on values of their own size: each rounds by at
# most 6e-8 of them.
CLOSE = 1e-6
CLASSES = (
    ClassInfo("ash", ("an ash", "the ash tree")),
    ClassInfo("elm", ("an elm",)),
    ClassInfo("oak", ("oaks", "an oak", "o")),
)


class Tower(nn.Module):
    """A linear map and a dropout, which only eval mode switches off."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, -2.0, 0.5], [0.25, 3.0, 1.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.dropout(x @ self.weight.T, 0.5, self.training)


class Known(Encoder):
    """Embeds a list of three numbers by the tower, and a phrase by its letters."""

    kind, name, width, logit_scale = "text", "known", 2, 7.5

    def __init__(self, speaks: bool = True) -> None:
        self.linear = self.tower = Tower()
        self.speaks = speaks

    def prepare(
        self, inputs: Sequence[Any], augmentation: Augmentation | None = None, seeds: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        assert augmentation is None, "heads see what evaluation sees"
        return {"x": torch.tensor(np.array(inputs), dtype=torch.float32)}

    def phrases(self, phrases: Sequence[str]) -> Tensor | None:
        return torch.tensor([letters(phrase) for phrase in phrases], dtype=torch.float32) if self.speaks else None

    def state(self) -> dict[str, Tensor]:
        raise AssertionError("a head asks for no weights")

    def load(self, checkpoint: Path) -> None:
        raise AssertionError("a head asks for no weights")

    def save(self, folder: Path) -> None:
        raise AssertionError("a head asks for no weights")


def letters(phrase: str) -> list[float]:
    return [float(len(phrase)), float(phrase.count("o")) - 1.5]


def unit(vector: Sequence[float] | np.ndarray) -> np.ndarray:
    vector = np.asarray(vector, np.float64)
    return vector / math.sqrt(sum(float(x) * float(x) for x in vector))


def samples(inputs: np.ndarray, labels: Sequence[int]) -> Examples:
    return Examples(
        ids=tuple(str(i) for i in range(len(inputs))),
        labels=np.array(labels, np.int64),
        read=lambda at: [inputs[i] for i in at],
        fingerprint=str,
    )


def scenario(*splits: Examples) -> Scenario:
    everything = tuple(range(len(CLASSES)))
    tasks = tuple(Task(f"t{i}", everything, everything, split, split) for i, split in enumerate(splits))
    return Scenario("class-incremental", "text", CLASSES, tasks)


def test_a_text_head_is_the_mean_of_unit_phrases():
    head = text_head(Known(), CLASSES)
    for row, info in zip(head.rows.numpy(), CLASSES, strict=True):
        expected = unit(sum((unit(letters(phrase)) for phrase in info.phrases), np.zeros(2)) / len(info.phrases))
        np.testing.assert_allclose(row, expected, rtol=0, atol=CLOSE)
    assert (head.classes, head.scale, head.kind) == (("ash", "elm", "oak"), 7.5, "text")
    assert head.rows.dtype == torch.float32
    assert not head.rows.requires_grad


@pytest.mark.parametrize("batch", [1, 3, 256])
def test_a_prototype_is_the_mean_of_unit_samples_under_the_base(batch: int):
    encoder, rng = Known(), np.random.default_rng(0)
    inputs, labels = rng.standard_normal((11, 3)), [0, 2, 1, 1, 0, 2, 2, 2, 0, 1, 2]
    encoder.tower.train()
    head = prototype_head(
        encoder, CLASSES, [samples(inputs[:4], labels[:4]), samples(inputs[4:], labels[4:])], batch=batch
    )
    assert encoder.tower.training, "the tower is in the mode that it was in"
    weight = encoder.linear.weight.detach().double().numpy()
    for row, label in zip(head.rows.numpy(), range(3), strict=True):
        units = [unit(weight @ x) for x, y in zip(inputs, labels, strict=True) if y == label]
        np.testing.assert_allclose(row, unit(sum(units, np.zeros(2)) / len(units)), rtol=0, atol=CLOSE)
    assert (head.kind, head.scale) == ("prototype", 7.5)
    assert not head.rows.requires_grad


def test_logits_are_scaled_cosines_with_the_rows_asked_for():
    head = text_head(Known(), CLASSES)
    embeddings = np.random.default_rng(1).standard_normal((4, 2)) * 30
    result = head.logits(torch.tensor(embeddings, dtype=torch.float32), classes=(2, 0))
    assert result.shape == (4, 2)
    for n in range(4):
        for column, c in enumerate((2, 0)):
            expected = 7.5 * float(unit(embeddings[n]) @ head.rows[c].double().numpy())
            assert result[n, column].item() == pytest.approx(expected, abs=7.5 * CLOSE)
    tensor = torch.tensor(embeddings, dtype=torch.float32)
    assert torch.equal(head.logits(tensor)[:, [2, 0]], result)
    assert torch.equal(head.logits(tensor, scale=1.0), head.logits(tensor) / 7.5) or torch.allclose(
        head.logits(tensor, scale=1.0) * 7.5, head.logits(tensor), rtol=1e-6
    )


def test_logits_are_float32_under_autocast_and_carry_gradients():
    head = text_head(Known(), CLASSES)
    embeddings = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = head.logits(embeddings)
    assert result.dtype == torch.float32
    assert torch.equal(result, head.logits(embeddings))
    result.sum().backward()
    assert embeddings.grad is not None
    assert head.logits(embeddings.detach().bfloat16()).dtype == torch.float32


def test_a_head_comes_back_from_its_file(tmp_path: Path):
    classes = (ClassInfo('Größe, "7"', ("a",)), ClassInfo("oak", ("oo",)))
    head = text_head(Known(), classes)
    head.save(tmp_path / "head.safetensors")
    result = Head.load(tmp_path / "head.safetensors")
    assert torch.equal(result.rows, head.rows)
    assert (result.classes, result.scale, result.kind) == (head.classes, head.scale, head.kind)
    assert [path.name for path in tmp_path.iterdir()] == ["head.safetensors"]


def test_a_prototype_head_comes_back_as_one(tmp_path: Path):
    Head(torch.eye(2), 1 / 3, ("a", "b"), "prototype").save(tmp_path / "h")
    result = Head.load(tmp_path / "h")
    assert (result.kind, result.scale) == ("prototype", 1 / 3)


def test_auto_is_text_where_there_is_a_text_side():
    result = scenario(samples(np.eye(3), [0, 1, 2]))
    assert make_head("auto", Known(), result).kind == "text"
    assert make_head("auto", Known(speaks=False), result).kind == "prototype"
    assert make_head("prototype", Known(), result).kind == "prototype"


def test_prototypes_take_the_samples_of_all_tasks():
    halves = scenario(samples(np.eye(3)[:1], [0]), samples(np.eye(3)[1:], [1, 2]))
    whole = scenario(samples(np.eye(3), [0, 1, 2]))
    assert torch.equal(make_head("prototype", Known(), halves).rows, make_head("prototype", Known(), whole).rows)


def test_what_cannot_be_a_head(tmp_path: Path):
    with pytest.raises(EncoderError, match=r"'known' has no text side.*Set head to prototype"):
        make_head("text", Known(speaks=False), scenario(samples(np.eye(3), [0, 1, 2])))
    with pytest.raises(DataError, match=r"class 'elm' has no phrase"):
        text_head(Known(), (ClassInfo("ash", ("a",)), ClassInfo("elm", ())))
    with pytest.raises(DataError, match=r"class 'elm' has no training sample \(1 of 3 classes have none\)"):
        prototype_head(Known(), CLASSES, [samples(np.eye(3)[:2], [0, 2])])
    encoder = Known()
    with torch.no_grad():
        encoder.linear.weight[0, 2] = float("nan")
    with pytest.raises(EncoderError, match=r"'known': the head's row for class 'ash' is not finite"):
        prototype_head(encoder, CLASSES, [samples(np.eye(3), [0, 1, 2])])

    with pytest.raises(RunError, match=r"absent.safetensors: no such file, expected a run's head"):
        Head.load(tmp_path / "absent.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"{}")
    with pytest.raises(RunError, match=r"broken.safetensors: cannot be read as a head"):
        Head.load(tmp_path / "broken.safetensors")
    save_file({"head.weight": torch.eye(2)}, tmp_path / "model.safetensors")
    with pytest.raises(RunError, match=r"model.safetensors: no head: its metadata says format None"):
        Head.load(tmp_path / "model.safetensors")
    about = {"format": "prefmerge-head/1", "scale": 1.0, "kind": "text", "classes": ["a"]}
    save_file({"head.weight": torch.eye(2)}, tmp_path / "other.safetensors", {"prefmerge": json.dumps(about)})
    with pytest.raises(RunError, match=r"rows of shape \(2, 2\) for 1 classes do not match"):
        Head.load(tmp_path / "other.safetensors")


def test_a_head_with_a_bias_is_written_in_another_format_and_answers_with_it(tmp_path: Path) -> None:
    rows = torch.eye(3)[:2] * torch.tensor([[2.0], [1.0]])
    adapted = Head(rows, 4.0, ("cat", "dog"), "text", torch.tensor([0.5, -1.0]))
    adapted.save(tmp_path / "head.safetensors")
    result = Head.load(tmp_path / "head.safetensors")
    embeddings = torch.tensor([[3.0, 4.0, 0.0]])
    assert torch.allclose(result.logits(embeddings), torch.tensor([[4 * 2 * 0.6 + 0.5, 4 * 0.8 - 1.0]]))
    assert torch.equal(result.logits(embeddings, [1]), result.logits(embeddings)[:, 1:])
    with safe_open(tmp_path / "head.safetensors", framework="np") as opened:
        assert json.loads(opened.metadata()["prefmerge"])["format"] == "prefmerge-head/2"  # which 0.1 refuses
