"""report.html: what is known of the target and what the model is worth there, in one file without a script.

Nothing is computed here. Every name is escaped; nothing is fetched; light and dark, phone and paper. Cost: some
kilobytes. Not here: who owns which element, which `prefmerge inspect OUT` shows.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from prefmerge.target.estimates import Estimate, Row
from prefmerge.target.result import Adapted

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --soft: #6b7280; --line: #d8dce2; --bar: #9aa5b4;
  --ours: #0072b2; --box: #f4f6f8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --paper: #14171b; --soft: #9aa3ae; --line: #343a42;
  --bar: #5b6675; --ours: #56b4e9; --box: #1d2127; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 60rem; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
.gain { font-size: 1.25rem; margin: .2rem 0 1rem; } .soft { color: var(--soft); }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .25rem .6rem .25rem 0;
  border-bottom: 1px solid var(--line); vertical-align: top; } td.n, th.n { text-align: right; white-space: nowrap; }
tr.ours td { font-weight: 600; }
.track { position: relative; height: 1.1rem; background: var(--box); min-width: 8rem; }
.fill { position: absolute; inset: 0 auto 0 0; background: var(--bar); } .ours .fill { background: var(--ours); }
.span { position: absolute; top: 45%; height: 2px; background: var(--ink); }
.wide { overflow-x: auto; } pre { background: var(--box); padding: .8rem; overflow-x: auto; font-size: .85rem; }
@media (max-width: 40rem) { .track { min-width: 4rem; } td, th { font-size: .85rem; padding-right: .35rem; } }
@media print { pre { white-space: pre-wrap; } }
"""
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


