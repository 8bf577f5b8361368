"""The parameters of `search`. Cost: none. Not here: what they do (`search`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

from prefmerge.errors import UsageError, require_one_source
from prefmerge.ground.words import flag, joined
from prefmerge.merging.parameters import searchable
from prefmerge.target.parameters.adapt import Parameters
from prefmerge.target.parameters.declared import (
    CHECKPOINTS,
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
from prefmerge.target.parameters.scored import (
    BUDGETS,
    CONFIRM,
    CONFIRM_REPEATS,
    JOBS,
    LOWER_IS_BETTER,
    MAX_MEMORY,
    OF_SCORE,
    SCORE,
    SCORE_KEY,
    TIMEOUT,
    require_command,
)

_USUAL = [name for name, over in searchable().items() if over.usual]
_OTHERS = [name for name, over in searchable().items() if not over.usual]
_, _PREFER = declarations(Parameters)["prefer"]
_OF_TARGET = ("labels", "inputs", "pairs", "prefer", "paper", "held_out")  # without a command
_OF_SCORE = ("checkpoints", *OF_SCORE, "model")


@dataclass(frozen=True, kw_only=True)
class SearchParameters(Declaring):
    """Raises UsageError for what is missing, and for what makes no sense together."""

    checkpoints: Annotated[
        tuple[Path, ...],
        replace(CHECKPOINTS, help="With --score: the base and the tasks, or one RECIPE.yaml that names them."),
    ] = ()
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
            f"What to search: some of {', '.join(_USUAL)} (the default), {joined(_OTHERS)}; name=value fixes one. "
            "With --score any parameter: weights (the default), weights:4 (over the layers), scale=0.2..2, "
            "method=ties|linear.",
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
    score: Annotated[str | None, SCORE] = None
    confirm: Annotated[str | None, CONFIRM] = None
    confirm_repeats: Annotated[int, CONFIRM_REPEATS] = 1
    score_key: Annotated[str | None, SCORE_KEY] = None
    lower_is_better: Annotated[bool, LOWER_IS_BETTER] = False
    budgets: Annotated[str | None, BUDGETS] = None
    jobs: Annotated[int, JOBS] = 1
    timeout: Annotated[float | None, TIMEOUT] = None
    max_memory: Annotated[str, MAX_MEMORY] = "2GiB"
    model: Annotated[
        Path | None, Declared("With --score: write the chosen model there.", metavar="OUT", local=True)
    ] = None

    command: ClassVar[str] = "search"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.score is not None:
            self._check_score()
            return
        idle = next((name for name in _OF_SCORE if getattr(self, name) != getattr(SearchParameters, name)), None)
        if idle is not None:
            word = "BASE TASK..." if idle == "checkpoints" else flag(idle)
            raise UsageError(f"{word} has no use without --score COMMAND, which scores a model.")
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

    def _check_score(self) -> None:
        """Raise UsageError for what makes no sense with a command."""
        assert self.score is not None
        require_command(self.score)
        idle = next((name for name in _OF_TARGET if getattr(self, name) != getattr(SearchParameters, name)), None)
        if idle is not None:
            raise UsageError(f"{flag(idle)} has no use with --score, whose command alone ranks. Leave it out.")
        require_one_source(self.run, self.checkpoints)
        if self.run is None and not self.checkpoints:
            raise UsageError("nothing to merge: give BASE TASK..., a RECIPE.yaml, or --run RUN.")
        recipe = self.checkpoints and self.checkpoints[0].suffix.lower() in (".yaml", ".yml")
        if len(self.checkpoints) == 1 and not recipe:
            raise UsageError(f"{self.checkpoints[0]} is the base, and no task follows it: give BASE TASK....")
        if self.out is None:
            raise UsageError("--out OUT is missing: where to keep the search.")
        if self.out.suffix == ".json":
            raise UsageError(f"--out {self.out}: with --score it is a folder.")

    @property
    def of_adapt(self) -> Parameters:
        """The same run and target, for `adapt`. Raises UsageError."""
        shared = ("run", "labels", "inputs", "pairs", "prefer", "seed", "threads")
        return Parameters(**{name: getattr(self, name) for name in shared})
