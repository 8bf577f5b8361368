"""The numbers behind each figure of an experiment, as a table: for a screen reader, and for who wants numbers.

    behind(results, "alpha") -> the table of what `figures.alpha` draws

Rows and columns are those of the figure; percent and points have one decimal. What a figure leaves empty is a dash.
Cost: that of the statistics, once more. Not here: the tables of the report (`tables`), the figures of task vectors
(`vector_tables`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from statistics import fmean

from prefmerge.lab import table_parts, tables
from prefmerge.lab.results import Results, TaskScores
from prefmerge.lab.statistics import StudyScores, by_alpha, by_size, over_seeds, over_tasks
from prefmerge.lab.table import Table, Value
from prefmerge.lab.table_parts import MISSING, made_table, percent, points, scales_of, with_std
from prefmerge.lab.tables import ALPHA, KINDS, RIVAL
from prefmerge.preference import Preference, as_text, budgets, exact

ALPHAS = ("0.5", "2")  # of figure 2 of the paper
ENVIRONMENTS = "environments-scale-"  # the beginning of a figure's name


def behind(results: Results, name: str) -> Table | None:
    """The table of the figure of that name; None where there is no such figure."""
    if name.startswith(ENVIRONMENTS):
        return environments(results, name.removeprefix(ENVIRONMENTS))
    return ALL[name](results) if name in ALL else None


def _table(name: str, caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> Table:
    texts = [list(map(Value, row)) for row in rows]
    return made_table(f"figure-{name}", f"Behind the figure: {caption}", header, texts, [], words)


def environments(results: Results, scale: str) -> Table:
    """A row per method and environment: the mean, and each variant."""
    scores = StudyScores(results)
    variants = sorted({one for several in scores.variants.values() for one in several})
    rows: list[list[str]] = []
    for method in table_parts.in_order(scores.methods):
        if not scores.at(method, scale):
            continue
        for name in scores.environments:
            of_variant = by_variant(scores, method, scale, name)
            each = [percent(of_variant[one]) if one in of_variant else MISSING for one in variants]
            rows.append([method, name, with_std(scores.mean(method, scale, name), results.seeds), *each])
        average = with_std(scores.average(method, scale), results.seeds)
        rows.append([method, "Average", average, *("" for _ in variants)])
    header = ["Method", "Environment", "Mean", *(f"Variant {one}" for one in variants)]
    return _table(f"{ENVIRONMENTS}{scale}", f"accuracy (%) by target, scale {scale}", header, rows, 2)


def by_variant(scores: StudyScores, method: str, scale: str, name: str) -> dict[int, float]:
    """The accuracy of each variant of an environment that has one, mean over the seeds."""
    there = scores.at(method, scale)
    groups = {
        v: [there[s, (name, v)].accuracy for s in scores.seeds if (s, (name, v)) in there]
        for v in scores.variants[name]
    }
    return {v: fmean(several) for v, several in groups.items() if several}


def differences(results: Results) -> Table:
    """A row per scale and method."""
    scores = StudyScores(results)
    scales: list[str | None] = list(scales_of(scores))
    rows: list[list[str]] = []
    for scale in [*scales, None] if len(scales) > 1 else scales:
        for one in tables.comparisons(results, scale):
            ends = [points(end) for end in one.overall.interval or ()] or [MISSING] * 2
            counts = map(str, (one.overall.won, one.overall.tied, one.overall.lost))
            means = [
                points(one.environments[e].mean) if e in one.environments else MISSING for e in scores.environments
            ]
            at = "best" if scale is None else scale
            rows.append([one.first, at, points(one.overall.mean), *ends, *counts, *means])
    header = ["Method", "Scale", "Mean", "95 %, low", "95 %, high", "Won", "Tied", "Lost", *scores.environments]
    return _table("differences", f"accuracy minus {RIVAL}'s over all targets, in points", header, rows, 2)


def similarities(results: Results) -> Table:
    """A row per target and similarity, the target's own shares first."""
    shown = tables.shown_of(results, "places")
    kinds = [kind for kind in KINDS if any(one.kind == kind for one in shown)]
    names = list(dict.fromkeys(one.environment for one in shown))
    spots = sorted({(one.environment, one.variant) for one in shown}, key=lambda spot: (names.index(spot[0]), spot[1]))
    rows: list[list[str]] = []
    for spot in spots:
        mine = [one for one in shown if (one.environment, one.variant) == spot]
        target = f"{spot[0]}, {spot[1]}"
        rows.append([target, "the target", *map(percent, mine[0].truth)])
        for kind in kinds:
            several = [one.shares for one in mine if one.kind == kind]
            means = [percent(fmean(column)) for column in zip(*several, strict=True)]
            rows.append([target, KINDS[kind], *(means or [MISSING] * len(results.tasks))])
    header = ["Environment, variant", "Shares of", *results.tasks]
    return _table("similarities", "the shares of the tasks, in percent", header, rows, 2)


