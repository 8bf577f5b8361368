"""What `adapt` can be told: every parameter once, with its type, default, range, help and flag.

The command line, the checks and what adapt.json holds are derived from the fields of `Parameters`; a parameter more is
one field more. Cost: none. Leaves out: what the parameters do (`adapt`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from prefmerge.errors import UsageError
from prefmerge.ground.words import did_you_mean, flag

Metric = Literal["accuracy", "balanced"]


@dataclass(frozen=True)
class Declared:
    """What is said of a parameter beside its type and default. `least` and `most` hold the ends."""

    help: str
    metavar: str | None = None
    flags: tuple[str, ...] = ()  # other spellings than --name
    least: float | None = None
    most: float | None = None
    argument: bool = False  # given without a flag
    local: bool = False  # says how the work is done or where it goes: no result depends on it


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Raises UsageError for what makes no sense together."""

    checkpoints: Annotated[
        tuple[Path, ...],
        Declared(
            "The base and the tasks in the order of training, where there is no run.",
            metavar="BASE TASK...",
            argument=True,
        ),
    ] = ()
    run: Annotated[Path | None, Declared("The run of `finetune` that has the checkpoints.", metavar="RUN")] = None
    labels: Annotated[
        Path | None,
        Declared("Labels seen at the target: a CSV with a column label, a .txt, or JSON counts.", metavar="FILE"),
    ] = None
    inputs: Annotated[
        Path | None,
        Declared(
            "Inputs seen at the target, without labels: a folder of images or .txt files, a .txt, or a CSV.",
            metavar="PATH",
            flags=("--features",),
        ),
    ] = None
    pairs: Annotated[
        Path | None,
        Declared("Inputs of the target with labels: a CSV, or a folder of images per class.", metavar="PATH"),
    ] = None
    prefer: Annotated[
        str | None,
        Declared("The mix that you state: cars=0.8,birds=0.2, or what else `merge --prefer` takes.", metavar="SPEC"),
    ] = None
    out: Annotated[Path | None, Declared("The folder of the model.", metavar="OUT", flags=("-o",), local=True)] = None
    task_samples: Annotated[
        tuple[Path, ...],
        Declared(
            "Samples of each task with labels, without a run: a CSV or folder for each, or one folder that holds them.",
            metavar="PATH",
        ),
    ] = ()
    task_labels: Annotated[
        Path | None,
        Declared(
            "The classes of each task, where there are neither run nor samples: JSON {task: {label: count}}, or a CSV.",
            metavar="FILE",
        ),
    ] = None
    head: Annotated[
        Path | None,
        Declared(
            "The head of the checkpoints, without a run: head.safetensors. Default: the classifier that they have.",
            metavar="FILE",
        ),
    ] = None
    model: Annotated[
        str | None,
        Declared("The encoder that the checkpoints are of, without a run. Default: BASE.", metavar="ID|FOLDER"),
    ] = None
    unordered: Annotated[bool, Declared("The tasks were not trained one after another, or the order is not known.")] = (
        False
    )
    keep: Annotated[
        float,
        Declared(
            "Also keep what the absent tasks can do: how much their accuracy counts beside the target's.",
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
        tuple[Path, ...], Declared("Try the settings of this recipe of `merge` too. Repeatable.", metavar="RECIPE.yaml")
    ] = ()
    samples: Annotated[int, Declared("Held-out samples of each task that are used at most.", metavar="N", least=2)] = (
        100
    )
    level: Annotated[float, Declared("Confidence of every interval.", metavar="0..1", least=0.5, most=0.999)] = 0.9
    seed: Annotated[int, Declared("Decides folds and draws.", metavar="N", least=0)] = 0
    batch: Annotated[int, Declared("Inputs encoded at once.", metavar="N", least=1)] = 64
    dtype: Annotated[str | None, Declared("Number format of the output. Default: the base's.", metavar="DTYPE")] = None
    no_cache: Annotated[
        bool, Declared("Keep no embeddings on disk: an interrupted run then starts again from nothing.", local=True)
    ] = False
    threads: Annotated[
        int | None, Declared("Threads of a merge. Default: one per core.", metavar="N", least=1, local=True)
    ] = None
    force: Annotated[bool, Declared("Replace an existing output.", local=True)] = False

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for name, declared, value in self.declared():
            no_such = UsageError(f"{flag(name)}: {value!r} is no {declared.metavar or 'value for it'}. {declared.help}")
            of_kind, number = _is_of(value, hints[name]), isinstance(value, int | float)
            if not of_kind and not number:
                raise no_such
            if isinstance(value, float) and not math.isfinite(value):  # NaN is below and above nothing
                raise UsageError(f"{flag(name)} {value:g}: expected a finite number.")
            for bad, word, end in (
                (declared.least is not None and number and value < declared.least, "at least", declared.least),
                (declared.most is not None and number and value > declared.most, "at most", declared.most),
            ):
                if bad:
                    raise UsageError(f"{flag(name)} {value:g}: expected {word} {end:g}.")
            if not of_kind:
                raise no_such
        if self.metric not in get_args(Metric):
            raise UsageError(f"--metric {self.metric}: expected {' or '.join(get_args(Metric))}.")
        if self.run is not None and self.checkpoints:
            raise UsageError(
                f"--run {self.run} already says which checkpoints to take; {self.checkpoints[0]} is one too many."
            )
        if self.run is None and len(self.checkpoints) < 2:
            raise UsageError("nothing to adapt: give --run RUN, or BASE TASK... in the order of training.")
        if not any((self.labels, self.inputs, self.pairs, self.prefer)):
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

    @classmethod
    def of(cls, **given: Any) -> Parameters:
        """The parameters by name, paths as text or Path. Raises UsageError for a name that is none."""
        kinds = get_type_hints(cls)
        made: dict[str, Any] = {}
        for name, value in given.items():
            if name not in kinds:
                raise UsageError(f"{name!r} is not a parameter of adapt.{did_you_mean(name, kinds)}")
            several = get_origin(kinds[name]) is tuple
            if several and isinstance(value, str | Path):
                value = (value,)
            if several and isinstance(value, list | tuple):
                value = tuple(Path(one) if isinstance(one, str) else one for one in value)
            elif Path in get_args(kinds[name]) and isinstance(value, str):
                value = Path(value)
            made[name] = value
        return cls(**made)

    def declared(self) -> Iterator[tuple[str, Declared, Any]]:
        """(name, what is declared of it, its value) of every parameter."""
        for name, (_, declared) in declarations().items():
            yield name, declared, getattr(self, name)

    def to_json(self) -> dict[str, Any]:
        """What the result depends on; of paths only their last part, for the file may be published."""
        found: dict[str, Any] = {}
        for name, declared, value in self.declared():
            if declared.local:
                continue
            if isinstance(value, tuple):
                found[name] = [one.name if isinstance(one, Path) else one for one in value]
            else:
                found[name] = value.name if isinstance(value, Path) else value
        return found


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of a declared type: a plain one, one or None, one of several words, or many paths."""
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(isinstance(one, Path) for one in value)
    if get_origin(kind) is Literal:
        return isinstance(value, str)  # which one is checked apart
    kinds = get_args(kind) or (kind,)
    if isinstance(value, bool):
        return bool in kinds
    return any(isinstance(value, (int, float) if one is float else one) for one in kinds)


def declarations() -> dict[str, tuple[Any, Declared]]:
    """Name -> (type, what is declared) of every parameter, in order: for whoever derives something from them."""
    hints = get_type_hints(Parameters, include_extras=True)
    return {one.name: get_args(hints[one.name]) for one in fields(Parameters)}
