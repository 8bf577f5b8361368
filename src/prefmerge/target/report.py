"""report.html: what is known of the target and what the model is worth there, in one file without a script.

Nothing is computed here. The part on the merge is that of `prefmerge merge --report`. Cost: some kilobytes. Not here:
how a report looks (`prefmerge.report`).
"""

from __future__ import annotations

from collections.abc import Iterable

from prefmerge.merging import page as of_a_merge
from prefmerge.merging.page import ReportedMerge
from prefmerge.report.charts import Bar, bars
from prefmerge.report.markup import Html, tag
from prefmerge.report.page import page
from prefmerge.report.parts import code, paragraph, section, strong, table
from prefmerge.target.estimates import Estimate, Row
from prefmerge.target.files import HEAD
from prefmerge.target.result import Adapted

_DRIFT = "The prior and the bias hold for this mix. Where the mix drifts, part of the gain is lost."
USE = {
    "With CLIP or another image encoder": """from safetensors import safe_open
from transformers import CLIPVisionModelWithProjection
import json, torch
with safe_open("OUT/head.safetensors", "pt") as f:
    rows, bias = f.get_tensor("head.weight"), f.get_tensor("head.bias")
    about = json.loads(f.metadata()["prefmerge"])  # about["scale"], about["classes"]
model = CLIPVisionModelWithProjection.from_pretrained("OUT")
e = torch.nn.functional.normalize(model(pixel_values=pixels).image_embeds, dim=-1)
answers = (about["scale"] * e @ rows.T + bias).argmax(-1)""",
    "With a sentence encoder": """from sentence_transformers import SentenceTransformer
e = SentenceTransformer("OUT").encode(texts, convert_to_tensor=True, normalize_embeddings=True)
answers = (about["scale"] * e @ rows.T + bias).argmax(-1)  # rows, bias, about: as above""",
    "As the last layer of a classifier": """layer = torch.nn.Linear(rows.shape[1], rows.shape[0])
layer.weight.data, layer.bias.data = about["scale"] * rows, bias
answers = layer(torch.nn.functional.normalize(embeddings, dim=-1)).argmax(-1)""",
}


def report(made: Adapted, command: str, merged: ReportedMerge) -> str:
    """The page, as HTML. `command`: the line that makes the same weights. `merged`: how they were made."""
    shown = [
        section("What was chosen", paragraph(made.verdict), *map(_note, made.notes)),
        section("Scores", *_scores(made)),
        section("Accuracy at the target", *_accuracies(made)),
        section("The target", *_target(made)),
        section("Recall by class", *_recall(made)),
        section("What it costs on the other tasks", *_others(made)),
        section("What was tried", *_candidates(made)),
        section("What was merged", of_a_merge.inputs(merged)),
        section("How", of_a_merge.how(merged.receipt)),
        section("Who owns what", of_a_merge.owners(merged), of_a_merge.layers_kept(merged)),
        section(made.by_hand, code(command), of_a_merge.again(merged.receipt)),
        section("Use it in your own code", *_use(made)),
        section("Cost", *_cost(made)),
    ]
    lead = tag("p", *_gain(made), class_="lead")
    return page("Adapted to a target", [one for one in shown if one.parts], lead=[lead])


def _note(note: str) -> Html:
    return paragraph(f"Note: {note}")


def _gain(made: Adapted) -> list[object]:
    """What the user gained, in one line."""
    if made.scored is not None:
        return [strong(made.chosen.name), f". {made.scored.expected}"]
    if made.estimates is None:
        return ["There was nothing to judge by, so how good the model is there is not known."]
    rows, chosen = made.estimates.rows, made.estimates.chosen
    there = [row for row in rows if row.how == "as it is" and row.name != "base"]
    before = next((row for row in there if row.name == "last checkpoint"), there[0] if there else None)
    of = "of the target's samples named correctly"
    if made.parameters.metric == "balanced":
        of = "mean recall of the target's classes"
    told: list[object] = [strong(_percent(chosen.accuracy)), f" {of} {chosen.accuracy.interval}"]
    if before is None or before.ahead is None:
        return [*told, "."]
    apart = "" if before.clear else " (no clear difference)"
    gain = f"{_signed(before.ahead)} points{apart}"
    return [*told, f"; the {before.name}: {_percent(before.accuracy)}. Gain: {gain}."]


def _scores(made: Adapted) -> Iterable[Html]:
    if made.scored is None:
        return
    for one in made.scored.tables:
        yield table(
            f"{one.title[:1].upper()}{one.title[1:]}",
            ["model", "score"],
            [list(row) for row in one.rows],
            ours=one.chosen,
        )
    yield paragraph(made.scored.doubt, soft=True)


