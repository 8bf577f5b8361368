"""What the results of an experiment say, in sentences. Every one is computed from the results.

The first of two methods is ahead or behind where the 95 % interval of their paired difference does not hold zero. Cost:
that of the comparisons. Not here: opinions; the files of the report (`report`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from prefmerge.ground.words import counted
from prefmerge.lab import table_parts, tables, target_tables
from prefmerge.lab.entries import ALONE
from prefmerge.lab.results import Results, TaskScores
from prefmerge.lab.statistics import Comparison, Difference, StudyScores, by_alpha, compare, over_tasks
from prefmerge.lab.table_parts import percent, points, scales_of
from prefmerge.lab.tables import ALPHA, OURS, RIVAL

UNLABELLED = tuple(f"Tunable ({tables.KINDS[kind]})" for kind in ("ot", "cosine", "mmd"))


def verdict(part: Difference) -> str:
    """What an interval of a difference allows to say of the first method."""
    if part.interval is None:
        return "one target, so no interval"
    return ("no clear difference", "ahead", "behind")[part.verdict]


def _interval(part: Difference) -> str:
    if part.interval is None:
        return f"{points(part.mean)} points"
    low, high = (points(end).lstrip("+") for end in part.interval)
    return f"{points(part.mean)} points, 95 % interval [{low}, {high}]"


def _against(comparison: Comparison, where: str) -> str:
    """`At scale 1, A has a higher mean than B in 4 of 5 environments (not in e4). Over 25 targets: ...`"""
    up = [name for name, part in comparison.environments.items() if part.mean > 0]
    rest = [name for name in comparison.environments if name not in up]
    but = f" (not in {', '.join(rest)})" if rest and up else ""
    seeds = ", ".join(f"{points(value)} (seed {seed})" for seed, value in comparison.per_seed.items())
    lacking = f" {counted(len(comparison.missing), 'group')} of pairs could not be made; the table lists them." * bool(
        comparison.missing
    )
    return (
        f"{where}, {comparison.first} has a higher mean than {comparison.second} in {len(up)} of "
        f"{len(comparison.environments)} environments{but}. Over {counted(comparison.overall.places, 'target')} "
        f"the difference is {_interval(comparison.overall)}: {verdict(comparison.overall)}. By training: {seeds}."
        f"{lacking}"
    )


def about_places(results: Results) -> list[str]:
    """The preference against MAGMAX at each scale and at each method's best, and who is best."""
    scores = StudyScores(results)
    alike = table_parts.labels_note(table_parts.in_order(scores.methods), results)
    said = [alike] * bool(alike)
    scales: list[str | None] = list(scales_of(scores))
    for scale in [*scales, None] if len(scales) > 1 else scales:
        where = f"At scale {scale}" if scale is not None else "Each at its best scale (chosen on the test samples)"
        comparisons = {one.first: one for one in tables.comparisons(results, scale)}
        if OURS in comparisons:
            said.append(_against(comparisons[OURS], where))
        groups = {
            "ahead": [name for name, one in comparisons.items() if one.overall.verdict > 0],
            "no clear difference": [name for name, one in comparisons.items() if one.overall.verdict == 0],
            "behind": [name for name, one in comparisons.items() if one.overall.verdict < 0],
        }
        if comparisons:
            listed = "; ".join(f"{word}: {_several(names)}" for word, names in groups.items() if names)
            said.append(f"{where}, against {RIVAL} (by the 95 % interval over all targets): {listed}.")
        averages = {
            name: mean.value
            for name in table_parts.in_order(scores.methods)
            if (at := scores.best_scale(name) if scale is None else scale) is not None
            and (mean := scores.average(name, at)) is not None
            and len(mean.seeds) == len(results.seeds)
        }
        if len(averages) > 1:
            top = max(averages.values())
            best = [name for name, value in averages.items() if value == top]
            among = " among methods with all scores" * (len(averages) < len(scores.methods))
            said.append(f"{where}, the highest average{among} is {percent(top)} %: {_several(best)}.")
    return said


def _several(names: Sequence[str]) -> str:
    """Joined by semicolons where a name has a comma."""
    return (" and " if len(names) == 2 else ", ").join(f"“{name}”" if "," in name else name for name in names)


def about_adapt(results: Results) -> list[str]:
    """`adapt` against what a user has without it and against every other entry, each at its best scale; what it
    promised.
    """
    scores = StudyScores(results)
    order = table_parts.in_order(scores.methods)
    said = []
    for ours in adapted(scores):
        pairs = {one.second: one for one in tables.comparisons(results, None, first=ours)}
        against = [
            f"{tables.at_scale(pairs[name], 1)} {table_parts.with_interval(pairs[name].overall)}, higher at "
            f"{pairs[name].overall.won} of {pairs[name].overall.places} targets"
            for name in target_tables.references(scores)
            if name in pairs
        ]
        if against:
            said.append(f"{ours} minus what is there without it, in points: {'; '.join(against)}.")
        others = [pairs[name] for name in order if name in pairs and not name.startswith("Adapt (")]
        parts = []
        for verdict_of, words in ((1, "ahead of"), (0, "not clearly different from"), (-1, "behind")):
            names = [
                f"{one.second} ({points(one.overall.mean)})" for one in others if one.overall.verdict == verdict_of
            ]
            parts += [f"{words} {', '.join(names)}"] * bool(names)
        if parts:
            said.append(f"{ours}, each other entry at its best scale, is {'; '.join(parts)}.")
    return [*said, *_promises(results)]


