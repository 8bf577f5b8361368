"""The tables of `adapt`: entries with the target's log prior and without it, and promises against what came of them.

Source: ours. Cost: O(scores). A table with nothing in it is None. Not here: the papers' tables (`tables`).
"""

from __future__ import annotations

from statistics import fmean

from prefmerge.ground.stats import LEVEL, t_interval
from prefmerge.lab.entries import ALONE, KNOWN, PRIOR
from prefmerge.lab.results import Results, Score
from prefmerge.lab.statistics import StudyScores, compare
from prefmerge.lab.table import Table, Value
from prefmerge.lab.table_parts import (
    bold_best,
    in_order,
    made_table,
    percent,
    points,
    samples_note,
    seeds_note,
    sees_note,
    with_interval,
    with_std,
)

ADAPTED = "Adapt (labels)"


def priors(results: Results, scale: str | None) -> Table | None:
    """Every entry with the target's log prior on its answers and without it, and how far `adapt` is ahead of it.
    `scale` None: each entry at the scale with its best average.
    """
    scores = StudyScores(results)
    pairs = _with_and_without(scores)
    if not any(plain and added for plain, added in pairs):
        return None
    header = ["Entry", "Scale", "As it is", "With the prior"]
    against = ADAPTED in scores.methods
    header += [f"{ADAPTED} minus it, as it is", "with the prior"] * against
    rows: list[list[Value]] = []
    for pair in pairs:
        at = [(scores.best_scale(name) if scale is None else scale) or "" for name in pair]
        there = [name if scores.at(name, one) else "" for name, one in zip(pair, at, strict=True)]
        if not any(there):
            continue
        own = {scores.own(name, one) for name, one in zip(there, at, strict=True) if name}
        row = [Value((there[0] or there[1]).removesuffix(ALONE)), Value(" | ".join(sorted(own)) or "own")]
        for name, one in zip(there, at, strict=True):
            row.append(Value(with_std(scores.average(name, one), results.seeds) if name else ""))
        for name, one in zip(there, at, strict=True) if against else ():
            made = compare(scores, ADAPTED, name, one) if name and name != ADAPTED else None
            part = None if made is None else made.overall
            row.append(Value("" if part is None else with_interval(part), part is not None and part.verdict != 0))
        rows.append(row)
    for column in (2, 3):
        bold_best(rows, column)
    shown = [name for pair in pairs for name in pair if name and not name.endswith(PRIOR)]
    where = "each entry at its best scale" if scale is None else f"scale {scale}"
    return made_table(
        f"priors-{'best' if scale is None else f'scale-{scale}'}",
        "With the target's log prior on the answers and without it: accuracy (%), mean over the environments, " + where,
        header,
        rows,
        [
            samples_note(scores, results, "places") + " " + seeds_note(results),
            "The prior is made of the labels that the target shows. Without it, adapt chooses an encoder and leaves "
            "the head alone (--no-prior).",
            "The scale is the one with the highest average on these same test samples: optimistic." * (scale is None),
            sees_note(shown, results),
            "Bold: the best of a column; differences whose 95 % interval does not hold zero.",
        ],
        2,
    )


def _with_and_without(scores: StudyScores) -> list[tuple[str, str]]:
    """(row without the prior, row with it), "" where there is none, in the order of `in_order`."""
    pairs = {}
    for name in scores.methods:
        stem = name.removesuffix(PRIOR).removesuffix(ALONE)
        entry = KNOWN.get(stem)
        titles = (stem, f"{stem}{PRIOR}") if entry is None else entry.titles
        plain, added = ("" if title not in scores.methods else title for title in titles)
        pairs[stem] = (plain or "", added or "")
    return [pairs[stem] for stem in in_order(pairs)]


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
        held = f"{sum(inside)} of {len(inside)}"
        rows.append([Value(name), *map(Value, (str(len(several)), *means, error, held, width))])
    return made_table(
        "estimates",
        "What adapt promises, and what came of it (%)",
        ["Entry", "Targets", "Accuracy", "Estimate", "Estimate minus accuracy", "90 % intervals that hold it", "Width"],
        rows,
        ["A target counts once for each training. The accuracy is on the samples that judge, which has an error too."],
    )
