"""The entries of an experiment, by the names that tables print: what is merged, and where its preference comes from.

An entry is a row of a table. There are four kinds. `fixed` is one model per run and scale, the same for every target.
`checkpoint` is the one checkpoint that is best on the target's shown samples. `preference` is a merge whose preference
comes from a similarity. `search` tunes preference and parameters on the shown samples. Source: Tunable MAGMAX, sections
4.2 to 4.4; optimal, step, strength and carry are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from prefmerge.target.similarity import SimilarityKind

EntryKind = Literal["fixed", "checkpoint", "preference", "search"]


@dataclass(frozen=True)
class Entry:
    """`settings` are parameters of `prefmerge.merge`, without scale, seed and preference; `similarity` a key of
    `prefmerge.target.similarity.KINDS`.
    """

    name: str
    kind: EntryKind
    settings: Mapping[str, Any] = field(default_factory=dict)
    similarity: SimilarityKind | None = None

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
        Entry("Baseline", "fixed", {"method": "last"}),
        Entry("Rand Mix", "fixed", {"method": "random-mix"}),
        Entry("Average", "fixed", {"method": "average"}),
        Entry("TIES", "fixed", {"method": "ties"}),
        Entry("MAGMAX", "fixed", {"method": "magmax"}),
        Entry("Best checkpoint", "checkpoint"),
        Entry("Tunable (OT)", "preference", {}, "ot"),
        Entry("Tunable (Label)", "preference", {}, "label"),
        Entry("Tunable (Cos)", "preference", {}, "cosine"),
        Entry("Tunable (MMD)", "preference", {}, "mmd"),
        Entry("Tunable (Label), strength 0.5", "preference", {"strength": "0.5"}, "label"),
        Entry("Tunable (Label), carry 0.5", "preference", {"carry": "0.5"}, "label"),
        Entry("Tunable (Label), optimal + step", "preference", _BEST, "label"),
        Entry("Tunable (Label), optimal + step, strength 0.5", "preference", {**_BEST, "strength": "0.5"}, "label"),
        Entry("Tunable (Label), optimal + step, carry 0.5", "preference", {**_BEST, "carry": "0.5"}, "label"),
        Entry("Search", "search"),
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