def adapted(scores: StudyScores) -> list[str]:
    """The rows of `adapt` with the prior."""
    order = table_parts.in_order(scores.methods)
    return [name for name in order if name.startswith("Adapt (") and not name.endswith(ALONE)]


def _promises(results: Results) -> list[str]:
    table = target_tables.estimates(results)
    return [
        f"{name.text} promised {estimate.text} % and reached {accuracy.text} %, {targets.text} targets of "
        f"all trainings; the promise is off by {error.text} points, and {held.text} of its 90 % intervals hold what "
        "came."
        for name, targets, accuracy, estimate, error, held, _ in (() if table is None else table.rows)
    ]


def about_similarities(results: Results) -> list[str]:
    """For each similarity that sees no labels: whether its preference helps, and how near its shares are."""
    scores = StudyScores(results)
    said = []
    for method in UNLABELLED:
        for scale in scales_of(scores):
            comparison = compare(scores, method, RIVAL, scale)
            if comparison is None:
                continue
            word = {
                1: "it helps",
                0: "it does not help, as far as these targets tell: the interval holds zero"
                if comparison.overall.interval
                else "one target, so no interval",
                -1: "it does not help, it harms: the interval lies below zero",
            }[comparison.overall.verdict]
            said.append(f"{method} at scale {scale} minus {RIVAL}: {_interval(comparison.overall)}; {word}.")
    table = tables.similarities(results)
    if table is not None:
        at = table.header.index("Average")
        distances = [
            (row[0].text, float(row[at].text.split()[0])) for row in table.rows if row[at].text != table_parts.MISSING
        ]
        *kinds, (_, equal) = distances
        near = [f"{name} ({value:.2f})" for name, value in kinds if value < equal]
        far = [f"{name} ({value:.2f})" for name, value in kinds if value >= equal]
        said.append(
            f"Total variation to the target's own shares, where equal shares have {equal:.2f}: "
            + "; ".join(
                part
                for part in (f"nearer: {', '.join(near)}" * bool(near), f"no nearer: {', '.join(far)}" * bool(far))
                if part
            )
            + "."
        )
    return said


def about_alpha(results: Results) -> list[str]:
    """Whether the first task rises and the last falls as alpha grows, and both beside MAGMAX."""
    return [
        line
        for scale, alphas in by_alpha(results).items()
        for line in (_course(scale, alphas, "first", 0, "rise", 1), _course(scale, alphas, "last", -1, "fall", -1))
        if line
    ]


def _course(
    scale: str, alphas: Mapping[str | None, Sequence[TaskScores]], name: str, at: int, verb: str, sign: int
) -> str:
    """One task's accuracy along alpha; `sign` is the direction that it should take."""

    def of(value: str | None) -> float:
        mean = over_tasks(alphas[value], lambda one: one.accuracies[at])
        assert mean is not None
        return mean.value

    given = [value for value in alphas if value is not None]
    if len(given) < 2:
        return ""
    values = {value: of(value) for value in given}
    wrong = [f"{a} to {b}" for a, b in itertools.pairwise(given) if (values[b] - values[a]) * sign <= 0]
    how = f"it does not {verb} from {', '.join(wrong)}" if wrong else f"it {verb}s at every step"
    course = ", ".join(map(percent, values.values()))
    line = f"At scale {scale}, as {ALPHA} goes {', '.join(given)}, the {name} task's accuracy is {course} %: {how}."
    if None in alphas:
        end = given[-1] if sign > 0 else given[0]
        gap, rival = points(values[end] - of(None)), percent(of(None))
        line += f" At {ALPHA} = {end} that is {gap} points from {RIVAL}'s {rival} %."
    return line


def about_diversity(results: Results) -> list[str]:
    """The preference against MAGMAX in the least and in the most mixed targets."""
    scores = StudyScores(results, "diversity")
    counts = {one.name: len(one.parts) for one in results.environments}
    names = sorted((name for name in scores.environments if name in counts), key=lambda name: counts[name])
    said = []
    for scale in scales_of(scores):
        for method in (OURS, "Tunable (OT)"):
            comparison = compare(scores, method, RIVAL, scale)
            if comparison is None or len(names) < 2:
                continue
            ends = [
                f"{counted(counts[name], 'task')}: {_interval(part)} ({verdict(part)})"
                for name in (names[0], names[-1])
                if (part := comparison.environments.get(name)) is not None
            ]
            said.append(f"{method} minus {RIVAL} at scale {scale}, in targets of {'; of '.join(ends)}.")
    return said


def about_missing(results: Results) -> list[str]:
    short = [one for one in results.environments if one.shortfall]
    said = []
    if short:
        said.append(
            f"{len(short)} of {len(results.environments)} targets have fewer samples than asked, so their ratios are "
            "not quite those of their name."
        )
    if len(results.seeds) == 1:
        said.append("There is one training: how much another would differ is not known.")
    count = len(results.missing)
    said.append(
        f"{counted(count, 'result')} {'is' if count == 1 else 'are'} missing." if count else "Nothing is missing."
    )
    return said
