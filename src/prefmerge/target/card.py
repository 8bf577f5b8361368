"""What the model card of an adapted folder says of its target, in Markdown.

Cost: none. Not here: the card (`merging.card`), the whole report (`report`).
"""

from __future__ import annotations

from prefmerge.ground.words import listed
from prefmerge.shown import marked
from prefmerge.target.files import HEAD, REPORT
from prefmerge.target.result import Adapted

MOST_TASKS = 8  # whose shares are listed


def about(made: Adapted) -> str:
    """The mix of the target, what to expect of the model there, and how it answers."""
    shares = made.evidence.shares
    order = sorted(range(len(shares.names)), key=lambda t: -shares.shares[t])
    parts = [f"{shares.names[t]} {100 * shares.shares[t]:.0f} %" for t in order]
    by = "as stated" if shares.source == "stated" else f"estimated from {shares.samples:,} {shares.source}"
    by = "all alike, for nothing was said of it" if made.nothing_said else by
    told = [f"## Target\n\nAdapted to this mix of tasks ({marked(by)}): {marked(listed(parts, MOST_TASKS))}."]
    if made.scored is not None:
        told.append(f"{marked(made.scored.expected)} {marked(made.scored.doubt)}")
    elif made.estimates is None:
        told.append("There was nothing to judge by, so how good the model is there is not known.")
    else:
        rows, chosen = made.estimates, made.estimates.chosen
        what = "mean recall" if made.parameters.metric == "balanced" else "accuracy"
        expected = (
            f"Estimated {what} there: **{100 * chosen.accuracy.value:.1f} %** ({100 * rows.level:g} % interval "
            f"{marked(chosen.accuracy.interval)}), from {rows.samples:,} samples that took no part in choosing."
        )
        if rows.before is not None:
            value, interval = rows.before.accuracy.value, rows.before.accuracy.interval
            expected += f" The {marked(rows.there)} without changes: {100 * value:.1f} % {marked(interval)}."
        told.append(expected)
    told.append(marked(made.verdict))
    by_itself = made.use()
    if by_itself is not None:
        told.append(marked(by_itself[0]))
    elif made.head is not None:
        told.append(f"Its answers need `{HEAD}`. `{REPORT}` shows how to use it, and how sure all of this is.")
    return "\n\n".join(told)
