"""The pictures of the papers' analyses, for one set of task vectors or two over the same base.

    sign_conflicts   how often both signs occur: as tasks are added, pair by pair, layer by layer   (supplement, fig. 1)
    magnitudes       mean |tau_MAGMAX_t| by layer type and by block                                 (supplement, fig. 3)
    distributions    values of every task vector, and what it contributes to the merge              (supplement, fig. 4)
    cosine           angles and norms of task vectors and of steps

Up to eight tasks have a colour and a name each; more have a scale in the order of training. Cost: a second or two a
picture. Not here: what to draw, which `measure` finds.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefmerge import plotting
from prefmerge.analysis.layer_types import LAYER_TYPES
from prefmerge.analysis.measured import Measured, Spread, require_one_base
from prefmerge.errors import OutputError, UsageError
from prefmerge.ground.disk import make_parents, remove_empty
from prefmerge.ground.refused import remedy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_SETS = 2
_SMALL = 7  # points
_MOST_TICKS = 40
_MOST_LINES = 10  # of states after a task, evenly among them
_MOST_MARKS = 20  # on a line
_MOST_NUMBERS = 8  # tasks; beyond that a matrix shows colours alone
_RANGE = 0.999  # of all values of every task are drawn; the rest would leave no room
_CELLS = 64  # of a histogram, over the whole range
_MARKS = ("o", "s", "^", "D", "v", "P")
_OF_SEVERAL = "elements in conflict (% of those that at least two tasks keep)"


def draw_all(sets: Sequence[Measured], folder: str | Path) -> list[Path]:
    """Draw everything into PNG files in `folder`, which is made if need be. Raises OutputError, MissingExtra."""
    folder = Path(folder)
    try:
        made = make_parents(folder)
    except OSError as error:
        way = remedy(error, "Choose another folder.")
        raise OutputError(f"{folder}: cannot be made: {error.strerror or error}. {way}") from error
    paths = []
    try:
        for draw_one in (sign_conflicts, magnitudes, distributions, cosine):
            paths.append(folder / f"{draw_one.__name__}.png")
            draw_one(sets, paths[-1])
    except BaseException:
        remove_empty(made)
        raise
    return paths


def sign_conflicts(sets: Sequence[Measured], path: str | Path) -> None:
    """Sign conflicts as tasks are added, by layer, and by pair of tasks."""
    _require(sets)
    figure = plotting.new_figure(4.6 + 3.7 * len(sets), 8.2)
    halves: Any = figure.subfigures(2, 1)
    upper, lower = halves
    axes = upper.subplots(1, 1 + len(sets), width_ratios=(1.25, *(1.0 for _ in sets)), squeeze=False)[0]
    for measured, colour in zip(sets, plotting.FEW, strict=False):
        count = len(measured.tasks)
        for signs, dash, kept in zip(measured.signs, ("-", "--"), ("all that changed", "top 20 %"), strict=True):
            axes[0].plot(
                range(1, count + 1),
                100 * signs.share(),
                dash,
                color=colour,
                marker="o" if count <= _MOST_MARKS else None,
                markersize=4,
                label=f"{measured.label}, {kept}",
            )
    axes[0].set_xlabel("tasks, in the order of training")
    axes[0].set_ylabel(_OF_SEVERAL.replace(" (", "\n("))
    axes[0].set_ylim(bottom=0)
    _whole_ticks(axes[0])
    axes[0].legend(fontsize=_SMALL, frameon=False, handlelength=3.5)
    axes[0].set_title("Sign conflicts as tasks are added", fontsize=10, loc="left")
    plotting.open_sides([axes[0]])
    pairs = [100 * measured.signs[0].pairs() for measured in sets]
    high = max(50.0, *(float(np.nanmax(matrix, initial=0)) for matrix in pairs))  # 50 %: signs at random
    images = []
    for axis, measured, matrix in zip(axes[1:], sets, pairs, strict=True):
        images.append(_matrix(axis, matrix, measured.tasks, cmap="Blues", low=0, high=high))
        axis.set_title(f"{measured.label}: signs that differ (%)", fontsize=10, loc="left")
    upper.colorbar(images[-1], ax=axes[1:].tolist(), shrink=0.7, label="% of what both changed")
    axis = lower.subplots()
    _layers(axis, sets)
    plotting.save(figure, path)


def _layers(axis: Axes, sets: Sequence[Measured]) -> None:
    rows = sets[0].by("layer")
    for measured, colour in zip(sets, plotting.FEW, strict=False):
        of_layer = {part.name: part for part in measured.by("layer")}
        for density, mark, kept in ((0, "o", "all that changed"), (1, "x", "top 20 %")):
            shares = [of_layer[row.name].conflict_share(density) if row.name in of_layer else np.nan for row in rows]
            axis.plot(
                range(len(rows)),
                100 * np.array(shares),
                mark,
                color=colour,
                markersize=5,
                label=f"{measured.label}, {kept}",
            )
    _name_ticks(axis, [row.name for row in rows])
    axis.set_xlim(-0.5, len(rows) - 0.5)
    axis.legend(fontsize=_SMALL, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    axis.set_ylabel("conflicts after all tasks (%)")
    axis.set_ylim(bottom=0)
    axis.grid(axis="y", alpha=0.3)
    axis.set_title("By layer", fontsize=10, loc="left")
    plotting.open_sides([axis])


def magnitudes(sets: Sequence[Measured], path: str | Path) -> None:
    """Mean magnitudes of the MAGMAX merge after each task, by layer type (top) and by block (bottom)."""
    _require(sets)
    figure = plotting.new_figure(1.2 + 5 * len(sets), 7.6)
    axes = figure.subplots(2, len(sets), squeeze=False, sharey="row")
    for measured, top, bottom in zip(sets, axes[0], axes[1], strict=True):
        _types(top, measured)
        _blocks(figure, bottom, measured)
        top.set_title(f"{measured.label}: by layer type", fontsize=10, loc="left")
        bottom.set_title(f"{measured.label}: by block", fontsize=10, loc="left")
    axes[0][0].set_ylabel("mean |τ|")
    axes[1][0].set_ylabel("mean |τ| of the merge")
    plotting.open_sides(axes.ravel().tolist())
    plotting.save(figure, path)


def _types(axis: Axes, measured: Measured) -> None:
    steps = range(1, len(measured.tasks) + 1)
    parts = {part.name: part for part in measured.by("type")}
    for name, colour, mark in zip(LAYER_TYPES, plotting.FEW, _MARKS, strict=False):
        if name in parts and parts[name].merged[-1] > 0:
            marker = mark if len(steps) <= _MOST_MARKS else None
            axis.plot(steps, parts[name].mean_merged(), color=colour, marker=marker, markersize=4, label=name)
            axis.plot(steps, _positive(parts[name].mean_magnitudes()), ":", color=colour, linewidth=1)
    if axis.lines:
        axis.set_yscale("log")
        axis.plot([], [], color=plotting.INK, label="the merge of the first t tasks")
        axis.plot([], [], ":", color=plotting.INK, linewidth=1, label="task t alone")
        axis.legend(fontsize=_SMALL, frameon=False, ncols=2)
    axis.set_xlabel("t: tasks, in the order of training")
    _whole_ticks(axis)


def _blocks(figure: Figure, axis: Axes, measured: Measured) -> None:
    parts = measured.by("block")
    if not parts:
        axis.text(0.5, 0.5, "no numbered blocks", ha="center", va="center", transform=axis.transAxes)
        axis.set_axis_off()
        return
    # A gap between two stacks, such as the text and the vision tower.
    stacks = [part.name.rpartition("block ")[0] for part in parts]
    at = np.arange(len(parts)) + np.cumsum([0, *(a != b for a, b in pairwise(stacks))])
    merged_NT = np.array([part.mean_merged() for part in parts])
    colours = plotting.task_colours(len(measured.tasks))
    for t in np.unique(np.linspace(0, len(colours) - 1, min(_MOST_LINES, len(colours))).round().astype(int)).tolist():
        label, colour = f"after {measured.tasks[t]}", colours[t]
        for stack in dict.fromkeys(stacks):
            mine = [i for i, name in enumerate(stacks) if name == stack]
            axis.plot(at[mine], merged_NT[mine, t], "o-", color=colour, markersize=3, label=label)
            label = "_"
    _name_ticks(axis, [part.name.replace("block ", "") for part in parts], at)
    axis.set_xlabel("block")
    axis.set_ylim(bottom=0)
    axis.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    _task_key(figure, axis, measured.tasks, "after ")


def distributions(sets: Sequence[Measured], path: str | Path) -> None:
    """Values of the task vectors, what of them the merge takes, and how much each task contributes."""
    _require(sets)
    figure = plotting.new_figure(12.5, 0.4 + 3.4 * len(sets))
    axes = figure.subplots(len(sets), 3, squeeze=False, width_ratios=(1, 1, 0.7))
    most = max(float(np.max(np.nan_to_num(measured.contributions()))) for measured in sets)
    cells = drawn_cells(sets)
    limit = float(cells[-1])
    densities = []
    for measured, row in zip(sets, axes, strict=True):
        colours = plotting.task_colours(len(measured.tasks))
        for axis, spreads, what in (
            (row[0], measured.values, "the task vectors"),
            (row[1], measured.contributed, "what the merge takes of them"),
        ):
            for spread, colour, name in zip(spreads, colours, measured.tasks, strict=True):
                heights = cell_shares(spread, cells, measured.elements)
                densities.append(heights)
                axis.plot((cells[:-1] + cells[1:]) / 2, _positive(heights), color=colour, linewidth=1, label=name)
            axis.set_yscale("log")
            axis.set_xlim(-limit, limit)
            axis.set_xlabel("value of an element of τ")
            axis.ticklabel_format(axis="x", style="sci", scilimits=(-2, 2))
            axis.set_title(f"{measured.label}: {what}", fontsize=10, loc="left")
        row[0].set_ylabel(f"share of the elements\n(cells of {2 * limit / _CELLS:.1e})")
        count = len(measured.tasks)
        row[2].bar(range(1, count + 1), 100 * np.nan_to_num(measured.contributions()), color=colours)
        _whole_ticks(row[2])
        row[2].set_ylim(0, 105 * most or 1)
        row[2].set_xlabel("task, in the order of training")
        row[2].set_ylabel("% of the merge's changed elements")
        tied = f" ({100 * measured.tied():.0f} % tied)" if measured.tied() >= 0.005 else ""
        row[2].set_title(f"{measured.label}: contribution{tied}", fontsize=10, loc="left")
        _task_key(figure, row[1], measured.tasks)
    highest = max(float(heights.max()) for heights in densities)
    for axis in axes[:, :2].ravel():
        axis.set_ylim(1 / max(2, *(measured.elements for measured in sets)), max(2 * highest, 1e-3))
    plotting.open_sides(axes.ravel().tolist())
    plotting.save(figure, path)


def drawn_cells(sets: Sequence[Measured]) -> np.ndarray:
    """The bounds of the cells, ascending, over a range that holds nearly all changed values of every task."""
    limit = max((spread.quantile(_RANGE) for one in sets for spread in one.values if spread.total), default=1.0)
    return np.linspace(-limit, limit, _CELLS + 1)


def cell_shares(spread: Spread, cells: np.ndarray, elements: int) -> np.ndarray:
    """The share of `elements` in each cell of a linear axis (its bounds, ascending), from bins that are even inside."""
    edges = np.concatenate([-spread.edges()[::-1], spread.edges()])
    counts = np.concatenate([spread.negative[::-1], [0], spread.positive])
    if not len(spread.positive) or not elements:
        return np.zeros(len(cells) - 1)
    below = np.interp(cells, edges, np.concatenate([[0], np.cumsum(counts)]))
    return np.diff(below) / elements


def cosine(sets: Sequence[Measured], path: str | Path) -> None:
    """Cosines between task vectors, between steps, and the norms of both."""
    _require(sets)
    figure = plotting.new_figure(12.5, 0.4 + 3.6 * len(sets))
    axes = figure.subplots(len(sets), 3, squeeze=False, width_ratios=(1, 1, 0.9))
    tallest = max((float(np.max([*m.norms(), *_step_norms(m)], initial=0)) for m in sets), default=0)
    for measured, row in zip(sets, axes, strict=True):
        tasks = range(1, len(measured.tasks) + 1)
        image = _matrix(row[0], measured.cosines(), measured.tasks, cmap="RdBu", low=-1, high=1)
        row[0].set_title(f"{measured.label}: cosines of task vectors", fontsize=10, loc="left")
        row[2].plot(tasks, measured.norms(), "o-", color=plotting.BLUE, markersize=4, label="task vector")
        if _step_norms(measured).size:
            _matrix(row[1], measured.step_cosines(), measured.tasks, cmap="RdBu", low=-1, high=1)
            row[1].set_title(f"{measured.label}: cosines of steps", fontsize=10, loc="left")
            row[2].plot(tasks, measured.step_norms(), "s--", color=plotting.ORANGE, markersize=4, label="step")
        else:
            row[1].text(0.5, 0.5, "no steps: each task\nstarts from the base", ha="center", transform=row[1].transAxes)
            row[1].set_axis_off()
        figure.colorbar(image, ax=row[:2].tolist(), shrink=0.8, label="cosine")
        row[2].set_ylim(0, 1.05 * tallest or 1)
        row[2].set_xlabel("task, in the order of training")
        row[2].set_ylabel("Euclidean norm")
        _whole_ticks(row[2])
        row[2].legend(fontsize=_SMALL, frameon=False)
        row[2].set_title(f"{measured.label}: norms", fontsize=10, loc="left")
        plotting.open_sides([row[2]])
    plotting.save(figure, path)


def _step_norms(measured: Measured) -> np.ndarray:
    """None where a step is not what training did."""
    return np.empty(0) if measured.training == "independent" else measured.step_norms()


def _require(sets: Sequence[Measured]) -> None:
    if not 1 <= len(sets) <= MOST_SETS:
        raise UsageError(f"a picture shows one or {MOST_SETS} sets of task vectors, found {len(sets)}.")
    require_one_base(sets)


def _positive(values: np.ndarray) -> np.ndarray:
    """Nothing where a logarithm has nothing to show."""
    return np.where(values > 0, values, np.nan)


def _matrix(axis: Axes, values_TT: np.ndarray, tasks: Sequence[str], *, cmap: str, low: float, high: float) -> Any:
    image = axis.imshow(values_TT, cmap=cmap, vmin=low, vmax=high)
    if len(tasks) <= _MOST_NUMBERS:
        digits = 0 if high > 1 else 2
        for i, row in enumerate(values_TT):
            for j, value in enumerate(row):
                if not np.isnan(value):
                    dark = abs(value) > 0.6 * high
                    text = f"{round(value, digits) + 0.0:.{digits}f}"  # no -0.00
                    axis.text(j, i, text, ha="center", va="center", fontsize=_SMALL, color="white" if dark else "black")
    labels = [str(i + 1) for i in range(len(tasks))]
    step = -(-len(tasks) // 10)
    axis.set_xticks(range(0, len(tasks), step), labels[::step], fontsize=_SMALL)
    axis.set_yticks(range(0, len(tasks), step), labels[::step], fontsize=_SMALL)
    axis.set_xlabel("task")
    return image


def _name_ticks(axis: Axes, names: Sequence[str], at: Sequence[int] | np.ndarray | None = None) -> None:
    """Names along the horizontal axis, upright where they are long, and not all of them where they are many."""
    places = list(range(len(names)) if at is None else at)
    step = -(-len(names) // _MOST_TICKS)
    turned = max(map(len, names), default=0) > 3
    axis.set_xticks(places[::step], names[::step], fontsize=_SMALL, rotation=90 if turned else 0)


def _whole_ticks(axis: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _task_key(figure: Figure, axis: Axes, tasks: Sequence[str], before: str = "") -> None:
    """Which colour is which task: names, or a scale where there are many."""
    if len(tasks) <= len(plotting.FEW):
        axis.legend(fontsize=_SMALL, frameon=False)
        return
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = ScalarMappable(Normalize(1, len(tasks)), "viridis")
    ticks = np.unique(np.linspace(1, len(tasks), 6).round())
    figure.colorbar(scale, ax=axis, label=f"{before}task", shrink=0.9, ticks=ticks)
