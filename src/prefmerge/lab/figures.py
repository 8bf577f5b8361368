"""The figures of an experiment, drawn from the same numbers as its tables.

Each function gives a `Picture` (a figure with its caption), or None where the results hold nothing of the kind. Source:
Tunable MAGMAX, figures 2 to 4; MAGMAX, supplement, figure 2; the others are ours. Accuracies in percent, differences in
points. Colours and marks of a method are those of `prefmerge.plotting`, in every figure the same. Cost: a second each.
Not here: what checkpoints are made of (`prefmerge.analysis`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import fmean
from typing import TYPE_CHECKING, Any

from prefmerge import plotting
from prefmerge.lab import figure_tables, table_parts, tables
from prefmerge.lab.entries import stem_of
from prefmerge.lab.results import Results, Shown, TaskScores
from prefmerge.lab.statistics import Mean, StudyScores, by_alpha, by_size, over_seeds, over_tasks
from prefmerge.lab.tables import ALPHA
from prefmerge.preference import Preference, budgets, exact

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TUNABLE = plotting.Style(plotting.BLUE)  # a preference that is given, not found
SMALL = 8  # points: ticks and legends
FEW_TASKS = 10  # up to so many have room for their names


@dataclass(frozen=True)
class Picture:
    """`name` is a file's stem; the caption says what is drawn and what the marks mean."""

    name: str
    caption: str
    figure: Figure

    def drawn(self) -> bytes:
        """A PNG file."""
        return plotting.drawn(self.figure)


def all_of(results: Results) -> list[Picture]:
    """Every figure that the results have numbers for, in the order of the report."""
    scores = StudyScores(results)
    pictures = [environments(results, scale) for scale in table_parts.scales_of(scores)]
    pictures += [differences(results), similarities(results), alpha(results), allotted(results)]
    return [one for one in (*pictures, diversity(results), tasks(results)) if one is not None]


def _panels(width: float, height: float, rows: int, columns: int, **settings: Any) -> tuple[Figure, list[list[Axes]]]:
    figure = plotting.new_figure(width, height)
    axes = figure.subplots(rows, columns, squeeze=False, **settings)
    plotting.open_sides(axes.ravel().tolist())
    for one in axes.ravel():
        one.tick_params(labelsize=SMALL)
    return figure, axes.tolist()


