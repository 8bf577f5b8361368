"""The parameters of `search`. Cost: none. Not here: what they do (`search`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

from prefmerge.errors import UsageError
from prefmerge.ground.words import flag, joined
from prefmerge.merging.parameters import searchable
from prefmerge.target.parameters.declared import FORCE, PAIRS, RUN, SEED, THREADS, Declared, Declaring

_USUAL = [name for name, over in searchable().items() if over.usual]
_OTHERS = [name for name, over in searchable().items() if not over.usual]


@dataclass(frozen=True, kw_only=True)
class SearchParameters(Declaring):
    """Raises UsageError for what is missing."""

    run: Annotated[Path | None, RUN] = None
    pairs: Annotated[Path | None, PAIRS] = None
    out: Annotated[
        Path | None,
        Declared(
            "A folder for trials and result; or a .json, the preference.", metavar="OUT", flags=("-o",), local=True
        ),
    ] = None
    trials: Annotated[int, Declared("Candidates to try at most.", metavar="N", least=1)] = 50
    patience: Annotated[int, Declared("End after so many trials that are no better.", metavar="N", least=1)] = 10
    space: Annotated[
        str | None,
        Declared(
            f"What to search: some of {', '.join(_USUAL)} (the default), {joined(_OTHERS)}; name=value fixes one.",
            metavar="NAMES",
        ),
    ] = None
    held_out: Annotated[
        float,
        Declared("Part of the samples that only chooses among the best.", metavar="0..0.9", least=0, most=0.9),
    ] = 0.3
    batch: Annotated[
        int, Declared("Candidates that are merged together, in one reading of the checkpoints.", metavar="N", least=1)
    ] = 4
    seed: Annotated[int, SEED] = 0
    threads: Annotated[int | None, THREADS] = None
    force: Annotated[bool, replace(FORCE, help="Start over where a search is kept already.")] = False

    command: ClassVar[str] = "search"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, what in (
            ("run", "the run whose tasks are to be merged"),
            ("pairs", "inputs of the target with their labels"),
            ("out", "where to keep the search"),
        ):
            if getattr(self, name) is None:
                metavar = {"pairs": "PATH"}.get(name, name.upper())
                raise UsageError(f"{flag(name)} {metavar} is missing: {what}.")