def _accuracies(made: Adapted) -> Iterable[Html]:
    if made.estimates is None:
        return
    level = f"{100 * made.estimates.level:g} %"
    what = "mean recall" if made.parameters.metric == "balanced" else "accuracy"
    rows = made.estimates.rows
    ours = next((i for i, row in enumerate(rows) if row is made.estimates.chosen), None)
    numbers = table(
        f"{what.capitalize()} at the target, estimated from {made.estimates.samples:,} samples",
        ["model", what, f"{level} interval", "this model is ahead by", "balanced accuracy"],
        [[row.title, _percent(row.accuracy), row.accuracy.interval, _ahead(row), _balanced(row)] for row in rows],
        ours=ours,
    )
    drawn = [_bar(row.title, row.accuracy, ours=i == ours) for i, row in enumerate(rows)]
    said = f"Estimated from {made.estimates.samples:,} samples. A line is the {level} interval."
    yield bars("accuracy", f"{what.capitalize()} at the target", said, drawn, numbers, opened=True)
    yield paragraph(
        "The first row is measured on samples that took no part in choosing or fitting: the score that it was chosen "
        "by would be too high. The others are judged on the same samples. Balanced accuracy is the mean recall of the "
        "classes that occur at the target.",
        soft=True,
    )
    yield paragraph(f"{_DRIFT} {made.drift or ''}".strip())


def _target(made: Adapted) -> Iterable[Html]:
    shares = made.evidence.shares
    stated = shares.source == "stated"
    drawn: list[Bar] = []
    rows: list[list[str]] = []
    for t in sorted(range(len(shares.names)), key=lambda t: -shares.shares[t]):
        one = Estimate(float(shares.shares[t]), float(shares.low[t]), float(shares.high[t]))
        drawn.append(_bar(shares.names[t], one, ours=True, sure=not stated))
        rows.append([shares.names[t], _percent(one), "" if stated else one.interval])
    numbers = table("Shares of the tasks", ["task", "share", "interval"], rows)
    said = "As it was stated." if stated else f"Estimated from {shares.samples:,} {shares.source}, with intervals."
    if made.nothing_said:
        said = "Nothing was said of the target, so all tasks count alike."
    yield bars("target", "Shares of the tasks at the target", said, drawn, numbers)


def _recall(made: Adapted) -> Iterable[Html]:
    if made.estimates is None or not made.estimates.recall:
        return
    of_class = dict(zip(made.source.tasks.classes, made.prior.classes.tolist(), strict=True))
    rows = [
        [
            name,
            f"{100 * of_class[name]:.0f} %",
            str(one.samples),
            f"{100 * one.value:.0f} %",
            f"{100 * one.before:.0f} %",
            f"{100 * (one.value - one.before):+.0f}",
        ]
        for name, one in sorted(made.estimates.recall.items(), key=lambda pair: -of_class[pair[0]])
    ]
    header = ["class", "at the target", "samples", "this model", made.estimates.there, "change"]
    yield table("Which part of each class is named correctly", header, rows)
    yield paragraph(
        "On samples that took no part in choosing or fitting. The checkpoint beside it is judged as it is. With few "
        "samples a change of some points is no sign of anything.",
        soft=True,
    )


def _others(made: Adapted) -> Iterable[Html]:
    if made.estimates is None or not made.estimates.others:
        return
    rows = [
        [name, f"{n}", f"{100 * before:.0f} %", f"{100 * after:.0f} %"]
        for name, (n, before, after) in made.estimates.others.items()
    ]
    yield table("Accuracy on the other tasks", ["task", "samples", made.estimates.there, "this model"], rows)


def _candidates(made: Adapted) -> Iterable[Html]:
    choice = made.choice
    if choice is None:
        return
    yield paragraph("Soft accuracy, for ranking only: the best of many scores is too high to be believed.", soft=True)
    order = sorted(range(len(made.pool)), key=lambda i: -choice.first[i])
    rows = [
        [
            made.pool[i].name,
            f"{100 * choice.first[i]:.1f}",
            "" if choice.scores[i] != choice.scores[i] else f"{100 * choice.scores[i]:.1f}",
        ]
        for i in order
    ]
    yield table("Candidates", ["candidate", "first samples", "all samples"], rows, ours=order.index(choice.index))


def _use(made: Adapted) -> Iterable[Html]:
    by_itself = made.use()
    if by_itself is not None:
        told, lines = by_itself
        yield paragraph(told)
        yield code(lines)
        return
    if made.head is None:
        return
    yield paragraph("The answers need the head: ", tag("code", HEAD), " holds rows, bias, scale and class names.")
    for title, lines in USE.items():
        yield paragraph(f"{title}:")
        yield code(lines)


def _cost(made: Adapted) -> Iterable[Html]:
    """Counts: times differ from run to run, and the same inputs give the same report."""
    counts = [f"{value:g} {name}" for name, value in made.cost.items() if name != "seconds"]
    yield paragraph(f"{', '.join(counts)}.")


def _bar(name: str, one: Estimate, *, ours: bool, sure: bool = True) -> Bar:
    return Bar(name, one.value, _percent(one), one.low if sure else None, one.high if sure else None, ours)


def _percent(one: Estimate) -> str:
    return f"{100 * one.value:.1f} %"


def _signed(one: Estimate) -> str:
    return f"{100 * one.value:+.1f} {one.interval}"


def _ahead(row: Row) -> str:
    if row.ahead is None:
        return ""
    return _signed(row.ahead) + ("" if row.clear else ", no clear difference")


def _balanced(row: Row) -> str:
    return "" if row.balanced is None else f"{_percent(row.balanced)} {row.balanced.interval}"
