"""What is to be said of shares beside their numbers, in sentences: what is open, what is contradicted, what is foreign.

Cost: none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from prefmerge.ground.words import counted
from prefmerge.target.shares.estimate import Foreign, Origin, Shares, in_percent

APART = 0.2  # total variation of two estimators that is worth a word
_CONTRADICTION, _MANY = 0.5, 20  # total variation, and the inputs from which on it is no accident
_WIDE = 0.5  # of an interval


def with_doubts(shares: Shares) -> Shares:
    """With notes on what is open, said first."""
    if len(shares.names) == 1:
        return shares
    wide, open_ = of_intervals(shares.names, shares.low, shares.high, shares.samples, shares.source)
    notes: list[str] = []
    apart = 0.0 if shares.second is None else apart_by(shares.shares, shares.second)
    contradiction = apart > _CONTRADICTION and shares.samples >= _MANY
    if contradiction:
        notes.append(
            f"These inputs do not tell which task they come from: two ways to estimate the shares contradict each "
            f"other (they differ by {100 * apart:.0f} % of the target). What would help: labels of the target."
        )
    elif wide is not None:
        notes.append(wide)
    if shares.second is not None and apart > APART and not contradiction:
        far = int(np.argmax(np.abs(shares.shares - shares.second)))
        notes.append(
            f"Two ways to estimate the shares differ by {100 * apart:.0f} % of the target: {shares.names[far]} has "
            f"{100 * shares.shares[far]:.0f} % by the first, which is taken, and {100 * shares.second[far]:.0f} % by "
            "the second. The intervals reach over both."
        )
    return replace(shares, tells=not (contradiction or open_), notes=(*notes, *shares.notes))


def of_intervals(
    names: Sequence[str], low_T: np.ndarray, high_T: np.ndarray, samples: int, source: Origin
) -> tuple[str | None, bool]:
    """What to say first of intervals that are wide; and whether they leave open which tasks the target is made of."""
    widest = int(np.argmax(high_T - low_T))
    if len(names) == 1 or high_T[widest] - low_T[widest] <= _WIDE:
        return None, False
    what = counted(samples, {"labels": "label", "inputs": "input", "pairs": "pair"}.get(source, "sample"))
    more = "labels of the target, or more of them" if source == "labels" else "labels of the target, or more inputs"
    it_has = f"{names[widest]} has {in_percent(low_T[widest], high_T[widest])}. What would help: {more}."
    even = 1 / len(names)
    if ((low_T <= even) & (even <= high_T)).all():
        return (
            f"{what} {'does' if samples == 1 else 'do'} not tell which tasks the target is made of: every task could "
            f"have its even share, and {it_has}"
        ), True
    return f"The shares are wide open: from {what}, {it_has}", False


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
