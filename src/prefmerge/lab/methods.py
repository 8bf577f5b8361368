"""The methods of an experiment, by the names that tables print: what is merged, and where its preference comes from.

Four kinds. `fixed` is one model per run and scale, whatever the place. `checkpoint` is the one checkpoint that is best
on the place's labelled samples. `preference` is a merge whose preference a similarity makes. `search` tunes preference
and settings on the labelled samples. Source: Tunable MAGMAX, sections 4.2 to 4.4; optimal, step, strength and carry
are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

MethodKind = Literal["fixed", "checkpoint", "preference", "search"]


@dataclass(frozen=True)
class Method:
    """`settings` are those of `prefmerge.merge`, without scale, seed and preference; `similarity` a key of
    `prefmerge.target.similarity.KINDS`.
    """

    name: str
    kind: MethodKind
    settings: Mapping[str, Any] = field(default_factory=dict)
    similarity: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": self.kind,
            "settings": dict(self.settings),
            "similarity": self.similarity,
        }


_BEST = {"selection": "optimal", "importance": "step"}

KNOWN = {
    one.name: one
    for one in (
        Method("Baseline", "fixed", {"method": "last"}),
        Method("Rand Mix", "fixed", {"method": "random-mix"}),
        Method("Average", "fixed", {"method": "average"}),
        Method("TIES", "fixed", {"method": "ties"}),
        Method("MAGMAX", "fixed", {"method": "magmax"}),
        Method("Best checkpoint", "checkpoint"),
        Method("Tunable (OT)", "preference", {}, "ot"),
        Method("Tunable (Label)", "preference", {}, "label"),
        Method("Tunable (Cos)", "preference", {}, "cosine"),
        Method("Tunable (MMD)", "preference", {}, "mmd"),
        Method("Tunable (Label), strength 0.5", "preference", {"strength": "0.5"}, "label"),
        Method("Tunable (Label), carry 0.5", "preference", {"carry": "0.5"}, "label"),
        Method("Tunable (Label), optimal + step", "preference", _BEST, "label"),
        Method("Tunable (Label), optimal + step, strength 0.5", "preference", {**_BEST, "strength": "0.5"}, "label"),
        Method("Tunable (Label), optimal + step, carry 0.5", "preference", {**_BEST, "carry": "0.5"}, "label"),
        Method("Search", "search"),
    )
}
# Tables 2, 3, 5 to 8; table 4 adds the two other similarities.
PAPERS = ("Baseline", "Rand Mix", "Average", "TIES", "MAGMAX", "Tunable (OT)", "Tunable (Label)")
ABLATION = ("Tunable (Cos)", "Tunable (MMD)")
# What merges of independently trained checkpoints are in the MAGMAX supplement, tables 1 and 2.
INDEPENDENT = {
    "Rand Mix": {"method": "random-mix"},
    "Max Abs": {"method": "max-abs"},
    "Average": {"method": "average"},
    "TIES": {"method": "ties"},
}
