"""The parameters of `prefer`. Cost: none. Not here: what they do (`prefer`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

from prefmerge.errors import UsageError, require_one_source
from prefmerge.ground.words import flag, joined
from prefmerge.target.kinds import InputsKind, Solver
from prefmerge.target.parameters.declared import (
    CHECKPOINTS,
    FORCE,
    INPUTS,
    LABELS,
    LEVEL,
    MODEL,
    PAIRS,
    RUN,
    SEED,
    TASK_LABELS,
    TASK_SAMPLES,
    Declared,
    Declaring,
)

_GIVEN = ("labels", "inputs", "pairs")
_USED = {
    "inputs": ("similarity", "solver", "regularization", "gamma", "samples", "task_samples", "model", "draws"),
    "labels": ("task_labels", "draws"),
    "pairs": ("draws",),
}  # what has a use with one kind of sample of the target or another
_SPARSE = tuple(dict.fromkeys(name for names in _USED.values() for name in names))
_OF_TRANSPORT = ("solver", "regularization")
_OF_DISTANCES = (*_OF_TRANSPORT, "gamma", "samples")  # which the estimate has none of


@dataclass(frozen=True, kw_only=True)
class PreferParameters(Declaring):
    """Raises UsageError for what makes no sense together."""

    checkpoints: Annotated[tuple[Path, ...], CHECKPOINTS] = ()
    run: Annotated[Path | None, RUN] = None
    labels: Annotated[Path | None, LABELS] = None
    inputs: Annotated[Path | None, replace(INPUTS, help=f"{INPUTS.help[:-1]}; or their embeddings (.npy, .npz).")] = (
        None
    )
    pairs: Annotated[Path | None, replace(PAIRS, help=f"{PAIRS.help} Searches; needs --run.")] = None
    similarity: Annotated[
        InputsKind | None,
        Declared(
            "How shares come from inputs: the estimate of `adapt` (default), or the paper's optimal transport, cosine "
            "or MMD.",
            metavar="estimate|ot|cosine|mmd",
        ),
    ] = None
    solver: Annotated[
        Solver | None, Declared("How optimal transport is solved. Default sinkhorn.", metavar="sinkhorn|exact|debiased")
    ] = None
    regularization: Annotated[
        float | None, Declared("How much sinkhorn smooths, as a part of the largest cost. Default 0.1.", metavar="R")
    ] = None
    gamma: Annotated[
        float | None, Declared("How sharply distances become shares. Default 100; cosine: 50.", metavar="G")
    ] = None
    samples: Annotated[
        int | None, Declared("Training samples of each task that are encoded. Default 500.", metavar="N", least=1)
    ] = None
    task_labels: Annotated[Path | None, TASK_LABELS] = None
    task_samples: Annotated[tuple[Path, ...], TASK_SAMPLES] = ()
    model: Annotated[str | None, MODEL] = None
    level: Annotated[float, replace(LEVEL, least=None, most=None)] = 0.9
    draws: Annotated[
        int | None,
        Declared(
            "Draws of the bootstrap. Default 1000 for labels, 200 for inputs; 0: no intervals.",
            metavar="N",
            least=0,
        ),
    ] = None
    seed: Annotated[int, SEED] = 0
    out: Annotated[
        Path | None, Declared("Keep the preference: preference.json.", metavar="FILE", flags=("-o",), local=True)
    ] = None
    force: Annotated[bool, FORCE] = False

    command: ClassVar[str] = "prefer"

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in _GIVEN if getattr(self, name) is not None]
        if len(given) > 1:
            raise UsageError(
                f"{joined(map(flag, given))}: give one of them. With labels for the inputs, that is --pairs."
            )
        require_one_source(self.run, self.checkpoints)
        if not 0 < self.level < 1:
            raise UsageError(f"--level {self.level:g}: expected a number between 0 and 1, such as 0.9.")
        self._require_use()
        if not given and self.run is None and not self.checkpoints:
            raise UsageError(
                "nothing to go by. Say what the tasks are (--run RUN, or BASE TASK...) and what you have of the "
                "target: --labels FILE, --inputs PATH or --pairs PATH."
            )

    @property
    def given(self) -> str | None:
        """Which of labels, inputs and pairs there are."""
        return next((name for name in _GIVEN if getattr(self, name) is not None), None)

    @property
    def kind(self) -> InputsKind:
        """How shares come from inputs."""
        return self.similarity or "estimate"

    def _require_use(self) -> None:
        """Refuse a parameter that what is given has no use for."""
        set_ = [name for name in _SPARSE if getattr(self, name) not in (None, ())]
        if self.given is None and set_:
            raise UsageError(f"{flag(set_[0])} has no use without --labels, --inputs or --pairs.")
        idle = next((name for name in set_ if self.given and name not in _USED[self.given]), None)
        if idle is not None:
            raise UsageError(f"{flag(idle)} has no use with --{self.given}.")
        if self.given != "inputs":
            return
        idle = next((name for name in set_ if name in _OF_DISTANCES), None)
        if idle is not None and self.kind == "estimate":
            which = "--similarity ot" if idle in _OF_TRANSPORT else "--similarity ot, cosine or mmd"
            raise UsageError(f"{flag(idle)} has no use with --similarity estimate, the default. Give {which} with it.")
        if idle in _OF_TRANSPORT and self.kind != "ot":
            raise UsageError(f"{flag(idle)} has no use with --similarity {self.similarity}.")
