"""The tables of an experiment.

Accuracies in percent with one decimal, mean ± sample standard deviation over seeds; differences in points with a 95 %
interval. Source: Tunable MAGMAX, tables 2 to 8, whose form these have; MAGMAX, supplement, tables 1 and 2. What is
missing is a dash, and a note says what; an average over fewer seeds than the others bears a star. Cost: O(scores) for
each. A table with nothing in it is None. Not here: sentences about the tables (`findings`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from statistics import fmean

from prefmerge.ground.words import joined, listed
from prefmerge.lab import published
from prefmerge.lab.environments import PAPERS
from prefmerge.lab.results import Results, Shown, TaskScores
from prefmerge.lab.statistics import (
    SHOWN,
    Comparison,
    Mean,
    StudyScores,
    by_alpha,
    by_size,
    compare,
    over_seeds,
    over_tasks,
    total_variation,
)
from prefmerge.lab.table import Table, Value
from prefmerge.lab.table_parts import (
    MISSING,
    baseline_note,
    bold_best,
    heading,
    in_order,
    labels_note,
    made_table,
    missing_notes,
    paper_note,
    percent,
    points,
    samples_note,
    scales_of,
    seeds_note,
    sees_note,
    selection_note,
    with_interval,
    with_std,
)
from prefmerge.preference import as_text

ALPHA = "\N{GREEK SMALL LETTER ALPHA}"
RIVAL, OURS = "MAGMAX", "Tunable (Label)"
KINDS = {"label": "Label", "ot": "OT", "cosine": "Cos", "mmd": "MMD"}  # as the paper calls them
UNMERGED = ("Zero-shot", "Joint", "LwF", "EWC")


# Environments: tables 2, 3, 5 to 8, and figure 4 as a table


def environments(results: Results, scale: str | None, *, study: str = "places") -> Table | None:
    """A row per method, a column per environment. `scale` None: each method at the scale with its best average."""
    scores = StudyScores(results, study)
    chosen = [(name, scores.best_scale(name) if scale is None else scale) for name in in_order(scores.methods)]
    methods = [(name, one) for name, one in chosen if one is not None and scores.at(name, one)]
    if not methods:
        return None
    paper = _paper_environments(results, scale) if study == "places" else {}
    header = ["Method"] + ["Scale"] * (scale is None) + ["Average"] + ["Average paper"] * bool(paper)
    for name in scores.environments:
        header += [heading(results, name)] + [f"{name} paper"] * bool(paper)
    rows: list[list[Value]] = []
    for method, one in methods:
        row = [Value(method)]
        if scale is None:
            row.append(Value(scores.own(method, one) or "own"))
        row.append(Value(with_std(scores.average(method, one), results.seeds)))
        row += [Value(_paper_cell(paper, method, "average"))] * bool(paper)
        for name in scores.environments:
            row.append(Value(with_std(scores.mean(method, one, name), results.seeds)))
            row += [Value(_paper_cell(paper, method, name))] * bool(paper)
        rows.append(row)
    for column, title in enumerate(header):
        if column >= 1 + (scale is None) and not title.endswith(" paper"):
            bold_best(rows, column)
    own = [name for name, one in methods if not scores.own(name, one)]
    what = "the target environments" if study == "places" else "environments of M equal tasks (diversity)"
    caption = f"Accuracy (%) in {what}, " + ("each method at its best scale" if scale is None else f"scale {scale}")
    suffix = "best" if scale is None else f"scale-{scale}"
    left = [name for name, one in chosen if one is None]
    return made_table(
        f"{'environments' if study == 'places' else study}-{suffix}",
        caption,
        header,
        rows,
        [
            samples_note(scores, results, study) + " " + seeds_note(results),
            "The scale is the one with the highest average on these same test samples: optimistic, and a choice that "
            "nobody at the target could have made."
            if scale is None
            else "",
            f"{joined(own)}: chosen with its own scale, so its row is the same at every scale." if own else "",
            sees_note([name for name, _ in methods], results),
            selection_note([name for name, _ in methods], results),
            baseline_note(methods),
            labels_note([name for name, _ in methods], results),
            "Bold: the best of the column." if len(rows) > 1 else "",
            _paper_note(results) if paper else "",
            paper_note(results, "environments", results.paper["environments"]) if paper else "",
            f"Left out, for no training has all scores of a scale: {listed(left, SHOWN)}." if left else "",
            *missing_notes(scores, [(name, one) for name, one in methods]),
        ],
        2 if scale is None else 1,
    )


def _paper_environments(results: Results, scale: str | None) -> dict[str, dict[str, str]]:
    """method -> environment (and "average") -> the published number as text; {} where none was published."""
    key = results.paper.get("environments")
    if key is None or scale is None or Fraction(scale) != Fraction(published.SCALE):
        return {}
    ours = {one.name: one.ratios for one in results.environments}
    theirs = {mix.name: mix.ratios for mix in PAPERS}
    if any(ours.get(name, ratios) != ratios for name, ratios in theirs.items()):
        return {}  # environments of the same name, and other ones
    whole = set(theirs) == set(StudyScores(results).environments)
    return {
        method: {
            **{
                name: f"{mean} ± {std}"
                for name, mean, std in zip(published.NAMES, row["mean"], row["std"], strict=True)
            },
            **({"average": f"{row['average']}"} if whole else {}),
        }
        for method, row in published.environments(key).items()
    }


def _paper_cell(paper: Mapping[str, Mapping[str, str]], method: str, column: str) -> str:
    return paper.get(method, {}).get(column, "")


def _paper_note(results: Results) -> str:
    source = published.source("environments", results.paper["environments"])
    return (
        f"paper: {source}; mean ± standard deviation over three seeds, printed there to whole percents, of other draws "
        "of the targets. Empty: not published."
    )


# Paired differences


def comparisons(
    results: Results,
    scale: str | None,
    *,
    first: str | None = None,
    second: str | None = None,
    others: Sequence[str] | None = None,
) -> list[Comparison]:
    """Every method minus `second`, or `first` minus every other. `scale` None: each at its best. `others`: only these,
    in their order.
    """
    scores = StudyScores(results)
    pairs = []
    for name in in_order(scores.methods) if others is None else others:
        a, b = (first, name) if first is not None else (name, second or RIVAL)
        pair = [scores.best_scale(one) if scale is None else scale for one in (a, b)]
        if a != b and pair[0] is not None and pair[1] is not None:
            pairs.append(compare(scores, a, b, pair[0], pair[1]))
    return [one for one in pairs if one is not None]


def differences(
    results: Results,
    scale: str | None,
    *,
    first: str | None = None,
    second: str | None = None,
    others: Sequence[str] | None = None,
) -> Table | None:
    """`comparisons` as a table: points by environment and over all targets, with 95 % intervals."""
    pairs = comparisons(results, scale, first=first, second=second, others=others)
    if not pairs:
        return None
    scores = StudyScores(results)
    names = [name for name in scores.environments if any(name in one.environments for one in pairs)]
    several = len(results.seeds) > 1
    header = ["Minus" if first is not None else "Method"]
    header += ["All targets", "Won / tied / lost", *names] + ["By seed"] * several
    rows = []
    for one in pairs:
        which = 0 if first is None else 1
        row = [Value(at_scale(one, which) if scale is None else (one.first, one.second)[which])]
        row.append(Value(with_interval(one.overall), one.overall.verdict != 0))
        row.append(Value(f"{one.overall.won} / {one.overall.tied} / {one.overall.lost}"))
        for part in (one.environments.get(name) for name in names):
            row.append(Value(with_interval(part), part is not None and part.verdict != 0))
        row += [Value(", ".join(points(v) for v in one.per_seed.values()))] * several
        rows.append(row)
    every = "every other method" if others is None else "these"
    what = f"{first} minus {every}" if first is not None else f"Every method minus {second or RIVAL}"
    fixed = pairs[0].scales[0] if first is not None else pairs[0].scales[1]
    at = (
        f"scale {scale}"
        if scale is not None
        else "each method at its best scale" + (f" ({first or second or RIVAL} at {fixed})" * bool(fixed))
    )
    who = "rival" if first is None else "ours" if first == OURS else "adapt"
    stem = f"{who}-{'best' if scale is None else f'scale-{scale}'}"
    compared = {name for one in pairs for name in (one.first, one.second)}
    missing = [f"{one.first} minus {one.second}: {text}." for one in pairs for text in one.missing]
    alone = [name for name in in_order(scores.methods) if name not in compared and others is None]
    return made_table(
        f"differences-{stem}",
        f"{what}, {at}: paired differences in points, 95 % interval",
        header,
        rows,
        [
            "A target is one variant of one environment; both methods are scored on the same samples of it, and the "
            "seeds of a target are averaged first. The t interval of the mean over targets, as the bootstrap is too "
            "short for so few; comparisons.csv has both.",
            "Bold: the interval (before rounding) does not hold zero. Nothing is corrected for the number of "
            "comparisons: of twenty without any difference one is bold.",
            "The interval speaks of targets drawn like these from this test set, and of these trainings; another "
            "training may differ.",
            "Scales were chosen on the same samples: optimistic for whoever had more of them." if scale is None else "",
            baseline_note(
                (name, at) for one in pairs for name, at in zip((one.first, one.second), one.scales, strict=True)
            ),
            labels_note(in_order(compared), results),
            f"Left out, for {'no training has all scores of a scale' if scale is None else 'no target is common'}: "
            f"{listed(alone, SHOWN)}."
            if alone
            else "",
            *(f"Pairs left out. {text}" for text in missing),
        ],
    )


def at_scale(one: Comparison, which: int) -> str:
    """The first (0) or second (1) of a comparison, with its scale where it does not choose its own."""
    name, scale = (one.first, one.second)[which], one.scales[which]
    return f"{name} (scale {scale})" if scale else name


def comparison_rows(pairs: Iterable[Comparison]) -> Table:
    """Every comparison in long form, in fractions of 1 and with both intervals: for CSV."""
    header = ("first", "second", "first scale", "second scale", "environment", "places", "mean")
    header += ("t low", "t high", "bootstrap low", "bootstrap high", "won", "tied", "lost")
    rows = []
    for one in pairs:
        for name, part in (*one.environments.items(), ("all", one.overall)):
            ends = [*(part.interval or ("", "")), *(part.bootstrap or ("", ""))]
            values = [one.first, one.second, *one.scales, name, part.places, part.mean, *ends]
            rows.append([Value(str(value)) for value in (*values, part.won, part.tied, part.lost)])
    return made_table("comparisons", "Paired differences", header, rows, [], 5)


# Similarities: table 4, and what the preferences were


def ablation(results: Results) -> Table | None:
    """Table 4, turned: MAGMAX and the four similarities, average over the environments at each scale."""
    scores = StudyScores(results)
    names = [RIVAL, *(f"Tunable ({KINDS[kind]})" for kind in ("cosine", "mmd", "ot", "label"))]
    names = [name for name in names if name in scores.methods]
    scales = scales_of(scores)
    if not [name for name in names if name != RIVAL] or not scales:
        return None
    key = results.paper.get("ablation")
    paper = published.ablation(key) if key is not None else {}
    header = ["Method"]
    for scale in scales:
        header += [f"Average, scale {scale}", f"minus {RIVAL}, scale {scale}"]
    header += [f"paper, scale {published.SCALE}"] * bool(paper)
    rows: list[list[Value]] = []
    for name in names:
        row = [Value(name)]
        for scale in scales:
            comparison = compare(scores, name, RIVAL, scale) if name != RIVAL and RIVAL in names else None
            part = comparison.overall if comparison is not None else None
            row.append(Value(with_std(scores.average(name, scale), results.seeds)))
            row.append(Value(with_interval(part) if name != RIVAL else "", part is not None and part.verdict != 0))
        row += [Value(f"{paper[name]}" if name in paper else "")] * bool(paper)
        rows.append(row)
    for column in range(1, 2 * len(scales), 2):
        bold_best(rows, column)
    return made_table(
        "similarities-accuracy",
        "What each similarity is worth: accuracy (%), average over the target environments, and its paired difference "
        f"to {RIVAL} in points (95 % interval)",
        header,
        rows,
        [
            seeds_note(results),
            "Bold: the best average; the differences whose interval does not hold zero.",
            labels_note(names, results),
            f"paper: {published.source('ablation', key)}; whole percents." if key is not None else "",
            paper_note(results, "ablation", key) if key is not None else "",
            *(note for scale in scales for note in missing_notes(scores, [(name, scale) for name in names])),
        ],
    )


def shown_of(results: Results, study: str) -> list[Shown]:
    """What the similarities said of the environments of one study; of all where no method was scored."""
    names = {score.environment for score in results.scores if score.study == study}
    return [one for one in results.similarities if one.environment in names or not results.scores]


def similarities(results: Results, study: str = "places") -> Table | None:
    """How far each similarity's shares are from the target's own: total variation, 0 the same, 1 no task in common."""
    shown = shown_of(results, study)
    if not shown:
        return None
    names = list(dict.fromkeys(one.environment for one in shown))
    header = ["Similarity", "Average", "Largest share right (%)", *(heading(results, name) for name in names)]
    by_kind = {
        kind: [one for one in shown if one.kind == kind]
        for kind in sorted({one.kind for one in shown}, key=_kind_order)
    }
    rows: list[list[Value]] = []
    for kind, several in by_kind.items():
        row = [Value(KINDS.get(kind, kind))]
        distances = {name: _distances([one for one in several if one.environment == name]) for name in names}
        whole = [seed for seed in results.seeds if all(seed in by_seed for by_seed in distances.values())]
        row.append(Value(_two(over_seeds({s: fmean(d[s] for d in distances.values()) for s in whole}))))
        right = fmean(one.truth[_largest(one.shares)] == max(one.truth) for one in several)
        row.append(Value(percent(right)))
        rows.append([*row, *(Value(_two(over_seeds(by_seed))) for by_seed in distances.values())])
    share = [1 / len(results.tasks)] * len(results.tasks)
    distances = [fmean(total_variation(share, one.truth) for one in shown if one.environment == name) for name in names]
    average, *each = (Value(f"{value:.2f}") for value in (fmean(distances), *distances))
    rows.append([Value("Equal shares"), average, Value(""), *each])
    return made_table(
        "similarities-shares" if study == "places" else f"similarities-shares-{study}",
        "How far the shares are from those that the target has: total variation (0: the same, 1: no task in common)",
        header,
        rows,
        [
            "Mean over the variants; " + seeds_note(results),
            "Largest share right: how often the task with the largest share is one that the target has most of.",
            "Equal shares: what can be said without any data of the target; what is no nearer brings nothing.",
            labels_note(["Tunable (Label)"] if "label" in by_kind else [], results),
        ],
    )


def _kind_order(kind: str) -> tuple[int, str]:
    return (list(KINDS).index(kind), "") if kind in KINDS else (len(KINDS), kind)


def _largest(shares: Sequence[float]) -> int:
    return max(range(len(shares)), key=lambda t: shares[t])


def _distances(several: Iterable[Shown]) -> dict[int, float]:
    by_seed: dict[int, list[float]] = {}
    for one in several:
        by_seed.setdefault(one.seed, []).append(total_variation(one.shares, one.truth))
    return {seed: fmean(values) for seed, values in by_seed.items()}


def _two(mean: Mean | None) -> str:
    if mean is None:
        return MISSING
    return f"{mean.value:.2f}" + (f" ± {mean.std:.2f}" if mean.std is not None else "")


# Models on all tasks: figure 3, and the MAGMAX supplement


def alpha(results: Results) -> Table | None:
    """Figure 3 as a table: the first and the last task, and all, at geometric preferences."""
    by_scale = by_alpha(results)
    if not by_scale:
        return None
    reads: list[Callable[[TaskScores], float]] = [
        lambda one: one.accuracies[0],
        lambda one: one.accuracies[-1],
        lambda one: one.overall,
    ]
    rows = [
        [Value(scale), Value(RIVAL if value is None else value)]
        + [Value(with_std(over_tasks(several, read), results.seeds)) for read in reads]
        for scale, alphas in by_scale.items()
        for value, several in alphas.items()
    ]
    first, last = results.tasks[0], results.tasks[-1]
    return made_table(
        "alpha",
        "Preference control: accuracy (%) among all classes at geometric preferences",
        ["Scale", ALPHA, f"First task ({first})", f"Last task ({last})", "All tasks"],
        rows,
        [
            f"Shares in proportion to {ALPHA}^(T-t): above 1 for early tasks, below 1 for late ones. All tasks: every "
            "test sample weighs the same.",
            seeds_note(results),
            _seeds_missing(several for alphas in by_scale.values() for several in alphas.values()),
        ],
        2,
    )


def _seeds_missing(groups: Iterable[Sequence[TaskScores]]) -> str:
    counts = {len(several) for several in groups}
    return "*: fewer seeds than the other numbers, so not to be compared with them." if len(counts) > 1 else ""


def single_models(results: Results) -> list[TaskScores]:
    """Models of sequential runs, each once: those of the study of methods, else those that the study of alpha has."""
    models: dict[tuple[str, Fraction, int], TaskScores] = {}
    for study in ("methods", "alpha"):
        for one in results.task_scores:
            if one.study == study and one.alpha is None and one.training in ("sequential", ""):
                models.setdefault((one.method, by_size(one.scale), one.seed), one)
    return list(models.values())


def scale_text(method: str, scale: str) -> str:
    """The scale as it is printed: `1` for `1.0`, and none of a model that is no merge."""
    return "" if method in UNMERGED or not scale else as_text(Fraction(scale))


def methods(results: Results) -> Table | None:
    """The MAGMAX supplement's tables 1 and 2 for these tasks: one model each, on all classes, the task unknown."""
    groups: dict[tuple[str, str, str], list[TaskScores]] = {}
    for one in results.task_scores:
        if one.study == "methods":
            groups.setdefault((one.method, one.training, scale_text(one.method, one.scale)), []).append(one)
    if not groups:
        return None
    model, column = results.paper.get("supplement"), results.paper.get("column")
    paper = published.supplement(model, column) if model is not None and column is not None else {}
    order = in_order(method for method, _, _ in groups)
    rows: list[list[Value]] = []
    for key in sorted(groups, key=lambda k: (order.index(k[0]), k[1], by_size(k[2]))):
        method, training, scale = key
        row = [Value(method), Value(training if method != "Zero-shot" else ""), Value(scale)]
        row.append(Value(with_std(over_tasks(groups[key], lambda one: one.overall), results.seeds)))
        if paper:
            here = method in paper and published.TRAININGS[method] in (training, "")
            row.append(Value(f"{paper[method]:.2f}" if here else ""))
        rows.append(row)
    bold_best(rows, 3)
    return made_table(
        "methods",
        "The final model on all tasks: accuracy (%) among all classes, the task unknown",
        ["Method", "Training", "Scale", "Accuracy"] + ["paper"] * bool(paper),
        rows,
        [
            seeds_note(results),
            "Every test sample weighs the same. Bold: the best.",
            f"paper: {published.source('supplement', model)}, {column}; MAGMAX and Max Abs at scale 0.5, Rand Mix and "
            "Average at 1, TIES at 0.55. The number is that of the method and training, whatever our row's scale."
            if paper and model is not None
            else "",
            paper_note(results, "supplement", column) if paper and column is not None else "",
            _seeds_missing(groups.values()),
        ],
        3,
    )


# What the places are


def places(results: Results) -> Table | None:
    """Every environment: its tasks, how many samples it has, and what lacks."""
    if not results.environments:
        return None
    rows = []
    for one in results.environments:
        tasks = ", ".join(f"{part.taken} {part.task}" for part in one.parts)
        lacks = ", ".join(f"{count} {task}" for task, count in one.shortfall.items())
        numbers = [str(one.seed), str(len(one.meta_ids)), str(len(one.test_ids))]
        rows.append([Value(f"{one.name}, variant {one.variant}"), Value(tasks), Value(lacks), *map(Value, numbers)])
    return made_table(
        "places",
        "The targets: samples drawn from each task's test set",
        ["Target", "Samples of", "Lacking", "Seed of the draw", "Meta", "Test"],
        rows,
        ["Lacking: samples that the task's test set does not have; no other task's were taken instead."],
        3,
    )
