"""What all tables of an experiment share: numbers as text, the order of rows, notes below a table.

Accuracies are printed in percent with one decimal, differences in points. Cost: that of the statistics that a note
names. Not here: tables (`tables`, `target_tables`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prefmerge.ground.words import joined, listed
from prefmerge.lab import published
from prefmerge.lab.entries import KNOWN, PRIOR, RELEASED, stem_of
from prefmerge.lab.results import SHARED, Results
from prefmerge.lab.statistics import SHOWN, Difference, Mean, StudyScores, by_size
from prefmerge.lab.table import Table, Value
from prefmerge.plotting import METHODS
from prefmerge.preference import as_text

MISSING = "\N{EN DASH}"
LABELLED = ("Tunable (Label)",)  # beginnings of names: a preference from labels alone
SEES = {  # beginnings of names
    "samples with labels": ("Best checkpoint", "Search", "Adapt (pairs)", "Fine-tuned (pairs)"),
    "labels alone": ("Tunable (Label)", "Adapt (labels)", "Last + fitted bias", "Fine-tuned (held-out)"),
    "inputs alone": ("Tunable (OT)", "Tunable (Cos)", "Tunable (MMD)", "Adapt (inputs)"),
}


# Numbers as text


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def points(value: float) -> str:
    """A difference with its sign; zero, and what rounds to it, has none."""
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def with_std(mean: Mean | None, seeds: Sequence[int] = ()) -> str:
    """`71.2 ± 0.3`; a star where there are fewer seeds than `seeds`."""
    if mean is None:
        return MISSING
    star = "*" if len(mean.seeds) < len(seeds) else ""
    return percent(mean.value) + (f" ± {percent(mean.std)}" if mean.std is not None else "") + star


def with_interval(difference: Difference | None) -> str:
    """`+3.1 [1.2, 5.0]`"""
    if difference is None:
        return MISSING
    if difference.interval is None:
        return points(difference.mean)
    low, high = difference.interval
    return f"{points(difference.mean)} [{points(low).lstrip('+')}, {points(high).lstrip('+')}]"


def in_order(methods: Iterable[str]) -> list[str]:
    """As `plotting.METHODS` has them, then those that it does not have; rows of one entry stand together."""
    several = list(dict.fromkeys(methods))
    stems = list(dict.fromkeys([*METHODS, *map(stem_of, several)]))
    return sorted(several, key=lambda name: stems.index(stem_of(name)))


def scales_of(scores: StudyScores) -> list[str]:
    """The scales that a method was asked for, by size."""
    return sorted({scale for method in scores.methods for scale in scores.scales(method)} - {""}, key=by_size)


def ratios(results: Results, name: str) -> str:
    """`(0.8, 0.2)`; `3 x 1/3` where more than three are equal."""
    parts = next((one.ratios for one in results.environments if one.name == name), ())
    if len(parts) > 3 and len(set(parts)) == 1:
        return f"({len(parts)} \N{MULTIPLICATION SIGN} {as_text(parts[0])})"
    return f"({', '.join(map(as_text, parts))})" if parts else ""


def heading(results: Results, name: str) -> str:
    return f"{name} {ratios(results, name)}".strip()


def bold_best(rows: list[list[Value]], column: int) -> None:
    """Embolden the highest mean of a column as it is printed; a number with a star does not compete."""
    values = {i: float(row[column].text.split()[0]) for i, row in enumerate(rows) if _competes(row[column].text)}
    for i, value in values.items():
        if len(values) > 1 and value == max(values.values()):
            rows[i][column] = Value(rows[i][column].text, True)


def _competes(text: str) -> bool:
    return text not in (MISSING, "") and not text.endswith("*")


def made_table(
    name: str, caption: str, header: Sequence[str], rows: Iterable[Sequence[Value]], notes: Iterable[str], words=1
):
    return Table(name, caption, tuple(header), tuple(map(tuple, rows)), tuple(filter(None, notes)), words)


# Notes


def seeds_note(results: Results) -> str:
    if len(results.seeds) == 1:
        return f"One training (seed {results.seeds[0]}): there is no standard deviation over trainings."
    return f"± is the standard deviation over the trainings (seeds {', '.join(map(str, results.seeds))})."


def samples_note(scores: StudyScores, results: Results, study: str) -> str:
    sizes = {one.n for one in results.scores if one.study == study}
    counts = {len(variants) for variants in scores.variants.values()}
    n = f"{min(sizes)}" if len(sizes) == 1 else f"{min(sizes)} to {max(sizes)}"
    variants = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    plural = "" if counts == {1} else "s"
    return (
        f"Mean over {variants} variant{plural} of each environment, {n} test samples in each, the same for all methods."
    )


def missing_notes(scores: StudyScores, methods: Sequence[tuple[str, str]]) -> list[str]:
    notes: list[str] = []
    alone: dict[str, list[str]] = {}  # seeds of which nothing is missing, where of the others everything is
    for method, scale in methods:
        lacks = [(name, *scores.lacking(method, scale, name)) for name in scores.environments]
        there = [f"{name} ({gone} of {all_} scores)" for name, gone, all_ in lacks if gone]
        called = method + (f" at scale {scale}" if scores.own(method, scale) else "")
        mean = scores.average(method, scale)
        if there and mean is not None and len(scores.at(method, scale)) == len(mean.seeds) * len(scores.places):
            alone.setdefault(", ".join(map(str, mean.seeds)), []).append(called)
        elif there:
            notes.append(f"Missing: {called}: {listed(there, SHOWN)}.")
    notes += [f"Seed {seeds} only: {'; '.join(names)}." for seeds, names in alone.items()]
    starred = any(
        mean is not None and len(mean.seeds) < len(scores.seeds)
        for method, scale in methods
        for mean in (scores.average(method, scale), *(scores.mean(method, scale, e) for e in scores.environments))
    )
    return notes + ["*: fewer seeds than the other numbers, so not to be compared with them."] * starred


def sees_note(methods: Sequence[str], results: Results) -> str:
    own = {one["name"]: one["similarity"] for one in _own_methods(results) if one.get("similarity")}
    there = {
        what: [start for start in starts if any(m.startswith(start) and m not in own for m in methods)]
        for what, starts in SEES.items()
    }
    for name, similarity in own.items():
        if name in methods:
            there["labels alone" if similarity == "label" else "inputs alone"].append(name)
    said = [f"{joined(starts)}: {what}" for what, starts in there.items() if starts]
    said += ["with the prior: labels too"] * any(name.endswith(PRIOR) for name in methods)
    return f"What a method was shown of the target. {'; '.join(said)}; every other: nothing." if said else ""


def selection_note(methods: Sequence[str], results: Results) -> str:
    """Which selection made which row, of the merges that have one."""
    own = {one["name"]: one["settings"] for one in _own_methods(results)}
    rows: dict[str, list[str]] = {}
    for name in methods:
        stem = name.removesuffix(PRIOR)
        settings = own.get(stem) or (KNOWN[stem].settings if stem in KNOWN else {})
        if "selection" in settings:
            rows.setdefault(str(settings["selection"]), []).append(name)
    said = "; ".join(f"{selection}: {', '.join(names)}" for selection, names in rows.items())
    return f"Selection ({RELEASED['selection']} is that of the authors' code). {said}." if said else ""


def baseline_note(rows: Iterable[tuple[str, str]], one: str = "Baseline") -> str:
    """What the last task vector at another scale than 1 is, where a row (method, scale) has it."""
    scales = [scale for method, scale in rows if method.removesuffix(PRIOR) == one and scale]
    other = sorted({scale for scale in scales if by_size(scale) != 1}, key=by_size)
    if not other:
        return ""
    return (
        f"{one} at scale {joined(other)} is the base plus {joined(as_text(by_size(scale)) for scale in other)} times "
        "the last task vector, as in the authors' code; at scale 1 it is the last checkpoint."
    )


def labels_note(methods: Iterable[str], results: Results) -> str:
    """What labels cannot tell where tasks share their classes, and of which rows that is so."""
    shared, count = results.about.get(SHARED) or (0, 0)
    own = {one["name"] for one in _own_methods(results) if one.get("similarity") == "label"}
    by_labels = [name for name in methods if name in own or any(name.startswith(start) for start in LABELLED)]
    if not shared or not by_labels:
        return ""
    if shared == count:
        return (
            f"All tasks have the same classes, so labels cannot tell which task a sample is of: the preference of "
            f"{joined(by_labels)} says no more than equal shares, and its rank says nothing of preferences from labels."
        )
    return (
        f"{shared} of {count} classes belong to several tasks. Labels of these cannot tell the tasks apart, so the "
        f"preference of {joined(by_labels)} is less sharp than it looks."
    )


def paper_note(results: Results, kind: published.TableKind, key: str) -> str:
    """In what the published numbers are of another setting than ours; "" where they are of the same."""
    theirs = published.setting(kind, key)
    if theirs is None:
        return ""
    (data, tasks), ours, count = theirs, results.about.get("data") or (), len(results.tasks)
    other_data = bool(ours) and not any(_folded(data) in _folded(name) for name in ours)
    if not other_data and tasks == count:
        return ""
    own = f"{joined(ours)} in {count} tasks" if ours else f"{count} tasks"
    return (
        f"The paper's numbers are of {data} in {tasks} tasks, ours of {own}: another setting, so the two are not to be "
        "compared."
    )


def _folded(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _own_methods(results: Results) -> list[Mapping[str, Any]]:
    """The methods that the recipe itself defines."""
    recipe = results.about.get("recipe")
    return [one for one in (recipe or {}).get("methods", ()) if isinstance(one, Mapping)]
