"""Ownership per layer: the grouping of names, the sums, and a picture that is not empty."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import prefmerge
from prefmerge.analysis import Inventory, Ownership, draw, layers, look, ownership
from prefmerge.analysis.ownership import OwnedRow
from prefmerge.errors import CheckpointNotFound, MissingExtra, OutputError
from prefmerge.merging.receipt import Receipt, ReceiptTensor, ReceiptTotals
from tests.merging.receipts import GOLDEN


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (  # OpenCLIP: the text tower has no name of its own
            [
                "visual.transformer.resblocks.3.ln_1.weight",
                "transformer.resblocks.3.ln_1.weight",
                "visual.conv1.weight",
                "logit_scale",
            ],
            ["visual block 3", "block 3", "visual.conv1", "logit_scale"],
        ),
        (
            ["encoder.layer.3.attention.self.query.weight", "encoder.layer.11.output.dense.bias", "pooler.dense.bias"],
            ["block 3", "block 11", "pooler.dense"],
        ),
        (  # transformers' CLIP
            ["text_model.encoder.layers.0.mlp.fc1.weight", "vision_model.encoder.layers.0.mlp.fc1.weight"],
            ["text_model block 0", "vision_model block 0"],
        ),
        (["model.layers.7.mlp.experts.2.w1.weight", "model.layers.7.mlp.gate.weight"], ["block 7", "block 7"]),
        (["layer1.0.conv1.weight", "layer2.0.conv1.weight", "fc.weight"], ["layer1 block 0", "layer2 block 0", "fc"]),
        (["0.weight", "2.bias"], ["block 0", "block 2"]),
        (["0.weight", "a.0.weight"], ["block 0", "a block 0"]),
        (["w"], ["w"]),
    ],
)
def test_layers(names: list[str], expected: list[str]) -> None:
    assert [layers(names)[name] for name in names] == expected


PART = st.sampled_from(["a", "b", "0", "1", "12", "w"])


@given(st.lists(st.lists(PART, min_size=1, max_size=5).map(".".join), unique=True))
def test_different_stacks_never_share_a_label(names: list[str]) -> None:
    def block(name: str) -> tuple[str, ...] | None:
        parts = name.split(".")
        at = next((i for i, part in enumerate(parts) if part.isdigit()), None)
        return None if at is None else tuple(parts[: at + 1])

    labels = layers(names)
    for name in names:
        for other in names:
            if block(name) is not None and block(other) is not None:
                assert (labels[name] == labels[other]) == (block(name) == block(other))


def receipt(tasks: int, owned: dict[str, list[int] | None], method: str = "tunable_magmax") -> Receipt:
    tensors = {
        name: ReceiptTensor(
            shape=(sum(counts or [4]),),
            dtype="float32",
            role="merged" if counts else "unchanged",
            owned=tuple(counts) if counts else None,
        )
        for name, counts in owned.items()
    }
    columns = tuple(sum(column) for column in zip(*(c for c in owned.values() if c), strict=True)) or None
    return replace(
        Receipt.load(GOLDEN / "magmax.json"),
        recipe={"method": method},
        tasks=tuple(f"task-{t}" for t in range(tasks)),
        tensors=tensors,
        totals=ReceiptTotals(asked=columns, owned=columns, passes=None, random=None, gap=None),
    )


def test_ownership_adds_up_per_layer() -> None:
    found = ownership(receipt(2, {"b.10.w": [1, 3], "b.9.w": [2, 2], "b.9.v": [0, 4], "head.w": None}))
    assert [(row.name, row.tensors, row.elements, row.owned) for row in found.rows] == [
        ("block 9", 2, 8, (2, 6)),
        ("block 10", 1, 4, (1, 3)),
        ("head", 1, 4, None),
    ]
    assert found.total.owned == (3, 9)
    assert found.total.elements == 16
    assert found.rows[0].shares == (0.25, 0.75)
    assert found.rows[2].shares is None
    assert [row.name for row in ownership(receipt(2, {"b.10.w": [1, 3], "b.9.w": [2, 2]}), by="tensor").rows] == [
        "b.9.w",
        "b.10.w",
    ]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    paths = []
    for seed, name in enumerate(("base", "cars", "birds")):
        rng = np.random.default_rng(seed)
        paths.append(tmp_path / f"{name}.safetensors")
        save_file(
            {f"layers.{i}.w": rng.standard_normal((9, 4)).astype(np.float32) for i in range(3)} | {"ids": np.arange(2)},
            paths[-1],
        )
    prefmerge.merge(paths[0], paths[1:], tmp_path / "out.safetensors", preference="0.75,0.25")
    return tmp_path / "out.safetensors"


def test_look_at_an_output_its_receipt_or_a_checkpoint(output: Path) -> None:
    found, same = look(output), look(output.with_name("out.safetensors.receipt.json"))
    assert isinstance(found, Ownership)
    assert isinstance(same, Ownership)
    assert found.rows == same.rows
    assert found.tasks == ("cars", "birds")
    assert [(row.name, row.owned) for row in found.rows] == [
        ("ids", None),
        *((f"block {i}", (27, 9)) for i in range(3)),
    ]
    plain = look(output.with_name("base.safetensors"))
    assert isinstance(plain, Inventory)
    assert plain.dtypes == {"float32": (3, 108, 432), "int64": (1, 2, 16)}
    assert [(row.name, row.tensors, row.elements, row.owned) for row in plain.rows][:2] == [
        ("ids", 1, 2, None),
        ("block 0", 1, 36, None),
    ]
    with pytest.raises(
        CheckpointNotFound, match=r"gone does not exist\. Give a merged model, its receipt or a checkpoint\."
    ):
        look(output.with_name("gone"))


def test_a_picture_shows_every_bar(output: Path) -> None:
    image = pytest.importorskip("matplotlib.image")
    found = look(output)
    assert isinstance(found, Ownership)
    for name in ("ownership.png", "ownership.svg"):
        draw(found, output.with_name(name))
    pixels = image.imread(output.with_name("ownership.png"))[..., :3]
    blue, orange = (np.array(rgb) / 255 for rgb in ((0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00)))
    areas = [np.isclose(pixels, colour, atol=1 / 255).all(axis=-1).sum() for colour in (blue, orange)]
    assert areas[0] / areas[1] == pytest.approx(
        3, rel=0.1
    )  # 27 elements to 9; the legend's patches and white edges are the tolerance
    assert output.with_name("ownership.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize("tasks", [1, 8, 9, 20])
def test_pictures_of_many_tasks(tmp_path: Path, tasks: int) -> None:
    pytest.importorskip("matplotlib")
    draw(
        ownership(receipt(tasks, {f"b.{i}.w": [i + t for t in range(tasks)] for i in range(1, 13)})),
        tmp_path / "many.png",
    )
    assert (tmp_path / "many.png").stat().st_size > 10_000


def test_pictures_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    blend = ownership(receipt(2, {"w": None}, method="average"), source="merged")
    with pytest.raises(
        OutputError,
        match=r"^merged: average blends the tasks, so no element has an owner and there is nothing to draw\.$",
    ):
        draw(blend, tmp_path / "a.png")
    found = ownership(receipt(2, {f"w{i}": [1, 1] for i in range(500)}), source="merged", by="tensor")
    with pytest.raises(OutputError, match=r"501 bars are too many for one picture; at most 400\. Draw it by layer\."):
        draw(found, tmp_path / "a.png")
    small = ownership(receipt(2, {"w": [1, 1]}))
    with pytest.raises(OutputError, match=r"the picture cannot be written: .*nosuch"):
        draw(small, tmp_path / "a.nosuch")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"pip install 'prefmerge\[plot\]'"):
        draw(small, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("scope", "rows", "said"),
    [
        ("tensor", [(60, 40), (601, 399)], True),
        ("tensor", [(60, 40), (1, 99)], False),  # small tensors, or a strength below 1
        ("model", [(60, 40), (600, 400)], False),
        ("tensor", [(60, 40)], False),
        (None, [(60, 40), (600, 400)], False),
    ],
)
def test_journey_12_bars_that_are_all_alike_are_explained(
    tmp_path: Path, scope: str | None, rows: list[tuple[int, int]], said: bool
):
    pytest.importorskip("matplotlib")
    total = tuple(sum(column) for column in zip(*rows, strict=True))
    made = tuple(OwnedRow(f"block {i}", 1, sum(row), row) for i, row in enumerate(rows))
    owned = Ownership(
        "out", "tunable_magmax", ("a", "b"), None, None, OwnedRow("all", 2, 9, total), made, "layer", scope
    )
    assert ("scope tensor" in str(owned.note)) == said
    assert ("note" in owned.to_json()) == said
    draw(owned, tmp_path / "who.svg")
    assert ("Every layer has the shares of the whole" in (tmp_path / "who.svg").read_text()) == said
