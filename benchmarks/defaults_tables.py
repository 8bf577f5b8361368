"""The tables of `benchmarks.defaults` in docs/algorithm.md and docs/limits.md, and in words where the default loses.

Every number comes from results/defaults.json. Not here: the measurement.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.adapt_tables import between_marks
from prefmerge.merging.recipe import Recipe
from prefmerge.preference import as_text, exact

MARK = "<!-- made by benchmarks/defaults.py -->"
PAGE, LIMITS = (common.ROOT / "docs" / name for name in ("algorithm.md", "limits.md"))
TITLES = {"optimal": {"step": "optimal + step", "magnitude": "optimal by magnitude"}, "paper": {"magnitude": "paper"}}
RIVALS = ("last checkpoint", "MAGMAX, scale 0.5")
SHORT = ("average, scale 1.0",)  # beside the rivals in docs/limits.md
Cells = dict[tuple[str, str], dict[str, float]]  # (set, preference) -> rule -> percent


def default_rule(sequential: bool) -> str:
    """The rule that `merge` follows today without further words, as the table calls it."""
    recipe = Recipe(sequential=sequential)
    return f"{TITLES[recipe.selection][recipe.importance]}, scale {float(as_text(exact(recipe.scale)))}"


def cells(data: Mapping[str, Any]) -> Cells:
    """The accuracies, in percent, in the order of the result."""
    by: Cells = {}
    for row in data["rows"]:
        by.setdefault((row["set"], row["preference"]), {})[row["rule"]] = 100 * row["accuracy"]
    return by


def document(data: Mapping[str, Any]) -> str:
    """The whole table, with the rules as rows, and what is said of the defaults."""
    by = cells(data)
    sets = list(dict.fromkeys(name for name, _ in by))
    parts = []
    for preference in dict.fromkeys(what for _, what in by):
        columns = [by[name, preference] for name in sets]
        best = [max(column.values()) for column in columns]
        rows = [
            [_marked(rule), *(_bold(one[rule], one[rule] == top) for one, top in zip(columns, best, strict=True))]
            for rule in columns[0]
        ]
        parts.append(f"Accuracy with {preference}, %:\n\n{common.table(['rule', *sets], rows)}")
    told = "\n".join(f"- {line}" for line in said(by))
    described = "; ".join(
        f"{one['set']}: {one['tasks']} tasks, {one['test_samples']:,} test samples, {len(one['targets'])} targets"
        for one in data["sets"]
    )
    return "\n".join([*parts, f"{told}\n", f"One training each. {described}.", common.origin(data)])


def _marked(rule: str) -> str:
    if rule == default_rule(True):
        return f"{rule} (the default for tasks in sequence)"
    return f"{rule} (the default where the order is not known)" if rule == default_rule(False) else rule


def _bold(value: float, best: bool) -> str:
    return f"**{value:.1f}**" if best else f"{value:.1f}"


def said(by: Cells) -> list[str]:
    """The mean of each rule; a sentence for each default and each set and preference where something else is better.
    Steps are no rival where the order is not known; the last checkpoint is one, for somebody may still have it.
    """
    rules = sorted(next(iter(by.values())), key=lambda rule: -_mean(by, rule))
    lines = [f"Mean over all columns: {', '.join(f'{rule} {_mean(by, rule):.1f}' for rule in rules)}."]
    for known in (True, False):
        rule = default_rule(known)
        losses = []
        for (name, preference), column in by.items():
            ahead = {
                other: value - column[rule]
                for other, value in column.items()
                if round(value, 1) > round(column[rule], 1) and (known or other != default_rule(True))
            }
            best = max(ahead, key=lambda other: ahead[other], default=None)
            named = [other for other in ahead if other in RIVALS or other == best]
            if named:
                gains = ", ".join(f"{other} (+{ahead[other]:.1f})" for other in named)
                losses.append(f"{name}, {preference}: {gains}")
        where = "; ".join(losses)
        of = f"{rule}, the default {'for tasks in sequence' if known else 'where the order is not known'},"
        lines.append(
            f"{of} is the best rule in every column."
            if not losses
            else f"{of} loses in {len(losses)} of {len(by)} columns. What is better there, of the last checkpoint, "
            f"MAGMAX and the best rule: {where}."
        )
    return lines


def limits(data: Mapping[str, Any]) -> str:
    """The short table: the default for tasks in sequence beside what one would take otherwise."""
    by = cells(data)
    rules = (default_rule(True), *RIVALS, *SHORT)
    rows = [[f"{name}, {what}", *(f"{column[rule]:.1f}" for rule in rules)] for (name, what), column in by.items()]
    rows.append(["mean", *(f"{_mean(by, rule):.1f}" for rule in rules)])
    beaten = {
        rival: sum(round(column[rules[0]], 1) > round(column[rival], 1) for column in by.values()) for rival in RIVALS
    }
    counts = " and ".join(f"{rival} in {n}" for rival, n in beaten.items())
    return (
        f"{common.table(['accuracy, %', *rules], rows)}\n"
        f"The default is better than {counts} of these {len(by)} rows. Where it loses, and to what: "
        "[algorithm.md](algorithm.md#the-defaults).\n"
    )


def _mean(by: Cells, rule: str) -> float:
    return sum(column[rule] for column in by.values()) / len(by)


def write(data: Mapping[str, Any], page: Path = PAGE, short: Path = LIMITS) -> None:
    """Put the tables between the marks of the two documents."""
    for path, text in ((page, document(data)), (short, limits(data))):
        path.write_text(between_marks(path.read_text(encoding="utf-8"), MARK, text), encoding="utf-8")
