"""What the numbers of an analysis say, in a sentence each, made from the numbers alone.

Each function takes one `Measured` or several over one base, the first of which is what is asked about. Nothing is
claimed that was not measured: an order of tasks is called one only where at least three quarters of the pairs follow
it. Not here: why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import numpy as np

from prefmerge.analysis.measured import Measured

_MOST = 0.75  # of the pairs: from here on an order is called one
_WORTH_SAYING = 0.01  # of the changed elements
_ALIKE = 0.05  # relative difference below which two numbers are called about the same


def every(sets: Sequence[Measured]) -> list[str]:
    """All findings, in the order of the tables."""
    return [
        *(sentence for measured in sets for sentence in (contributions(measured), distributions(measured))),
        sign_conflicts(sets),
        *(pairs(measured) for measured in sets if len(measured.tasks) > 1),
        layers(sets),
        magnitudes(sets),
        angles(sets),
    ]


def sign_conflicts(sets: Sequence[Measured]) -> str:
    """How often both signs occur, and where more often."""
    shares = [(measured.label, [float(signs.share()[-1]) for signs in measured.signs]) for measured in sets]
    known = [(label, values) for label, values in shares if not math.isnan(values[0])]
    if not known:
        return "No element was changed by two tasks, so no signs can conflict."
    phrases = [
        f"{_percent(values[0])} of the elements that at least two tasks changed have both signs{_in(label, sets)}"
        + ("" if math.isnan(values[1]) else f" ({_percent(values[1])} among the top 20 %)")
        for label, values in known
    ]
    sentence = "; ".join(phrases) + "."
    if len(known) == 2:
        (first, (a, _)), (second, (b, _)) = known
        sentence += f" {_compared(first, a, second, b, 'conflicts')}"
    return sentence


def pairs(measured: Measured) -> str:
    """Which two tasks agree most, which least."""
    shares = measured.signs[0].pairs()
    known = [(shares[s, t], s, t) for s in range(len(shares)) for t in range(s) if not math.isnan(shares[s, t])]
    if not known:
        return "No two tasks changed the same element."
    (least, a, b), (most, c, d) = min(known), max(known)
    names = measured.tasks
    return (
        f"{names[b]} and {names[a]} disagree least ({_percent(least)} of the signs), {names[d]} and {names[c]} most "
        f"({_percent(most)})."
    )


def layers(sets: Sequence[Measured], by: Literal["layer", "tensor"] = "layer") -> str:
    """Where signs conflict most and least."""
    phrases = []
    for measured in sets:
        shares = [(part.conflict_share(), part.name) for part in measured.by(by) if part.several[0]]
        if len(shares) > 1:
            (low, least), (high, most) = min(shares), max(shares)
            where = f"most conflicts{_in(measured.label, sets)}"
            phrases.append(f"{where}: {most} ({_percent(high)}), fewest: {least} ({_percent(low)})")
    return _sentence("; ".join(phrases)) if phrases else f"There is no other {by} to compare with."


def contributions(measured: Measured) -> str:
    """Who contributes most to the MAGMAX merge, and whether later tasks contribute more."""
    shares = measured.contributions()
    if np.isnan(shares).any():
        return "No task changed anything, so nothing is contributed."
    most, least = int(shares.argmax()), int(shares.argmin())
    if len(shares) == 1:
        return f"{measured.tasks[0]} contributes everything, being alone."
    low, high = _percent(shares[least]), _percent(shares[most])
    sentence = (
        f"In the MAGMAX merge all tasks contribute the same ({high} of the changed elements each)."
        if low == high
        else f"In the MAGMAX merge {measured.tasks[most]} contributes most ({high} of the changed "
        f"elements), {measured.tasks[least]} least ({low}); {_order(shares, 'contributes more')}."
    )
    if measured.tied() >= _WORTH_SAYING:
        sentence += f" {_percent(measured.tied())} are tied: several tasks changed them by the same, largest magnitude."
    return sentence


def distributions(measured: Measured) -> str:
    """Whether the vectors grow."""
    means = measured.mean_magnitudes()
    if np.isnan(means).any() or not means.any():
        return "No task changed anything."
    if len(means) == 1:
        return f"Mean |tau| is {means[0]:.2e}."
    low, high = float(means.min()), float(means.max())
    spread = "" if low == 0 else f", {high / low:.2g} times apart"
    return f"Mean |tau| lies between {low:.2e} and {high:.2e}{spread}; {_order(means, 'has the larger parameters')}."


def magnitudes(sets: Sequence[Measured]) -> str:
    """Which layer type changed most, and whether depth matters."""
    phrases = []
    for measured in sets:
        types = [(part.name, float(part.mean_merged()[-1])) for part in measured.by("type")]
        types = sorted(((name, mean) for name, mean in types if mean > 0), key=lambda row: -row[1])
        if not types:
            phrases.append(f"no weight changed{_in(measured.label, sets)}")
            continue
        sentence = f"{types[0][0]} changed most{_in(measured.label, sets)} (mean |tau| of the merge {types[0][1]:.2e}"
        sentence += f", {types[0][1] / types[1][1]:.1f} times {types[1][0]})" if len(types) > 1 else ")"
        blocks = [float(part.mean_merged()[-1]) for part in measured.by("block")]
        if len(blocks) > 1 and min(blocks) > 0:
            sentence += f"; blocks differ by a factor of {max(blocks) / min(blocks):.1f} at most"
        phrases.append(sentence)
    return _sentence("; ".join(phrases))


def angles(sets: Sequence[Measured]) -> str:
    """How alike task vectors and steps point."""
    phrases = []
    for measured in sets:
        sentence = _mean_cosine("task vectors", measured.cosines())
        if sentence and measured.training != "independent":
            steps = _mean_cosine("steps", measured.step_cosines())
            sentence += f", {steps}" if steps else ""
        if sentence:
            phrases.append(f"{sentence}{_in(measured.label, sets)}")
    if not phrases:
        return "Fewer than two task vectors have a direction."
    return "Mean cosine between " + "; between ".join(phrases) + "."


def _mean_cosine(what: str, cosines: np.ndarray) -> str:
    values = cosines[np.tril_indices(len(cosines), -1)]
    values = values[~np.isnan(values)]
    if not values.size:
        return ""
    mean, low, high = (f"{round(x, 2) + 0.0:.2f}" for x in (values.mean(), values.min(), values.max()))
    return f"{what} {mean} ({low} to {high})"


def _order(values: np.ndarray, does: str) -> str:
    """Whether later tasks have more of it, by pairs. `does`: what is said of the task that has more."""
    pairs = list(combinations(values, 2))
    later, earlier = sum(a < b for a, b in pairs), sum(a > b for a, b in pairs)
    for count, which in ((later, "later"), (earlier, "earlier")):
        if count >= _MOST * len(pairs):
            return f"the {which} task {does} in {count} of {len(pairs)} pairs"
    return f"no order in time (the later task {does} in {later} of {len(pairs)} pairs)"


def _compared(first: str, a: float, second: str, b: float, what: str) -> str:
    if abs(a - b) <= _ALIKE * max(a, b):
        return f"About as many {what} in {first} as in {second}."
    fewer, more, ratio = (first, second, a / b) if a < b else (second, first, b / a)
    return f"{_sentence(fewer)[:-1]} has fewer {what} than {more}: {ratio:.2f} times as many."


def _in(label: str, sets: Sequence[Measured]) -> str:
    return f" in {label}" if len(sets) > 1 else ""


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
