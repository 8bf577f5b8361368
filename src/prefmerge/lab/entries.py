"""The entries of an experiment, by the names that tables print: what is merged, and where its preference comes from.

An entry is a row of a table, of one of these kinds:

    fixed        one model per run and scale, the same for every target
    checkpoint   the one checkpoint that is best on the target's shown samples
    preference   a merge whose preference comes from a similarity
    search       the paper's search (`prefmerge search --paper`) on the shown samples
    adapt        what `prefmerge adapt` makes of the shown labels, inputs or pairs
    bias         the last checkpoint with a bias for each class, fitted as `adapt` fits it
    tuned        the last checkpoint, trained on: what a user could do instead

The last three need a run that held samples out. Rows that stand beside published numbers use the selection of the
authors' code (`released`). Source: Tunable MAGMAX, sections 4.2 to 4.4; the other selections, step, strength, carry and
the last three kinds are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from prefmerge.target.similarity import SimilarityKind

EntryKind = Literal["fixed", "checkpoint", "preference", "search", "adapt", "bias", "tuned"]
Given = Literal["labels", "inputs", "pairs", "held-out samples"]  # what an entry of the last three kinds is given


@dataclass(frozen=True)
class Entry:
    """`settings` are parameters of `prefmerge.merge`, without scale, seed and preference; `similarity` a key of
    `prefmerge.target.similarity.KINDS`.
    """

    name: str
    kind: EntryKind
    settings: Mapping[str, Any] = field(default_factory=dict)
    similarity: SimilarityKind | None = None
    given: Given | None = None

    @property
    def held_out(self) -> bool:
        """Whether it needs samples that training did not see."""
        return self.kind in ("adapt", "bias", "tuned")

    @property
    def titles(self) -> tuple[str | None, str | None]:
        """What tables call it without the target's log prior, and with it; None: there is no such row."""
        if self.kind == "adapt":
            return f"{self.name}{ALONE}", self.name
        if self.kind == "bias" or self.given == "held-out samples":
            return None, self.name
        return self.name, None if self.kind in ("tuned", "search") else f"{self.name}{PRIOR}"

    def to_json(self) -> dict[str, Any]:
        given = {} if self.given is None else {"given": self.given}
        return {
            "name": self.name,
            "kind": self.kind,
            "settings": dict(self.settings),
            "similarity": self.similarity,
            **given,
        }


PRIOR, ALONE = " + prior", ", encoder alone"  # ends of names
RELEASED = {"selection": "released", "importance": "magnitude"}  # the authors' code
_PAPER = {"selection": "paper", "importance": "magnitude"}
_BEST = {"selection": "optimal", "importance": "step"}


def stem_of(title: str) -> str:
    """The name of the entry whose row has this title, with the prior or without it."""
    return title.removesuffix(PRIOR).removesuffix(ALONE)


KNOWN = {
    one.name: one
    for one in (
        Entry("Baseline", "fixed", {"method": "last"}),
        Entry("Rand Mix", "fixed", {"method": "random-mix"}),
        Entry("Average", "fixed", {"method": "average"}),
        Entry("TIES", "fixed", {"method": "ties"}),
        Entry("MAGMAX", "fixed", {"method": "magmax"}),
        Entry("Best checkpoint", "checkpoint"),
        Entry("Tunable (OT)", "preference", RELEASED, "ot"),
        Entry("Tunable (Label)", "preference", RELEASED, "label"),
        Entry("Tunable (Cos)", "preference", RELEASED, "cosine"),
        Entry("Tunable (MMD)", "preference", RELEASED, "mmd"),
        Entry("Tunable (Label), paper", "preference", _PAPER, "label"),
        Entry("Tunable (Label), strength 0.5", "preference", {**_PAPER, "strength": "0.5"}, "label"),
        Entry("Tunable (Label), carry 0.5", "preference", {**_PAPER, "carry": "0.5"}, "label"),
        Entry("Tunable (Label), optimal + step", "preference", _BEST, "label"),
        Entry("Tunable (Label), optimal + step, strength 0.5", "preference", {**_BEST, "strength": "0.5"}, "label"),
        Entry("Tunable (Label), optimal + step, carry 0.5", "preference", {**_BEST, "carry": "0.5"}, "label"),
        Entry("Search", "search", _PAPER),
        Entry("Adapt (labels)", "adapt", given="labels"),
        Entry("Adapt (inputs)", "adapt", given="inputs"),
        Entry("Adapt (pairs)", "adapt", given="pairs"),
        Entry("Last + fitted bias", "bias", given="labels"),
        Entry("Fine-tuned (pairs)", "tuned", given="pairs"),
        Entry("Fine-tuned (held-out)", "tuned", given="held-out samples"),
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