def report(made: Adapted, command: str) -> str:
    """The page, as HTML."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Adapted to a target</title><style>{_STYLE}</style>",
        "<h1>Adapted to a target</h1>",
        f'<p class="gain">{_gain(made)}</p>',
        f"<p>{escape(made.verdict)}</p>",
        *(f"<p>Note: {escape(note)}</p>" for note in made.notes),
        *_accuracies(made),
        *_target(made),
        *_recall(made),
        *_others(made),
        *_candidates(made),
        f"<h2>{escape(made.by_hand)}</h2>",
        f"<pre>{escape(command)}</pre>",
        *_use(made),
        "<h2>Cost</h2>",
        f"<p>{', '.join(f'{value:g} {escape(name)}' for name, value in made.cost.items())}.</p>",
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def _gain(made: Adapted) -> str:
    """What the user gained, in one line."""
    if made.estimates is None:
        return "There was nothing to judge by, so how good the model is there is not known."
    rows, chosen = made.estimates.rows, made.estimates.chosen
    there = [row for row in rows if row.how == "as it is" and row.name != "base"]
    before = next((row for row in there if row.name == "last checkpoint"), there[0] if there else None)
    of = "of the target's samples named correctly"
    if made.parameters.metric == "balanced":
        of = "mean recall of the target's classes"
    told = f"<b>{_percent(chosen.accuracy)}</b> {of} {chosen.accuracy.interval}"
    if before is None or before.ahead is None:
        return told + "."
    apart = "" if before.clear else " (no clear difference)"
    return (
        f"{told}; the {escape(before.name)}: {_percent(before.accuracy)}. Gain: {_signed(before.ahead)} points{apart}."
    )


def _accuracies(made: Adapted) -> Iterable[str]:
    if made.estimates is None:
        return
    level = f"{100 * made.estimates.level:g} %"
    yield f"<h2>Accuracy at the target, estimated from {made.estimates.samples:,} samples</h2>"
    what = "mean recall" if made.parameters.metric == "balanced" else "accuracy"
    yield f'<div class="wide"><table><tr><th>model<th><th class="n">{what}'
    yield f'<th class="n">{level} interval<th class="n">this model is ahead by<th class="n">balanced accuracy</tr>'
    for row in made.estimates.rows:
        ours = ' class="ours"' if row is made.estimates.chosen else ""
        yield (
            f"<tr{ours}><td>{escape(row.title)}<td>{_bar(row.accuracy)}"
            f'<td class="n">{_percent(row.accuracy)}<td class="n">{row.accuracy.interval}'
            f'<td class="n">{_ahead(row)}<td class="n">{_balanced(row)}</tr>'
        )
    yield "</table></div>"
    yield (
        '<p class="soft">The first row is measured on samples that took no part in choosing or fitting: the score that '
        "it was chosen by would be too high. The others are judged on the same samples. Balanced accuracy is the mean "
        "recall of the classes that occur at the target.</p>"
    )
    yield f"<p>{escape(_DRIFT)} {escape(made.drift or '')}</p>"


def _target(made: Adapted) -> Iterable[str]:
    shares = made.evidence.shares
    yield f"<h2>The target, by {escape(shares.source)}</h2>"
    yield '<div class="wide"><table><tr><th>task<th><th class="n">share<th class="n">interval</tr>'
    for t in sorted(range(len(shares.names)), key=lambda t: -shares.shares[t]):
        one = Estimate(float(shares.shares[t]), float(shares.low[t]), float(shares.high[t]))
        yield (
            f'<tr class="ours"><td>{escape(shares.names[t])}<td>{_bar(one)}<td class="n">{_percent(one)}'
            f'<td class="n">{"" if shares.source == "stated" else one.interval}</tr>'
        )
    yield "</table></div>"


def _recall(made: Adapted) -> Iterable[str]:
    if made.estimates is None or not made.estimates.recall:
        return
    yield "<h2>Recall by class</h2>"
    yield '<div class="wide"><table><tr><th>class<th class="n">at the target<th class="n">samples'
    yield f'<th class="n">this model<th class="n">{escape(made.estimates.there)}<th class="n">change</tr>'
    of_class = dict(zip(made.source.tasks.classes, made.prior.classes.tolist(), strict=True))
    for name, one in sorted(made.estimates.recall.items(), key=lambda pair: -of_class[pair[0]]):
        yield (
            f'<tr><td>{escape(name)}<td class="n">{100 * of_class[name]:.0f} %<td class="n">{one.samples}'
            f'<td class="n">{100 * one.value:.0f} %<td class="n">{100 * one.before:.0f} %'
            f'<td class="n">{100 * (one.value - one.before):+.0f}</tr>'
        )
    yield "</table></div>"
    yield (
        '<p class="soft">On samples that took no part in choosing or fitting. The checkpoint beside it is judged as it '
        "is. With few samples a change of some points is no sign of anything.</p>"
    )


def _others(made: Adapted) -> Iterable[str]:
    if made.estimates is None or not made.estimates.others:
        return
    yield "<h2>What it costs on the other tasks</h2>"
    yield '<div class="wide"><table><tr><th>task<th class="n">samples'
    yield f'<th class="n">{escape(made.estimates.there)}<th class="n">this model</tr>'
    for name, (n, before, after) in made.estimates.others.items():
        yield (
            f'<tr><td>{escape(name)}<td class="n">{n}<td class="n">{100 * before:.0f} %'
            f'<td class="n">{100 * after:.0f} %</tr>'
        )
    yield "</table></div>"


def _candidates(made: Adapted) -> Iterable[str]:
    if made.choice is None:
        return
    yield "<h2>What was tried</h2>"
    yield '<p class="soft">Soft accuracy, for ranking only: the best of many scores is too high to be believed.</p>'
    yield '<div class="wide"><table><tr><th>candidate<th class="n">first samples<th class="n">all samples</tr>'
    for i in sorted(range(len(made.pool)), key=lambda i: -made.choice.first[i] if made.choice else 0.0):
        score, ours = made.choice.scores[i], ' class="ours"' if i == made.choice.index else ""
        final = "" if score != score else f"{100 * score:.1f}"
        yield (
            f'<tr{ours}><td>{escape(made.pool[i].name)}<td class="n">{100 * made.choice.first[i]:.1f}'
            f'<td class="n">{final}</tr>'
        )
    yield "</table></div>"


def _use(made: Adapted) -> Iterable[str]:
    by_itself = made.use()
    if by_itself is not None:
        told, code = by_itself
        yield "<h2>Use it in your own code</h2>"
        yield f"<p>{escape(told)}</p><pre>{escape(code)}</pre>"
        return
    if made.head is None:
        return
    yield "<h2>Use it in your own code</h2>"
    yield "<p>The answers need the head: <code>head.safetensors</code> holds rows, bias, scale and class names.</p>"
    for title, code in USE.items():
        yield f"<p>{escape(title)}:</p><pre>{escape(code)}</pre>"


def _bar(one: Estimate) -> str:
    low, high = 100 * one.low, 100 * one.high
    fill = f'<div class="fill" style="width:{100 * one.value:.1f}%"></div>'
    span = f'<div class="span" style="left:{low:.1f}%;width:{max(high - low, 0):.1f}%"></div>'
    return f'<div class="track" role="img" aria-label="{_percent(one)}">{fill}{span}</div>'


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
