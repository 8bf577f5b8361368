"""The parameters of `adapt`. Cost: none. Not here: what they do (`adapt`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from prefmerge.errors import UsageError, require_one_source
from prefmerge.ground.words import flag, joined
from prefmerge.target.parameters.again import continued
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
    THREADS,
    Declared,
    Declaring,
)
from prefmerge.target.parameters.scored import (
    BUDGETS,
    COMMANDS,
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

# Samples, heads and models that are run here: a command does without.
NOT_OF_SCORE = (
    "inputs",
    "pairs",
    "task_samples",
    "head",
    "model",
    "keep",
    "no_prior",
    "metric",
    "compare",
    "samples",
)
Metric = Literal["accuracy", "balanced"]


@dataclass(frozen=True, kw_only=True)
class Parameters(Declaring):
    """Raises UsageError for what makes no sense together."""

    checkpoints: Annotated[tuple[Path, ...], CHECKPOINTS] = ()
    run: Annotated[Path | None, RUN] = None
    labels: Annotated[Path | None, LABELS] = None
    inputs: Annotated[Path | None, INPUTS] = None
    pairs: Annotated[Path | None, PAIRS] = None
    prefer: Annotated[
        str | None,
        Declared("The mix that you state: cars=0.8,birds=0.2, or what else `merge --prefer` takes.", metavar="SPEC"),
    ] = None
    from_: Annotated[
        Path | None,
        Declared(
            "Start again from this output of adapt, with more of the target: its parameters hold where no others are "
            "given, and its labels are added to the new ones. Inputs and pairs of before are given again.",
            metavar="OUT|adapt.json",
            local=True,
        ),
    ] = None
    forget: Annotated[
        bool,
        Declared("With --from: take the parameters alone, not what was shown before.", local=True),
    ] = False
    out: Annotated[Path | None, Declared("The folder of the model.", metavar="OUT", flags=("-o",), local=True)] = None
    task_samples: Annotated[
        tuple[Path, ...],
        replace(
            TASK_SAMPLES,
            help="Samples of each task with labels, without a run: a CSV or folder for each, or one folder of all.",
        ),
    ] = ()
    task_labels: Annotated[Path | None, TASK_LABELS] = None
    head: Annotated[
        Path | None,
        Declared(
            "The head of the checkpoints, without a run: head.safetensors. Default: the classifier that they have.",
            metavar="FILE",
        ),
    ] = None
    model: Annotated[str | None, MODEL] = None
    unordered: Annotated[bool, Declared("The tasks were not trained one after another, or the order is not known.")] = (
        False
    )
    keep: Annotated[
        float,
        Declared(
            "Also keep what the absent tasks can do: how much their accuracy counts beside the target's when the model "
            "is chosen and its head fitted. The prior stays that of the target.",
            metavar="K",
            least=0,
        ),
    ] = 0.0
    no_prior: Annotated[bool, Declared("Adapt the encoder alone: the head's answers get no prior and no bias.")] = False
    metric: Annotated[
        Metric,
        Declared(
            "What is good: accuracy, or the mean of the recall of the target's classes.", metavar="accuracy|balanced"
        ),
    ] = "accuracy"
    candidate: Annotated[
        tuple[Path, ...],
        Declared("Try the parameters of this recipe of `merge` too. Repeatable.", metavar="RECIPE.yaml"),
    ] = ()
    compare: Annotated[
        tuple[Path, ...],
        Declared(
            "Judge this model too, which you have already: a file of weights, or a folder. It is never chosen. "
            "Repeatable.",
            metavar="MODEL",
        ),
    ] = ()
    samples: Annotated[int, Declared("Held-out samples of each task that are used at most.", metavar="N", least=2)] = (
        100
    )
    level: Annotated[float, LEVEL] = 0.9
    seed: Annotated[int, SEED] = 0
    batch: Annotated[
        int,
        Declared(
            "Inputs encoded at once; with --score, candidates that are written at once, as far as the disk holds them.",
            metavar="N",
            least=1,
        ),
    ] = 64
    dtype: Annotated[str | None, Declared("Number format of the output. Default: the base's.", metavar="DTYPE")] = None
    no_cache: Annotated[
        bool,
        Declared(
            "Keep no embeddings (with --score: no scores) on disk: an interrupted run then starts again from nothing.",
            local=True,
        ),
    ] = False
    report: Annotated[
        Path | None,
        Declared(
            "Write the report of OUT to this HTML file too. It is in OUT as report.html in any case.",
            metavar="[FILE.html]",
            local=True,
        ),
    ] = None
    threads: Annotated[int | None, THREADS] = None
    force: Annotated[bool, FORCE] = False
    score: Annotated[str | None, SCORE] = None
    confirm: Annotated[str | None, CONFIRM] = None
    confirm_repeats: Annotated[int, CONFIRM_REPEATS] = 1
    score_key: Annotated[str | None, SCORE_KEY] = None
    lower_is_better: Annotated[bool, LOWER_IS_BETTER] = False
    budgets: Annotated[str | None, BUDGETS] = None
    jobs: Annotated[int, JOBS] = 1
    timeout: Annotated[float | None, TIMEOUT] = None
    max_memory: Annotated[str, MAX_MEMORY] = "2GiB"

    command: ClassVar[str] = "adapt"

    @classmethod
    def of(cls, **given: Any) -> Self:
        if given.get("from_") is not None:
            given = continued(Path(given["from_"]), given)
        return super().of(**given)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.forget and self.from_ is None:
            raise UsageError("--forget has no use without --from.")
        require_one_source(self.run, self.checkpoints)
        if self.run is None and len(self.checkpoints) < 2:
            raise UsageError("nothing to adapt: give --run RUN, or BASE TASK... in the order of training.")
        self._check_score()
        earlier = self.from_ is not None and not self.forget
        if not (earlier or self.score is not None or any((self.labels, self.inputs, self.pairs, self.prefer))):
            raise UsageError(
                "what is the target like? Give --labels FILE, --inputs PATH, --pairs PATH or --prefer SPEC; more than "
                "one where you have them."
            )
        if self.prefer is not None and (self.labels or self.inputs):
            raise UsageError(
                f"--prefer states the mix that {'--labels' if self.labels else '--inputs'} would be used to estimate. "
                "Give one of them."
            )
        if self.labels is not None and self.pairs is not None:
            raise UsageError(
                "--labels and --pairs: the pairs have labels already. Put all labels of the target into one of them."
            )
        for name in ("task_samples", "task_labels", "head", "model"):
            if self.run is not None and getattr(self, name):
                raise UsageError(f"{flag(name)} has no use with --run, which knows it. Leave it out.")
        if self.task_samples and self.task_labels:
            raise UsageError("--task-labels has no use with --task-samples, which have labels. Leave it out.")
        if self.dtype is not None:
            from prefmerge.merging.parameters import DTYPE  # not sooner: the command line reads this for its help

            try:
                DTYPE.kind.read(self.dtype)
            except ValueError as error:
                raise UsageError(f"--dtype: {error}.") from error

    def _check_score(self) -> None:
        """Raise UsageError for what makes no sense with a command, or without one."""
        own = type(self)
        if self.score is None:
            idle = next((name for name in OF_SCORE if getattr(self, name) != getattr(own, name)), None)
            if idle is not None:
                raise UsageError(f"{flag(idle)} has no use without --score COMMAND, which scores a model.")
            return
        require_command(self.score)
        given = [flag(name) for name in NOT_OF_SCORE if getattr(self, name) != getattr(own, name)]
        if given:
            raise UsageError(
                f"{joined(given)} {'has' if len(given) == 1 else 'have'} no use with --score, whose command alone "
                "judges: prefmerge runs no model then. Leave "
                f"{'it' if len(given) == 1 else 'them'} out, and say what the target is like with --labels FILE (and "
                "--task-labels FILE, where there is no run) or --prefer SPEC; with neither, all tasks count alike."
            )
        if self.task_labels is not None and self.labels is None and self.from_ is None:
            raise UsageError("--task-labels has no use with --score without --labels FILE. Give both, or neither.")
        if self.out is None:
            raise UsageError("--out OUT is missing: --score writes its candidates beside it.")

    def to_json(self) -> dict[str, Any]:
        """What the result depends on; of paths only their last part, for the file may be published."""
        values: dict[str, Any] = {}
        for name, declared, value in self.declared():
            if declared.local:
                continue
            if name == "model" and value is not None and Path(value).exists():
                value = Path(value)
            if name in COMMANDS and value is not None:
                from prefmerge.merging.places import without_places  # not sooner, as above

                values[name] = without_places(str(value))
            elif isinstance(value, tuple):
                values[name] = [one.name if isinstance(one, Path) else one for one in value]
            else:
                values[name] = value.name if isinstance(value, Path) else value
        return values
