"""The pictures: that they are there and show the numbers; cells of a histogram."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from prefmerge import plotting
from prefmerge.analysis import Measured, Spread, figures
from prefmerge.errors import CheckpointMismatch, OutputError, UsageError
from tests.analysis.test_task_vectors import measure, walk

SIZES = {
    "embed.weight": (9, 4),
    "visual.blocks.0.attn.weight": (8, 8),
    "visual.blocks.1.attn.weight": (8, 8),
    "text.blocks.0.mlp.weight": (8, 8),
    "text.blocks.0.norm.weight": (8,),
}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved, instead of files."""
    saved: list[Figure] = []
    monkeypatch.setattr(plotting, "save", lambda figure, path: saved.append(figure))
    return saved


def two(tasks: int) -> list[Measured]:
    base, sequential = walk(tasks, SIZES)
    rng = np.random.default_rng(1)
    independent = [
        {
            name: base[name] + np.float32(0.01) * rng.standard_normal(shape).astype(np.float32)
            for name, shape in SIZES.items()
        }
        for _ in range(tasks)
    ]
    return [measure(base, sequential, label="sequential"), measure(base, independent, label="independent")]


def lines(axis: Any) -> list[np.ndarray]:
    return [np.asarray(line.get_ydata(), float) for line in axis.lines]


def shown(axis: Any) -> np.ndarray:
    return np.asarray(axis.images[0].get_array())


def test_sign_conflicts_shows_the_shares(drawn: list[Figure]) -> None:
    found = two(4)
    figures.sign_conflicts(found, "x.png")
    axes = drawn[0].get_axes()
    expected = [100 * signs.share() for one in found for signs in one.signs]
    assert all(np.allclose(a, b, equal_nan=True) for a, b in zip(lines(axes[0]), expected, strict=True))
    assert np.allclose(shown(axes[2]), 100 * found[1].signs[0].pairs())
    by_layer = next(axis for axis in axes if axis.get_title(loc="left") == "By layer")
    assert [label.get_text() for label in by_layer.get_xticklabels()] == [p.name for p in found[0].by("layer")]
    assert np.allclose(lines(by_layer)[0], [100 * part.conflict_share() for part in found[0].by("layer")])


def test_magnitudes_shows_types_and_blocks(drawn: list[Figure]) -> None:
    found = two(3)
    figures.magnitudes(found, "x.png")
    top, bottom = drawn[0].get_axes()[0], drawn[0].get_axes()[2]
    for part in found[0].by("type"):
        [line] = [line for line in top.lines if line.get_label() == part.name]
        assert np.allclose(np.asarray(line.get_ydata(), float), part.mean_merged())
    blocks = found[0].by("block")
    assert [part.name for part in blocks] == ["text block 0", "visual block 0", "visual block 1"]
    assert np.allclose(np.concatenate(lines(bottom)[:2]), [part.mean_merged()[0] for part in blocks])
    places = np.concatenate([np.asarray(line.get_xdata(), float) for line in bottom.lines[:2]])
    assert places.tolist() == [0, 2, 3]  # a gap between the stacks


def test_distributions_shows_contributions(drawn: list[Figure]) -> None:
    found = two(3)
    figures.distributions(found, "x.png")
    axes = drawn[0].get_axes()
    heights = [patch.get_bbox().height for patch in axes[2].patches if isinstance(patch, Rectangle)]
    assert heights == pytest.approx((100 * found[0].contributions()).tolist())
    total = [np.nansum(line) for line in lines(axes[0])]
    assert total == pytest.approx([0.99] * 3, abs=0.02)  # nearly all values lie in the range
    assert len({axis.get_xlim() for axis in (axes[0], axes[1], axes[3], axes[4])}) == 1


def test_cosine_leaves_out_steps_of_independent_tasks(drawn: list[Figure]) -> None:
    found = two(3)
    found[1] = replace(found[1], training="independent")
    figures.cosine(found, "x.png")
    axes = drawn[0].get_axes()
    assert np.allclose(shown(axes[0]), found[0].cosines())
    assert np.allclose(shown(axes[1]), found[0].step_cosines())
    assert not axes[4].images
    assert [len(axis.lines) for axis in (axes[2], axes[5])] == [2, 1]


def test_every_picture_of_many_tasks_as_files(tmp_path: Path) -> None:
    paths = figures.draw_all(two(9)[:1], tmp_path / "new")
    assert [path.name for path in paths] == ["sign_conflicts.png", "magnitudes.png", "distributions.png", "cosine.png"]
    assert all(path.stat().st_size > 10_000 for path in paths)


def test_pictures_of_nothing(drawn: list[Figure]) -> None:
    still = {"w": np.ones(3, np.float32)}
    for picture in (figures.sign_conflicts, figures.magnitudes, figures.distributions, figures.cosine):
        picture([measure(still, [still, still])], "x.png")
        picture(two(1), "x.png")
    assert len(drawn) == 8


def test_pictures_that_cannot_be(tmp_path: Path) -> None:
    found = two(2)
    with pytest.raises(UsageError, match=r"^a picture shows one or 2 sets of task vectors, found 3\.$"):
        figures.cosine([*found, found[0]], tmp_path / "x.png")
    base, tasks = walk(2, SIZES, seed=5)
    with pytest.raises(CheckpointMismatch, match="over different bases"):
        figures.cosine([found[0], measure(base, tasks)], tmp_path / "x.png")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"sign_conflicts\.png: the picture cannot be written: Not a directory\. "):
        figures.draw_all(found, tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_cells_share_out_the_bins() -> None:
    spread = Spread.of(np.array([[0] * (64 * 16) + [8] * 16, [0] * (64 * 16) + [0] * 15 + [4]]))  # 1 to 2, and -2
    assert spread.edges()[[0, -1]].tolist() == [1, 2]
    shares = figures.cell_shares(spread, np.array([-2, -1.96875, -1.5, 0, 1, 1.5, 2.0]), 264)
    assert (264 * shares).tolist() == pytest.approx([2, 2, 0, 0, 64, 64])
    assert figures.cell_shares(Spread(0, (), ()), np.array([-1.0, 0, 1]), 10).tolist() == [0, 0]
