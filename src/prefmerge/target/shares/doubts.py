"""What is to be said of shares beside their numbers, in sentences: what is open, what is contradicted, what is foreign.

Cost: none.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from prefmerge.ground.words import counted
from prefmerge.target.shares.estimate import Foreign, Shares, in_percent

APART = 0.2  # total variation of two estimators that is worth a word
_CONTRADICTION, _MANY = 0.5, 20  # total variation, and the inputs from which on it is no accident
_WIDE = 0.5  # of an interval


def with_doubts(shares: Shares) -> Shares:
    """With notes on what is open, said first."""
    count = len(shares.names)
    if count == 1:
        return shares
    wide = int(np.argmax(shares.high - shares.low))
    width = float(shares.high[wide] - shares.low[wide])
    even = 1 / count
    open_ = width > _WIDE and bool(((shares.low <= even) & (even <= shares.high)).all())
    notes: list[str] = []
    apart = 0.0 if shares.second is None else apart_by(shares.shares, shares.second)
    contradiction = apart > _CONTRADICTION and shares.samples >= _MANY
    what = {"labels": "label", "inputs": "input", "pairs": "pair"}.get(shares.source, "sample")
    more = (
        "labels of the target, or more of them" if shares.source == "labels" else "labels of the target, or more inputs"
    )
    if contradiction:
        notes.append(
            f"These inputs do not tell which task they come from: two ways to estimate the shares contradict each "
            f"other (they differ by {100 * apart:.0f} % of the target). What would help: labels of the target."
        )
    elif open_:
        notes.append(
            f"{counted(shares.samples, what)} {'does' if shares.samples == 1 else 'do'} not tell which tasks the "
            f"target is made of: every task could have its even share, and {shares.names[wide]} has "
            f"{in_percent(shares.low[wide], shares.high[wide])}. What would help: {more}."
        )
    elif width > _WIDE:
        notes.append(
            f"The shares are wide open: from {counted(shares.samples, what)}, {shares.names[wide]} has "
            f"{in_percent(shares.low[wide], shares.high[wide])}. What would help: {more}."
        )
    if shares.second is not None and apart > APART and not contradiction:
        far = int(np.argmax(np.abs(shares.shares - shares.second)))
        notes.append(
            f"Two ways to estimate the shares differ by {100 * apart:.0f} % of the target: {shares.names[far]} has "
            f"{100 * shares.shares[far]:.0f} % by the first, which is taken, and {100 * shares.second[far]:.0f} % by "
            "the second. The intervals reach over both."
        )
    return replace(shares, tells=not (contradiction or open_), notes=(*notes, *shares.notes))


def said_of(foreign: Foreign | None, inputs: int) -> tuple[str, ...]:
    if foreign is None or foreign.low <= 0:
        return ()
    return (
        f"Of the {counted(inputs, 'input')}, {in_percent(foreign.low, foreign.high)} look like no task at all. The "
        "shares speak of the others; no merge of these tasks knows those.",
    )


def apart_by(a_T: np.ndarray, b_T: np.ndarray) -> float:
    """Total variation of two mixes."""
    return float(np.abs(a_T - b_T).sum() / 2)
