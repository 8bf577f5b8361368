"""What a report says of a sweep: what was merged, every model with what it keeps and who owns it, layer by layer.

Cost: that of the text. Not here: one merge (`page`), how a report looks (`prefmerge.report`).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefmerge.ground.words import counted
from prefmerge.merging.kept import KeptMagnitude
from prefmerge.merging.page import EVEN, OF_KEPT, ReportedMerge, how, inputs, percent, told
from prefmerge.merging.parameters import METHOD, every
from prefmerge.merging.recipe_text import checkpoints, recipe_text
from prefmerge.report import charts
from prefmerge.report import page as template
from prefmerge.report.charts import Bar, StackedBar
from prefmerge.report.markup import Html, name, tag, together
from prefmerge.report.parts import code, facts, listing, paragraph, section, table

MOST_COLUMNS = 12  # models side by side, layer by layer


@dataclass(frozen=True)
class ReportedModel:
    """One model of a sweep: what was varied, the merge, what it keeps in all and by layer (None: not measured)."""

    name: str
    varied: Mapping[str, str]
    merged: ReportedMerge
    total: KeptMagnitude | None
    layers: Mapping[str, KeptMagnitude] | None


def page(models: Sequence[ReportedModel], vary: Mapping[str, Sequence[str]]) -> str:
    """The report of a sweep."""
    first = models[0].merged
    tasks = counted(len(first.receipt.tasks), "task")
    lead = tag("p", f"{counted(len(models), 'model')} of {tasks} over ", name(checkpoints(first.receipt)[0]), ".")
    notes = list(dict.fromkeys(note for one in models for note in one.merged.receipt.notes))
    sections = [
        section("What was merged", inputs(first, output=False)),
        section("The models", _models(models, list(vary))),
        section("What each layer keeps", _layers(models)),
        section("What they have in common", _common(models)),
        *([section("Notes", listing(notes))] if notes else []),
        section("Make it again", _again(models, vary)),
    ]
    return template.page("A sweep of merges", [one for one in sections if one.parts], lead=[lead])


def _models(models: Sequence[ReportedModel], varied: Sequence[str]) -> Html:
    tasks = models[0].merged.receipt.tasks
    owned = [_owned(one) for one in models]
    with_owners = any(owned)
    rows: list[list[object]] = []
    for one, parts in zip(models, owned, strict=True):
        values: list[object] = [one.varied.get(key, "-") for key in varied]
        kept = percent(None if one.total is None else one.total.share)
        shares = [percent(part) for part in parts] if parts else ["-"] * len(tasks)
        rows.append([one.name, *values, kept, *(shares if with_owners else ())])
    header = ["model", *(key.replace("_", " ") for key in varied), "kept"]
    header += [f"{task} owns" for task in tasks] if with_owners else []
    numbers = table("Every model", header, rows, words=1 + len(varied))
    known = [one.total.share or 0.0 for one in models if one.total is not None]
    most = max([1.0, *known])
    whole = "" if most < EVEN else f" A whole bar is {percent(most)}."
    if all(one.total is not None and one.total.shares for one in models):
        stacked = [StackedBar(one.name, (one.total and one.total.shares) or (), _share(one)) for one in models]
        said = f"{OF_KEPT} A bar is cut by the task that owns the elements.{whole}"
        return charts.stacks("models", "What each model keeps", said, tasks, stacked, numbers, most=most, opened=True)
    bars = [Bar(one.name, None if one.total is None else one.total.share, _share(one)) for one in models]
    said = f"{OF_KEPT}{whole}"
    return charts.bars("models", "What each model keeps", said, bars, numbers, most=most, opened=True)


def _layers(models: Sequence[ReportedModel]) -> Html:
    shown = [one for one in models if one.layers][:MOST_COLUMNS]
    if not shown:
        return Html()
    names = list(dict.fromkeys(layer for one in shown for layer in one.layers or {}))
    rows = [
        [layer, *(percent(one.layers[layer].share) if one.layers and layer in one.layers else "-" for one in shown)]
        for layer in names
    ]
    rest = len(models) - len(shown)
    notes = [f"Not shown: {counted(rest, 'more model')}. sweep.json has all that were measured."] if rest else []
    return table("Kept, by layer and model", ["layer", *(one.name for one in shown)], rows, notes=notes)


def _common(models: Sequence[ReportedModel]) -> Html:
    recipes = [one.merged.receipt.recipe for one in models]
    same = {key: value for key, value in recipes[0].items() if all(one.get(key) == value for one in recipes)}
    pairs = [(key.replace("_", " "), told(value)) for key, value in same.items() if _says_something(value)]
    return facts(pairs) if len(models) > 1 else how(models[0].merged.receipt)


def _again(models: Sequence[ReportedModel], vary: Mapping[str, Sequence[str]]) -> Html:
    text = recipe_text(models[0].merged.receipt)
    if text is None:
        return paragraph("No recipe file can say these merges; the receipts have every parameter.")
    spelled = {METHOD.name: METHOD, **every()}
    words = ["prefmerge", "sweep", "recipe.yaml", "-o", "swept/"]
    for key, values in vary.items():
        words += ["--vary", f"{spelled[key].spelled.removeprefix('--')}={'|'.join(values)}"]
    line = " ".join(shlex.quote(word) for word in words)
    said = "With the checkpoints beside it, this recipe makes the same models:"
    return together(paragraph(said), code(line), code(text))


def _owned(one: ReportedModel) -> tuple[float, ...]:
    counts = one.merged.receipt.owned or ()
    return tuple(count / sum(counts) for count in counts) if sum(counts) else ()


def _share(one: ReportedModel) -> str:
    return percent(None if one.total is None else one.total.share)


def _says_something(value: Any) -> bool:
    return not (value is None or value is False or value == [] or isinstance(value, Mapping))
