"""The parameters of `search`. Cost: none. Not here: what they do (`search`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

from prefmerge.errors import UsageError
from prefmerge.ground.words import flag, joined
from prefmerge.merging.parameters import searchable
from prefmerge.target.parameters.adapt import Parameters
from prefmerge.target.parameters.declared import (
    FORCE,
    INPUTS,
    LABELS,
    PAIRS,
    RUN,
    SEED,
    THREADS,
    Declared,
    Declaring,
    declarations,
)

_USUAL = [name for name, over in searchable().items() if over.usual]
_OTHERS = [name for name, over in searchable().items() if not over.usual]
_, _PREFER = declarations(Parameters)["prefer"]


@dataclass(frozen=True, kw_only=True)
class SearchParameters(Declaring):
    """Raises UsageError for what is missing, and for what makes no sense together."""

    run: Annotated[Path | None, RUN] = None
    labels: Annotated[Path | None, LABELS] = None
    inputs: Annotated[Path | None, INPUTS] = None
    pairs: Annotated[Path | None, PAIRS] = None
    prefer: Annotated[str | None, _PREFER] = None
    out: Annotated[
        Path | None,
        Declared(
            "A folder for trials, result and head; or a .json, the preference.",
            metavar="OUT",
            flags=("-o",),
            local=True,
        ),
    ] = None
    paper: Annotated[
        bool,
        Declared("Rank by accuracy on the pairs alone, as the paper does: without prior or samples of the tasks."),
    ] = False
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
        Declared(
            "Part of the samples that ranks no trial: it shows what the ranking is worth.",
            metavar="0..0.9",
            least=0,
            most=0.9,
        ),
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
        if self.run is None:
            raise UsageError("--run RUN is missing: the run whose tasks are to be merged.")
        if not self.paper:
            _ = self.of_adapt
            if not self.held_out:
                raise UsageError(
                    "--held-out 0: nothing would be left to compare the search with what `prefmerge adapt` chooses. "
                    "Give a part such as 0.3; --paper needs none."
                )
            return
        if self.pairs is None:
            raise UsageError("--paper needs --pairs PATH: inputs of the target with their labels.")
        idle = next((name for name in ("labels", "inputs", "prefer") if getattr(self, name) is not None), None)
        if idle is not None:
            raise UsageError(f"{flag(idle)} has no use with --paper, which ranks by the pairs alone. Leave it out.")

    @property
    def of_adapt(self) -> Parameters:
        """The same run and target, for `adapt`. Raises UsageError."""
        shared = ("run", "labels", "inputs", "pairs", "prefer", "seed", "threads")
        return Parameters(**{name: getattr(self, name) for name in shared})
