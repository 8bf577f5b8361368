"""The tables of `adapt`: entries with the target's log prior and without it, what it promised, and what it chose.

Source: ours. Cost: O(scores). A table with nothing in it is None. Not here: the papers' tables (`tables`).
"""

from __future__ import annotations

from collections import Counter
from statistics import fmean

from prefmerge.ground.stats import LEVEL, t_interval
from prefmerge.ground.words import joined
from prefmerge.lab import tables
from prefmerge.lab.entries import KNOWN, PRIOR, stem_of
from prefmerge.lab.results import Results, Score
from prefmerge.lab.statistics import StudyScores, by_size, compare
from prefmerge.lab.table import Table, Value
from prefmerge.lab.table_parts import (
    baseline_note,
    bold_best,
    in_order,
    labels_note,
    made_table,
    missing_notes,
    percent,
    points,
    samples_note,
    seeds_note,
    sees_note,
    selection_note,
    with_interval,
    with_std,
)
from prefmerge.lab.tables import RIVAL

ADAPTED, LAST, FITTED = "Adapt (labels)", "Baseline", "Last + fitted bias"  # the second: the last checkpoint


def overview(results: Results) -> Table | None:
    """Every entry at every scale, as it is and with the target's log prior on its answers, and how far it is ahead of
    MAGMAX and of the last checkpoint. None where no entry has both.
    """
    scores = StudyScores(results)
    pairs = _with_and_without(scores)
    if not any(plain and added for plain, added in pairs):
        return None
    rivals = [name for name in (RIVAL, LAST) if name in scores.methods]
    minus = [f"minus {rival}" for rival in rivals]
    rows: list[list[Value]] = []
    shown: list[tuple[str, str]] = []
    for pair in pairs:
        for scale in sorted({scale for name in pair for scale in scores.scales(name)}, key=by_size):
            row = [Value(stem_of(pair[0] or pair[1])), Value(scale or "own")]
            for name in pair:
                there = scale in scores.scales(name)
                row.append(Value(with_std(scores.average(name, scale), results.seeds) if there else ""))
                row += [_ahead(scores, name, scale, rival) if there else Value("") for rival in rivals]
                shown += [(name, scale)] * there
            rows.append(row)
    for column in (2, 3 + len(rivals)):
        bold_best(rows, column)
    names = [name for name, _ in shown]
    return made_table(
        "overview",
        "With the target's log prior on the answers and without it: accuracy (%), mean over the environments",
        ["Entry", "Scale", "As it is", *minus, "With the prior", *minus],
        rows,
        [
            samples_note(scores, results, "places") + " " + seeds_note(results),
            f"Differences are to {joined(rivals)} without the prior, at the same scale: in points, with the 95 % "
            "interval over the targets, and at how many of the targets the entry is ahead. An entry that chooses its "
            f"own scale is compared with each at its best scale on these samples."
            if rivals
            else "",
            "The prior is made of the labels that the target shows. Without it, adapt chooses an encoder and leaves "
            "the head alone (--no-prior).",
            sees_note(names, results),
            selection_note([name for name in dict.fromkeys(names) if not name.endswith(PRIOR)], results),
            baseline_note(shown),
            labels_note([name for name in dict.fromkeys(names) if not name.endswith(PRIOR)], results),
            "Bold: the best of a column; differences whose interval does not hold zero.",
            *missing_notes(scores, shown),
        ],
        2,
    )


def _ahead(scores: StudyScores, name: str, scale: str, rival: str) -> Value:
    """`name` minus `rival`: `+3.1 [1.2, 5.0], 21/25`."""
    at = scale or scores.best_scale(rival)
    made = None if name == rival or at is None else compare(scores, name, rival, scale, at)
    if made is None:
        return Value("")
    part = made.overall
    return Value(f"{with_interval(part)}, {part.won}/{part.places}", part.verdict != 0)


def _with_and_without(scores: StudyScores) -> list[tuple[str, str]]:
    """(row without the prior, row with it), "" where there is none, in the order of `in_order`."""
    pairs = {}
    for stem in map(stem_of, scores.methods):
        entry = KNOWN.get(stem)
        titles = (stem, f"{stem}{PRIOR}") if entry is None else entry.titles
        plain, added = ("" if title not in scores.methods else title for title in titles)
        pairs[stem] = (plain or "", added or "")
    return [pairs[stem] for stem in in_order(pairs)]


def by_environment(results: Results, ours: str) -> Table | None:
    """An entry minus what a user has without it, environment by environment, each at its best scale."""
    return tables.differences(results, None, first=ours, others=references(StudyScores(results)))


def references(scores: StudyScores) -> list[str]:
    """What a user has without `adapt`: the last checkpoint, with the prior, with a fitted bias; MAGMAX."""
    return [name for name in (LAST, f"{LAST}{PRIOR}", FITTED, RIVAL) if name in scores.methods]


def estimates(results: Results) -> Table | None:
    """What `adapt` promised at each target, against what came of it."""
    told: dict[str, list[Score]] = {}
    for one in results.scores:
        if one.estimate is not None:
            told.setdefault(one.method, []).append(one)
    if not told:
        return None
    rows = []
    for name in in_order(told):
        several = [(one.accuracy, one.estimate) for one in told[name] if one.estimate is not None]
        errors = [value - truth for truth, (value, _, _) in several]
        inside = [low <= truth <= high for truth, (_, low, high) in several]
        interval = t_interval(errors, LEVEL)
        error = points(fmean(errors))
        if interval is not None:
            error += f" [{points(interval[0]).lstrip('+')}, {points(interval[1]).lstrip('+')}]"
        means = [percent(fmean(values)) for values in ([t for t, _ in several], [e[0] for _, e in several])]
        width = percent(fmean(high - low for _, (_, low, high) in several))
        held = f"{sum(inside)} of {len(inside)} ({100 * fmean(inside):.0f} %)"
        rows.append([Value(name), *map(Value, (str(len(several)), *means, error, held, width))])
    return made_table(
        "estimates",
        "What adapt promises, and what came of it (%)",
        ["Entry", "Targets", "Accuracy", "Estimate", "Estimate minus accuracy", "90 % intervals that hold it", "Width"],
        rows,
        ["A target counts once for each training. The accuracy is on the samples that judge, which has an error too."],
    )


def choices(results: Results) -> Table | None:
    """What `adapt` chose, and how often."""
    counts: dict[str, Counter[str]] = {}
    for one in results.scores:
        entry = KNOWN.get(one.method)
        if one.chosen is not None and entry is not None and entry.kind == "adapt":
            counts.setdefault(one.method, Counter())[one.chosen] += 1
    if not counts:
        return None
    names, every = in_order(counts), sum(counts.values(), Counter[str]())
    rows = [[Value(chosen), *(Value(f"{counts[name][chosen]}") for name in names)] for chosen, _ in every.most_common()]
    return made_table(
        "choices",
        "What adapt chooses, and how often",
        ["Model", *names],
        rows,
        ["A target counts once for each training. With the prior."],
    )
