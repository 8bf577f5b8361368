"""Which merges the trade-off front is made of: a grid of preferences and scales around the dials.

Preferences: the dials; every task alike; early and late tasks first (alpha 2 and 0.5); toward each of the tasks with
the largest dials, half-way and all the way. Scales: the recipe's own and SCALES. Source: ours. Cost: none here; the
merges of one preference share their owners. Not here: measuring (`measured`).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from prefmerge.methods import METHODS
from prefmerge.methods.parameters import PREFERENCE, SCALE
from prefmerge.preference import Preference, as_text
from prefmerge.studio.asked import Wanted

UNITS = 10_000  # a dial is a whole number of these parts
SCALES = ("0.5", "0.75", "1", "1.25")
MORE_SCALES = ("0.25", "0.35", "0.6", "0.85", "1.1", "1.4")  # of a method that no preference changes
TOWARD = 8  # tasks


def in_units(shares: Sequence[Fraction | float]) -> list[int]:
    """Shares as whole parts of UNITS that sum to UNITS exactly: what is left goes to the largest remainders."""
    parts = [Fraction(share) * UNITS for share in shares]
    whole = [int(part) for part in parts]
    order = sorted(range(len(parts)), key=lambda t: (whole[t] - parts[t], t))
    for t in order[: UNITS - sum(whole)]:
        whole[t] += 1
    return whole


def grid(asked: Wanted, names: Sequence[str], scale: str) -> list[list[Wanted]]:
    """Groups of what is to be measured; those of one group differ in their scale. `scale`: the recipe's own."""
    without = {name: value for name, value in asked.values.items() if name != SCALE.name}
    honours = METHODS[asked.method].honours(PREFERENCE)
    scales = dict.fromkeys((scale, *SCALES, *(() if honours else MORE_SCALES)))
    dials = _preferences(asked.dials, names) if honours else [asked.dials]
    return [
        [Wanted(one, asked.method, {**without, SCALE.name: SCALE.read(value)}) for value in scales] for one in dials
    ]


def _preferences(dials: tuple[Fraction, ...], names: Sequence[str]) -> list[tuple[Fraction, ...]]:
    count = len(names)
    even = Preference.uniform().shares(names)
    wanted = [dials, even, *(Preference.geometric(alpha).shares(names) for alpha in ("2", "0.5"))]
    order = sorted(range(count), key=lambda t: (-dials[t], t))
    for t in order[:TOWARD]:
        for part in (Fraction(1, 2), Fraction(1)):
            wanted.append(tuple((1 - part) * even[i] + part * (i == t) for i in range(count)))
    rounded = [tuple(Fraction(part, UNITS) for part in in_units(one)) for one in wanted]
    return list(dict.fromkeys(rounded))


def point(asked: Wanted) -> dict[str, object]:
    """What the page needs to set its dials to a point."""
    return {
        "dials": in_units(asked.dials),
        "scale": SCALE.text(asked.values[SCALE.name]),
        "label": ", ".join(as_text(dial) for dial in asked.dials),
    }