def _legend(figure: Figure, axes: Axes, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    lines = [one[0] if isinstance(one, tuple) else one for one in handles]  # of an error bar, the line without the bars
    figure.legend(
        lines, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=SMALL, handlelength=3
    )


def _bars(mean: Mean | None) -> tuple[float, float]:
    """Value and length of the bar in percent; NaN leaves a gap."""
    if mean is None:
        return float("nan"), 0.0
    return 100 * mean.value, 100 * (mean.std or 0.0)


def _spread(results: Results) -> str:
    return "bars: standard deviation over the seeds" if len(results.seeds) > 1 else "one seed"


def _averaged(results: Results) -> str:
    return ", mean over the seeds" if len(results.seeds) > 1 else ""


# Environments


def environments(results: Results, scale: str) -> Picture | None:
    """A panel per environment, a row per method: its mean, its targets, and MAGMAX as a line."""
    scores = StudyScores(results)
    methods = [name for name in table_parts.in_order(scores.methods) if scores.at(name, scale)]
    if not methods:
        return None
    columns = [*scores.environments, None]
    per_row = min(len(columns), 6)
    rows = -(-len(columns) // per_row)
    height = rows * (1.0 + 0.24 * len(methods)) + 0.3
    figure, axes = _panels(12 if per_row > 3 else 9, height, rows, per_row, sharey=True, sharex=True)
    flat = [one for line in axes for one in line]
    for panel, name in zip(flat, columns, strict=False):
        _environment(panel, scores, methods, scale, name, results)
    for panel in flat[len(columns) :]:
        panel.set_visible(False)
    flat[0].set_yticks(range(len(methods)), methods)
    flat[0].set_ylim(len(methods) - 0.5, -0.5)
    figure.supxlabel("accuracy at the target (%)", fontsize=10)
    return Picture(
        f"environments-scale-{scale}",
        f"Accuracy by target environment, scale {scale}. Large marks: mean ({_spread(results)}); small ones: the "
        f"variants{_averaged(results)}; dashed line: {tables.RIVAL}.",
        figure,
    )


def _environment(
    panel: Axes, scores: StudyScores, methods: Sequence[str], scale: str, name: str | None, results: Results
) -> None:
    panel.grid(axis="y", color="0.9", linewidth=0.6)
    panel.set_axisbelow(True)
    for row, method in enumerate(methods):
        style = plotting.style_of(stem_of(method))
        mean = scores.average(method, scale) if name is None else scores.mean(method, scale, name)
        value, bar = _bars(mean)
        if name is not None:
            values = [100 * value for value in figure_tables.by_variant(scores, method, scale, name).values()]
            panel.plot(values, [row] * len(values), ".", color=style.colour, alpha=0.5, markersize=5, mew=0)
        if mean is not None:
            panel.errorbar(value, row, xerr=bar or None, fmt=style.marker, color=style.colour, markersize=6, lw=1.4)
        if method == tables.RIVAL and mean is not None:
            panel.axvline(value, color=style.colour, linewidth=1, linestyle="--", zorder=0)
    title = "Average" if name is None else f"{name}\n{table_parts.ratios(results, name)}".rstrip()
    panel.set_title(title, fontsize=9)


def differences(results: Results) -> Picture | None:
    """A forest plot: every method minus MAGMAX over all targets with its interval, a panel per scale."""
    scores = StudyScores(results)
    scales: list[str | None] = list(table_parts.scales_of(scores))
    if len(scales) > 1:
        scales.append(None)
    by_scale = [(scale, tables.comparisons(results, scale)) for scale in scales]
    by_scale = [(scale, several) for scale, several in by_scale if several]
    if not by_scale:
        return None
    methods = table_parts.in_order(one.first for _, several in by_scale for one in several)
    width = min(14.0, 4.0 + 3.1 * len(by_scale))
    figure, axes = _panels(width, 1.5 + 0.27 * len(methods), 1, len(by_scale), sharey=True, sharex=True)
    for panel, (scale, several) in zip(axes[0], by_scale, strict=True):
        panel.grid(axis="y", color="0.9", linewidth=0.6)
        panel.set_axisbelow(True)
        panel.axvline(0, color=plotting.style_of(tables.RIVAL).colour, linewidth=1.2, linestyle="--", zorder=1)
        for one in several:
            row, style, part = methods.index(one.first), plotting.style_of(stem_of(one.first)), one.overall
            strokes = [100 * kind.mean for kind in one.environments.values()]
            panel.plot(strokes, [row] * len(strokes), "|", color=style.colour, alpha=0.6, markersize=7)
            bars = None
            if part.interval is not None:
                bars = [[100 * (part.mean - part.interval[0])], [100 * (part.interval[1] - part.mean)]]
            panel.errorbar(
                100 * part.mean, row, xerr=bars, fmt=style.marker, color=style.colour, markersize=6, lw=2, capsize=3
            )
            panel.annotate(
                f"{part.won}/{part.tied}/{part.lost}", (1.0, row), xycoords=("axes fraction", "data"),
                xytext=(3, 0), textcoords="offset points", va="center", fontsize=7, color="0.3",
            )  # fmt: skip
        title = "each at its best scale" if scale is None else f"scale {scale}"
        panel.set_title(title, fontsize=10)
        panel.set_title("w/t/l", fontsize=7, loc="right", color="0.3", x=1.0)
    axes[0][0].set_yticks(range(len(methods)), methods)
    axes[0][0].set_ylim(len(methods) - 0.5, -0.5)
    figure.supxlabel(f"accuracy minus {tables.RIVAL}'s on the same samples (points)", fontsize=10)
    best = "; the best scales are chosen on these samples, so optimistic" if None in scales else ""
    return Picture(
        "differences",
        f"Every method minus {tables.RIVAL} over all targets: mean and 95 % interval; strokes: the mean in each "
        f"environment; at the side: targets won/tied/lost{best}.",
        figure,
    )


# Preferences


def similarities(results: Results) -> Picture | None:
    """Heat maps of the shares that each similarity gives every target, beside those that the target has."""
    shown = tables.shown_of(results, "places")
    if not shown:
        return None
    from matplotlib.colors import PowerNorm

    kinds = [kind for kind in tables.KINDS if any(one.kind == kind for one in shown)]
    names = list(dict.fromkeys(one.environment for one in shown))
    spots = sorted({(one.environment, one.variant) for one in shown}, key=lambda spot: (names.index(spot[0]), spot[1]))
    truth = {(one.environment, one.variant): one.truth for one in shown}
    maps: list[tuple[str, list[Sequence[float]]]] = [("the target", [truth[spot] for spot in spots])]
    for kind in kinds:
        maps.append((tables.KINDS[kind], [_mean_shares(shown, kind, spot) for spot in spots]))
    T = len(results.tasks)
    figure, axes = _panels(
        min(14.0, 2.2 + len(maps) * (1.2 + 0.04 * T)), 1.6 + 0.17 * len(spots), 1, len(maps), sharey=True
    )
    image = None
    for panel, (title, rows) in zip(axes[0], maps, strict=True):
        image = panel.imshow(rows, aspect="auto", cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
        panel.set_title(title, fontsize=10)
        panel.set_xticks(_some(T), [str(t + 1) for t in _some(T)])
        for i in range(1, len(spots)):
            if spots[i][0] != spots[i - 1][0]:
                panel.axhline(i - 0.5, color=plotting.INK, linewidth=0.6)
    labels = [f"{name}, {variant}" for name, variant in spots]
    axes[0][0].set_yticks(range(len(spots)), labels, fontsize=7)
    axes[0][0].set_ylabel("environment, variant")
    figure.supxlabel("task, in the order of training", fontsize=10)
    assert image is not None
    bar = figure.colorbar(image, ax=[one for line in axes for one in line], ticks=[0, 0.05, 0.2, 0.5, 1], pad=0.01)
    bar.set_label("share", fontsize=9)
    bar.ax.tick_params(labelsize=SMALL)
    return Picture(
        "similarities",
        f"The shares of the tasks: what each target has (left) and what each similarity says{_averaged(results)}. The "
        "colours stretch small shares.",
        figure,
    )


def _mean_shares(shown: Sequence[Shown], kind: str, spot: tuple[str, int]) -> Sequence[float]:
    several = [one.shares for one in shown if one.kind == kind and (one.environment, one.variant) == spot]
    if not several:
        return [float("nan")] * len(shown[0].truth)
    return [fmean(column) for column in zip(*several, strict=True)]


def _some(count: int, most: int = 6) -> list[int]:
    """Positions for ticks: all of a few, else the first and every so many."""
    if count <= most:
        return list(range(count))
    step = next(n for n in (5, 10, 20, 50, 100, count) if count / n <= most)
    return [0, *range(step - 1, count, step)]


def alpha(results: Results) -> Picture | None:
    """Figure 3: accuracy of the first and of the last task over alpha, beside MAGMAX's; a panel per scale."""
    by_scale = by_alpha(results)
    if not by_scale:
        return None
    figure, axes = _panels(max(5.0, 3.8 * len(by_scale)), 4.0, 1, len(by_scale), sharey=True)
    rival = plotting.style_of(tables.RIVAL)
    ends = ((0, "first task", "o", "-"), (-1, "last task", "s", "--"))
    for panel, (scale, alphas) in zip(axes[0], by_scale.items(), strict=True):
        given = [value for value in alphas if value is not None and Fraction(value) > 0]
        for at, text, marker, dash in ends:
            means = [_bars(over_tasks(alphas[value], _task(at))) for value in given]
            panel.errorbar(
                [float(Fraction(value)) for value in given],
                [value for value, _ in means],
                yerr=[bar for _, bar in means] if len(results.seeds) > 1 else None,
                color=TUNABLE.colour, marker=marker, linestyle=dash, capsize=3, label=f"Tunable, {text}",
            )  # fmt: skip
            if None in alphas:
                value, bar = _bars(over_tasks(alphas[None], _task(at)))
                panel.axhline(value, color=rival.colour, linestyle=dash, label=f"{tables.RIVAL}, {text}")
                panel.axhspan(value - bar, value + bar, color=rival.colour, alpha=0.15, linewidth=0)
        panel.set_xscale("log", base=2)
        panel.set_xticks([float(Fraction(value)) for value in given], given)
        panel.minorticks_off()
        panel.set_title(f"scale {scale}", fontsize=10)
        panel.set_xlabel(f"{ALPHA} (logarithmic): below 1 for late tasks, above for early ones", fontsize=SMALL)
    axes[0][0].set_ylabel("accuracy among all classes (%)")
    _legend(figure, axes[0][0], 4 if len(by_scale) > 1 else 2)
    spread = "; bars and bands: standard deviation over the seeds" if len(results.seeds) > 1 else " (one seed)"
    return Picture(
        "alpha",
        f"Accuracy of the first task ({results.tasks[0]}) and of the last ({results.tasks[-1]}) at preferences in "
        f"proportion to {ALPHA}^(T-t){spread}.",
        figure,
    )


def _task(at: int) -> Callable[[TaskScores], float]:
    return lambda one: one.accuracies[at]


def allotted(results: Results) -> Picture | None:
    """Figure 2: elements per task at two alphas, of as many as `about["parameters"]` says, else in percent."""
    T, elements = len(results.tasks), results.about.get("parameters")
    if T < 2:
        return None
    figure, axes = _panels(9 if T > FEW_TASKS else 7, 3.2, 1, len(figure_tables.ALPHAS), sharey=True)
    for panel, value in zip(axes[0], figure_tables.ALPHAS, strict=True):
        shares = Preference.geometric(exact(value)).shares(results.tasks)
        heights = [n / 1e6 for n in budgets(shares, elements)] if elements else [100 * float(share) for share in shares]
        panel.bar(range(1, T + 1), heights, width=0.8, color=TUNABLE.colour)
        panel.set_title(f"{ALPHA} = {value}", fontsize=10)
        panel.set_xticks([t + 1 for t in _some(T, 10)])
        panel.set_xlabel("task, in the order of training", fontsize=9)
    axes[0][0].set_ylabel("elements (millions)" if elements else "elements (%)")
    what = f"the {elements / 1e6:.1f} million elements" if elements else "the elements"
    return Picture("budgets", f"How many of {what} each of the {T} tasks is allotted at two values of {ALPHA}.", figure)


# Diversity, and tasks one by one


def diversity(results: Results) -> Picture | None:
    """Figure 4: accuracy against the number of tasks in a target; a panel per scale."""
    scores = StudyScores(results, "diversity")
    scales = table_parts.scales_of(scores) or ([""] if scores.methods else [])
    if not scales:
        return None
    counts = {one.name: len(one.parts) for one in results.environments}
    names = [name for name in scores.environments if name in counts]
    methods = table_parts.in_order(scores.methods)
    figure, axes = _panels(max(6.0, 4.6 * len(scales)), 5.0 + 0.12 * len(methods), 1, len(scales), sharey=True)
    for panel, scale in zip(axes[0], scales, strict=True):
        for i, method in enumerate(methods):
            if not scores.at(method, scale):
                continue
            means = [_bars(scores.mean(method, scale, name)) for name in names]
            aside = 0.3 * (i / max(1, len(methods) - 1) - 0.5)
            panel.errorbar(
                [spot + aside for spot in range(len(names))],
                [value for value, _ in means],
                yerr=[bar for _, bar in means] if len(results.seeds) > 1 else None,
                label=method, lw=1.3, elinewidth=0.8, markersize=5, **plotting.style_of(method).line(),
            )  # fmt: skip
        panel.set_xticks(range(len(names)), [str(counts[name]) for name in names])
        panel.set_title(f"scale {scale}" if scale else "", fontsize=10)
        panel.set_xlabel("tasks in the place, in equal parts")
    axes[0][0].set_ylabel("accuracy at the target (%)")
    _legend(figure, axes[0][0], 3 if len(scales) > 1 else 2)
    return Picture(
        "diversity",
        f"Accuracy against the number of tasks that a target mixes in equal parts ({_spread(results)}; methods are set "
        "side by side).",
        figure,
    )


def tasks(results: Results) -> Picture | None:
    """MAGMAX supplement, figure 2: each task's accuracy among all classes, MAGMAX beside the last checkpoint."""
    mine = tables.single_models(results)
    shown = [
        (method, scale, [one for one in mine if (one.method, _scale(one)) == (method, scale)])
        for method in ("Zero-shot", "Baseline", tables.RIVAL)
        for scale in sorted({_scale(one) for one in mine if one.method == method}, key=by_size)
    ]
    if not any(method == tables.RIVAL for method, _, _ in shown):
        return None
    T = len(results.tasks)
    figure, axes = _panels(7 if T <= FEW_TASKS else 10, 4.2, 1, 1)
    panel = axes[0][0]
    for i, (method, scale, several) in enumerate(shown):
        style = plotting.style_of(method)
        earlier = sum(name == method for name, _, _ in shown[:i])  # the same method at other scales
        dash = (style.dash, "--", ":", "-.")[earlier % 4]
        marker = (style.marker, "d", "p", "H")[earlier % 4]
        means = [_bars(over_seeds({one.seed: one.accuracies[t] for one in several})) for t in range(T)]
        panel.errorbar(
            range(1, T + 1),
            [value for value, _ in means],
            yerr=[bar for _, bar in means] if len(results.seeds) > 1 else None,
            color=style.colour, marker=marker, linestyle=dash, lw=1.3, elinewidth=0.8,
            markersize=6 if T <= FEW_TASKS else 4, label=f"{method}, scale {scale}" if scale else method,
        )  # fmt: skip
    if T <= FEW_TASKS:
        long = max(map(len, results.tasks)) > 12
        panel.set_xticks(range(1, T + 1), results.tasks, rotation=30 if long else 0, ha="right" if long else "center")
    else:
        panel.set_xticks([t + 1 for t in _some(T, 11)])
    panel.set_xlabel("task, in the order of training")
    panel.set_ylabel("accuracy among all classes (%)")
    _legend(figure, panel, min(4, len(shown)))
    return Picture(
        "tasks", f"Accuracy task by task, the head over all classes and the task unknown ({_spread(results)}).", figure
    )


def _scale(one: TaskScores) -> str:
    return tables.scale_text(one.method, one.scale)


def named(pictures: Iterable[Picture], start: str) -> list[Picture]:
    """Those whose name begins so."""
    return [one for one in pictures if one.name.startswith(start)]