def alpha(results: Results) -> Table:
    """A row per scale and alpha, MAGMAX last."""
    rows = [
        [scale, RIVAL if value is None else value]
        + [with_std(over_tasks(several, _task(at)), results.seeds) for at in (0, -1)]
        for scale, alphas in by_alpha(results).items()
        for value, several in alphas.items()
        if value is None or Fraction(value) > 0
    ]
    first, last = results.tasks[0], results.tasks[-1]
    header = ["Scale", ALPHA, f"First task ({first})", f"Last task ({last})"]
    return _table("alpha", "accuracy (%) of two tasks among all classes", header, rows, 2)


def _task(at: int) -> Callable[[TaskScores], float]:
    return lambda one: one.accuracies[at]


def allotted(results: Results) -> Table:
    """A row per task."""
    elements = results.about.get("parameters")
    columns: list[list[str]] = []
    for value in ALPHAS:
        shares = Preference.geometric(exact(value)).shares(results.tasks)
        columns.append(
            [f"{n:,}" for n in budgets(shares, elements)] if elements else [percent(float(s)) for s in shares]
        )
    unit = "elements" if elements else "% of the elements"
    header = ["Task", *(f"{unit}, {ALPHA} = {value}" for value in ALPHAS)]
    rows = [list(row) for row in zip(results.tasks, *columns, strict=True)]
    return _table("budgets", "what each task is allotted", header, rows, 1)


def diversity(results: Results) -> Table:
    """A row per scale and method, a column per number of tasks."""
    scores = StudyScores(results, "diversity")
    counts = {one.name: len(one.parts) for one in results.environments}
    names = [name for name in scores.environments if name in counts]
    rows = [
        [method, scale, *(with_std(scores.mean(method, scale, name), results.seeds) for name in names)]
        for scale in scales_of(scores) or [""]
        for method in table_parts.in_order(scores.methods)
        if scores.at(method, scale)
    ]
    header = ["Method", "Scale", *(f"{counts[name]} tasks" if counts[name] != 1 else "1 task" for name in names)]
    return _table("diversity", "accuracy (%) at targets of so many tasks in equal parts", header, rows, 2)


def tasks(results: Results) -> Table:
    """A row per task, a column per model."""
    mine = tables.single_models(results)
    header, columns = ["Task"], list[list[str]]()
    for method in ("Zero-shot", "Baseline", RIVAL):
        for scale in sorted(
            {tables.scale_text(one.method, one.scale) for one in mine if one.method == method}, key=by_size
        ):
            several = [o for o in mine if (o.method, tables.scale_text(o.method, o.scale)) == (method, scale)]
            header.append(f"{method}, scale {as_text(Fraction(scale))}" if scale else method)
            means = [over_seeds({one.seed: one.accuracies[t] for one in several}) for t in range(len(results.tasks))]
            columns.append([with_std(mean, results.seeds) for mean in means])
    rows = [list(row) for row in zip(results.tasks, *columns, strict=True)]
    return _table("tasks", "accuracy (%) task by task among all classes", header, rows, 1)


ALL: dict[str, Callable[[Results], Table]] = {
    "differences": differences,
    "similarities": similarities,
    "alpha": alpha,
    "budgets": allotted,
    "diversity": diversity,
    "tasks": tasks,
}
